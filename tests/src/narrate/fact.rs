//! What was observed, what should have been observed, and the judgement.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Something the kernel showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// A state, a return value, a count: compared as it is written.
    Word(String),
    /// How long something took.
    Time(Duration),
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => f.write_str(word),
            Self::Time(time) => write_time(f, *time),
        }
    }
}

/// `0.42 ms`, `17 ms`, `36.8 s`: three figures are all that a class can read.
fn write_time(f: &mut fmt::Formatter<'_>, time: Duration) -> fmt::Result {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 10.0 {
        write!(f, "{ms:.2} ms")
    } else if ms < 1000.0 {
        write!(f, "{ms:.0} ms")
    } else {
        write!(f, "{:.1} s", ms / 1000.0)
    }
}

impl From<&str> for Fact {
    fn from(word: &str) -> Self {
        Self::Word(word.into())
    }
}

impl From<String> for Fact {
    fn from(word: String) -> Self {
        Self::Word(word)
    }
}

impl From<usize> for Fact {
    fn from(count: usize) -> Self {
        Self::Word(count.to_string())
    }
}

impl From<Duration> for Fact {
    fn from(time: Duration) -> Self {
        Self::Time(time)
    }
}

/// What must be observed; fixed before anything happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// Exactly this.
    Is(Fact),
    /// A time shorter than this.
    Below(Duration),
    /// A time at least this long.
    AtLeast(Duration),
}

impl Expected {
    /// Is this what was expected?
    pub fn holds(&self, fact: &Fact) -> bool {
        match (self, fact) {
            (Self::Is(expected), fact) => expected == fact,
            (Self::Below(limit), Fact::Time(time)) => time < limit,
            (Self::AtLeast(limit), Fact::Time(time)) => time >= limit,
            (Self::Below(_) | Self::AtLeast(_), Fact::Word(_)) => false,
        }
    }
}

impl<T: Into<Fact>> From<T> for Expected {
    fn from(fact: T) -> Self {
        Self::Is(fact.into())
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(fact) => fact.fmt(f),
            Self::Below(limit) => write!(f, "less than {}", Fact::Time(*limit)),
            Self::AtLeast(limit) => write!(f, "at least {}", Fact::Time(*limit)),
        }
    }
}

/// Another value that is right as well, and where or why it is seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variation {
    /// The value.
    pub fact: Fact,
    /// The reason, for the reader.
    pub reason: String,
}

/// How an expectation came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// As expected.
    Held(Fact),
    /// One of the known variations, and its reason.
    Varied(Fact, String),
    /// Neither: what should have been, what was.
    Different(Expected, String),
    /// It cannot be seen here, and why.
    Unseen(String),
}

impl Judgement {
    /// A word for it, and a sentence: what it is about, with the fact in the place of its ` _ ` or behind
    /// it, and what was expected if it came out otherwise.
    pub fn in_words(&self, what: &str, expected: &Expected) -> (&'static str, String) {
        let told = |fact: &Fact| {
            if what.contains(" _ ") {
                what.replace(" _ ", &format!(" {fact} "))
            } else {
                format!("{what}: {fact}")
            }
        };
        let open = what.replace(" _ ", " ... ");
        match self {
            Self::Held(fact) => ("OK", told(fact)),
            Self::Varied(fact, why) => (
                "VARIATION",
                format!("{} instead of {expected}; {why}", told(fact)),
            ),
            Self::Different(expected, observed) => (
                "DIFFERENT",
                format!("{open}: should have been {expected}, but was {observed}"),
            ),
            Self::Unseen(why) => ("SKIP", format!("{open}: {why}")),
        }
    }
}

/// The error of an observation that cannot be made here at all, as opposed to one that went wrong:
/// the step is skipped, and says why.
#[derive(Debug)]
pub struct Unseen(pub String);

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unseen {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_limits_and_words_are_compared() {
        let ms = Duration::from_millis;
        assert!(Expected::from("0").holds(&Fact::from(0)));
        assert!(!Expected::from("0").holds(&Fact::from("-1 ECONNRESET")));
        assert!(Expected::Below(ms(10)).holds(&Fact::Time(ms(9))));
        assert!(!Expected::Below(ms(10)).holds(&Fact::Time(ms(10))));
        assert!(Expected::AtLeast(ms(10)).holds(&Fact::Time(ms(10))));
        assert!(!Expected::AtLeast(ms(10)).holds(&Fact::from("10 ms")));
    }

    #[test]
    fn times_are_read_at_a_glance() {
        let shown = |micros| Fact::Time(Duration::from_micros(micros)).to_string();
        assert_eq!(shown(420), "0.42 ms");
        assert_eq!(shown(17_300), "17 ms");
        assert_eq!(shown(1_500_000), "1.5 s");
        let limit = Expected::Below(Duration::from_secs(1));
        assert_eq!(limit.to_string(), "less than 1.0 s");
    }
}
