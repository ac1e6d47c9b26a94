//! The dated log that a student hands in: commands with their time and their output, what was
//! predicted and what came out, the score, the machine; Markdown.
//!
//! It is written while it happens: whoever leaves early has a log that ends there. The same pages are
//! made of a [`Record`] afterwards.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use nix::sys::utsname::uname;

use crate::date;
use crate::narrate::fact::{Expected, Judgement};
use crate::narrate::perform::{Event, Renderer, Report, Stop};
use crate::narrate::record::{Input, Record, Told, told};
use crate::narrate::step::{Question, TRY_IT};
use crate::narrate::text::wrap;
use crate::narrate::view::View;
use crate::netns::Isolation;

/// The columns of prose and drawings.
const WIDTH: usize = 90;

/// Writes a log of what it hands on to another renderer.
pub struct Transcript<'a, W> {
    shown: &'a mut dyn Renderer,
    log: Log<W>,
    began: u64,
}

impl<'a, W: Write> Transcript<'a, W> {
    /// Goes on with a log that [`begin`] has begun; everything will be shown by `shown` as well.
    pub fn new(out: W, shown: &'a mut dyn Renderer) -> Self {
        Self {
            shown,
            log: Log(out),
            began: now(),
        }
    }

    fn log(&mut self, event: &Event<'_>) -> io::Result<()> {
        match event {
            Event::Lab(lab, place) => {
                self.began = now();
                let plain = match place {
                    Isolation::Namespaces => None,
                    Isolation::Plain(why) => Some(&**why),
                };
                self.log.lab(&Heading {
                    lab: lab.name,
                    title: lab.title,
                    sections: lab.sections,
                    about: lab.about,
                    plain,
                })
            }
            Event::Act(number, title) => self.log.act(*number, title),
            Event::End(report) => self.log.end(now(), now() - self.began, report),
            _ => told(event).map_or(Ok(()), |told| self.log.told(now(), &told)),
        }
    }
}

impl<W: Write> Renderer for Transcript<'_, W> {
    fn show(&mut self, event: &Event<'_>) -> io::Result<()> {
        // What has been shown is in the log, whatever becomes of us meanwhile.
        self.log(event)?;
        self.shown.show(event)
    }

    fn has_room(&self, event: &Event<'_>) -> bool {
        self.shown.has_room(event)
    }

    fn pause(&mut self) -> Result<(), Stop> {
        self.shown.pause()
    }

    fn sketch(&mut self, what: &str, view: &View) -> io::Result<()> {
        self.shown.sketch(what, view)
    }

    fn wait(&mut self, time: Duration) -> io::Result<()> {
        self.shown.wait(time)
    }

    fn guess(&mut self, question: &Question) -> Result<Option<usize>, Stop> {
        let guess = self.shown.guess(question)?;
        self.log.prediction(now(), guess)?;
        Ok(guess)
    }
}

/// Begins a log, before the first lab.
pub fn begin(out: impl Write) -> io::Result<()> {
    Log(out).put("# Log of a session with tcpecho-lab\n")
}

/// Adds a lab that has been performed.
pub fn add(out: impl Write, record: &Record) -> io::Result<()> {
    let mut log = Log(out);
    log.lab(&Heading {
        lab: &record.lab,
        title: &record.title,
        sections: &record.sections,
        about: &record.about,
        plain: record.plain(),
    })?;
    for (number, act) in (1..).zip(&record.acts) {
        log.act(number, &act.title)?;
        for entry in &act.entries {
            let at = record.started + entry.at as u64;
            log.told(at, &entry.what)?;
            if let Told::Ask { question, .. } = &entry.what {
                log.prediction(at, guessed(record, question))?;
            }
        }
    }
    let took = record.seconds as u64;
    log.end(record.started + took, took, &record.report)
}

/// What the audience said to this question.
fn guessed(record: &Record, asked: &str) -> Option<usize> {
    record.told().find_map(|told| match told {
        Told::Answer {
            question, guess, ..
        } if question == asked => *guess,
        _ => None,
    })
}

/// What a lab is headed by.
struct Heading<'a> {
    lab: &'a str,
    title: &'a str,
    sections: &'a str,
    about: &'a str,
    plain: Option<&'a str>,
}

/// The pages, written from top to bottom. Each call leaves nothing unwritten.
struct Log<W>(W);

impl<W: Write> Log<W> {
    fn put(&mut self, text: &str) -> io::Result<()> {
        self.0.write_all(text.as_bytes())?;
        self.0.flush()
    }

    /// A paragraph, or several.
    fn prose(&mut self, text: &str) -> io::Result<()> {
        self.put(&format!("\n{}\n", prose(text)))
    }

    fn lab(&mut self, lab: &Heading<'_>) -> io::Result<()> {
        self.put(&format!("\n## {}: {}\n", lab.lab, marked(lab.title)))?;
        self.prose(&format!("UNP {}. {}", lab.sections, lab.about))?;
        lab.plain.map_or(Ok(()), |why| {
            let why = format!("On plain loopback, without packets: {why}.");
            self.prose(&why)
        })
    }

    fn act(&mut self, number: usize, title: &str) -> io::Result<()> {
        self.put(&format!("\n### Act {number}: {}\n", marked(title)))
    }

    fn told(&mut self, at: u64, told: &Told) -> io::Result<()> {
        match told {
            Told::Explain(text) | Told::Read(text) => self.prose(text),
            Told::Try(lines) => {
                self.prose(TRY_IT)?;
                self.put(&block(lines))
            }
            Told::Ask { question, choices } => self.question(question, choices),
            Told::Do { what, typed, text } => self.command(at, what, *typed, text, ""),
            Told::Show {
                what,
                command,
                text,
                view,
            } => self.command(at, what, *command, text, &seen(view)),
            Told::Answer {
                choice,
                words,
                guess,
                ..
            } => self.answer(*choice, words, *guess),
            Told::Verdict {
                what,
                expected,
                judgement,
                ..
            } => self.verdict(what, expected, judgement),
            Told::Wait(_) => Ok(()),
            Told::Trouble { what, why } => self.prose(&format!("TROUBLE: {what}: {why}")),
        }
    }

    /// A command with its time and its output; the words that say what it is for stand before it.
    fn command(
        &mut self,
        at: u64,
        what: &str,
        typed: Input,
        text: &str,
        output: &str,
    ) -> io::Result<()> {
        self.prose(what)?;
        let date = date::local(at);
        let typed = match typed {
            Input::Shell => format!("[{date}] {text}\n"),
            Input::Keys => format!("[{date}] typed: {text}\n"),
            Input::Nothing if output.is_empty() => format!("[{date}]\n"),
            Input::Nothing => String::new(),
        };
        self.put(&block(&(typed + output)))
    }

    fn question(&mut self, question: &str, choices: &[String]) -> io::Result<()> {
        self.prose(&format!("Question: {question}"))?;
        let mut list = String::from("\n");
        for (number, choice) in (1..).zip(choices) {
            // Writing to a String cannot fail.
            let _ = writeln!(list, "{number}. {}", marked(choice));
        }
        self.put(&list)
    }

    fn prediction(&mut self, at: u64, guess: Option<usize>) -> io::Result<()> {
        match guess {
            None => self.prose("Prediction: none."),
            Some(guess) => self.put(&format!(
                "\n**Prediction** [{}]: {}\n",
                date::local(at),
                guess + 1
            )),
        }
    }

    fn answer(
        &mut self,
        choice: Option<usize>,
        words: &str,
        guess: Option<usize>,
    ) -> io::Result<()> {
        let answer = match choice {
            Some(choice) => format!("{}, {}", choice + 1, marked(words)),
            None => "none of the choices".into(),
        };
        let outcome = match guess {
            None => "",
            Some(_) if guess == choice => " The prediction was right.",
            Some(_) => " The prediction was wrong.",
        };
        self.put(&format!("\n**Answer**: {answer}.{outcome}\n"))
    }

    fn verdict(
        &mut self,
        what: &str,
        expected: &Expected,
        judgement: &Judgement,
    ) -> io::Result<()> {
        let (word, text) = judgement.in_words(what, expected);
        self.put(&format!("\n* **{word}** {}\n", marked(&text)))
    }

    fn end(&mut self, at: u64, took: u64, report: &Report) -> io::Result<()> {
        self.put("\n### Result\n\n")?;
        let mut list = vec![report.to_string()];
        list.extend(
            report
                .differences
                .iter()
                .map(|what| format!("DIFFERENT: {what}")),
        );
        let varied = report.varied.iter();
        list.extend(varied.map(|(what, why)| format!("VARIATION: {what}: {why}")));
        let skipped = report.skipped.iter();
        list.extend(skipped.map(|(what, why)| format!("SKIP: {what}: {why}")));
        list.push(match report.predictions {
            0 => "no predictions were made".into(),
            all => format!("{} of {all} predictions right", report.right),
        });
        if report.quit {
            list.push("left before the end".into());
        }
        list.push(format!("ended {}, after {took} s", date::local(at)));
        list.push(machine());
        let list: Vec<_> = list
            .iter()
            .map(|line| format!("* {}\n", marked(line)))
            .collect();
        self.put(&list.concat())
    }
}

/// Kernel, kind of processor, how many of them, and the host's name.
fn machine() -> String {
    let Ok(names) = uname() else {
        return "an unknown machine".into();
    };
    let processors = std::thread::available_parallelism().map_or(1, Into::into);
    format!(
        "on {}: {} {}, {}, {processors} processors; tcpecho-lab {}",
        names.nodename().to_string_lossy(),
        names.sysname().to_string_lossy(),
        names.release().to_string_lossy(),
        names.machine().to_string_lossy(),
        env!("CARGO_PKG_VERSION"),
    )
}

/// What was seen, as a terminal shows it.
fn seen(view: &View) -> String {
    match view {
        View::Printed(text) => text.clone(),
        View::AsWouldShow { tool, why, text } => {
            format!("({tool} {why}; the same facts, as {tool} would show them)\n{text}")
        }
        View::Ladder(ladder) => ladder.draw(WIDTH, true),
    }
}

/// Text as it is, between fences that do not occur in it.
fn block(text: &str) -> String {
    let mut fence = String::from("```");
    while text.contains(&fence) {
        fence.push('`');
    }
    let lines: Vec<_> = text.trim_end().lines().map(str::trim_end).collect();
    format!("\n{fence}txt\n{}\n{fence}\n", lines.join("\n"))
}

/// Running text, broken into lines none of which would begin a list or a heading.
fn prose(text: &str) -> String {
    let lines = wrap(&marked(text), WIDTH).into_iter().map(|line| {
        let digits = line.trim_start_matches(|c: char| c.is_ascii_digit());
        let numbered = digits.len() < line.len() && digits.starts_with(['.', ')']);
        match line.find(['#', '+', '-', '>']) {
            Some(0) => format!("\\{line}"),
            _ if numbered => format!("{}\\{digits}", &line[..line.len() - digits.len()]),
            _ => line,
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Text in which nothing is taken for markup.
fn marked(text: &str) -> String {
    let mut marked = String::with_capacity(text.len());
    for c in text.chars() {
        if "\\`*<[".contains(c) {
            marked.push('\\');
        }
        marked.push(c);
    }
    marked
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labs;
    use crate::narrate::quiet::Quiet;
    use crate::narrate::record::Recorder;
    use crate::narrate::{Act, Lab, Names, Scene, Stage, keys, shell};

    struct Counter(usize);

    impl Stage for Counter {
        fn names(&self) -> Names {
            Names::new()
        }
    }

    fn counting() -> Act<Counter> {
        Act::open("one push", |_| Ok(Counter(0)))
            .explain("It stands at <0>.")
            .predict("And then?", &[("0", "at zero"), ("1", "at one")])
            .act("Push it.", shell("push 1"), |counter| {
                counter.0 += 1;
                Ok(())
            })
            .act("Type it.", keys("one"), |_| Ok(()))
            .answer("the counter", "1", |counter| Ok(counter.0))
            .observe("Look.", "echo '```'; echo one", |_| Ok(String::new()))
            .expect("after _ pushes", 2, |counter| Ok(counter.0))
            .try_it("1$ push")
            .read("Read: UNP 1.1.")
    }

    /// An audience that believes in this choice.
    struct Believer(Quiet, Option<usize>);

    impl Renderer for Believer {
        fn show(&mut self, event: &Event<'_>) -> io::Result<()> {
            self.0.show(event)
        }

        fn guess(&mut self, _: &Question) -> Result<Option<usize>, Stop> {
            Ok(self.1)
        }
    }

    /// The log of a performance before somebody who believes in `guess`, and its record.
    fn played(guess: Option<usize>) -> (String, Record) {
        let lab = Lab {
            name: "counting",
            acts: || vec![Box::new(counting()) as Box<dyn Scene>],
            ..*labs::ALL[0]
        };
        let mut log = Vec::new();
        begin(&mut log).expect("a Vec takes it");
        let mut audience = Believer(Quiet::new(), guess);
        let mut logged = Transcript::new(&mut log, &mut audience);
        let mut recorder = Recorder::new(&mut logged);
        let plain = Isolation::Plain("a unit test".into());
        lab.perform(&plain, &mut recorder).expect("a Vec takes it");
        let record = recorder.into_records().pop().expect("a record");
        (String::from_utf8(log).expect("UTF-8"), record)
    }

    #[test]
    fn a_log_tells_what_was_typed_seen_predicted_and_found() {
        let (log, record) = played(Some(1));
        let date = |word: &str| format!("[{}] {word}\n", date::local(record.started));
        for part in [
            "## counting: ",
            "\nOn plain loopback, without packets: a unit test.\n",
            "\n### Act 1: one push\n",
            "\nIt stands at \\<0>.\n",
            "\nQuestion: And then?\n\n1. at zero\n2. at one\n",
            "\nPush it.\n\n```txt\n[",
            "\n**Answer**: 2, at one. The prediction was right.\n",
            "\n* **OK** the counter: 1\n",
            "\n* **DIFFERENT** after ... pushes: should have been 2, but was 1\n",
            "\n```txt\n1$ push\n```\n",
            "\nRead: UNP 1.1.\n",
            "* counting: 1 facts as expected, 1 different\n",
            "* DIFFERENT: after ... pushes should have been 2, but was 1\n",
            "* 1 of 1 predictions right\n",
        ] {
            assert!(log.contains(part), "{part}\n{log}");
        }
        // Unless the second has just passed.
        let lines = ["push 1", "typed: one", "echo '```'; echo one"].map(date);
        let next = date::local(record.started + 1);
        let dated = lines.iter().all(|line| log.contains(line));
        assert!(dated || log.contains(&next), "{lines:?}\n{log}");
        assert!(log.contains("\n```\none\n````\n"), "a longer fence: {log}");
    }

    #[test]
    fn predictions_are_dated_before_the_answer_is_known() {
        let (log, _) = played(Some(0));
        let places = [
            "Question",
            "**Prediction** [",
            "push 1",
            "prediction was wrong",
        ];
        let places = places.map(|part| log.find(part));
        assert!(places.iter().all(Option::is_some), "{places:?}\n{log}");
        assert!(places.is_sorted(), "{places:?}\n{log}");
        let (log, _) = played(None);
        assert!(log.contains("\nPrediction: none.\n"), "{log}");
        assert!(log.contains("* no predictions were made\n"), "{log}");
    }

    #[test]
    fn a_record_is_logged_as_the_performance_was() {
        let (log, record) = played(Some(0));
        let mut again = Vec::new();
        begin(&mut again).expect("a Vec takes it");
        add(&mut again, &record).expect("a Vec takes it");
        let again = String::from_utf8(again).expect("UTF-8");
        // But for the dates, which may be a second later.
        let timeless = |log: &str| log.replace(|c: char| c.is_ascii_digit(), "");
        assert_eq!(timeless(&log), timeless(&again));
    }

    #[test]
    fn no_text_becomes_markup_by_accident() {
        assert_eq!(
            marked("*:9877 <defunct> `x` [1] FIN_WAIT"),
            "\\*:9877 \\<defunct> \\`x\\` \\[1] FIN_WAIT"
        );
        for (text, told) in [
            ("- no list", "\\- no list"),
            ("# no heading", "\\# no heading"),
            ("1. no list", "1\\. no list"),
            ("12) no list", "12\\) no list"),
            ("3 facts", "3 facts"),
            ("one - two", "one - two"),
        ] {
            assert_eq!(prose(text), told);
        }
    }
}
