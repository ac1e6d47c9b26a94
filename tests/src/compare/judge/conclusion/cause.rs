//! Why one needs more than another, as far as it was counted: system calls, context switches, copies,
//! processes and threads, and whether the time goes into the program or into the kernel.

use super::list;
use crate::compare::judge::place::Measured;
use crate::compare::judge::summary::per_unit;
use crate::compare::result::{Calls, Cell, Round, Workload};
use crate::compare::stats::median;
use crate::figures;

/// Counts that differ by less than this part of the smaller are the same.
const SAME: f64 = 0.1;

/// So are those that differ by less than this.
const SAME_PER_ECHO: f64 = 0.05;

/// Something that was counted of both.
struct Count {
    what: &'static str,
    more: f64,
    least: f64,
    /// What it has more of, if it has more.
    detail: String,
}

/// A clause that begins with a colon, or nothing if nothing was found.
pub(super) fn cause(who: &Measured<'_>, best: &Measured<'_>, workload: &Workload) -> String {
    let counts = counts(who, best);
    let crowd = crowd(who, best);
    if counts.iter().any(Count::is_more) {
        return format!(
            ": {crowd}for each it makes {}",
            compared(&counts, best.name)
        );
    }
    let Some(spent) = spent(who.cell, best.cell, workload.is_bulk()) else {
        return String::new();
    };
    let whats = list(counts.iter().map(|count| count.what.into()));
    format!(
        ": {crowd}for each it makes no more {whats} than {}, but {spent}",
        best.name
    )
}

fn counts(who: &Measured<'_>, best: &Measured<'_>) -> Vec<Count> {
    let calls = who.cell.calls.as_ref().zip(best.cell.calls.as_ref());
    let calls = calls.map(|(more, least)| Count {
        what: "system calls",
        more: more.per_echo,
        least: least.per_echo,
        detail: mostly(more, least),
    });
    let switches = who.summary.switches.zip(best.summary.switches);
    let switches = switches.map(|(more, least)| Count {
        what: "context switches",
        more: more.median,
        least: least.median,
        detail: String::new(),
    });
    let copies = copies(who, best).filter(|count| count.is_more() || count.is_less());
    calls.into_iter().chain(switches).chain(copies).collect()
}

/// Most make the same: one when they read, one when they write.
fn copies(who: &Measured<'_>, best: &Measured<'_>) -> Option<Count> {
    let copies = |who: &Measured<'_>| who.cell.calls.as_ref()?.copies;
    Some(Count {
        what: "copies of each byte",
        more: copies(who)?,
        least: copies(best)?,
        detail: String::new(),
    })
}

impl Count {
    fn is_more(&self) -> bool {
        self.more - self.least > SAME_PER_ECHO.max(SAME * self.least)
    }

    fn is_less(&self) -> bool {
        self.least - self.more > SAME_PER_ECHO.max(SAME * self.more)
    }

    fn words(&self, best: &str) -> String {
        let (more, least) = (number(self.more), number(self.least));
        let what = self.what;
        if self.is_more() {
            format!("{more} {what} against {least}{}", self.detail)
        } else if self.is_less() {
            format!("{more} {what} against {least}")
        } else {
            format!("{more} {what}, as {best} does")
        }
    }
}

/// As in `2.0 system calls, as reactor does, but 1.9 context switches against 0.10`.
fn compared(counts: &[Count], best: &str) -> String {
    let (more, other): (Vec<_>, Vec<_>) = counts.iter().partition(|count| count.is_more());
    let words = |counts: Vec<&Count>| list(counts.into_iter().map(|count| count.words(best)));
    if other.is_empty() {
        return words(more);
    }
    format!("{}, but {}", words(other), words(more))
}

/// The call that makes up at least half of the difference.
fn mostly(more: &Calls, least: &Calls) -> String {
    let of = |calls: &Calls, name: &str| {
        let same = calls.by_name.iter().find(|(other, _)| other == name);
        same.map_or(0.0, |(_, each)| *each)
    };
    let excess = more
        .by_name
        .iter()
        .map(|(name, each)| (name, each - of(least, name)));
    let largest = excess.max_by(|(_, a), (_, b)| a.total_cmp(b));
    match largest {
        Some((name, excess))
            if excess > 0.0 && excess >= 0.5 * (more.per_echo - least.per_echo) =>
        {
            format!(" ({} more of {name})", number(excess))
        }
        _ => String::new(),
    }
}

/// As in `with 51 processes against 1, `.
fn crowd(who: &Measured<'_>, best: &Measured<'_>) -> String {
    let (many, few) = (who.summary.footprint, best.summary.footprint);
    let (what, many, few) = if many.processes == few.processes {
        ("threads", many.threads, few.threads)
    } else {
        ("processes", many.processes, few.processes)
    };
    if few == 0 || many <= few {
        String::new()
    } else {
        format!("with {many} {what} against {few}, ")
    }
}

/// In which mode the time is spent that it needs more.
fn spent(who: &Cell, best: &Cell, bulk: bool) -> Option<String> {
    let us = |cell: &Cell, mode: fn(&Round) -> f64| {
        let each = |round| per_unit(round, bulk, mode(round) * 1e6);
        median(&cell.rounds.iter().filter_map(each).collect::<Vec<_>>())
    };
    let more = |mode: fn(&Round) -> f64| Some(us(who, mode)? - us(best, mode)?);
    let (user, system) = (
        more(|round| round.cpu.user_s)?,
        more(|round| round.cpu.system_s)?,
    );
    let places = ["in the program itself", "in the kernel"];
    let (most, rest, [place, other]) = if user > system {
        (user, system, places)
    } else {
        (system, user, [places[1], places[0]])
    };
    if most + rest <= 0.0 {
        return None;
    }
    let time = figures::time_us;
    Some(if rest < 0.0 {
        let (most, less) = (time(most), time(-rest));
        format!("it spends {most} more {place} and {less} less {other}")
    } else if rest > 0.0 {
        format!(
            "it spends {} of {} more {place}",
            time(most),
            time(most + rest)
        )
    } else {
        format!("it spends {} more {place}", time(most))
    })
}

/// A count per echo: `12`, `1.9`, `0.03`.
fn number(n: f64) -> String {
    match n {
        n if n >= 9.95 => format!("{n:.0}"),
        n if n >= 0.995 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}
