//! Shows a performance on a terminal or in a pipe: for a class that reads it from a projector.
//!
//! Colours are the writer's business (anstream drops them where they are not wanted); no meaning
//! hangs on them alone.

use std::fmt::Display;
use std::io::{self, BufRead, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};

use crate::narrate::fact::{Expected, Judgement};
use crate::narrate::perform::{Event, Lab, Renderer, Report, Stop};
use crate::narrate::step::{Question, TRY_IT, Typed};
use crate::narrate::text::wrap;
use crate::narrate::view::View;
use crate::netns::Isolation;

const HEADING: Style = AnsiColor::Cyan.on_default().bold();
const STRONG: Style = Style::new().bold();
const TYPED: Style = AnsiColor::Yellow.on_default().bold();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const DOUBTFUL: Style = AnsiColor::Yellow.on_default();

/// Goes one line up and clears it.
const RUB_OUT: &str = "\x1b[1A\x1b[2K\r";
/// Clears everything from here on.
const RUB_REST: &str = "\x1b[J";
/// The lines of a prompt: a blank one, and itself.
const PROMPT: usize = 2;
/// Where what was typed and what came out begins.
const INDENT: usize = 4;

/// How the performance goes on from step to step.
enum Pace {
    /// By itself, after this time.
    Automatic(Duration),
    /// When somebody presses Enter.
    Stepwise(Box<dyn BufRead>),
    /// No more: the audience has left in the middle of something.
    Over,
}

/// A page of a certain width that is written from top to bottom.
pub struct Terminal<W> {
    out: W,
    width: usize,
    pace: Pace,
    /// Are drawings shown whole?
    full: bool,
    /// Is somebody watching while it is written?
    live: bool,
    /// Can what is written be rubbed out again?
    redraws: bool,
    /// How many lines of what is still being made stand at the end of the page.
    sketched: usize,
    /// How many lines fit on the screen.
    height: usize,
    /// How many lines nobody has been asked to read yet.
    unread: usize,
    typed_ahead: fn() -> bool,
}

impl<W: Write> Terminal<W> {
    /// Goes on by itself. Lines have at most `width` columns, within reason.
    pub fn automatic(out: W, width: usize) -> Self {
        Self {
            out,
            width: width.clamp(40, 120),
            pace: Pace::Automatic(Duration::ZERO),
            full: false,
            live: false,
            redraws: false,
            sketched: 0,
            height: usize::MAX,
            unread: 0,
            typed_ahead: || false,
        }
    }

    /// Waits for Enter from `keyboard` before each step.
    pub fn stepwise(out: W, width: usize, keyboard: impl BufRead + 'static) -> Self {
        Self {
            pace: Pace::Stepwise(Box::new(keyboard)),
            live: true,
            ..Self::automatic(out, width)
        }
    }

    /// Goes on by itself, but only after this time, where it would otherwise wait for Enter.
    #[must_use]
    pub fn pausing(self, time: Duration) -> Self {
        Self {
            pace: Pace::Automatic(time),
            ..self
        }
    }

    /// Asks for Enter before more than this number of lines have passed by.
    #[must_use]
    pub fn height(self, height: usize) -> Self {
        Self { height, ..self }
    }

    /// How to find out whether a line has been typed that nobody has read yet.
    #[must_use]
    pub fn typed_ahead(self, typed_ahead: fn() -> bool) -> Self {
        Self {
            typed_ahead,
            ..self
        }
    }

    /// Shows drawings whole, if `full`.
    #[must_use]
    pub fn full(self, full: bool) -> Self {
        Self { full, ..self }
    }

    /// Shows how time passes, if somebody watches `live`.
    #[must_use]
    pub fn live(self, live: bool) -> Self {
        Self { live, ..self }
    }

    /// Draws what is still being made, again and again, if the terminal `redraws`.
    #[must_use]
    pub fn redraws(self, redraws: bool) -> Self {
        Self { redraws, ..self }
    }

    /// Adds a sentence that concerns the whole.
    pub fn remark(&mut self, text: &str) -> io::Result<()> {
        self.styled(DOUBTFUL, text, 0)?;
        self.out.flush()
    }

    /// What the page is written on.
    pub fn written(&self) -> &W {
        &self.out
    }

    fn lab(&mut self, lab: &Lab, place: &Isolation) -> io::Result<()> {
        let rule = "=".repeat(self.width);
        let sections = format!("UNP {}", lab.sections);
        let gap = self.width.saturating_sub(lab.name.len() + sections.len());
        writeln!(self.out, "{HEADING}{rule}{HEADING:#}")?;
        writeln!(
            self.out,
            "{HEADING}{}{:gap$}{sections}{HEADING:#}",
            lab.name, ""
        )?;
        writeln!(self.out, "{STRONG}{}{STRONG:#}", lab.title)?;
        writeln!(self.out, "{HEADING}{rule}{HEADING:#}\n")?;
        self.paragraph(lab.about, 0)?;
        if let Isolation::Plain(why) = place {
            let note = format!(
                "On plain loopback, without packets and among the host's other sockets: {why}."
            );
            writeln!(self.out)?;
            self.styled(DOUBTFUL, &note, 0)?;
        }
        Ok(())
    }

    fn act(&mut self, number: usize, title: &str) -> io::Result<()> {
        let heading = format!("-- Act {number}: {title} ");
        let rest = "-".repeat(self.width.saturating_sub(heading.len()));
        writeln!(self.out, "\n\n{HEADING}{heading}{rest}{HEADING:#}")
    }

    fn typed(&mut self, typed: Typed, text: &str) -> io::Result<()> {
        let prompt = match typed {
            Typed::Shell(_) => "$",
            Typed::Keys(_) => "keyboard:",
            Typed::Nothing => return Ok(()),
        };
        writeln!(self.out, "{:INDENT$}{TYPED}{prompt} {text}{TYPED:#}", "")
    }

    fn step(&mut self, what: &str, typed: Typed, text: &str) -> io::Result<()> {
        writeln!(self.out)?;
        self.styled(STRONG, what, 0)?;
        self.typed(typed, text)
    }

    fn view(&mut self, view: &View) -> io::Result<()> {
        match view {
            View::Printed(text) => self.output(text),
            View::AsWouldShow { tool, why, text } => {
                let note = format!("({tool} {why}; the same facts, as {tool} would show them)");
                self.styled(DOUBTFUL, &note, INDENT)?;
                self.output(text)
            }
            View::Ladder(ladder) => {
                let drawing = ladder.draw(self.width, self.full);
                drawing
                    .lines()
                    .try_for_each(|line| writeln!(self.out, "{line}"))
            }
        }
    }

    /// What a program printed: line by line as it is, cut off at the right margin.
    fn output(&mut self, text: &str) -> io::Result<()> {
        for line in text.lines() {
            let room = self.width - INDENT;
            let line: String = line.trim_end().chars().take(room).collect();
            writeln!(self.out, "{:INDENT$}{line}", "")?;
        }
        Ok(())
    }

    fn question(&mut self, question: &Question) -> io::Result<()> {
        writeln!(self.out)?;
        self.styled(STRONG, &format!("? {}", question.text), 0)?;
        for (i, (_, words)) in question.choices.iter().enumerate() {
            self.paragraph(&format!("{}) {words}", i + 1), INDENT)?;
        }
        Ok(())
    }

    fn answer(
        &mut self,
        question: &Question,
        choice: Option<usize>,
        guess: Option<usize>,
    ) -> io::Result<()> {
        let answer = choice.map_or_else(
            || "none of the choices".to_string(),
            |i| format!("{}: {}", i + 1, question.choices[i].1),
        );
        let reply = match guess {
            None => format!("The kernel's answer is {answer}."),
            Some(guess) if Some(guess) == choice => {
                format!("You were right. The kernel's answer is {answer}.")
            }
            Some(guess) => format!("You said {}. The kernel's answer is {answer}.", guess + 1),
        };
        writeln!(self.out)?;
        self.styled(STRONG, &format!("! {reply}"), 0)
    }

    fn verdict(
        &mut self,
        what: &str,
        expected: &Expected,
        judgement: &Judgement,
    ) -> io::Result<()> {
        let style = match judgement {
            Judgement::Held(_) => GOOD,
            Judgement::Different(..) => BAD,
            Judgement::Varied(..) | Judgement::Unseen(_) => DOUBTFUL,
        };
        let (word, text) = judgement.in_words(what, expected);
        self.marked(style, word, &text)
    }

    fn marked(&mut self, style: Style, word: &str, text: &str) -> io::Result<()> {
        const MARK: usize = 11;
        let lines = wrap(text, self.width - MARK);
        for (i, line) in lines.iter().enumerate() {
            let word = if i == 0 { word } else { "" };
            writeln!(self.out, "{style}{word:<MARK$}{style:#}{line}")?;
        }
        Ok(())
    }

    fn end(&mut self, report: &Report) -> io::Result<()> {
        writeln!(self.out)?;
        for sentence in &report.differences {
            self.marked(BAD, "DIFFERENT", sentence)?;
        }
        if report.predictions > 0 {
            let score = format!(
                "{} of {} predictions right",
                report.right, report.predictions
            );
            self.styled(STRONG, &score, 0)?;
        }
        let style = if report.passed(false) { GOOD } else { BAD };
        let left = if report.quit { " (left early)" } else { "" };
        self.styled(style, &format!("{report}{left}"), 0)
    }

    fn event(&mut self, event: &Event<'_>) -> io::Result<()> {
        match event {
            Event::Lab(lab, place) => self.lab(lab, place),
            Event::Act(number, title) => self.act(*number, title),
            Event::Explain(text) | Event::Read(text) => {
                writeln!(self.out)?;
                self.paragraph(text, 0)
            }
            Event::Ask(question) => self.question(question),
            Event::Do(what, typed, text) => self.step(what, *typed, text),
            Event::Show(what, typed, text, view) => {
                self.step(what, *typed, text)?;
                self.view(view)
            }
            Event::Try(lines) => {
                self.step(TRY_IT, Typed::Nothing, "")?;
                self.output(lines)
            }
            Event::Answer(question, choice, guess) => self.answer(question, *choice, *guess),
            Event::Verdict(what, expected, judgement, _) => self.verdict(what, expected, judgement),
            Event::Trouble(what, why) => self.marked(BAD, "TROUBLE", &format!("{what}: {why}")),
            Event::End(report) => self.end(report),
        }
    }

    /// A page like this one with nothing on it.
    fn blank(&self) -> Terminal<Vec<u8>> {
        Terminal::automatic(Vec::new(), self.width).full(self.full)
    }

    /// What is higher than the screen is shown screen by screen.
    fn screens(&mut self, text: &[u8]) -> io::Result<()> {
        let screen = self.height.saturating_sub(PROMPT).max(1);
        let lines: Vec<_> = text.split_inclusive(|byte| *byte == b'\n').collect();
        for (i, lines) in lines.chunks(screen).enumerate() {
            if i > 0 {
                match self.prompt("[Enter] more   [s Enter] no more pauses   [q Enter] quit") {
                    Ok(_) => {}
                    Err(Stop::Output(error)) => return Err(error),
                    Err(Stop::Quit | Stop::Trouble) => {
                        self.pace = Pace::Over;
                        return Ok(());
                    }
                }
            }
            self.unread += lines.len();
            self.out.write_all(&lines.concat())?;
        }
        self.out.flush()
    }

    fn rub_out_sketch(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.sketched) {
            0 => Ok(()),
            lines => write!(self.out, "\x1b[{lines}A\r{RUB_REST}"),
        }
    }

    fn paragraph(&mut self, text: &str, indent: usize) -> io::Result<()> {
        self.styled(Style::new(), text, indent)
    }

    fn styled(&mut self, style: Style, text: &str, indent: usize) -> io::Result<()> {
        for line in wrap(text, self.width - indent) {
            writeln!(self.out, "{:indent$}{style}{line}{style:#}", "")?;
        }
        Ok(())
    }

    /// Asks for a line; None when nobody has to be asked, after the pause there is instead. The prompt is rubbed out afterwards, so
    /// that what stays on the screen reads on.
    fn prompt(&mut self, prompt: impl Display) -> Result<Option<String>, Stop> {
        let keyboard = match &mut self.pace {
            Pace::Stepwise(keyboard) => keyboard,
            Pace::Automatic(time) => {
                sleep(*time);
                return Ok(None);
            }
            Pace::Over => return Err(Stop::Quit),
        };
        self.unread = 0;
        // Who pressed Enter before being asked has answered, and has moved the cursor: there is
        // nothing to show then, and nothing to rub out.
        let asked = !(self.typed_ahead)();
        let prompt = prompt.to_string();
        if asked {
            write!(self.out, "\n{prompt} ")?;
        }
        self.out.flush()?;
        let mut line = String::new();
        let read = keyboard.read_line(&mut line)?;
        if read == 0 || line.trim().eq_ignore_ascii_case("q") {
            writeln!(self.out)?;
            return Err(Stop::Quit);
        }
        if asked {
            let length = prompt.chars().count() + 1 + line.trim_end().chars().count();
            // The blank line before it, and itself on as many as it takes.
            for _ in 0..=length.div_ceil(self.width).max(1) {
                write!(self.out, "{RUB_OUT}")?;
            }
            write!(self.out, "{RUB_REST}")?;
        }
        if line.trim().eq_ignore_ascii_case("s") {
            self.pace = Pace::Automatic(Duration::ZERO);
            return Ok(None);
        }
        Ok(Some(line.trim().to_string()))
    }
}

impl<W: Write> Renderer for Terminal<W> {
    fn show(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.rub_out_sketch()?;
        let mut page = self.blank();
        page.event(event)?;
        self.screens(&page.out)
    }

    fn has_room(&self, event: &Event<'_>) -> bool {
        let mut page = self.blank();
        self.unread == 0
            || page.event(event).is_err()
            || self.unread + lines(&page.out) + PROMPT <= self.height
    }

    fn pause(&mut self) -> Result<(), Stop> {
        self.prompt("[Enter] next   [s Enter] no more pauses   [q Enter] quit")
            .map(drop)
    }

    fn sketch(&mut self, what: &str, view: &View) -> io::Result<()> {
        if !self.redraws {
            return Ok(());
        }
        let mut page = self.blank();
        page.step(what, Typed::Nothing, "")?;
        page.view(view)?;
        self.rub_out_sketch()?;
        self.sketched = lines(&page.out);
        self.out.write_all(&page.out)?;
        self.out.flush()
    }

    /// A dot every quarter of a second, for those who watch.
    fn wait(&mut self, time: Duration) -> io::Result<()> {
        const DOT: Duration = Duration::from_millis(250);
        if !self.live {
            sleep(time);
            return Ok(());
        }
        let end = Instant::now() + time;
        self.unread += 1;
        write!(self.out, "{:INDENT$}", "")?;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            write!(self.out, ". ")?;
            self.out.flush()?;
            sleep(left.min(DOT));
        }
        writeln!(self.out)
    }

    fn guess(&mut self, question: &Question) -> Result<Option<usize>, Stop> {
        let count = question.choices.len();
        let numbers: Vec<_> = (1..count).map(|i| i.to_string()).collect();
        let numbers = format!("{} or {count}", numbers.join(", "));
        let keys = "Enter: none; s Enter: no more pauses; q Enter: quit";
        let mut prompt = format!("Your guess ({numbers}; {keys}):");
        loop {
            let Some(line) = self.prompt(&prompt)? else {
                return Ok(None);
            };
            prompt = format!("Please {numbers} ({keys}):");
            match line.parse::<usize>() {
                Ok(number) if (1..=count).contains(&number) => return Ok(Some(number - 1)),
                _ if line.is_empty() => return Ok(None),
                _ => {}
            }
        }
    }
}

fn lines(text: &[u8]) -> usize {
    text.split(|byte| *byte == b'\n').count() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHERE: Question = Question {
        text: "Where?",
        choices: &[("a", "here"), ("b", "there")],
    };

    fn page(typed: &'static str) -> Terminal<Vec<u8>> {
        Terminal::stepwise(Vec::new(), 80, typed.as_bytes())
    }

    fn shown(events: &[Event<'_>]) -> String {
        let mut page = Terminal::automatic(anstream::StripStream::new(Vec::new()), 60);
        for event in events {
            page.show(event).expect("a vector takes everything");
        }
        String::from_utf8(page.out.into_inner()).expect("ASCII")
    }

    #[test]
    fn guesses_are_numbers_or_nothing() {
        let guess = |typed| page(typed).guess(&WHERE);
        assert!(matches!(guess("2\n"), Ok(Some(1))));
        assert!(matches!(guess("\n"), Ok(None)));
        assert!(matches!(guess("9\nx\n1\n"), Ok(Some(0))));
        assert!(matches!(guess("q\n"), Err(Stop::Quit)));
        assert!(matches!(guess(""), Err(Stop::Quit)), "end of input");
    }

    #[test]
    fn s_ends_the_pauses() {
        let mut page = page("\ns\nq\n");
        for _ in 0..5 {
            assert!(page.pause().is_ok());
        }
        assert!(matches!(page.guess(&WHERE), Ok(None)));
    }

    #[test]
    fn a_page_is_full_when_what_was_not_read_would_leave_the_screen() {
        let mut page = page("\n").height(8);
        let text = Event::Explain("one line");
        assert!(page.has_room(&text));
        for _ in 0..2 {
            page.show(&text).expect("a vector");
        }
        assert!(page.has_room(&text), "4 + 2, and the prompt");
        page.show(&text).expect("a vector");
        assert!(!page.has_room(&text));
        assert!(page.pause().is_ok());
        assert!(page.has_room(&text));
    }

    #[test]
    fn what_is_higher_than_the_screen_is_shown_screen_by_screen() {
        let view = View::Printed("1\n2\n3\n4\n5\n6\n7\n8\n9\n".into());
        let shown = Event::Show("Look.", Typed::Nothing, "", &view);
        let mut turned = page("\n\n").height(7);
        turned.show(&shown).expect("a vector");
        let text = String::from_utf8_lossy(turned.written()).into_owned();
        assert_eq!(text.matches("[Enter] more").count(), 2, "{text}");
        assert!(text.contains("    3\n\n[Enter] more"), "{text}");
        assert!(text.ends_with("    9\n"), "{text}");
        assert!(turned.pause().is_err(), "no more input");

        let mut left = page("q\n\n").height(7);
        left.show(&shown).expect("a vector");
        let text = String::from_utf8_lossy(left.written()).into_owned();
        assert!(!text.contains("    4\n"), "{text}");
        assert!(matches!(left.pause(), Err(Stop::Quit)));
        assert!(matches!(left.guess(&WHERE), Err(Stop::Quit)));
    }

    #[test]
    fn a_verdict_says_its_word_and_stays_in_its_width() {
        let expected = Expected::from("0");
        let different = Judgement::Different(expected.clone(), "-1 ECONNRESET ".repeat(9));
        let text = shown(&[Event::Verdict(
            "what read returned",
            &expected,
            &different,
            &[],
        )]);
        assert!(
            text.starts_with("DIFFERENT  what read returned: should"),
            "{text}"
        );
        assert!(text.lines().all(|line| line.len() <= 60), "{text}");
        let limit = Expected::Below(Duration::from_secs(1));
        let held = Judgement::Held(Duration::from_millis(20).into());
        let text = shown(&[Event::Verdict("it spoke _ later", &limit, &held, &[])]);
        assert_eq!(text, "OK         it spoke 20 ms later\n");
        let late = Judgement::Different(limit.clone(), "2.0 s".into());
        let text = shown(&[Event::Verdict("it spoke _ later", &limit, &late, &[])]);
        let expected = "DIFFERENT  it spoke ... later: should have been less than\n           1.0 s, but was 2.0 s\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn guess_and_answer_are_said_together() {
        let text = shown(&[Event::Answer(&WHERE, Some(0), Some(1))]);
        assert_eq!(text, "\n! You said 2. The kernel's answer is 1: here.\n");
        let text = shown(&[Event::Answer(&WHERE, Some(0), Some(0))]);
        assert!(text.starts_with("\n! You were right. The kernel's answer is 1"));
        let text = shown(&[Event::Answer(&WHERE, None, None)]);
        assert_eq!(text, "\n! The kernel's answer is none of the choices.\n");
    }

    #[test]
    fn the_score_is_said_if_there_were_predictions() {
        let mut report = Report {
            predictions: 3,
            right: 2,
            ..Report::default()
        };
        let text = shown(&[Event::End(&report)]);
        assert!(text.contains("2 of 3 predictions right"), "{text}");
        report.predictions = 0;
        assert!(!shown(&[Event::End(&report)]).contains("predictions"));
    }

    #[test]
    fn time_passes_in_dots_where_somebody_watches() {
        let mut page = page("");
        page.wait(Duration::from_millis(10)).expect("a vector");
        assert_eq!(String::from_utf8_lossy(page.written()).trim_end(), "    .");
        let mut page = Terminal::automatic(Vec::new(), 80);
        page.wait(Duration::from_millis(10)).expect("a vector");
        assert!(page.written().is_empty());
    }

    #[test]
    fn what_is_being_made_is_rubbed_out_by_what_follows() {
        let view = |text: &str| View::Printed(text.into());
        let mut page = page("").redraws(true);
        page.sketch("Look.", &view("#\n##")).expect("a vector");
        page.sketch("Look.", &view("###")).expect("a vector");
        let whole = view("####");
        let shown = Event::Show("Look.", Typed::Nothing, "", &whole);
        page.show(&shown).expect("a vector");
        let text = String::from_utf8_lossy(page.written()).into_owned();
        // A blank line, what it is, and the lines of the view.
        assert_eq!(text.matches("\x1b[4A\r").count(), 1, "{text:?}");
        assert_eq!(text.matches("\x1b[3A\r").count(), 1, "{text:?}");
        let rest = text.rsplit(RUB_REST).next().unwrap_or_default();
        assert!(
            rest.contains("Look.") && rest.ends_with("    ####\n"),
            "{rest:?}"
        );
        let mut page = Terminal::automatic(Vec::new(), 80);
        page.sketch("Look.", &view("#")).expect("a vector");
        assert!(page.written().is_empty());
    }

    #[test]
    fn what_is_no_guess_is_answered_with_the_choices() {
        let mut page = page("7\n2\n");
        assert!(matches!(page.guess(&WHERE), Ok(Some(1))));
        let text = String::from_utf8_lossy(page.written()).into_owned();
        assert_eq!(text.matches("Please 1 or 2").count(), 1, "{text}");
        assert!(text.contains("s Enter: no more pauses"), "{text}");
    }

    #[test]
    fn a_stand_in_for_a_tool_is_marked() {
        let view = View::AsWouldShow {
            tool: "ss".into(),
            why: "is not installed".into(),
            text: "LISTEN 0 1024".into(),
        };
        let text = shown(&[Event::Show("Look.", Typed::Shell("ss"), "ss -tan", &view)]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1..3], ["Look.", "    $ ss -tan"]);
        assert!(lines[3].contains("ss is not installed"), "{text}");
        assert_eq!(lines.last(), Some(&"    LISTEN 0 1024"));
    }
}
