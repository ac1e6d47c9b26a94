//! Whether a program has anything left to do. Where it has not, what has not happened never will, and
//! nobody need wait for a while to be sure.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::observe::processes;

/// How many looks in a row must show the same. Two would do, were it not for a wake-up that the
/// kernel is about to make.
const LOOKS: usize = 4;

/// Between two looks. All of them fit into any pause that a program makes on purpose.
const BETWEEN: Duration = Duration::from_millis(3);

/// A sleeping thread.
#[derive(Debug, PartialEq, Eq)]
struct Task {
    tid: String,
    /// How often it has been taken off its processor: if it has run in between, this has grown.
    switches: u64,
}

/// Do all threads of this process and its descendants sleep, and has none run between some looks?
pub fn is_at_rest(pid: i32) -> bool {
    let first = asleep(pid);
    first.is_some()
        && (1..LOOKS).all(|_| {
            sleep(BETWEEN);
            asleep(pid) == first
        })
}

/// All tasks, or None if one of them does not sleep. A zombie does nothing any more.
fn asleep(pid: i32) -> Option<Vec<Task>> {
    let mut tasks = Vec::new();
    let tree = processes::tree(pid);
    for process in tree.iter().filter(|process| process.state != 'Z') {
        for entry in fs::read_dir(format!("/proc/{}/task", process.pid)).ok()? {
            let path = entry.ok()?.path();
            let status = fs::read_to_string(path.join("status")).ok()?;
            let tid = path.file_name()?.to_string_lossy().into_owned();
            tasks.push(task(tid, &status)?);
        }
    }
    (!tasks.is_empty()).then_some(tasks)
}

fn task(tid: String, status: &str) -> Option<Task> {
    let value = |name: &str| {
        let mut lines = status.lines();
        lines
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let number = |name: &str| value(name)?.parse::<u64>().ok();
    let switches = number("voluntary_ctxt_switches:")? + number("nonvoluntary_ctxt_switches:")?;
    value("State:")?
        .starts_with('S')
        .then_some(Task { tid, switches })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    use crate::wait::eventually;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Child {
        let mut shell = Command::new("bash");
        shell.args(["-c", script]).stdin(Stdio::piped());
        shell.spawn().expect("bash")
    }

    fn end(mut shell: Child) {
        shell.kill().expect("it is ours");
        shell.wait().expect("its status");
    }

    fn comes(script: &str, deadline: Duration) -> bool {
        let shell = shell(script);
        let pid = shell.id() as i32;
        let came = eventually("rest", deadline, || is_at_rest(pid).then_some(()));
        end(shell);
        came.is_ok()
    }

    #[test]
    fn who_waits_is_at_rest() {
        assert!(comes("read -r line", SOON));
    }

    #[test]
    fn who_runs_is_not() {
        assert!(!comes("while :; do :; done", Duration::from_millis(300)));
    }

    /// Not by how often it looks so: where a virtual processor stands still, so do its timers.
    #[test]
    fn who_sleeps_and_runs_in_turn_sleeps_another_sleep_each_time() {
        let shell = shell("while :; do read -t 0.001 -r line; done");
        let pid = shell.id() as i32;
        let mut seen = Vec::new();
        let three = eventually("three sleeps", SOON, || {
            let sleep = asleep(pid)?;
            if !seen.contains(&sleep) {
                seen.push(sleep);
            }
            (seen.len() > 2).then_some(())
        });
        end(shell);
        assert!(three.is_ok(), "{seen:?}");
    }
}
