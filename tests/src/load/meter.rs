//! What counts, and when.
//!
//! A message counts as an echo (and its bytes as bytes) if it came back while measuring, whenever it
//! began: that makes an unbiased rate. Its latency counts if it began while measuring (open loop: was
//! due then), even if it came back after the end: else the slowest would be left out.

use std::mem;
use std::time::Duration;

use crate::load::clock::{nanoseconds, seconds};
use crate::load::connection::Start;
use crate::load::latency::Recorder;
use crate::load::plan::Plan;
use crate::load::report::{Event, Mode, Warmup};

/// The warm-up's two halves, the measurement's four quarters, and what follows.
const PARTS: usize = 7;

/// The first part that is measured, and the one behind the last.
const MEASURED: std::ops::Range<usize> = 2..6;

/// First and last quarter may differ by this much of the larger.
const STEADY: f64 = 0.1;

/// When is what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The load begins.
    pub start: u64,
    /// The measurement begins.
    pub begin: u64,
    /// It ends.
    pub end: u64,
    /// The length of a slice of it.
    pub slice: u64,
}

impl Times {
    /// Of this plan, if the load begins at `start`.
    pub fn of(plan: &Plan, start: u64) -> Self {
        let begin = start + (plan.load.warmup_s * 1e9) as u64;
        let end = begin + (plan.load.duration_s * 1e9) as u64;
        let slice = plan.interval.map_or(end - begin, nanoseconds);
        Self {
            start,
            begin,
            end,
            slice,
        }
    }

    /// When slice `number` begins after the measurement, and how long it is.
    pub fn slice(&self, number: u64) -> (Duration, Duration) {
        let length = self.end - self.begin;
        let from = length.min(number * self.slice);
        let to = length.min(from + self.slice);
        (Duration::from_nanos(from), Duration::from_nanos(to - from))
    }

    /// When part `index` ends.
    fn end_of(&self, index: usize) -> u64 {
        let Self {
            start, begin, end, ..
        } = self;
        match index {
            0 => start.midpoint(*begin),
            1 => *begin,
            2..6 => begin + (end - begin) / 4 * (index as u64 - 1),
            _ => u64::MAX,
        }
        .min(if index == 5 { *end } else { u64::MAX })
    }
}

/// The figures of a slice of time.
#[derive(Clone, Debug, Default)]
pub struct Slice {
    /// Whole messages that came back in it.
    pub echoes: u64,
    /// Bytes that came back in it.
    pub bytes: u64,
    /// Connections that were established in it.
    pub connects: u64,
    /// The times, taken as the report has them.
    pub times: Recorders,
}

/// The times of a slice.
#[derive(Clone, Debug, Default)]
pub struct Recorders {
    /// Of one message.
    pub latency: Recorder,
    /// Open loop: since it was sent.
    pub service: Option<Recorder>,
    /// With a connection per request: from connect to established.
    pub connect: Option<Recorder>,
    /// The same: from connect to the whole first echo.
    pub first_echo: Option<Recorder>,
}

impl Slice {
    /// One for what this mode has to tell.
    pub fn of(mode: Mode) -> Self {
        let open = matches!(mode, Mode::Open { .. });
        let connects = mode == Mode::ConnectPerRequest;
        Self {
            times: Recorders {
                latency: Recorder::new(),
                service: open.then(Recorder::new),
                connect: connects.then(Recorder::new),
                first_echo: connects.then(Recorder::new),
            },
            ..Self::default()
        }
    }

    /// As it is told while the run goes on; it began so long after the measurement.
    pub fn event(&self, from: Duration, length: Duration) -> Event {
        Event::Interval {
            at_s: (from + length).as_secs_f64(),
            length_s: length.as_secs_f64(),
            echoes: self.echoes,
            bytes: self.bytes,
            latency: self.times.latency.latency(),
        }
    }

    /// Adds another one of the same mode.
    pub fn merge(&mut self, other: &Self) {
        self.echoes += other.echoes;
        self.bytes += other.bytes;
        self.connects += other.connects;
        let (ours, theirs) = (&mut self.times, &other.times);
        ours.latency.merge(&theirs.latency);
        for (ours, theirs) in [
            (&mut ours.service, &theirs.service),
            (&mut ours.connect, &theirs.connect),
            (&mut ours.first_echo, &theirs.first_echo),
        ] {
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                ours.merge(theirs);
            }
        }
    }
}

/// Echoes in each part of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts([u64; PARTS]);

impl Parts {
    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        for (ours, theirs) in self.0.iter_mut().zip(other.0) {
            *ours += theirs;
        }
    }

    /// Was the warm-up long enough, in a run that ended at this moment?
    pub fn warmup(&self, times: &Times, ended: u64) -> Warmup {
        let rate = |part: usize| {
            let from = part.checked_sub(1).map_or(times.start, |p| times.end_of(p));
            let length = times.end_of(part).min(ended).saturating_sub(from);
            (length > 0).then(|| self.0[part] as f64 / seconds(length))
        };
        let first_rate = rate(MEASURED.start).unwrap_or(0.0);
        let last_rate = MEASURED.rev().find_map(rate).unwrap_or(0.0);
        let apart = (first_rate - last_rate).abs();
        Warmup {
            warm_rate: rate(1),
            first_rate,
            last_rate,
            steady: apart <= STEADY * first_rate.max(last_rate),
        }
    }
}

/// Counts what one worker does.
#[derive(Debug)]
pub struct Meter {
    mode: Mode,
    times: Times,
    part: usize,
    parts: Parts,
    slice: Slice,
    /// The slice's number, from 0, and its end.
    number: u64,
    slice_end: u64,
    /// When part or slice ends, whichever is first.
    until: u64,
    /// Slices that are over.
    over: Vec<(u64, Slice)>,
}

impl Meter {
    /// One that begins with the load.
    pub fn new(mode: Mode, times: Times) -> Self {
        let mut meter = Self {
            mode,
            times,
            part: 0,
            parts: Parts::default(),
            slice: Slice::of(mode),
            number: 0,
            slice_end: (times.begin + times.slice).min(times.end),
            until: 0,
            over: Vec::new(),
        };
        meter.advance(times.start);
        meter
    }

    /// The time is `now`.
    pub fn at(&mut self, now: u64) {
        if now >= self.until {
            self.advance(now);
        }
    }

    #[cold]
    fn advance(&mut self, now: u64) {
        while now >= self.times.end_of(self.part) {
            self.part += 1;
        }
        while now >= self.slice_end {
            self.cut_slice();
        }
        self.until = self.slice_end.min(self.times.end_of(self.part));
    }

    fn cut_slice(&mut self) {
        let slice = mem::replace(&mut self.slice, Slice::of(self.mode));
        self.over.push((self.number, slice));
        self.number += 1;
        self.slice_end = if self.slice_end >= self.times.end {
            u64::MAX
        } else {
            (self.slice_end + self.times.slice).min(self.times.end)
        };
    }

    /// When it wants to know the time at the latest.
    pub fn until(&self) -> u64 {
        self.until
    }

    /// When everything is.
    pub fn times(&self) -> &Times {
        &self.times
    }

    /// Is it being measured?
    pub fn is_measuring(&self) -> bool {
        MEASURED.contains(&self.part)
    }

    /// Did it begin while measuring?
    fn began_in_time(&self, start: u64) -> bool {
        (self.times.begin..self.times.end).contains(&start)
    }

    /// So many bytes came back.
    pub fn bytes(&mut self, n: u64) {
        if self.is_measuring() {
            self.slice.bytes += n;
        }
    }

    /// A message came back.
    pub fn echo(&mut self, start: Start, now: u64) {
        self.parts.0[self.part] += 1;
        if self.is_measuring() {
            self.slice.echoes += 1;
        }
        if self.began_in_time(start.due) {
            let times = &mut self.slice.times;
            times.latency.record(now - start.due);
            if let Some(service) = &mut times.service {
                service.record(now - start.sent);
            }
        }
    }

    /// A message that was due has not even been sent until the end: it has waited at least so long.
    pub fn unsent(&mut self, due: u64) {
        if self.began_in_time(due) {
            self.slice.times.latency.record(self.times.end - due);
        }
    }

    /// A connection was established.
    pub fn connected(&mut self, began: u64, now: u64) {
        if self.is_measuring() {
            self.slice.connects += 1;
        }
        if self.began_in_time(began) {
            if let Some(times) = &mut self.slice.times.connect {
                times.record(now - began);
            }
        }
    }

    /// A connection has got its first echo.
    pub fn first_echo(&mut self, began: u64, now: u64) {
        if self.began_in_time(began) {
            if let Some(times) = &mut self.slice.times.first_echo {
                times.record(now - began);
            }
        }
    }

    /// Slices that are over since this was last asked.
    pub fn over(&mut self) -> Vec<(u64, Slice)> {
        mem::take(&mut self.over)
    }

    /// The end: what remains, in slices and parts.
    pub fn finish(self) -> (Vec<(u64, Slice)>, Parts) {
        let mut over = self.over;
        over.push((self.number, self.slice));
        (over, self.parts)
    }
}
