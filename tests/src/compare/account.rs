//! The books of one round: what the server's processes have used between the beginning and the end of
//! a measurement.
//!
//! The load generator says when it begins to measure, and when it has; then it keeps its connections
//! silent until we have looked. So the second look has all the time it wants. The first comes a little
//! late, by the time it takes, and the load goes on meanwhile: what was used between the looks is therefore
//! scaled to the time measured. With thousands of processes it would take a tenth of a second to find them:
//! so their roll is called before there is load.
//!
//! Where each message has a connection, there is no silence: connections that wait in a queue are served
//! for a while whatever the generator does. There the load goes on until after the second look as well, and
//! what was used between the looks is scaled from the time between the looks.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};

use crate::compare::hindered::Hindered;
use crate::compare::result::{Cpu, Footprint, Round};
use crate::load::report::Report;
use crate::observe::accounts::{self, Life, Occupied, Roll, Switches, Usage};

/// What is seen of a measurement is scaled to all of it by no more than this.
const SCALED_AT_MOST: f64 = 2.0;

/// Others that use more than this part of the processors may be why a look takes so long.
const BUSY: f64 = 0.25;

/// One look.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    server: Usage,
    switches: Switches,
    /// When they were read: with thousands of threads, long after the processor time.
    switches_at: Instant,
    others: Others,
}

/// Who else uses processors.
#[derive(Clone, Copy, Debug)]
struct Others {
    machine: Machine,
    generator: Duration,
    own: Duration,
}

/// All processors together, since the system was started, or since another look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Machine {
    pub(super) busy: Duration,
    pub(super) all: Duration,
}

impl Look {
    /// Looks at the tree of processes below `server`, and at the load generator. Where the roll was called
    /// before, that is much sooner done.
    pub fn at(server: i32, generator: i32, roll: Option<Roll>) -> Result<Self> {
        let known = roll.and_then(Roll::usage);
        let usage = known.or_else(|| accounts::usage(server));
        let usage = usage.context("the server has ended")?;
        let others = Others::now(generator)?;
        let began = Instant::now();
        Ok(Self {
            server: usage,
            others,
            switches: accounts::switches(server),
            switches_at: began + began.elapsed() / 2,
        })
    }
}

impl Others {
    fn now(generator: i32) -> Result<Self> {
        Ok(Self {
            machine: Machine::now()?,
            generator: accounts::clock(generator).context("the load generator has ended")?,
            own: used_by(UsageWho::RUSAGE_SELF)?,
        })
    }
}

/// The processor time that we, or those of our children that we have waited for, have used.
pub(super) fn used_by(who: UsageWho) -> Result<Duration> {
    let usage = getrusage(who)?;
    let micros = |time: nix::sys::time::TimeVal| {
        Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()) as u64)
    };
    Ok(micros(usage.user_time()) + micros(usage.system_time()))
}

impl Machine {
    pub(super) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        Self::parse(&text).context("/proc/stat is not what it was")
    }

    /// What has come since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(earlier.busy),
            all: self.all.saturating_sub(earlier.all),
        }
    }

    /// How much of all there was this is, 0 to 1.
    pub(super) fn part(&self, used: Duration) -> f64 {
        (used.as_secs_f64() / self.all.as_secs_f64().max(1e-6)).clamp(0.0, 1.0)
    }

    /// The first line: user, nice, system, idle, iowait, irq, softirq, steal; the rest is counted
    /// there already. What a hypervisor gave to others is busy as well.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        let all: u64 = ticks.get(..8)?.iter().sum();
        Some(Self {
            busy: time(all - ticks[3] - ticks[4]),
            all: time(all),
        })
    }
}

fn time(ticks: u64) -> Duration {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    Duration::from_secs_f64(ticks as f64 / per_second.unwrap_or(100) as f64)
}

/// All that is known of a round.
#[derive(Clone, Debug)]
pub struct Books {
    /// Before the first connection.
    pub at_rest: Occupied,
    /// When the measurement had begun.
    pub opened: Look,
    /// When it was over.
    pub closed: Look,
    /// When it ended.
    pub silent: Instant,
    /// With all connections open.
    pub loaded: Occupied,
    /// The server from beginning to end.
    pub life: Option<Life>,
    /// There was a connection for each message: whoever served it may have ended before a look, and the
    /// load has gone on during the second.
    pub connects: bool,
}

impl Books {
    /// Round number `round`, with what the load generator has reported.
    pub fn round(&self, round: u32, report: Report) -> Result<Round> {
        let scale = self.scale(self.opened.server.at, report.measured_s);
        let (used, share) = self.closed.server.since(&self.opened.server);
        if scale >= SCALED_AT_MOST {
            return Err(self.too_late(self.foreign_load(used)));
        }
        let total = used.mul_f64(scale);
        let switches = self.switches(used, report.measured_s);
        Ok(Round {
            round,
            measured_s: report.measured_s,
            echoes: report.echoes,
            bytes: report.bytes,
            cpu: Cpu {
                user_s: total.as_secs_f64() * share,
                system_s: total.as_secs_f64() * (1.0 - share),
            },
            generator_cpu: Cpu {
                user_s: report.generator.user_s,
                system_s: report.generator.system_s,
            },
            generator_bottleneck: report.generator.bottleneck,
            latency: if self.connects {
                report.first_echo
            } else {
                report.latency
            },
            fairness: report.shares.fairness,
            voluntary_switches: switches.map(|switches| switches.voluntary),
            involuntary_switches: switches.map(|switches| switches.involuntary),
            footprint: footprint(self.loaded),
            at_rest: footprint(self.at_rest),
            foreign_load: self.foreign_load(used),
        })
    }

    /// Why we were: others had the processors, or there is so much to look at.
    fn too_late(&self, foreign_load: f64) -> anyhow::Error {
        if foreign_load >= BUSY {
            return Hindered { foreign_load }.into();
        }
        anyhow!(
            "the measurement was half over when all of {} processes had been looked at (--duration)",
            self.loaded.processes
        )
    }

    /// What was used since `opened`, when the first look was, times this, was used in the time measured.
    fn scale(&self, opened: Instant, measured_s: f64) -> f64 {
        let until = if self.connects {
            self.closed.server.at
        } else {
            self.silent
        };
        let looked = until.saturating_duration_since(opened);
        measured_s / looked.as_secs_f64().max(1e-6)
    }

    /// Those of all threads that lived at both looks, if the first was not too late; where each connection
    /// has its own process or thread, which is gone with its switches, of those of the whole life of the
    /// server as large a part as of its processor time.
    fn switches(&self, used: Duration, measured_s: f64) -> Option<Switches> {
        let (before, after) = (self.opened.switches, self.closed.switches);
        let living = Switches {
            voluntary: after.voluntary.saturating_sub(before.voluntary),
            involuntary: after.involuntary.saturating_sub(before.involuntary),
        };
        let (whole, part, since) = match self.life.filter(|_| self.connects) {
            Some(life) => (
                life.switches,
                used.as_secs_f64() / life.cpu.as_secs_f64().max(1e-6),
                self.opened.server.at,
            ),
            None => (living, 1.0, self.opened.switches_at),
        };
        let scale = self.scale(since, measured_s);
        let scaled = |count: u64| (count as f64 * part * scale).round() as u64;
        (scale < SCALED_AT_MOST).then(|| Switches {
            voluntary: scaled(whole.voluntary),
            involuntary: scaled(whole.involuntary),
        })
    }

    /// Of all processor time that there was between the looks.
    fn foreign_load(&self, server: Duration) -> f64 {
        let (before, after) = (self.opened.others, self.closed.others);
        let machine = after.machine.since(&before.machine);
        let generator = after.generator.saturating_sub(before.generator);
        let known = server + generator + after.own.saturating_sub(before.own);
        machine.part(machine.busy.saturating_sub(known))
    }
}

/// As the results have it.
fn footprint(occupied: Occupied) -> Footprint {
    Footprint {
        processes: occupied.processes,
        threads: occupied.threads,
        descriptors: occupied.descriptors,
        pss: occupied.pss,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::judge::example::latency_of;
    use crate::load::report::{self, Engine, Generator, Load, Mode, Outcome, Shares, Warmup};

    const MS: Duration = Duration::from_millis(1);

    /// A second in which 1000 messages came back.
    fn report() -> Report {
        Report {
            format: report::FORMAT,
            command: Vec::new(),
            target: String::new(),
            load: Load {
                mode: Mode::Closed { depth: 1 },
                connections: 1,
                size: 64,
                duration_s: 1.0,
                warmup_s: 0.0,
                threads: 1,
            },
            outcome: Outcome::Complete,
            measured_s: 1.0,
            echoes: 1000,
            bytes: 64_000,
            connects: 0,
            latency: latency_of(1000, 100),
            wire: None,
            stamps: None,
            service: None,
            connect: None,
            first_echo: latency_of(5000, 100),
            shares: Shares {
                fewest: 1,
                most: 2,
                fairness: 0.9,
            },
            company: Vec::new(),
            warmup: Warmup {
                warm_rate: None,
                first_rate: 0.0,
                last_rate: 0.0,
                steady: true,
            },
            generator: Generator {
                engine: Engine::Epoll,
                user_s: 0.1,
                system_s: 0.2,
                busiest_thread: 0.3,
                bottleneck: true,
            },
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// A look so many ms after the beginning, when the server has used so many, in user mode a quarter of
    /// them; the generator half as many, we a tenth, and the machine has been busy for so many.
    fn look(begin: Instant, at: u32, used: u32, busy: u32) -> Look {
        Look {
            server: Usage::made_up(
                begin + MS * at,
                MS * used,
                u64::from(used),
                3 * u64::from(used),
            ),
            switches: Switches {
                voluntary: u64::from(used) * 10,
                involuntary: u64::from(used),
            },
            switches_at: begin + MS * at,
            others: Others {
                machine: Machine {
                    busy: MS * busy,
                    all: MS * at * 2,
                },
                generator: MS * used / 2,
                own: MS * used / 10,
            },
        }
    }

    /// The looks are `apart` ms apart, the server has used 100 and the machine 400 meanwhile.
    fn books(apart: u32) -> Books {
        let begin = Instant::now();
        let closed = look(begin, 100 + apart, 300, 500);
        let occupied = |threads| Occupied {
            processes: 1,
            threads,
            descriptors: 3,
            pss: 4,
        };
        Books {
            at_rest: occupied(1),
            opened: look(begin, 100, 200, 100),
            closed,
            silent: closed.server.at,
            loaded: occupied(2),
            life: Some(Life {
                cpu: MS * 200,
                switches: Switches {
                    voluntary: 4000,
                    involuntary: 400,
                },
            }),
            connects: false,
        }
    }

    fn about(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
    }

    #[test]
    fn what_was_seen_of_a_measurement_stands_for_all_of_it() {
        let round = books(1000).round(3, report()).expect("a round");
        about(round.cpu.user_s, 0.025);
        about(round.cpu.system_s, 0.075);
        assert_eq!(
            (round.voluntary_switches, round.involuntary_switches),
            (Some(1000), Some(100))
        );
        // The first look came late: after a fifth of the measurement.
        let late = books(800).round(3, report()).expect("a round");
        about(late.cpu.total_s(), 0.125);
        assert_eq!(
            (late.voluntary_switches, late.involuntary_switches),
            (Some(1250), Some(125))
        );
        assert_eq!((late.round, late.echoes, late.bytes), (3, 1000, 64_000));
        assert_eq!((late.at_rest.threads, late.footprint.threads), (1, 2));
        about(late.generator_cpu.total_s(), 0.3);
        assert!(late.generator_bottleneck);
        // The switches were read after half of it.
        let mut later = books(1000);
        later.opened.switches_at += MS * 510;
        let round = later.round(3, report()).expect("a round");
        about(round.cpu.total_s(), 0.1);
        assert_eq!(
            (round.voluntary_switches, round.involuntary_switches),
            (None, None)
        );
        about(late.fairness, 0.9);
    }

    #[test]
    fn what_is_seen_of_less_than_half_stands_for_nothing() {
        assert!(books(501).round(0, report()).is_ok());
        let mut books = books(499);
        books.closed.others.machine.busy = MS * 600;
        let error = books.round(0, report()).expect_err("too late");
        assert!(
            error.is::<Hindered>(),
            "others had 34 % of two processors: {error}"
        );
        books.closed.others.machine.busy = MS * 260;
        let error = books.round(0, report()).expect_err("too late");
        assert!(error.to_string().contains("half over"), "{error}");
    }

    /// All that was busy, without server (100), generator (50) and us (10), of two processors.
    #[test]
    fn the_rest_of_what_was_busy_was_others() {
        let round = books(1000).round(0, report()).expect("a round");
        about(round.foreign_load, (400.0 - 160.0) / 2000.0);
        let mut idle = books(1000);
        idle.closed.others.machine.busy = MS * 200;
        about(idle.round(0, report()).expect("a round").foreign_load, 0.0);
    }

    /// The load goes on until both looks are over, or only until the second begins.
    #[test]
    fn what_is_used_during_the_second_look_counts_if_the_load_goes_on() {
        let mut books = books(1000);
        books.silent -= MS * 200;
        about(
            books.round(0, report()).expect("a round").cpu.total_s(),
            0.125,
        );
        books.connects = true;
        about(
            books.round(0, report()).expect("a round").cpu.total_s(),
            0.1,
        );
    }

    /// Who serves a connection for each message has often ended before a look.
    #[test]
    fn with_a_connection_for_each_message_switches_are_those_of_the_whole_life() {
        let mut books = books(1000);
        books.connects = true;
        let round = books.round(0, report()).expect("a round");
        // It has used half of its life's processor time while measured.
        assert_eq!(
            (round.voluntary_switches, round.involuntary_switches),
            (Some(2000), Some(200))
        );
        assert_eq!(round.latency, report().first_echo);
        books.life = None;
        let round = books.round(0, report()).expect("a round");
        assert_eq!(
            (round.voluntary_switches, round.involuntary_switches),
            (Some(1000), Some(100))
        );
        books.connects = false;
        assert_eq!(
            books.round(0, report()).expect("a round").latency,
            report().latency
        );
    }

    #[test]
    fn the_machine_is_busy_when_it_neither_idles_nor_waits_for_a_disk() {
        let text = "cpu  100 20 30 400 50 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        let machine = Machine::parse(text).expect("as the kernel writes it");
        assert_eq!(machine.busy, time(171));
        assert_eq!(machine.all, time(621));
        assert_eq!(Machine::parse("cpu  1 2 3"), None);
        assert_eq!(Machine::parse(""), None);
    }
}
