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
use crate::load::report::{Event, Mode, Stamps, Warmup};
use crate::load::stamps::{Missing, Wire};

/// The warm-up's two halves, the measurement's four quarters, and what follows.
const PARTS: usize = 7;

/// The first part that is measured, and the one behind the last.
const MEASURED: std::ops::Range<usize> = 2..6;

/// First and last quarter may differ by this much of the larger.
const STEADY: f64 = 0.1;

/// Counts of random events differ by more than so many standard deviations once in 400 times.
const BY_CHANCE: f64 = 3.0;

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
    /// With `--wire`: how many messages have such a time.
    pub stamps: Stamps,
}

/// The times of a slice.
#[derive(Clone, Debug, Default)]
pub struct Recorders {
    /// Of one message.
    pub latency: Recorder,
    /// With `--wire`: by the kernel's time stamps.
    pub wire: Option<Recorder>,
    /// Open loop: since it was sent.
    pub service: Option<Recorder>,
    /// With a connection per request: from connect to established.
    pub connect: Option<Recorder>,
    /// The same: from connect to the whole first echo.
    pub first_echo: Option<Recorder>,
}

impl Slice {
    /// One for what this mode has to tell, with or without times on the wire.
    pub fn of(mode: Mode, wire: bool) -> Self {
        let open = matches!(mode, Mode::Open { .. });
        let connects = mode == Mode::ConnectPerRequest;
        Self {
            times: Recorders {
                latency: Recorder::new(),
                wire: wire.then(Recorder::new),
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
            wire: self.times.wire.as_ref().and_then(Recorder::latency),
        }
    }

    /// Adds another one of the same mode.
    pub fn merge(&mut self, other: &Self) {
        self.echoes += other.echoes;
        self.bytes += other.bytes;
        self.connects += other.connects;
        self.stamps.merge(&other.stamps);
        let (ours, theirs) = (&mut self.times, &other.times);
        ours.latency.merge(&theirs.latency);
        for (ours, theirs) in [
            (&mut ours.wire, &theirs.wire),
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
        let length = |part: usize| {
            let from = part.checked_sub(1).map_or(times.start, |p| times.end_of(p));
            times.end_of(part).min(ended).saturating_sub(from)
        };
        let rate = |part: usize| match length(part) {
            0 => None,
            length => Some(self.0[part] as f64 / seconds(length)),
        };
        let first = MEASURED.start;
        let last = MEASURED.rev().find(|part| length(*part) > 0);
        let last = last.unwrap_or(first);
        let [first_rate, last_rate] = [first, last].map(|part| rate(part).unwrap_or(0.0));
        let apart = (first_rate - last_rate).abs();
        // Of a few echoes, one or two more in a quarter are no change.
        let by_chance = BY_CHANCE * ((self.0[first] + self.0[last]) as f64).sqrt();
        let echoes_apart = apart * seconds(length(last));
        Warmup {
            warm_rate: rate(1),
            first_rate,
            last_rate,
            steady: apart <= STEADY * first_rate.max(last_rate) || echoes_apart <= by_chance,
        }
    }
}

/// Counts what one worker does.
#[derive(Debug)]
pub struct Meter {
    mode: Mode,
    wire: bool,
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
    pub fn new(mode: Mode, wire: bool, times: Times) -> Self {
        let mut meter = Self {
            mode,
            wire,
            times,
            part: 0,
            parts: Parts::default(),
            slice: Slice::of(mode, wire),
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
        let slice = mem::replace(&mut self.slice, Slice::of(self.mode, self.wire));
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

    /// What its time stamps say of a message that came back, if those of one packet are so far apart.
    pub fn on_the_wire(&mut self, start: Start, wire: Result<Wire, Missing>, apart: u64) {
        if !self.began_in_time(start.due) {
            return;
        }
        let Slice { times, stamps, .. } = &mut self.slice;
        match wire {
            Ok(Wire { ns, shared }) => {
                stamps.both += 1;
                stamps.shared += u64::from(shared);
                if let Some(times) = &mut times.wire {
                    times.record(ns.saturating_sub(apart));
                }
            }
            Err(Missing::Departure) => stamps.no_departure += 1,
            Err(Missing::Arrival) => stamps.no_arrival += 1,
            Err(Missing::Order) => stamps.no_order += 1,
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLOSED: Mode = Mode::Closed { depth: 1 };
    const OPEN: Mode = Mode::Open { rate: 1.0 };

    /// Warm-up from 1000 to 2000, measurement to 6000.
    const TIMES: Times = Times {
        start: 1000,
        begin: 2000,
        end: 6000,
        slice: 1500,
    };

    fn at(due: u64) -> Start {
        Start { due, sent: due }
    }

    /// A meter that has seen these messages, each with when it began and came back; all its slices.
    fn metered(mode: Mode, messages: &[(u64, u64)]) -> (Slice, Parts, usize) {
        let mut meter = Meter::new(mode, false, TIMES);
        for (began, back) in messages {
            meter.at(*back);
            meter.echo(at(*began), *back);
        }
        meter.at(TIMES.end);
        let (slices, parts) = meter.finish();
        let mut all = Slice::of(mode, false);
        for (_, slice) in &slices {
            all.merge(slice);
        }
        (all, parts, slices.len())
    }

    #[test]
    fn echoes_count_by_their_end_and_times_by_their_beginning() {
        for (began, back, counts, is_timed) in [
            (1500, 1999, 0, 0),
            (1500, 2000, 1, 0),
            (2000, 2100, 1, 1),
            (5999, 5999, 1, 1),
            (5999, 7000, 0, 1),
            (6000, 7000, 0, 0),
        ] {
            let (all, _, _) = metered(CLOSED, &[(began, back)]);
            let seen = (all.echoes, all.times.latency.count());
            assert_eq!(seen, (counts, is_timed), "{began} {back}");
        }
    }

    #[test]
    fn what_was_never_sent_has_waited_until_the_end() {
        let mut meter = Meter::new(OPEN, false, TIMES);
        meter.unsent(1999);
        meter.unsent(2500);
        meter.unsent(6000);
        let (slices, _) = meter.finish();
        let latency = slices[0].1.times.latency.latency().expect("one");
        assert_eq!(latency.count, 1);
        assert!((latency.max_us - 3.5).abs() < 0.01, "{latency:?}");
    }

    #[test]
    fn service_begins_with_the_call_that_sends() {
        let mut meter = Meter::new(OPEN, false, TIMES);
        let start = Start {
            due: 2100,
            sent: 2900,
        };
        meter.at(3000);
        meter.echo(start, 3000);
        let (slices, _) = meter.finish();
        let times = &slices[0].1.times;
        let max = |recorder: &Recorder| recorder.latency().expect("one").max_us;
        assert!((max(&times.latency) - 0.9).abs() < 0.001);
        assert!((max(times.service.as_ref().expect("open")) - 0.1).abs() < 0.001);
    }

    #[test]
    fn stamps_count_as_times_do() {
        let mut meter = Meter::new(CLOSED, true, TIMES);
        let wire = |ns, shared| Ok(Wire { ns, shared });
        for (began, wire) in [
            (1999, wire(1, false)),
            (2000, wire(300, false)),
            (5999, wire(400, true)),
            (3000, Err(Missing::Departure)),
            (3000, Err(Missing::Arrival)),
            (3000, Err(Missing::Order)),
            (6000, wire(1, false)),
        ] {
            meter.on_the_wire(at(began), wire, 100);
        }
        let (slices, _) = meter.finish();
        let slice = &slices[0].1;
        let expected = Stamps {
            both: 2,
            shared: 1,
            no_departure: 1,
            no_arrival: 1,
            no_order: 1,
            ..Stamps::default()
        };
        assert_eq!(slice.stamps, expected);
        let mut twice = slice.clone();
        twice.merge(slice);
        let wire = twice.times.wire.expect("wanted").latency().expect("four");
        assert_eq!((wire.count, twice.stamps.both), (4, 4));
        assert!((wire.min_us - 0.2).abs() < 0.001, "{wire:?}");
        assert!((wire.max_us - 0.3).abs() < 0.001, "{wire:?}");
    }

    #[test]
    fn quarters_are_compared() {
        let steady: Vec<_> = (0..4000).map(|n| (1000, 2000 + n)).collect();
        let (_, parts, _) = metered(CLOSED, &steady);
        let warmup = parts.warmup(&TIMES, TIMES.end);
        assert!(warmup.steady && warmup.warm_rate == Some(0.0), "{warmup:?}");
        assert!(
            (warmup.first_rate - 1000.0 / 1e-6).abs() < 1.0,
            "{warmup:?}"
        );
        let slower = |every: u64| {
            let all = steady.iter().copied().filter(|(_, back)| back % every == 0);
            let slower = all.filter(|(_, back)| back % (2 * every) == 0 || *back < 5000);
            let slower: Vec<_> = slower.collect();
            metered(CLOSED, &slower).1.warmup(&TIMES, TIMES.end)
        };
        assert!(!slower(1).steady);
        // 10 and 5 may be chance.
        assert!(slower(100).steady);
        // Of a run that was cut off, the last quarter that there was.
        let warmup = parts.warmup(&TIMES, 2500);
        assert!(warmup.steady && warmup.last_rate > 0.0, "{warmup:?}");
    }

    proptest! {
        #[test]
        fn slices_lose_nothing(mut messages in proptest::collection::vec((1000..8000_u64, 0..2000_u64), 0..50)) {
            messages.sort_by_key(|(began, took)| began + took);
            let messages: Vec<_> = messages.iter().map(|(began, took)| (*began, began + took)).collect();
            let (all, parts, slices) = metered(CLOSED, &messages);
            let back = messages.iter().filter(|(_, back)| (2000..6000).contains(back)).count();
            let begun = messages.iter().filter(|(began, _)| (2000..6000).contains(began)).count();
            prop_assert_eq!(all.echoes, back as u64);
            prop_assert_eq!(all.times.latency.count(), begun as u64);
            prop_assert_eq!(parts.0.iter().sum::<u64>(), messages.len() as u64);
            // 1500, 1500, 1000, and what came after the end.
            prop_assert_eq!(slices, 4);
        }
    }

    #[test]
    fn slices_end_where_the_measurement_does() {
        let slice = |number| TIMES.slice(number);
        let ns = Duration::from_nanos;
        assert_eq!(slice(0), (ns(0), ns(1500)));
        assert_eq!(slice(2), (ns(3000), ns(1000)));
        assert_eq!(slice(3), (ns(4000), ns(0)));
    }
}
