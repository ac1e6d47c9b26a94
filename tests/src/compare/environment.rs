//! Where a comparison runs, as far as it matters for its figures.

use std::fs;
use std::thread::available_parallelism;

use anyhow::Result;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::utsname::uname;
use nix::unistd::Pid;

use crate::compare::measure::Places;
use crate::compare::result::Environment;

/// Settings of the kernel that matter.
const SYSCTLS: [&str; 6] = [
    "net.ipv4.tcp_congestion_control",
    "net.core.somaxconn",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// More descriptors than this nobody needs here, and some programs close as many as there may be.
const DESCRIPTORS_AT_MOST: u64 = 65_536;

/// The processors that this program may use, by number.
pub fn processors() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::count())
        .filter(|processor| set.is_set(*processor).unwrap_or(false))
        .collect()
}

/// As many descriptors as servers and load generator are given: what the hard limit allows.
pub fn descriptors() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(hard.min(DESCRIPTORS_AT_MOST))
}

/// All of it.
pub fn environment(places: &Places, descriptors: u64) -> Environment {
    let all = processors();
    let or_all = |some: &Vec<usize>| {
        if some.is_empty() {
            all.clone()
        } else {
            some.clone()
        }
    };
    Environment {
        system: system(),
        processor: value("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
        processors: available_parallelism().map_or(1, Into::into),
        server_processors: or_all(&places.server),
        load_processors: or_all(&places.load),
        memory: memory().unwrap_or(0),
        descriptors,
        build: if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        }
        .into(),
        version: env!("CARGO_PKG_VERSION").into(),
        sysctls: SYSCTLS.iter().filter_map(|name| sysctl(name)).collect(),
    }
}

/// The kernel's name and release.
pub fn system() -> String {
    let Ok(names) = uname() else {
        return "unknown".into();
    };
    let (system, release) = (names.sysname(), names.release());
    format!("{} {}", system.to_string_lossy(), release.to_string_lossy())
}

fn memory() -> Option<u64> {
    let kilobytes = value("/proc/meminfo", "MemTotal")?;
    Some(kilobytes.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What stands behind the colon in the first line that begins with `name`.
fn value(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn sysctl(name: &str) -> Option<(String, String)> {
    let text = fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
    let value = text.split_whitespace().collect::<Vec<_>>().join(" ");
    Some((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described() {
        let described = environment(&Places::default(), 1024);
        assert!(
            described.system.starts_with("Linux "),
            "{}",
            described.system
        );
        assert!(described.memory > 1 << 20 && described.processors > 0);
        assert_eq!(described.server_processors, processors());
        assert!(
            described
                .sysctls
                .iter()
                .any(|(name, value)| name.ends_with("somaxconn") && !value.is_empty())
        );
    }
}
