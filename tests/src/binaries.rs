//! Where the programs are, built first if this is a cargo tree.
//!
//! A package under tests/ does not cause the other packages' binaries to be built: on a clean tree
//! they are missing, and after an edit silently stale. So whoever needs them asks cargo, once per
//! process, for the profile it was built with itself; when nothing has changed that costs about
//! 0.1 s. An installed tcpecho-lab looks beside itself, then in PATH. `TCPECHO_BIN_DIR` names
//! a directory to take instead of all this; it is also what a program in namespaces, which may
//! neither build nor ask the network, is told by the one that started it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use std::{io, panic, thread};

use anyhow::{Context, anyhow, bail};
use tcpecho_common::logging;

/// Names the directory of the programs; nothing is built then.
pub const DIRECTORY: &str = "TCPECHO_BIN_DIR";

/// Who waits longer than this wants to know what for.
const LONG: Duration = Duration::from_secs(1);

/// The packages whose programs are run.
const PACKAGES: [&str; 2] = ["tcpechod", "tcpecho"];

/// The program called `program`, built and up to date.
pub fn path(program: &str) -> anyhow::Result<PathBuf> {
    let path = match directory()? {
        Some(directory) => directory.join(program),
        None => installed(program)?,
    };
    if !path.is_file() {
        bail!("no program {}", path.display());
    }
    Ok(path)
}

/// What cargo made of it, once per process.
static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// The directory with the programs in it; None if they are to be looked for one by one.
pub fn directory() -> anyhow::Result<Option<PathBuf>> {
    if let Some(directory) = env::var_os(DIRECTORY) {
        return Ok(Some(directory.into()));
    }
    let Some(tree) = Tree::of_this_program() else {
        return Ok(None);
    };
    if crate::netns::inside() {
        bail!("the programs were not built before the namespaces were entered: cargo build");
    }
    BUILT
        .get_or_init(|| tree.build().map_err(|error| format!("{error:#}")))
        .clone()
        .map(Some)
        .map_err(|error| anyhow!(error))
}

fn installed(program: &str) -> anyhow::Result<PathBuf> {
    let own = env::current_exe().context("where this program is")?;
    let beside = own.parent().map(Path::to_owned);
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = beside.into_iter().chain(env::split_paths(&path));
    places
        .find(|place| place.join(program).is_file())
        .map(|place| place.join(program))
        .with_context(|| {
            format!("no {program} beside {} or in PATH: install it, or name its directory in {DIRECTORY}", own.display())
        })
}

/// The place of a running program in cargo's target directory.
#[derive(Debug, PartialEq, Eq)]
struct Tree {
    target: PathBuf,
    /// Of a build with `--target`.
    triple: Option<OsString>,
    /// The name of the profile's directory.
    profile: OsString,
}

impl Tree {
    fn of_this_program() -> Option<Self> {
        let own = env::current_exe().ok()?;
        // Cargo leaves no tag in a directory that was there before, only what it knows of rustc.
        let marks = ["CACHEDIR.TAG", ".rustc_info.json"];
        let is_target = |directory: &Path| marks.iter().any(|m| directory.join(m).is_file());
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("Cargo.toml")
            .is_file()
            .then(|| Self::around(&own, is_target))?
    }

    /// `target[/TRIPLE]/PROFILE[/deps]/program`; cargo marks the target directory as a cache.
    fn around(program: &Path, is_target: impl Fn(&Path) -> bool) -> Option<Self> {
        let mut profile = program.parent()?;
        if profile.ends_with("deps") {
            profile = profile.parent()?;
        }
        let above = profile.parent()?;
        let (target, triple) = if is_target(above) {
            (above, None)
        } else {
            let target = above.parent().filter(|directory| is_target(directory))?;
            (target, above.file_name().map(OsString::from))
        };
        Some(Self {
            target: target.to_owned(),
            triple,
            profile: profile.file_name()?.to_owned(),
        })
    }

    fn build(&self) -> anyhow::Result<PathBuf> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--bins"]);
        command.args(PACKAGES.iter().flat_map(|package| ["-p", package]));
        command.arg("--profile").arg(self.profile_name());
        command.arg("--target-dir").arg(&self.target);
        if let Some(triple) = &self.triple {
            command.arg("--target").arg(triple);
        }
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        command.stdin(Stdio::null());
        let output = told_if_long(command).context("run cargo to build the programs")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!(
                "cargo build of {}: {}\n{said}",
                PACKAGES.join(", "),
                output.status
            );
        }
        Ok(self.programs())
    }

    /// The dev profile is the one whose directory has another name.
    fn profile_name(&self) -> OsString {
        if self.profile == "debug" {
            "dev".into()
        } else {
            self.profile.clone()
        }
    }

    fn programs(&self) -> PathBuf {
        let mut programs = self.target.clone();
        programs.extend(&self.triple);
        programs.join(&self.profile)
    }
}

/// What a command says in the end. Where that takes long, somebody may wonder: what is being done.
fn told_if_long(mut command: Command) -> io::Result<Output> {
    let (done, is_done) = mpsc::channel();
    let build = thread::spawn(move || {
        let output = command.output();
        // Nobody listens any more if it took long.
        let _ = done.send(());
        output
    });
    if is_done.recv_timeout(LONG) == Err(RecvTimeoutError::Timeout) {
        logging::say("tcpecho-lab", "building the programs first (cargo build)");
    }
    build
        .join()
        .unwrap_or_else(|panic| panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(program: &str) -> Option<Tree> {
        Tree::around(Path::new(program), |directory| {
            directory == Path::new("/src/target")
        })
    }

    #[test]
    fn profile_and_target_directory_are_those_of_the_running_program() {
        for (program, programs, profile) in [
            (
                "/src/target/debug/deps/suite-4711",
                "/src/target/debug",
                "dev",
            ),
            (
                "/src/target/release/tcpecho-lab",
                "/src/target/release",
                "release",
            ),
            (
                "/src/target/x86_64-unknown-linux-musl/release/deps/suite",
                "/src/target/x86_64-unknown-linux-musl/release",
                "release",
            ),
        ] {
            let tree = around(program).expect("a cargo tree");
            assert_eq!(tree.programs(), Path::new(programs));
            assert_eq!(tree.profile_name(), profile);
            assert_eq!(tree.target, Path::new("/src/target"));
        }
    }

    #[test]
    fn an_installed_program_is_in_no_cargo_tree() {
        assert_eq!(around("/usr/bin/tcpecho-lab"), None);
        assert_eq!(around("/home/me/.cargo/bin/tcpecho-lab"), None);
        assert_eq!(around("/tcpecho-lab"), None);
    }

    #[test]
    fn the_programs_are_built_and_found() {
        for program in PACKAGES {
            let path = path(program).expect("built");
            assert!(path.is_file(), "{}", path.display());
        }
        assert!(path("no-such-program").is_err());
    }
}
