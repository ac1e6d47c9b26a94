//! What the contestants have to do: each of these shows one character.

use std::time::Duration;

use tcpecho_common::Mistake;
use tcpecho_common::defaults::SLOW_HANDLER;

use crate::compare::contestant::Candidate;
use crate::compare::result;

/// Descriptors beside those of connections: standard streams, listener, wake-ups, and some to spare.
pub const SPARE_DESCRIPTORS: u64 = 32;

/// How long the load runs before it is measured.
const WARMUP: Duration = Duration::from_millis(150);

/// A load for the contestants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// As in `--workload`.
    pub name: &'static str,
    /// In a few words.
    pub title: &'static str,
    /// What one learns from it.
    pub shows: &'static str,
    /// Connections that are measured.
    pub connections: u64,
    /// Of the load generator, beside the number of connections and how long it takes.
    flags: &'static [&'static str],
    /// Connections beside those, as said in `flags`.
    company: u64,
    /// How long the server looks for an answer.
    handler: Handler,
    /// Silent connections, for each point; none: a workload with one point.
    sweep: &'static [u64],
}

/// What the server does before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handler {
    /// Nothing.
    Fast,
    /// It sleeps for [`SLOW_HANDLER`]; tcpechod does so when told to commit that mistake.
    Slow,
}

/// All of them, in the order of the tables.
pub const ALL: &[Task] = &[
    Task {
        name: "echo-small",
        title: "50 connections, 64 bytes",
        shows: "What an echo costs when there is always something to do.",
        connections: 50,
        flags: &["-s", "64"],
        company: 0,
        handler: Handler::Fast,
        sweep: &[],
    },
    Task {
        name: "latency",
        title: "1 connection, 64 bytes",
        shows: "What one client waits for that has the server to itself.",
        connections: 1,
        flags: &["-s", "64"],
        company: 0,
        handler: Handler::Fast,
        sweep: &[],
    },
    Task {
        name: "connections",
        title: "5,000 connections, 64 bytes",
        shows: "What a crowd costs: memory and switches, where each has a process or a thread.",
        connections: 5000,
        flags: &["-s", "64"],
        company: 0,
        handler: Handler::Fast,
        sweep: &[],
    },
    Task {
        name: "connect",
        title: "a connection per message, 16 at a time",
        shows: "What it costs to begin and to end: here a process for each client pays.",
        connections: 16,
        flags: &["-s", "64", "--connect-per-request"],
        company: 0,
        handler: Handler::Fast,
        sweep: &[],
    },
    Task {
        name: "bulk",
        title: "4 connections, as many bytes as they take",
        shows: "What bytes cost, where messages are so long that calls hardly count: copies and buffers.",
        connections: 4,
        flags: &["-s", "64k", "--bulk"],
        company: 0,
        handler: Handler::Fast,
        sweep: &[],
    },
    Task {
        name: "idle",
        title: "50 connections, 64 bytes, beside silent ones",
        shows: "Who looks at all connections to find the busy ones: select and poll climb, epoll stays flat.",
        connections: 50,
        flags: &["-s", "64"],
        company: 0,
        handler: Handler::Fast,
        sweep: &[0, 1000, 2000, 4000, 8000],
    },
    Task {
        name: "never-read",
        title: "50 connections, 64 bytes, beside one that never reads",
        shows: "Whether one client that sends and never reads stops the others.",
        connections: 50,
        flags: &["-s", "64", "--never-read", "1"],
        company: 1,
        handler: Handler::Fast,
        sweep: &[],
    },
    Task {
        name: "firehose",
        title: "10 connections, 64 bytes, beside one that sends all it can",
        shows: "How fair a server is: what the small ones wait for while one has much to say.",
        connections: 10,
        flags: &["-s", "64", "--firehose", "1"],
        company: 1,
        handler: Handler::Fast,
        sweep: &[],
    },
    Task {
        name: "burst",
        title: "a connection per message, 200 at a time",
        shows: "What happens when more come at once than a pool has workers: who waits, and for how long.",
        connections: 200,
        flags: &["-s", "64", "--connect-per-request"],
        company: 0,
        handler: Handler::Fast,
        sweep: &[],
    },
    Task {
        name: "slow-handler",
        title: "20 connections, 64 bytes, each answer takes 10 ms (--mistake slow-handler)",
        shows: "What a call that blocks does, as a query of a database: in a process or thread of its own each client waits for its own answer only, in one thread for all everybody waits for everybody's.",
        connections: 20,
        flags: &["-s", "64"],
        company: 0,
        handler: Handler::Slow,
        sweep: &[],
    },
];

/// The one with this name.
pub fn find(name: &str) -> Option<&'static Task> {
    ALL.iter().find(|task| task.name == name)
}

impl Task {
    /// Its points; one that is None where it has no sweep.
    pub fn points(&self) -> Vec<Option<u64>> {
        match self.sweep {
            [] => vec![None],
            points => points.iter().copied().map(Some).collect(),
        }
    }

    /// A connection for each message?
    pub fn connects(&self) -> bool {
        self.flags.contains(&"--connect-per-request")
    }

    /// Does nobody send but those who are measured?
    pub fn is_alone(&self) -> bool {
        self.company == 0
    }

    /// Streams instead of messages?
    pub fn is_bulk(&self) -> bool {
        self.flags.contains(&"--bulk")
    }

    /// Connections at a time, all together.
    pub fn all_connections(&self, point: Option<u64>) -> u64 {
        self.connections + self.company + point.unwrap_or(0)
    }

    /// The arguments of the load generator behind the address.
    pub fn arguments(
        &self,
        point: Option<u64>,
        duration: Duration,
        warmup: Duration,
    ) -> Vec<String> {
        let ms = |time: Duration| format!("{}ms", time.as_millis());
        let mut words = vec!["-c".to_owned(), self.connections.to_string()];
        words.extend(self.flags.iter().map(|flag| (*flag).to_owned()));
        if let Some(idle) = point {
            words.extend(["--idle".to_owned(), idle.to_string()]);
        }
        words.extend([
            "-d".to_owned(),
            ms(duration),
            "--warmup".to_owned(),
            ms(warmup),
        ]);
        words
    }

    /// What must stand on the command line of a server of ours besides.
    pub fn server_flags(&self) -> Vec<String> {
        match self.handler {
            Handler::Fast => Vec::new(),
            Handler::Slow => ["--mistake", Mistake::SlowHandler.name()]
                .map(str::to_owned)
                .into(),
        }
    }

    /// How long it runs before it is measured. Many connections need longer until each had its turn.
    pub fn warmup(&self) -> Duration {
        let turn = match self.handler {
            Handler::Fast => Duration::from_micros(40),
            Handler::Slow => SLOW_HANDLER,
        };
        WARMUP + turn * self.connections as u32
    }

    /// What a round takes beside measuring: start, connect, warm up, look, stop.
    pub fn overhead(&self, point: Option<u64>) -> Duration {
        let connect = Duration::from_micros(150) * self.all_connections(point) as u32;
        self.warmup() + Duration::from_millis(80) + connect
    }

    /// Why this candidate cannot do this here by its nature, if it cannot. `descriptors`: as many as a
    /// process may have.
    pub fn cannot(
        &self,
        point: Option<u64>,
        candidate: &Candidate,
        descriptors: u64,
    ) -> Option<String> {
        let wanted = self.all_connections(point);
        let needed = wanted + SPARE_DESCRIPTORS;
        if needed > descriptors {
            return Some(format!(
                "it takes {needed} descriptors in one process, the limit is {descriptors} (ulimit -Hn)"
            ));
        }
        if self.handler == Handler::Slow && candidate.model().is_none() {
            return Some("has no such handler, which only tcpechod does".to_owned());
        }
        // Where each connection ends after its message, those who wait have their turn.
        let serves = candidate
            .serves()
            .filter(|serves| *serves < wanted && !self.connects())?;
        let client = if serves == 1 { "client" } else { "clients" };
        Some(format!(
            "serves {serves} {client} at a time, here are {wanted}"
        ))
    }

    /// As the results have it, for these points.
    pub fn described(&self, points: &[Option<u64>], duration: Duration) -> result::Workload {
        let last = points.last().copied().flatten();
        let arguments = self.arguments(last, duration, self.warmup()).join(" ");
        result::Workload {
            name: self.name.to_owned(),
            title: self.title.to_owned(),
            shows: self.shows.to_owned(),
            points: last.map(|_| "idle connections".to_owned()),
            command: format!("tcpecho-load 127.0.0.1 PORT {arguments}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::contestant::{model, server};

    fn cannot(task: &str, point: Option<u64>, who: &str) -> Option<String> {
        let task = find(task).expect(task);
        task.cannot(point, &model(who).expect(who), 20_000)
    }

    #[test]
    fn names_are_unique() {
        for task in ALL {
            assert_eq!(find(task.name), Some(task));
        }
    }

    #[test]
    fn company_is_what_the_flags_say() {
        for task in ALL {
            let beside = ["--never-read", "--firehose", "--slow", "--idle"];
            let numbers = task
                .flags
                .windows(2)
                .filter(|pair| beside.contains(&pair[0]));
            let said: u64 = numbers
                .map(|pair| pair[1].parse::<u64>().expect("a number"))
                .sum();
            assert_eq!(said, task.company, "{}", task.name);
        }
    }

    #[test]
    fn who_cannot_is_told_why() {
        assert_eq!(
            cannot("echo-small", None, "iterative").as_deref(),
            Some("serves 1 client at a time, here are 50")
        );
        assert_eq!(
            cannot("connections", None, "prefork").as_deref(),
            Some("serves 64 clients at a time, here are 5000")
        );
        assert_eq!(cannot("connect", None, "iterative"), None);
        assert_eq!(cannot("latency", None, "iterative"), None);
        assert_eq!(cannot("burst", None, "prefork --workers 4"), None);
        assert!(cannot("idle", Some(1000), "select").is_some());
        assert_eq!(cannot("idle", Some(0), "select"), None);
        assert_eq!(
            cannot("slow-handler", None, "thread-pool --workers 8").as_deref(),
            Some("serves 8 clients at a time, here are 20")
        );
        for who in ["fork", "thread", "poll", "reactor", "async", "uring"] {
            assert_eq!(cannot("connections", None, who), None);
            assert_eq!(cannot("slow-handler", None, who), None);
        }
    }

    #[test]
    fn only_our_servers_can_be_told_to_be_slow() {
        let (task, who) = (
            find("slow-handler").expect("one"),
            server("x {port}").expect("one"),
        );
        let why = task.cannot(None, &who, 20_000).expect("it cannot");
        assert!(why.starts_with("has no such handler"), "{why}");
        assert_eq!(task.server_flags(), ["--mistake", "slow-handler"]);
        for other in ALL.iter().filter(|other| *other != task) {
            assert!(other.server_flags().is_empty() && other.cannot(None, &who, 20_000).is_none());
        }
    }

    /// In the title stands what the server does.
    #[test]
    fn the_title_tells_how_slow() {
        let task = find("slow-handler").expect("one");
        let time = format!("{} ms", SLOW_HANDLER.as_millis());
        let flags = task.server_flags().join(" ");
        assert!(task.title.contains(&time) && task.title.contains(&flags));
    }

    #[test]
    fn a_limit_of_descriptors_is_told_of() {
        let (task, who) = (
            find("connections").expect("one"),
            server("x {port}").expect("one"),
        );
        let why = task.cannot(None, &who, 1024).expect("too few");
        assert!(why.contains("5032") && why.contains("1024"), "{why}");
    }

    #[test]
    fn the_command_line_is_that_of_the_generator() {
        let task = find("idle").expect("one");
        let (duration, warmup) = (Duration::from_millis(600), Duration::from_millis(150));
        assert_eq!(
            task.arguments(Some(2000), duration, warmup).join(" "),
            "-c 50 -s 64 --idle 2000 -d 600ms --warmup 150ms"
        );
    }
}
