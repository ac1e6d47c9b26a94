//! `tcpecho-lab list`: what there is to see.

use std::io::{self, Write};

use crate::labs;

/// Writes a line for each lab.
pub fn list(out: &mut impl Write) -> io::Result<()> {
    let names = labs::ALL.iter().map(|lab| lab.name.len());
    let width = names.max().unwrap_or(0);
    for lab in labs::ALL {
        let (name, title, sections) = (lab.name, lab.title, lab.sections);
        writeln!(out, "{name:<width$}  {title} (UNP {sections})")?;
    }
    Ok(())
}
