//! One line on the terminal that says how far a run is: redrawn in place, gone at the end.
//!
//! Nothing is shown where nobody could see it redrawn: into a file or pipe, or on a terminal that
//! cannot (`TERM=dumb`). Costs one write every 200 ms.

use std::env;
use std::io::{self, IsTerminal, Stderr, Write};
use std::time::{Duration, Instant};

use terminal_size::{Width, terminal_size_of};

use crate::figures::{count, time_us};

/// No eye follows faster.
const REDRAW: Duration = Duration::from_millis(200);

/// Back to the begin of the line, and clears it.
const CLEAR: &str = "\r\x1b[2K";

/// How wide a terminal is that does not say.
const WIDTH: usize = 80;

/// What there is to say at the moment.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// What is being done, as in `warming up`.
    pub doing: &'static str,
    /// Since that began.
    pub elapsed: Duration,
    /// How long it takes in all.
    pub total: Duration,
    /// Echoes per second, lately.
    pub rate: f64,
    /// 99th percentile of latency so far, in microseconds, if there are enough to tell.
    pub p99_us: Option<f64>,
    /// Errors so far.
    pub errors: u64,
}

/// A line that is redrawn. It is cleared when this is dropped.
#[derive(Debug)]
pub struct Progress<W: Write> {
    /// Absent where nobody looks.
    out: Option<W>,
    width: fn() -> usize,
    /// When the line now on the terminal was drawn.
    drawn: Option<Instant>,
}

impl Progress<Stderr> {
    /// On stderr, if that is a terminal that can redraw a line.
    pub fn on_stderr() -> Self {
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
        let shown = io::stderr().is_terminal() && !dumb;
        Self::new(shown.then(io::stderr), || {
            terminal_size_of(io::stderr()).map_or(WIDTH, |(Width(width), _)| width.into())
        })
    }
}

impl<W: Write> Progress<W> {
    /// On `out`, if there is somebody who looks, in lines shorter than `width()`.
    pub fn new(out: Option<W>, width: fn() -> usize) -> Self {
        Self {
            out,
            width,
            drawn: None,
        }
    }

    /// Is it time to [`show`](Self::show) something? Until then there is no need to find out what.
    pub fn is_due(&self, at: Instant) -> bool {
        let recent = |drawn| at.saturating_duration_since(drawn) < REDRAW;
        self.out.is_some() && !self.drawn.is_some_and(recent)
    }

    /// Draws the line, if it is due. That the terminal may be gone is not the run's concern.
    pub fn show(&mut self, at: Instant, now: &Now) {
        self.say(at, || line(now));
    }

    /// The same with other words.
    pub fn say(&mut self, at: Instant, words: impl FnOnce() -> String) {
        if !self.is_due(at) {
            return;
        }
        // A full line would make some terminals begin another one.
        let room = (self.width)().saturating_sub(1);
        let line: String = words().chars().take(room).collect();
        self.drawn = Some(at);
        self.write(&format!("{CLEAR}{line}"));
    }

    /// Clears the line that another has drawn, who will not come to it.
    pub fn give_up(&mut self) {
        self.write(CLEAR);
    }

    /// Clears the line, before something else is written.
    pub fn clear(&mut self) {
        if self.drawn.take().is_some() {
            self.write(CLEAR);
        }
    }

    fn write(&mut self, text: &str) {
        if let Some(out) = &mut self.out {
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        self.clear();
    }
}

fn line(now: &Now) -> String {
    let p99 = now.p99_us.map(|us| format!("99 % within {}", time_us(us)));
    let errors = (now.errors > 0).then(|| format!("errors: {}", now.errors));
    let head = format!(
        "{} {:.1} of {} s, {} echoes/s",
        now.doing,
        now.elapsed.as_secs_f64(),
        now.total.as_secs_f64(),
        count(now.rate)
    );
    let parts: Vec<_> = [Some(head), p99, errors].into_iter().flatten().collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now {
        doing: "measuring",
        elapsed: Duration::from_millis(3210),
        total: Duration::from_secs(10),
        rate: 152_340.0,
        p99_us: Some(412.4),
        errors: 0,
    };

    fn shown(draw: impl FnOnce(&mut Progress<&mut Vec<u8>>)) -> String {
        let mut out = Vec::new();
        draw(&mut Progress::new(Some(&mut out), || WIDTH));
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn it_says_where_the_run_is() {
        assert_eq!(
            line(&NOW),
            "measuring 3.2 of 10 s, 152 k echoes/s, 99 % within 412 us"
        );
        let early = Now {
            doing: "warming up",
            p99_us: None,
            errors: 3,
            ..NOW
        };
        assert_eq!(
            line(&early),
            "warming up 3.2 of 10 s, 152 k echoes/s, errors: 3"
        );
    }

    #[test]
    fn it_is_redrawn_five_times_a_second_and_cleared() {
        let begin = Instant::now();
        let text = shown(|progress| {
            for ms in (0..1000).step_by(10) {
                progress.show(begin + Duration::from_millis(ms), &NOW);
            }
        });
        assert_eq!(text.matches("measuring").count(), 5);
        assert!(text.ends_with(CLEAR), "{text:?}");
        assert!(!text.contains('\n'), "{text:?}");
    }

    #[test]
    fn nothing_drawn_is_nothing_to_clear() {
        assert_eq!(shown(|_| ()), "");
        let twice = shown(|progress| {
            progress.show(Instant::now(), &NOW);
            progress.clear();
            progress.clear();
        });
        assert_eq!(twice.matches(CLEAR).count(), 2);
    }

    #[test]
    fn it_stays_in_its_line() {
        let mut out = Vec::new();
        Progress::new(Some(&mut out), || 20).show(Instant::now(), &NOW);
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text, format!("{CLEAR}measuring 3.2 of 10{CLEAR}"));
    }

    #[test]
    fn where_nobody_looks_it_is_never_due() {
        let progress = Progress::<Vec<u8>>::new(None, || WIDTH);
        assert!(!progress.is_due(Instant::now()));
    }
}
