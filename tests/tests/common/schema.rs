//! Holds JSON against a schema of tests/schemas.

use std::path::Path;

use anyhow::{Result, anyhow};
use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

/// A schema that is ready to be asked.
pub struct Schema {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Schema {
    /// The one of that name, as in `load`. Fails if it is no schema itself.
    pub fn open(name: &str) -> Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
        let path = folder.join(format!("{name}.schema.json"));
        let mut schemas = Schemas::new();
        let mut compiler = Compiler::new();
        compiler.enable_format_assertions();
        let index = compiler
            .compile(&path.to_string_lossy(), &mut schemas)
            .map_err(|error| anyhow!("{error:#}"))?;
        Ok(Self { schemas, index })
    }

    /// Is this what the schema describes? If not, the error says where it is not.
    pub fn check(&self, json: &Value) -> Result<()> {
        let judged = self.schemas.validate(json, self.index);
        judged.map_err(|error| anyhow!("{error:#}"))
    }
}
