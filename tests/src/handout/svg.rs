//! A time line as a picture: packets are arrows between two rails, what the programs did and what
//! states their sockets took stands beside them, a bar along a rail is a call that waits. Colours and
//! fonts are the style sheet's (`handout.css`), so that a picture follows its page into the dark and onto
//! paper. All letters are of one width; so their place is known without a font.

use crate::narrate::ladder::{Layout, Mark, Row, Side};
use crate::narrate::text::wrap;
use crate::page::markup::{Markup, place};
use crate::page::svg::{line, words};

/// How wide every picture is drawn; the page scales it.
const WIDTH: f64 = 960.0;
/// Where times end.
const TIME: f64 = 84.0;
/// The rails.
const RAILS: [f64; 2] = [352.0, 668.0];
/// How wide a letter is, in the size that texts have here: 0.61 of 14.5 px.
const LETTER: f64 = 8.9;
/// How high a line of text is.
const LINE: f64 = 20.0;
/// Between a rail and its first bar, and from bar to bar.
const LANE: f64 = 8.0;
/// More bars side by side than this are not drawn.
const LANES: usize = 3;
/// What stands above the first row.
const HEAD: f64 = 34.0;

/// Draws it; `id` is unique in its page.
pub fn draw(page: &mut Markup, id: &str, title: &str, layout: &Layout) {
    let drawing = Drawing::of(layout);
    let (heading, description) = (format!("{id}-title"), format!("{id}-desc"));
    page.tag("svg")
        .with("viewBox", &format!("0 0 {WIDTH} {}", place(drawing.height)))
        .with("role", "img")
        .with("aria-labelledby", &format!("{heading} {description}"))
        .holding(|page| {
            page.tag("title").with("id", &heading).saying(title);
            let told = describe(layout);
            page.tag("desc").with("id", &description).saying(&told);
            drawing.draw(page);
        });
}

/// The same in words, for those who cannot see it.
fn describe(layout: &Layout) -> String {
    let name = |side: &Side| match side {
        Side::Client => "client",
        Side::Server => "server",
    };
    let row = |row: &Row| {
        let what = match &row.mark {
            Mark::Packet(side, label) => format!("the {} sends {label}", name(side)),
            Mark::Began(side, text, _) | Mark::Did(side, text) => {
                format!("at the {}: {text}", name(side))
            }
            Mark::States(client, server) => {
                let state = |whose, state: &Option<String>| {
                    state
                        .as_ref()
                        .map(|state| format!("the {whose}'s socket is {state}"))
                };
                let states = [state("client", client), state("server", server)];
                states.into_iter().flatten().collect::<Vec<_>>().join(", ")
            }
            Mark::Outcome(text) => format!("it says: {text}"),
        };
        format!("{} ms: {what}.", row.time.trim())
    };
    layout.rows.iter().map(row).collect::<Vec<_>>().join(" ")
}

/// A call that waits: its rail, its distance from it, from where to where.
struct Bar {
    side: Side,
    lane: usize,
    from: f64,
    to: f64,
}

/// A ladder whose rows have their places.
struct Drawing<'a> {
    layout: &'a Layout,
    /// Where each row begins, the silence before it included.
    tops: Vec<f64>,
    bars: Vec<Bar>,
    /// Where texts begin, from their rail: beyond the bars.
    margins: [f64; 2],
    height: f64,
}

fn rail(side: Side) -> f64 {
    RAILS[side as usize]
}

/// Away from the middle.
fn outwards(side: Side) -> f64 {
    match side {
        Side::Client => -1.0,
        Side::Server => 1.0,
    }
}

/// How high the silence before a row is.
fn silence(row: &Row) -> f64 {
    row.silence.map_or(0.0, |_| 1.6 * LINE)
}

impl<'a> Drawing<'a> {
    fn of(layout: &'a Layout) -> Self {
        let mut drawing = Self {
            layout,
            tops: Vec::new(),
            bars: Vec::new(),
            margins: [0.0; 2],
            height: HEAD,
        };
        drawing.place();
        // Bars take room from texts, and texts that take more lines move the bars' ends.
        drawing.bars = drawing.waits();
        drawing.margins = [Side::Client, Side::Server].map(|side| drawing.margin(side));
        drawing.place();
        drawing.bars = drawing.waits();
        drawing
    }

    /// Where the first row begins: below the names, and what came before.
    fn head(&self) -> f64 {
        let prologue = self.layout.prologue.as_ref();
        HEAD + prologue.map_or(0.0, |_| 1.3 * LINE)
    }

    fn place(&mut self) {
        let mut y = self.head();
        self.tops.clear();
        for row in &self.layout.rows {
            self.tops.push(y);
            y += silence(row) + self.high(row);
        }
        self.height = y + 8.0;
    }

    fn high(&self, row: &Row) -> f64 {
        match &row.mark {
            Mark::Packet(..) => 1.6 * LINE,
            Mark::States(..) => 1.35 * LINE,
            Mark::Began(side, text, _) | Mark::Did(side, text) => {
                self.beside(*side, text).len() as f64 * LINE + 2.0
            }
            Mark::Outcome(text) => across(text).len() as f64 * LINE + 14.0,
        }
    }

    /// Where the row of this number is, its silence left out.
    fn middle(&self, i: usize) -> f64 {
        let row = &self.layout.rows[i];
        self.tops[i] + silence(row) + LINE / 2.0
    }

    /// A text beside a rail, on as many lines as it takes.
    fn beside(&self, side: Side, text: &str) -> Vec<String> {
        let room = match side {
            Side::Client => rail(side) - TIME - 14.0,
            Side::Server => WIDTH - rail(side),
        };
        let letters = (room - self.margins[side as usize] - 12.0) / LETTER;
        wrap(text, letters as usize)
    }

    /// The calls that wait, each in the first lane that is free.
    fn waits(&self) -> Vec<Bar> {
        let mut bars: Vec<Bar> = Vec::new();
        for (i, row) in self.layout.rows.iter().enumerate() {
            // Of one that never returned nobody knows how long it waited: its program may have died.
            let Mark::Began(side, _, Some(end)) = &row.mark else {
                continue;
            };
            let from = self.middle(i);
            let last = self.layout.rows.iter().rposition(|row| row.at <= *end);
            let to = last.map_or(from, |last| self.middle(last));
            let taken = |lane| {
                let others = bars.iter().filter(|bar| bar.side == *side);
                others
                    .filter(|bar| bar.lane == lane)
                    .any(|bar| bar.to > from)
            };
            if let Some(lane) = (0..LANES).find(|lane| !taken(*lane)) {
                let side = *side;
                bars.push(Bar {
                    side,
                    lane,
                    from,
                    to,
                });
            }
        }
        bars
    }

    fn margin(&self, side: Side) -> f64 {
        let bars = self.bars.iter().filter(|bar| bar.side == side);
        bars.map(|bar| (bar.lane + 1) as f64 * LANE)
            .fold(0.0, f64::max)
    }

    fn draw(&self, page: &mut Markup) {
        words(page, "head end", (TIME, 20.0), "ms");
        words(page, "head end", (RAILS[0] + 26.0, 20.0), "client");
        words(page, "head", (RAILS[1] - 26.0, 20.0), "server");
        if let Some((prologue, hidden)) = &self.layout.prologue {
            let lines = if *hidden == 1 { "line" } else { "lines" };
            let text = format!("... {prologue}: {hidden} {lines}");
            words(page, "quiet middle", (middle(), HEAD + 10.0), &text);
        }
        self.rails(page);
        for bar in &self.bars {
            let x = rail(bar.side) + outwards(bar.side) * (bar.lane as f64 + 0.8) * LANE;
            line(page, "wait", (x, bar.from), (x, bar.to));
        }
        for (i, row) in self.layout.rows.iter().enumerate() {
            if let Some(silence) = row.silence {
                let text = format!("{:.1} s", silence as f64 / 1e9);
                words(
                    page,
                    "gap middle",
                    (middle(), self.tops[i] + 1.1 * LINE),
                    &text,
                );
            }
            self.row(page, row, self.tops[i] + silence(row));
        }
    }

    /// Whole where something happens, in dots where nothing does; nothing behind outcomes at the end.
    fn rails(&self, page: &mut Markup) {
        for x in RAILS {
            line(
                page,
                "rail",
                (x, self.head() - 6.0),
                (x, self.tops.first().map_or(HEAD, |y| *y)),
            );
            let told = |row: &&Row| matches!(row.mark, Mark::Outcome(_));
            let outcomes = self.layout.rows.iter().rev().take_while(told).count();
            let rows = self.layout.rows.len() - outcomes;
            for (row, top) in self.layout.rows.iter().zip(&self.tops).take(rows) {
                let (silent, high) = (silence(row), self.high(row));
                if silent > 0.0 {
                    line(page, "rail silent", (x, *top), (x, top + silent));
                }
                line(page, "rail", (x, top + silent), (x, top + silent + high));
            }
        }
    }

    fn row(&self, page: &mut Markup, row: &Row, y: f64) {
        let base = y + 0.72 * LINE;
        let high = if matches!(row.mark, Mark::Packet(..)) {
            1.15 * LINE
        } else {
            0.72 * LINE
        };
        words(page, "time end", (TIME, y + high), row.time.trim());
        match &row.mark {
            Mark::Packet(side, label) => arrow(page, *side, label, y),
            Mark::Began(side, text, _) => self.text(page, "began", *side, text, base),
            Mark::Did(side, text) => self.text(page, "did", *side, text, base),
            Mark::States(client, server) => {
                for (side, state) in [(Side::Client, client), (Side::Server, server)] {
                    if let Some(state) = state {
                        self.state(page, side, state, y);
                    }
                }
            }
            Mark::Outcome(text) => outcome(page, text, y),
        }
    }

    fn edge(&self, side: Side) -> f64 {
        rail(side) + outwards(side) * (self.margins[side as usize] + 10.0)
    }

    fn text(&self, page: &mut Markup, class: &str, side: Side, text: &str, base: f64) {
        let x = self.edge(side);
        let class = format!("{class} {}", anchor(side));
        for (i, text) in self.beside(side, text).iter().enumerate() {
            words(page, &class, (x, base + i as f64 * LINE), text);
        }
    }

    fn state(&self, page: &mut Markup, side: Side, state: &str, y: f64) {
        let wide = state.chars().count() as f64 * LETTER + 14.0;
        let x = self.edge(side) + if side == Side::Client { -wide } else { 0.0 };
        page.tag("rect")
            .class("state")
            .at("x", x)
            .at("y", y + 1.0)
            .at("width", wide)
            .at("height", 1.15 * LINE)
            .at("rx", 4.0)
            .empty();
        words(
            page,
            "state middle",
            (x + wide / 2.0, y + 0.82 * LINE),
            state,
        );
    }
}

const fn anchor(side: Side) -> &'static str {
    match side {
        Side::Client => "end",
        Side::Server => "start",
    }
}

fn middle() -> f64 {
    f64::midpoint(RAILS[0], RAILS[1])
}

/// A packet, with its label above it.
fn arrow(page: &mut Markup, from: Side, label: &str, top: f64) {
    const HEAD: f64 = 11.0;
    let y = top + 1.2 * LINE;
    let (near, far) = match from {
        Side::Client => (RAILS[0], RAILS[1]),
        Side::Server => (RAILS[1], RAILS[0]),
    };
    let back = far - (far - near).signum() * HEAD;
    let class = kind(label);
    page.tag("g").class(class).holding(|page| {
        words(page, "packet middle", (middle(), top + 0.78 * LINE), label);
        line(page, "rung", (near, y), (back, y));
        let head = format!("M{far} {y:.1}L{back} {:.1}V{:.1}Z", y - 5.5, y + 5.5);
        page.tag("path").class("tip").with("d", &head).empty();
    });
}

/// What a packet is for: its name in the style sheet.
fn kind(label: &str) -> &'static str {
    let kinds = [
        ("RST", "rst"),
        ("SYN", "syn"),
        ("FIN", "fin"),
        ("len=", "data"),
    ];
    let found = kinds.iter().find(|(word, _)| label.contains(word));
    found.map_or("ack", |(_, kind)| kind)
}

/// What came of it, in a box across both sides.
fn outcome(page: &mut Markup, text: &str, y: f64) {
    let lines = across(text);
    let left = TIME + 12.0;
    page.tag("rect")
        .class("outcome")
        .at("x", left)
        .at("y", y + 3.0)
        .at("width", WIDTH - left)
        .at("height", lines.len() as f64 * LINE + 8.0)
        .at("rx", 4.0)
        .empty();
    for (i, text) in lines.iter().enumerate() {
        let base = y + 7.0 + (i as f64 + 0.72) * LINE;
        words(page, "outcome", (left + 12.0, base), text);
    }
}

fn across(text: &str) -> Vec<String> {
    wrap(text, ((WIDTH - TIME - 36.0) / LETTER) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handout::fixture;
    use crate::narrate::ladder::Ladder;
    use crate::page::markup;

    fn drawn(ladder: &Ladder) -> String {
        let mut page = Markup::default();
        draw(&mut page, "x", "a <story>", &ladder.layout(false));
        page.finish()
    }

    #[test]
    fn everything_of_a_ladder_is_in_its_picture() {
        let picture = drawn(&fixture::ladder());
        assert_eq!(markup::check(&picture), Ok(()));
        for part in [
            "<g class=\"data\">",
            "<g class=\"ack\">",
            "<g class=\"fin\">",
            "<g class=\"rst\">",
            ">CLOSE-WAIT</text>",
            ">FIN-WAIT-2</text>",
            ">1.5 s</text>",
            "prematurely &amp; so on</text>",
            "... the first push: 1 line</text>",
            "<title id=\"x-title\">a &lt;story&gt;</title>",
            "1502.0 ms: the server sends FIN,ACK seq=7.",
            "the client's socket is CLOSE-WAIT, the server's socket is FIN-WAIT-2",
        ] {
            assert!(picture.contains(part), "{part}: {picture}");
        }
    }

    #[test]
    fn a_long_text_takes_lines_and_none_leaves_the_picture() {
        let picture = drawn(&fixture::ladder());
        assert!(!picture.contains("a rather long remark &lt;b&gt; about what had happened</text>"));
        for text in picture.split("<text class=\"did start\"").skip(1) {
            let (place, rest) = text.split_once('>').expect("a tag");
            let x = place.split('"').nth(1).expect("x").parse::<f64>();
            let text = rest.split_once('<').expect("an end").0;
            let letters = text
                .replace("&lt;", "<")
                .replace("&gt;", ">")
                .chars()
                .count();
            let end = x.expect("a number") + letters as f64 * LETTER;
            assert!(end <= WIDTH + LETTER, "{text}");
        }
    }

    #[test]
    fn calls_that_wait_are_bars_side_by_side() {
        use crate::observe::calls::{CallRecord, Phase};
        let call = |at: u64, phase, fd| CallRecord {
            at: at * 1_000_000,
            pid: 1,
            tid: fd,
            phase,
            call: "read".into(),
            fd,
            result: 1,
            errno: None,
        };
        let calls = [
            call(1, Phase::Enter, 0),
            call(5, Phase::Enter, 3),
            call(90, Phase::Return, 0),
            call(91, Phase::Return, 3),
            call(95, Phase::Enter, 0),
            call(97, Phase::Return, 0),
            call(99, Phase::Enter, 0),
        ];
        let layout = Ladder::new(0).calls(Side::Client, &calls).layout(true);
        let drawing = Drawing::of(&layout);
        let lanes: Vec<_> = drawing.bars.iter().map(|bar| bar.lane).collect();
        assert_eq!(lanes, [0, 1, 0], "the last never returns");
        for bar in &drawing.bars {
            assert!(bar.from < bar.to && bar.to < drawing.height - 8.0);
        }
    }
}
