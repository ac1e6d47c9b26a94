//! What the menu shows and what keys do to it; no terminal in here.

use anstyle::{AnsiColor, Style};

use super::Outcome;
use super::keys::Key;
use super::screen::Size;
use crate::narrate::Lab;
use crate::runner::explain;

const HEADING: Style = AnsiColor::Cyan.on_default().bold();
const CHOSEN: Style = Style::new().bold().invert();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const QUIET: Style = Style::new().dimmed();

/// Lines that are not of the list: a heading above it, two lines below.
const FRAME: usize = 3;

/// From so many columns on, titles stand beside the names.
const ROOM_FOR_TITLES: usize = 72;

/// What a key asks for that the list cannot do itself.
#[derive(Clone, Copy)]
pub enum Wish {
    /// Nothing.
    Nothing,
    /// To perform this lab.
    Perform(&'static Lab),
    /// To leave.
    Leave,
}

/// The list of labs, and where we are in it.
pub struct List {
    labs: &'static [&'static Lab],
    outcomes: Vec<Option<Outcome>>,
    /// The labs that are shown, as places in `labs`.
    shown: Vec<usize>,
    /// Which of these is chosen.
    chosen: usize,
    /// The first line that is shown.
    top: usize,
    /// How many lines of list, or of the text, the window had last.
    page: usize,
    mode: Mode,
}

/// What keys are taken for.
enum Mode {
    /// To move, or for the number of a lab, of which this has been typed.
    Choose(String),
    /// For words to look for.
    Search(String),
    /// To read about the chosen lab, from this line on.
    Read(usize),
}

impl List {
    /// All of these labs, the first one chosen.
    pub fn new(labs: &'static [&'static Lab]) -> Self {
        Self {
            labs,
            outcomes: vec![None; labs.len()],
            shown: (0..labs.len()).collect(),
            chosen: 0,
            top: 0,
            page: 1,
            mode: Mode::Choose(String::new()),
        }
    }

    /// The lab that is chosen; None if no lab is shown.
    pub fn chosen(&self) -> Option<&'static Lab> {
        self.shown.get(self.chosen).map(|lab| self.labs[*lab])
    }

    /// Notes how a lab came out, and chooses it.
    pub fn performed(&mut self, name: &str, outcome: Outcome) {
        if let Some(place) = self.labs.iter().position(|lab| lab.name == name) {
            self.outcomes[place] = Some(outcome);
            self.choose_place(place);
        }
    }

    /// Does what the key means, if that concerns the list alone.
    pub fn press(&mut self, key: Key) -> Wish {
        match &mut self.mode {
            Mode::Read(top) => {
                let top = *top;
                self.read(top, key)
            }
            Mode::Search(words) => {
                let words = std::mem::take(words);
                self.search(words, key)
            }
            Mode::Choose(number) => {
                let number = std::mem::take(number);
                self.choose(number, key)
            }
        }
    }

    fn read(&mut self, top: usize, key: Key) -> Wish {
        let key = match key {
            Key::Char(' ') => Key::PageDown,
            Key::Char('b') => Key::PageUp,
            other => other,
        };
        match (key, moved(top, key, self.page)) {
            (_, Some(top)) => self.mode = Mode::Read(top),
            (Key::Enter, None) => return self.enter(),
            (_, None) => self.mode = Mode::Choose(String::new()),
        }
        Wish::Nothing
    }

    fn choose(&mut self, mut number: String, key: Key) -> Wish {
        if let Some(chosen) = moved(self.chosen, key, self.page) {
            self.chosen = chosen.min(self.shown.len().saturating_sub(1));
            return Wish::Nothing;
        }
        match key {
            Key::Enter => return self.enter(),
            Key::Char('q' | 'Q') => return Wish::Leave,
            Key::Char(' ' | 'e' | 'E') if self.chosen().is_some() => self.mode = Mode::Read(0),
            Key::Char('/') => self.mode = Mode::Search(String::new()),
            Key::Char(digit @ '0'..='9') if number.len() < 3 => {
                number.push(digit);
                self.choose_number(number);
            }
            Key::Backspace => {
                number.pop();
                self.choose_number(number);
            }
            Key::Escape if number.is_empty() && self.shown.len() == self.labs.len() => {
                return Wish::Leave;
            }
            Key::Escape => self.show(""),
            _ => {}
        }
        Wish::Nothing
    }

    fn search(&mut self, mut words: String, key: Key) -> Wish {
        match key {
            Key::Char(c) => words.push(c),
            Key::Backspace if words.pop().is_some() => {}
            Key::Escape | Key::Backspace => {
                self.show("");
                return Wish::Nothing;
            }
            Key::Enter => {
                self.mode = Mode::Choose(String::new());
                return Wish::Nothing;
            }
            _ => {
                let _ = self.choose(String::new(), key);
            }
        }
        self.show(&words);
        self.mode = Mode::Search(words);
        Wish::Nothing
    }

    fn enter(&mut self) -> Wish {
        self.mode = Mode::Choose(String::new());
        self.chosen().map_or(Wish::Nothing, Wish::Perform)
    }

    /// Shows the labs in whose name or title each of these words is found.
    fn show(&mut self, words: &str) {
        let before = self.shown.get(self.chosen).copied();
        let labs = self.labs;
        self.shown = (0..labs.len())
            .filter(|lab| found(words, labs[*lab]))
            .collect();
        self.mode = Mode::Choose(String::new());
        self.choose_place(before.unwrap_or(0));
    }

    /// Chooses the lab at this place of all, or the next one that is shown.
    fn choose_place(&mut self, place: usize) {
        let next = self.shown.iter().position(|lab| *lab >= place);
        self.chosen = next.unwrap_or(self.shown.len().saturating_sub(1));
    }

    /// A number that no lab has is forgotten.
    fn choose_number(&mut self, number: String) {
        let place = number.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
        let chosen = place.and_then(|place| self.shown.iter().position(|lab| *lab == place));
        self.chosen = chosen.unwrap_or(self.chosen);
        let known = chosen.is_some() && number.len() <= self.labs.len().to_string().len();
        self.mode = Mode::Choose(if known { number } else { String::new() });
    }

    /// The page for a window of this size, in at most so many lines of at most so many characters.
    pub fn draw(&mut self, size: Size, colour: bool) -> Vec<String> {
        let paint = Paint {
            width: size.columns,
            colour,
        };
        self.page = size.rows.saturating_sub(FRAME).max(1);
        let mut lines = match (&self.mode, self.chosen()) {
            (Mode::Read(top), Some(lab)) => self.text(lab, *top, &paint),
            _ => self.table(&paint),
        };
        lines.truncate(size.rows);
        lines
    }

    fn table(&mut self, paint: &Paint) -> Vec<String> {
        let rows = self.rows(paint);
        let chosen = rows
            .iter()
            .position(|(place, _)| *place == Some(self.chosen));
        self.scroll_to(chosen.unwrap_or(0), rows.len());
        let count = format!("tcpecho-lab: {} demonstrations", self.labs.len());
        let mut lines = vec![paint.line(HEADING, &count)];
        let seen = rows.into_iter().skip(self.top).take(self.page);
        lines.extend(seen.map(|(_, row)| row));
        lines.resize(self.page + 1, String::new());
        lines.push(paint.line(QUIET, &self.remark()));
        lines.push(paint.keys(&[
            ("Enter", "perform"),
            // Where there is no room for all of them, this one must be there.
            ("q", "leave"),
            ("Space", "explain"),
            ("arrows, number", "choose"),
            ("/", "search"),
        ]));
        lines
    }

    /// Chapters and labs; with the lab's place among those that are shown.
    fn rows(&self, paint: &Paint) -> Vec<(Option<usize>, String)> {
        let mut rows = Vec::new();
        let mut chapter = None;
        for (place, number) in self.shown.iter().enumerate() {
            let lab = self.labs[*number];
            if chapter.replace(lab.chapter) != Some(lab.chapter) {
                rows.push((None, paint.line(HEADING, lab.chapter.title())));
            }
            rows.push((Some(place), self.row(place, *number, paint)));
        }
        rows
    }

    fn row(&self, place: usize, number: usize, paint: &Paint) -> String {
        let lab = self.labs[number];
        let chosen = place == self.chosen;
        let mark = if chosen { '>' } else { ' ' };
        let widest = self.labs.iter().map(|lab| lab.name.len()).max();
        let name_width = widest.unwrap_or(0);
        let mut row = format!("{mark}{:>3} {:<name_width$}", number + 1, lab.name);
        if paint.width >= ROOM_FOR_TITLES {
            row = format!("{row}  {}", lab.title);
        }
        let (said, good) = self.outcomes[number]
            .map_or((String::new(), true), |it| (format!(" {it}"), it.is_good()));
        let room = paint.width.saturating_sub(said.len());
        let row = format!("{row:<room$.room$}");
        paint.line(if chosen { CHOSEN } else { Style::new() }, &row)
            + &paint.line(if good { GOOD } else { BAD }, &said)
    }

    /// So that line `chosen` of `all` is seen, and the heading above it.
    fn scroll_to(&mut self, chosen: usize, all: usize) {
        let above = if self.page > 1 {
            chosen.saturating_sub(1)
        } else {
            chosen
        };
        self.top = self
            .top
            .min(above)
            .max((chosen + 1).saturating_sub(self.page));
        self.top = self.top.min(all.saturating_sub(self.page));
    }

    /// What is typed, or what the chosen lab is about.
    fn remark(&self) -> String {
        match (&self.mode, self.chosen()) {
            (Mode::Search(words), Some(_)) => format!("/{words}_   (Enter: done, Esc: all)"),
            (Mode::Search(words), None) => format!("/{words}_   nothing has that (Esc: all)"),
            (Mode::Choose(number), _) if !number.is_empty() => format!("number {number}_"),
            (_, Some(lab)) => format!("{} (UNP {}; {} s)", lab.title, lab.sections, lab.takes),
            (_, None) => "nothing has that (Esc: all)".into(),
        }
    }

    fn text(&mut self, lab: &Lab, top: usize, paint: &Paint) -> Vec<String> {
        let text = explain::text(lab, paint.width);
        let last = text.lines().count().saturating_sub(self.page);
        let top = top.min(last);
        self.mode = Mode::Read(top);
        let mut lines = vec![paint.line(HEADING, &format!("{}, to read", lab.name))];
        let seen = text.lines().skip(top).take(self.page);
        lines.extend(seen.map(|line| paint.line(Style::new(), line)));
        lines.resize(self.page + 1, String::new());
        let more = match last - top {
            0 => "the end".into(),
            lines => format!("{lines} more lines"),
        };
        lines.push(paint.line(QUIET, &format!("-- {more} --")));
        lines.push(paint.keys(&[
            ("Space", "on"),
            ("b", "back"),
            ("q", "to the list"),
            ("Enter", "perform"),
        ]));
        lines
    }
}

/// Where a key leads from `place`, if it is one that moves. There is no end in here.
fn moved(place: usize, key: Key, page: usize) -> Option<usize> {
    match key {
        Key::Up | Key::Char('k') => Some(place.saturating_sub(1)),
        Key::Down | Key::Char('j') => Some(place + 1),
        Key::PageUp => Some(place.saturating_sub(page)),
        Key::PageDown => Some(place + page),
        Key::Home | Key::Char('g') => Some(0),
        Key::End | Key::Char('G') => Some(usize::MAX / 2),
        _ => None,
    }
}

fn found(words: &str, lab: &Lab) -> bool {
    let text = format!("{} {} {}", lab.name, lab.title, lab.chapter.title()).to_lowercase();
    let words = words.to_lowercase();
    words.split_whitespace().all(|word| text.contains(word))
}

/// How lines are made for a window.
struct Paint {
    width: usize,
    colour: bool,
}

impl Paint {
    /// What fits into a line. Without colours there is no other emphasis either.
    fn line(&self, style: Style, text: &str) -> String {
        let text: String = text.chars().take(self.width).collect();
        if self.colour && !text.is_empty() {
            format!("{style}{text}{style:#}")
        } else {
            text
        }
    }

    /// What keys do, as far as there is room for it.
    fn keys(&self, keys: &[(&str, &str)]) -> String {
        let mut line = String::new();
        for (key, what) in keys {
            let more = format!("[{key}] {what}  ");
            if line.len() + more.trim_end().len() > self.width {
                break;
            }
            line += &more;
        }
        self.line(QUIET, line.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labs;
    use proptest::prelude::*;

    const WINDOW: Size = Size {
        columns: 80,
        rows: 24,
    };

    fn pressed(keys: &[Key]) -> (List, Wish) {
        let mut list = List::new(labs::ALL);
        list.draw(WINDOW, false);
        let mut wish = Wish::Nothing;
        for key in keys {
            wish = list.press(*key);
            list.draw(WINDOW, false);
        }
        (list, wish)
    }

    fn typed(text: &str) -> Vec<Key> {
        text.chars().map(Key::Char).collect()
    }

    fn chosen(keys: &[Key]) -> Option<&'static str> {
        pressed(keys).0.chosen().map(|lab| lab.name)
    }

    #[test]
    fn keys_choose() {
        let name = |place: usize| Some(labs::ALL[place].name);
        let last = labs::ALL.len() - 1;
        assert_eq!(chosen(&[]), name(0));
        assert_eq!(chosen(&[Key::Down, Key::Down, Key::Up]), name(1));
        assert_eq!(chosen(&typed("jjk")), name(1));
        assert_eq!(chosen(&[Key::Up]), name(0));
        assert_eq!(chosen(&[Key::End, Key::Down]), name(last));
        assert_eq!(chosen(&[Key::End, Key::Home]), name(0));
        assert_eq!(
            chosen(&[Key::PageDown, Key::PageDown, Key::PageUp]),
            name(last.min(42) - 21)
        );
        assert_eq!(chosen(&typed("12")), name(11));
        assert_eq!(chosen(&typed("99")), name(8), "there is no 99, but a 9");
    }

    #[test]
    fn enter_performs_and_q_leaves() {
        let (_, wish) = pressed(&[typed("3"), vec![Key::Enter]].concat());
        assert!(matches!(wish, Wish::Perform(lab) if lab.name == labs::ALL[2].name));
        for key in [Key::Char('q'), Key::Escape] {
            assert!(matches!(pressed(&[key]).1, Wish::Leave));
        }
        let half = [typed("1"), vec![Key::Escape]].concat();
        assert!(
            matches!(pressed(&half).1, Wish::Nothing),
            "only the number is gone"
        );
    }

    #[test]
    fn words_show_the_labs_that_have_them() {
        let searched = [typed("/ZOMB"), vec![Key::Enter, Key::Enter]].concat();
        let (mut list, wish) = pressed(&searched);
        assert!(matches!(wish, Wish::Perform(lab) if lab.name == "zombies"));
        let page = list.draw(WINDOW, false).join("\n");
        assert!(!page.contains(labs::ALL[0].name), "{page}");
        list.press(Key::Escape);
        let page = list.draw(WINDOW, false).join("\n");
        assert!(
            page.contains("zombies") && list.shown.len() == labs::ALL.len(),
            "{page}"
        );
        let (mut list, wish) = pressed(&[typed("/rain"), vec![Key::Enter, Key::Enter]].concat());
        assert!(matches!(wish, Wish::Nothing) && list.chosen().is_none());
        assert!(
            list.draw(WINDOW, false)
                .join("\n")
                .contains("nothing has that")
        );
    }

    #[test]
    fn a_lab_is_read_page_by_page() {
        let (mut list, _) = pressed(&typed(" "));
        let first = list.draw(WINDOW, false);
        assert!(first[0].starts_with(labs::ALL[0].name), "{first:?}");
        list.press(Key::Char(' '));
        assert_ne!(list.draw(WINDOW, false)[1], first[1]);
        list.press(Key::End);
        assert!(
            list.draw(WINDOW, false)
                .join("\n")
                .contains("-- the end --")
        );
        list.press(Key::Char('q'));
        assert!(list.draw(WINDOW, false)[0].starts_with("tcpecho-lab"));
    }

    #[test]
    fn the_outcome_stands_beside_the_name() {
        let (mut list, _) = pressed(&[]);
        list.performed("zombies", Outcome::Different);
        assert_eq!(list.chosen().map(|lab| lab.name), Some("zombies"));
        for columns in [40, 80] {
            let page = list.draw(Size { columns, rows: 10 }, false);
            let row = page.iter().find(|line| line.contains(" zombies"));
            assert!(
                row.is_some_and(|row| row.ends_with(" DIFFERENT")),
                "{page:?}"
            );
        }
    }

    fn key() -> impl Strategy<Value = Key> {
        prop_oneof![
            prop::sample::select(vec![
                Key::Up,
                Key::Down,
                Key::PageUp,
                Key::PageDown,
                Key::Home,
                Key::End,
                Key::Enter,
                Key::Escape,
                Key::Backspace,
            ]),
            any::<char>().prop_map(Key::Char),
            prop::sample::select("q e/jkgG0123456789".chars().collect::<Vec<_>>())
                .prop_map(Key::Char),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_pressed_in_whatever_window_the_page_fits(
            turns in prop::collection::vec((key(), 0usize..130, 0usize..50), 0..60)
        ) {
            let mut list = List::new(labs::ALL);
            for (key, columns, rows) in turns {
                list.press(key);
                let page = list.draw(Size { columns, rows }, false);
                prop_assert!(page.len() <= rows);
                prop_assert!(page.iter().all(|line| line.chars().count() <= columns), "{:?}", page);
                let marked = page.iter().any(|line| line.starts_with('>'));
                let listed = matches!(list.mode, Mode::Choose(_)) && columns > 0 && rows > FRAME;
                prop_assert!(!listed || marked == list.chosen().is_some(), "{:?}", page);
            }
        }
    }
}
