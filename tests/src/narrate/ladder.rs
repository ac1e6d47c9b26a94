//! One connection on one time line: packets as rungs between two rails, and beside each rail what
//! the program on that side did, what state its socket was in, what it said.
//!
//! All times are nanoseconds of `CLOCK_REALTIME`, the clock of captures and call records alike.
//! A call that waits stands there twice: `read(3) ...` where it began, with its result where it
//! returned. Drawing is a pure function of the entries.
//!
//! A class needs the climax on one screen: what came before a moment that the lab names is summed
//! up in a line, but for the calls that were waiting at that moment.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::narrate::text::wrap;
use crate::observe::calls::{CallRecord, Phase};
use crate::observe::packets::Packet;

/// A silence this long is drawn as a gap.
const GAP: u64 = 100_000_000;
/// A call shorter than this has not waited; it is shown once, unless packets travelled meanwhile.
const AT_ONCE: u64 = 1_000_000;

/// The side of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// On the left.
    Client,
    /// On the right.
    Server,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    at: u64,
    side: Side,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    /// A packet left this side.
    Packet(String),
    /// A call began, and returned then if it ever did.
    Began(String, Option<u64>),
    /// The program of this side did something or returned from a call.
    Did(String),
    /// The socket of this side was seen in this state for the first time.
    State(String),
    /// What came of it all; across both sides.
    Outcome(String),
}

/// A drawing in the making; see the module's head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ladder {
    origin: u64,
    /// What the time before the origin brought, in words, if it may be summed up.
    prologue: Option<String>,
    /// Are calls shown that a signal interrupted?
    interruptions: bool,
    descriptors: Vec<(Side, i32, String)>,
    remarks: Vec<String>,
    entries: Vec<Entry>,
}

/// A ladder made ready to be drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What must be known to read it.
    pub legend: String,
    /// What the time before it brought, and how many rows are not shown for that.
    pub prologue: Option<(String, usize)>,
    /// From top to bottom.
    pub rows: Vec<Row>,
}

/// A moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Nanoseconds of `CLOCK_REALTIME`.
    pub at: u64,
    /// The same in ms since the origin, with as many digits as keep the rows apart.
    pub time: String,
    /// How long nothing had happened before it, in ns, if that was long.
    pub silence: Option<u64>,
    /// What is drawn.
    pub mark: Mark,
}

/// What there is in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A packet that left this side.
    Packet(Side, String),
    /// A call of this side began to wait, and returned then if it ever did.
    Began(Side, String, Option<u64>),
    /// This side did something, or returned from a call.
    Did(Side, String),
    /// The sockets took these states: the client's, the server's.
    States(Option<String>, Option<String>),
    /// What came of it all; across both sides.
    Outcome(String),
}

impl Ladder {
    /// An empty ladder whose time is counted from `origin`.
    pub fn new(origin: u64) -> Self {
        Self {
            origin,
            prologue: None,
            interruptions: false,
            descriptors: Vec::new(),
            remarks: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Everything before the origin may be summed up by these words.
    #[must_use]
    pub fn prologue(mut self, words: impl Into<String>) -> Self {
        self.prologue = Some(words.into());
        self
    }

    /// Calls that a signal interrupted belong to the story.
    #[must_use]
    pub fn interruptions(mut self) -> Self {
        self.interruptions = true;
        self
    }

    /// Explains a descriptor of one side; it is said only if the drawing shows it.
    #[must_use]
    pub fn descriptor(mut self, side: Side, fd: i32, what: impl Into<String>) -> Self {
        self.descriptors.push((side, fd, what.into()));
        self
    }

    /// Adds a sentence to the legend.
    #[must_use]
    pub fn remark(mut self, sentence: impl Into<String>) -> Self {
        self.remarks.push(sentence.into());
        self
    }

    /// Adds the packets of one connection. Sequence numbers are counted from the first packet of
    /// each side, as tcpdump does.
    #[must_use]
    pub fn packets(mut self, client: SocketAddr, packets: &[Packet]) -> Self {
        let first = |by_client| {
            let mut sent = packets.iter().filter(|p| (p.from == client) == by_client);
            sent.next().map_or(0, |packet| packet.seq)
        };
        let (base, other) = (first(true), first(false));
        for packet in packets {
            let (side, seq, ack) = if packet.from == client {
                (Side::Client, base, other)
            } else {
                (Side::Server, other, base)
            };
            let label = label(
                packet,
                packet.seq.wrapping_sub(seq),
                packet.ack.wrapping_sub(ack),
            );
            self.push(packet.at, side, What::Packet(label));
        }
        self
    }

    /// Adds the calls that the program of `side` made; choose before which ones are of interest.
    #[must_use]
    pub fn calls<'a>(
        mut self,
        side: Side,
        calls: impl IntoIterator<Item = &'a CallRecord>,
    ) -> Self {
        let calls: Vec<_> = calls.into_iter().collect();
        for (i, call) in calls.iter().enumerate() {
            let what = match call.phase {
                Phase::Enter => What::Began(began(call), returned(&calls[i..])),
                Phase::Return => What::Did(result(call)),
            };
            self.push(call.at, side, what);
        }
        self
    }

    /// Adds the state that the socket of `side` took at this time.
    #[must_use]
    pub fn state(mut self, at: u64, side: Side, state: impl Into<String>) -> Self {
        self.push(at, side, What::State(state.into()));
        self
    }

    /// Adds a word about what happened on one side: what was typed, said, killed.
    #[must_use]
    pub fn note(mut self, at: u64, side: Side, note: impl Into<String>) -> Self {
        self.push(at, side, What::Did(note.into()));
        self
    }

    /// Adds what came of it: the line in which a program told it.
    #[must_use]
    pub fn outcome(mut self, at: u64, line: impl Into<String>) -> Self {
        self.push(at, Side::Client, What::Outcome(line.into()));
        self
    }

    /// A packet with this label.
    #[cfg(test)]
    pub(crate) fn rung(mut self, at: u64, side: Side, label: &str) -> Self {
        self.push(at, side, What::Packet(label.into()));
        self
    }

    fn push(&mut self, at: u64, side: Side, what: What) {
        self.entries.push(Entry { at, side, what });
    }

    /// Draws it, at most `width` columns wide; `all` of it, or with the prologue summed up.
    pub fn draw(&self, width: usize, all: bool) -> String {
        if width < Columns::MINIMUM {
            return self.packets_only(&self.rows(all).0, width);
        }
        let layout = self.layout(all);
        let columns = Columns::within(width);
        let mut page = columns.legend(&layout.legend);
        page += &columns.row("ms", "client", &" ".repeat(columns.rung + 2), "server");
        if let Some((words, hidden)) = &layout.prologue {
            let lines = if *hidden == 1 { "line" } else { "lines" };
            let _ = writeln!(
                page,
                "{:>TIME$}  {words}: {hidden} {lines} (see --full)",
                "..."
            );
        }
        for row in &layout.rows {
            if let Some(silence) = row.silence {
                page += &columns.gap(silence);
            }
            page += &columns.entries(&row.mark, &row.time);
        }
        page
    }

    /// What there is to draw, row by row, for whoever draws with something else than letters.
    pub fn layout(&self, all: bool) -> Layout {
        let (rows, hidden) = self.rows(all);
        let mut before = None;
        let lay = |(row, time): (&Vec<Entry>, String)| {
            let at = row[0].at;
            let silence = before.map_or(0, |before| at.saturating_sub(before));
            before = Some(at);
            Row {
                at,
                time,
                silence: (silence >= GAP).then_some(silence),
                mark: mark(row),
            }
        };
        let words = self.prologue.clone().filter(|_| hidden > 0);
        Layout {
            legend: self.legend(&rows),
            prologue: words.map(|words| (words, hidden)),
            rows: rows.iter().zip(self.times(&rows)).map(lay).collect(),
        }
    }

    /// What is shown, row by row, and how many rows are not.
    fn rows(&self, all: bool) -> (Vec<Vec<Entry>>, usize) {
        let mut entries = self.entries.clone();
        entries.sort_by_key(|entry| entry.at);
        let mut rows: Vec<Vec<Entry>> = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            if matches!(entry.what, What::Began(_, Some(end)) if at_once(&entries[i..], end)) {
                continue;
            }
            match rows.last_mut() {
                Some(row) if beside(row, entry) => row.push(entry.clone()),
                _ => rows.push(vec![entry.clone()]),
            }
        }
        if all || self.prologue.is_none() {
            return (rows, 0);
        }
        let shown = |row: &Vec<Entry>| match &row[0].what {
            // Mostly nothing that the story needs.
            What::Did(text) if text.contains("EINTR") && !self.interruptions => false,
            What::Began(_, end) => end.is_none_or(|end| end >= self.origin),
            _ => row[0].at >= self.origin,
        };
        let early = |row: &&Vec<Entry>| row[0].at < self.origin && !shown(row);
        let hidden = rows.iter().filter(early).count();
        rows.retain(shown);
        (rows, hidden)
    }

    /// The times of the rows in ms: to a tenth where that keeps them apart, else to a thousandth.
    fn times(&self, rows: &[Vec<Entry>]) -> Vec<String> {
        let ms = |row: &Vec<Entry>| (row[0].at as f64 - self.origin as f64) / 1e6;
        let tenths: Vec<_> = rows
            .iter()
            .map(|row| (ms(row) * 10.0).round() as i64)
            .collect();
        let apart = |i: usize| {
            let before = i.checked_sub(1).is_none_or(|j| tenths[j] != tenths[i]);
            before && tenths.get(i + 1).is_none_or(|next| *next != tenths[i])
        };
        let time = |(i, row)| {
            if apart(i) {
                format!("{:.1}  ", tenths[i] as f64 / 10.0)
            } else {
                format!("{:.3}", ms(row))
            }
        };
        rows.iter().enumerate().map(time).collect()
    }

    fn legend(&self, rows: &[Vec<Entry>]) -> String {
        let shown = |is_it: &dyn Fn(&Entry) -> bool| rows.iter().flatten().any(is_it);
        let mut legend = Vec::new();
        let of = |side| {
            let known = self.descriptors.iter().filter(|(of, ..)| *of == side);
            let used = known.filter(|(side, fd, _)| {
                shown(&|e| e.side == *side && e.text().contains(&format!("({fd})")))
            });
            let said: Vec<_> = used.map(|(_, fd, what)| format!("{fd} {what}")).collect();
            said.join(", ")
        };
        let sides = [("client", Side::Client), ("server", Side::Server)];
        let sides = sides.map(|(name, side)| (name, of(side)));
        let known = sides.iter().filter(|(_, known)| !known.is_empty());
        let known: Vec<_> = known
            .map(|(at, fds)| format!("at the {at}: {fds}"))
            .collect();
        if !known.is_empty() {
            legend.push(format!("Descriptors {}.", known.join("; ")));
        }
        if shown(&|e| matches!(e.what, What::Began(..))) {
            legend.push("A call with ... begins to wait; it stands again when it returns.".into());
        }
        if shown(&|e| matches!(e.what, What::State(_))) {
            legend.push(
                "In brackets: the new state of a socket, sampled every half millisecond and shown \
                 at the packet that caused it."
                    .into(),
            );
        }
        legend.extend(self.remarks.iter().cloned());
        legend.join(" ")
    }

    fn packets_only(&self, rows: &[Vec<Entry>], width: usize) -> String {
        let note = format!(
            "(The time line needs a window of {} columns, this one has {width}. Its packets, in ms:)",
            Columns::MINIMUM
        );
        let mut page = wrap(&note, width).join("\n") + "\n";
        let rows: Vec<_> = rows
            .iter()
            .filter(|row| matches!(row[0].what, What::Packet(_)))
            .cloned()
            .collect();
        for (row, time) in rows.iter().zip(self.times(&rows)) {
            let sender = match row[0].side {
                Side::Client => "client",
                Side::Server => "server",
            };
            let _ = writeln!(page, "{time:>TIME$}  {sender} {}", row[0].text());
        }
        page
    }
}

impl Entry {
    fn text(&self) -> &str {
        let (What::Packet(text)
        | What::Began(text, _)
        | What::Did(text)
        | What::State(text)
        | What::Outcome(text)) = &self.what;
        text
    }
}

/// What a row is to its reader.
fn mark(row: &[Entry]) -> Mark {
    let Entry { side, what, .. } = &row[0];
    match what {
        What::Packet(label) => Mark::Packet(*side, label.clone()),
        What::Began(text, end) => Mark::Began(*side, text.clone(), *end),
        What::Did(text) => Mark::Did(*side, text.clone()),
        What::State(_) => {
            let of = |side| row.iter().find(|entry| entry.side == side);
            let state = |side| of(side).map(|entry| entry.text().to_owned());
            Mark::States(state(Side::Client), state(Side::Server))
        }
        What::Outcome(text) => Mark::Outcome(text.clone()),
    }
}

/// May the entry stand in this row? The states of both sides may, if one packet caused them.
fn beside(row: &[Entry], entry: &Entry) -> bool {
    let state = |entry: &Entry| matches!(entry.what, What::State(_));
    state(entry)
        && row
            .iter()
            .all(|e| state(e) && e.at == entry.at && e.side != entry.side)
}

/// Did the call that `rest` begins with return before anything worth showing happened?
fn at_once(rest: &[Entry], end: u64) -> bool {
    let inside = |entry: &&Entry| entry.at < end;
    let packet = |entry: &Entry| matches!(entry.what, What::Packet(_));
    end - rest[0].at < AT_ONCE && !rest.iter().take_while(inside).any(packet)
}

/// When the call that `rest` begins with returned.
fn returned(rest: &[&CallRecord]) -> Option<u64> {
    let (call, later) = rest.split_first()?;
    let same = |other: &&&CallRecord| {
        other.phase == Phase::Return
            && (other.tid, other.fd, &other.call) == (call.tid, call.fd, &call.call)
    };
    later.iter().find(same).map(|other| other.at)
}

fn began(call: &CallRecord) -> String {
    format!("{} ...", named(call))
}

/// A call with its descriptor, if it has one.
fn named(call: &CallRecord) -> String {
    match call.fd {
        ..0 => format!("{}()", call.call),
        fd => format!("{}({fd})", call.call),
    }
}

/// A call with its result, as strace writes it: `read(3) = 0 (EOF)`, `write(3) = -1 EPIPE`.
pub fn result(call: &CallRecord) -> String {
    let named = named(call);
    let CallRecord {
        call,
        result,
        errno,
        ..
    } = call;
    let errno = errno.as_deref().map_or(String::new(), |e| format!(" {e}"));
    let eof = if call == "read" && *result == 0 {
        " (EOF)"
    } else {
        ""
    };
    format!("{named} = {result}{errno}{eof}")
}

/// What matters of a packet: an acknowledgement's number if it is nothing else, else what is sent.
fn label(packet: &Packet, seq: u32, ack: u32) -> String {
    let flags = packet.flags;
    if packet.len == 0 && !flags.syn() && !flags.fin() && !flags.rst() {
        return format!("{} ack={ack}", flags.names());
    }
    let mut label = format!("{} seq={seq}", flags.names());
    if packet.len > 0 {
        let _ = write!(label, " len={}", packet.len);
    }
    label
}

/// The columns of a drawing: time, left, rail, rungs, rail, right.
struct Columns {
    left: usize,
    rung: usize,
    right: usize,
}

const TIME: usize = 10;
/// Two blanks, and a rail with a blank on each side.
const BETWEEN: usize = 2 + 2 + 2;

impl Columns {
    /// Below this it is rubble.
    const MINIMUM: usize = 72;

    fn within(width: usize) -> Self {
        let room = width.clamp(Self::MINIMUM, 100) - TIME - BETWEEN;
        let rung = (room * 2 / 5).max(24);
        let left = (room - rung) / 2;
        Self {
            left,
            rung,
            right: room - rung - left,
        }
    }

    fn width(&self) -> usize {
        TIME + BETWEEN + self.left + self.rung + self.right
    }

    fn legend(&self, legend: &str) -> String {
        let lines = wrap(legend, self.width());
        let lines = lines.iter().filter(|line| !line.is_empty());
        lines.flat_map(|line| [line, "\n"]).collect()
    }

    fn gap(&self, silence: u64) -> String {
        let text = format!("{:.1} s", silence as f64 / 1e9);
        let middle = format!(":{text:^rung$}:", rung = self.rung);
        self.row("", "", &middle, "")
    }

    fn entries(&self, mark: &Mark, time: &str) -> String {
        let rails = format!("|{:rung$}|", "", rung = self.rung);
        match mark {
            Mark::Packet(side, label) => self.row(time, "", &self.arrow(label, *side), ""),
            Mark::States(client, server) => {
                let state = |state: &Option<String>| {
                    let state = state.as_ref();
                    state.map_or(String::new(), |state| format!("[{state}]"))
                };
                let left = format!("{:>left$}", state(client), left = self.left);
                self.row(time, &left, &rails, &state(server))
            }
            Mark::Began(side, text, _) | Mark::Did(side, text) => {
                self.lines(time, text, &rails, *side)
            }
            Mark::Outcome(text) => self.outcome(time, text),
        }
    }

    /// A text beside its rail, on as many lines as it takes.
    fn lines(&self, time: &str, text: &str, rails: &str, side: Side) -> String {
        let width = match side {
            Side::Client => self.left,
            Side::Server => self.right,
        };
        let mut rows = String::new();
        for (i, line) in wrap(text, width).iter().enumerate() {
            let time = if i == 0 { time } else { "" };
            rows += &match side {
                Side::Client => self.row(time, line, rails, ""),
                Side::Server => self.row(time, "", rails, line),
            };
        }
        rows
    }

    fn outcome(&self, time: &str, text: &str) -> String {
        let mut rows = String::new();
        let mut before = (time, ">>");
        for line in wrap(text, self.width() - TIME - 5) {
            let (time, mark) = std::mem::take(&mut before);
            let _ = writeln!(rows, "{time:>TIME$}  {mark:2} {line}");
        }
        rows
    }

    /// Where a label leaves no shaft, it does without the ACK that every segment but the first carries.
    fn arrow(&self, label: &str, from: Side) -> String {
        let rung = self.rung - 1;
        let leaves_none = |label: &str| label.len() + " - ".len() > rung;
        let mut label = label.to_owned();
        if leaves_none(&label) {
            label = label.replacen(",ACK ", " ", 1);
        }
        if leaves_none(&label) {
            label = label.replacen("ACK seq", "seq", 1);
        }
        match from {
            Side::Client => format!("|{:-^rung$}>|", format!(" {label} ")),
            // The one dash that is left belongs to the head.
            Side::Server if label.len() + " - ".len() == rung => format!("|<- {label} |"),
            Side::Server => format!("|<{:-^rung$}|", format!(" {label} ")),
        }
    }

    fn row(&self, time: &str, left: &str, middle: &str, right: &str) -> String {
        let row = format!(
            "{time:>TIME$}  {left:<width$} {middle} {right}",
            width = self.left
        );
        format!("{}\n", row.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn call(at: u64, phase: Phase, call: &str, fd: i32, result: i64) -> CallRecord {
        CallRecord {
            at,
            pid: 1,
            tid: 1,
            phase,
            call: call.into(),
            fd,
            result,
            errno: None,
        }
    }

    fn rung(ladder: Ladder, at: u64, side: Side, label: &str) -> Ladder {
        ladder.rung(at, side, label)
    }

    #[test]
    fn a_long_label_leaves_the_rails_where_they_are() {
        let columns = Columns::within(80);
        for (label, shown) in [
            ("PSH,ACK seq=2897 len=1200", "|<- PSH seq=2897 len=1200 |"),
            ("ACK seq=1449 len=1448", "|<- ACK seq=1449 len=1448 |"),
            ("ACK seq=144900 len=65483", "|<- seq=144900 len=65483 -|"),
        ] {
            assert_eq!(columns.arrow(label, Side::Server), shown);
        }
    }

    #[test]
    fn one_echo_and_a_death() {
        let calls = [
            call(MS, Phase::Enter, "read", 0, 0),
            call(9 * MS, Phase::Return, "read", 0, 6),
            call(9 * MS + 100_000, Phase::Return, "write", 3, 6),
        ];
        let mut ladder = Ladder::new(0)
            .calls(Side::Client, &calls)
            .descriptor(Side::Client, 0, "the keyboard")
            .descriptor(Side::Client, 3, "the connection")
            .descriptor(Side::Client, 4, "never seen")
            .remark("All times are made up.");
        ladder = rung(ladder, 9 * MS + 50_000, Side::Client, "PSH,ACK seq=1 len=6");
        ladder = rung(ladder, 1512 * MS, Side::Server, "FIN,ACK seq=7");
        let ladder = ladder
            .note(1511 * MS, Side::Server, "killed")
            .state(1513 * MS, Side::Client, "CLOSE_WAIT")
            .state(1513 * MS, Side::Server, "FIN_WAIT2")
            .outcome(1514 * MS, "server terminated prematurely");
        let expected = "
Descriptors at the client: 0 the keyboard, 3 the connection. A call with ...
begins to wait; it stands again when it returns. In brackets: the new state of a
socket, sampled every half millisecond and shown at the packet that caused it.
All times are made up.
        ms  client                                          server
     1.0    read(0) ...         |                         |
     9.0    read(0) = 6         |                         |
     9.050                      |- PSH,ACK seq=1 len=6 -->|
     9.100  write(3) = 6        |                         |
                                :          1.5 s          :
  1511.0                        |                         | killed
  1512.0                        |<---- FIN,ACK seq=7 -----|
  1513.0           [CLOSE_WAIT] |                         | [FIN_WAIT2]
  1514.0    >> server terminated prematurely
";
        assert_eq!(format!("\n{}", ladder.draw(80, true)), expected);
    }

    #[test]
    fn a_short_call_stands_once_unless_packets_travelled_meanwhile() {
        let calls = [
            call(100, Phase::Enter, "write", 3, 0),
            call(900, Phase::Return, "write", 3, 5),
        ];
        let ladder = Ladder::new(0).calls(Side::Client, &calls);
        assert!(!ladder.draw(80, true).contains("write(3) ..."));
        let ladder = rung(ladder, 500, Side::Client, "SYN seq=0");
        assert!(ladder.draw(80, true).contains("write(3) ..."));
    }

    #[test]
    fn what_came_before_is_summed_up_but_for_the_calls_that_wait() {
        let calls = [
            call(MS, Phase::Enter, "read", 0, 0),
            call(3 * MS, Phase::Return, "read", 0, 6),
            call(4 * MS, Phase::Enter, "read", 0, 0),
        ];
        let mut ladder = Ladder::new(10 * MS).prologue("the first echo");
        ladder = rung(
            ladder.calls(Side::Client, &calls),
            2 * MS,
            Side::Client,
            "x",
        );
        ladder = rung(ladder, 10 * MS, Side::Server, "FIN");
        let short = ladder.draw(80, false);
        assert!(
            short.contains("...  the first echo: 3 lines (see --full)"),
            "{short}"
        );
        assert_eq!(short.matches("read(0) ...").count(), 1, "{short}");
        assert!(
            short.contains(" -6.0 ") && short.contains("  0.0 "),
            "{short}"
        );
        assert!(!short.contains("read(0) = 6"), "{short}");
        let all = ladder.draw(80, true);
        assert!(!all.contains("--full"), "{all}");
        assert_eq!(all.matches("read(0) ...").count(), 2, "{all}");
    }

    #[test]
    fn a_narrow_window_gets_the_packets_alone() {
        let ladder = rung(Ladder::new(0), 1_234_000, Side::Server, "FIN,ACK seq=7");
        let drawn = ladder.note(5, Side::Server, "killed").draw(50, true);
        assert!(drawn.contains("72 columns"), "{drawn}");
        assert!(
            drawn.ends_with("\n     1.2    server FIN,ACK seq=7\n"),
            "{drawn}"
        );
        assert!(!drawn.contains("killed"), "{drawn}");
    }

    #[test]
    fn a_call_that_never_returns_stands_once() {
        let calls = [call(100, Phase::Enter, "read", 3, 0)];
        let ladder = Ladder::new(0).calls(Side::Server, &calls);
        assert_eq!(ladder.draw(80, true).matches("read(3) ...").count(), 1);
    }

    #[test]
    fn results_are_written_as_strace_writes_them() {
        assert_eq!(
            result(&call(0, Phase::Return, "read", 3, 0)),
            "read(3) = 0 (EOF)"
        );
        assert_eq!(
            result(&call(0, Phase::Return, "write", 3, 0)),
            "write(3) = 0"
        );
        let mut failed = call(0, Phase::Return, "read", 3, -1);
        failed.errno = Some("ECONNRESET".into());
        assert_eq!(result(&failed), "read(3) = -1 ECONNRESET");
    }

    #[test]
    fn it_keeps_within_its_width() {
        let ladder = Ladder::new(0)
            .remark("All descriptors are explained here, at some length, and over two lines.")
            .note(5, Side::Server, "a rather long remark about what happened")
            .note(5, Side::Client, "another one, on the other side of it all")
            .outcome(
                9,
                "and what came of it after all, told at a length beyond what is needed",
            );
        let ladder = rung(ladder, 7, Side::Client, "PSH,ACK seq=1 len=6");
        for width in 40..=120 {
            let drawn = ladder.draw(width, true);
            assert!(drawn.lines().all(|l| l.len() <= width.min(100)), "{drawn}");
        }
    }
}
