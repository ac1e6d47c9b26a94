//! What has happened between stdin, the server and us, and what it means: pure state, no sockets.
//!
//! A talk ends well in one order only: stdin ends, everything is sent, our FIN leaves, every byte
//! comes back, the server's FIN arrives. Every other order is an [`Outcome`] that says what is
//! missing. The first sign of the end decides on the cause: after a FIN, writing brings a reset
//! upon us, and that reset is our doing; and the kernel tells a socket's error only once, so a
//! read after it returns 0 as if there had been a FIN.
//!
//! UNP 5.11-5.13 and 6.4-6.6.

use std::fmt;
use std::time::Duration;

use nix::errno::Errno;
use tcpecho_common::Exit;

/// What came from stdin and from the server until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Session {
    taken: u64,
    sent: u64,
    received: u64,
    input: Input,
    server: Server,
    fault: Option<Errno>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Input {
    #[default]
    Open,
    Ended,
    /// Ended, everything sent, and our FIN after it.
    HalfClosed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Server {
    #[default]
    Talking,
    /// It has ended, or failed; what it sent before may still be unread.
    Ending,
    /// And everything it sent has been read.
    Silent,
}

/// Why nothing more will come from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It sent its FIN.
    Fin,
    /// The connection failed.
    Failed(Errno),
}

/// How a talk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// stdin ended, every byte came back, then the server's FIN. A server that is no echo server
    /// may have sent more than it got.
    Answered {
        /// Bytes sent.
        sent: u64,
        /// Bytes received, at least as many.
        received: u64,
    },
    /// The server ended before that.
    CutShort {
        /// Why nothing more came.
        cause: Cause,
        /// Bytes taken from stdin for which nothing came back.
        unanswered: u64,
        /// How many of them the kernel never took from us.
        unsent: u64,
    },
}

impl Session {
    /// `bytes` were read from stdin.
    pub fn took(&mut self, bytes: usize) {
        self.taken += bytes as u64;
    }

    /// stdin is at its end.
    pub fn input_ended(&mut self) {
        if self.input == Input::Open {
            self.input = Input::Ended;
        }
    }

    /// The kernel took `bytes` from us for the server.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// Our FIN is on its way.
    pub fn half_closed(&mut self) {
        self.input = Input::HalfClosed;
    }

    /// `bytes` came from the server.
    pub fn received(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// The kernel says that the server's FIN has arrived; bytes before it may be unread.
    pub fn server_ending(&mut self) {
        if self.server == Server::Talking {
            self.server = Server::Ending;
        }
    }

    /// A read from the server returned 0: FIN, or the end after an error that was told before.
    pub fn server_silent(&mut self) {
        self.server = Server::Silent;
    }

    /// A call on the socket, or `SO_ERROR`, told `errno`; bytes that came before may be unread.
    pub fn failed(&mut self, errno: Errno) {
        // EPIPE is how a reset is told that came after the FIN: the FIN was the end.
        if self.server == Server::Talking && errno != Errno::EPIPE {
            self.fault = Some(errno);
        }
        self.server_ending();
    }

    /// Is there a point in reading stdin?
    pub fn wants_input(&self) -> bool {
        self.input == Input::Open && self.server == Server::Talking
    }

    /// Is there a point in sending what was taken?
    pub fn may_send(&self) -> bool {
        self.server == Server::Talking
    }

    /// Is it time for our FIN?
    pub fn should_half_close(&self) -> bool {
        self.input == Input::Ended && self.sent == self.taken && self.may_send()
    }

    /// Will nothing new come from the server?
    pub fn is_ending(&self) -> bool {
        self.server != Server::Talking
    }

    /// Has everything been read that the server sent?
    pub fn is_silent(&self) -> bool {
        self.server == Server::Silent
    }

    /// What the end means, given that `unread` bytes of the server's are still to be read; None
    /// while it may go on.
    pub fn outcome(&self, unread: u64) -> Option<Outcome> {
        if !self.is_ending() {
            return None;
        }
        let received = self.received + unread;
        let complete = self.input == Input::HalfClosed && received >= self.taken;
        Some(match self.fault {
            None if complete => Outcome::Answered {
                sent: self.sent,
                received,
            },
            fault => {
                let unsent = self.taken - self.sent;
                Outcome::CutShort {
                    cause: fault.map_or(Cause::Fin, Cause::Failed),
                    unanswered: self.taken.saturating_sub(received).max(unsent),
                    unsent,
                }
            }
        })
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, received, .. } = self;
        write!(f, "{sent} bytes sent, {received} received")
    }
}

impl Outcome {
    /// The exit code that stands for it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Answered { .. } => Exit::Done,
            Self::CutShort { cause, .. } => match cause {
                Cause::Fin => Exit::Premature,
                Cause::Failed(Errno::ECONNRESET) => Exit::Reset,
                Cause::Failed(errno) if is_silence(*errno) => Exit::Unreachable,
                Cause::Failed(_) => Exit::Failed,
            },
        }
    }

    /// What to tell the user. `heard` is how long ago the last segment came that the connection
    /// accepted, if that is known: after a FIN, the FIN; a reset leaves no such trace.
    pub fn told(&self, heard: Option<Duration>) -> String {
        let Self::CutShort {
            cause,
            unanswered,
            unsent,
        } = *self
        else {
            return "every byte was answered".into();
        };
        let ago = heard.map(Ago);
        let event = match (cause, ago) {
            (Cause::Fin, Some(ago)) => format!("server terminated prematurely (FIN) {ago}"),
            (Cause::Fin, None) => "server terminated prematurely (FIN)".into(),
            (Cause::Failed(Errno::ECONNRESET), _) => "server reset the connection (RST)".into(),
            (Cause::Failed(errno), Some(ago)) if is_silence(errno) => {
                format!("connection lost: {errno}, last heard from the server {ago}")
            }
            (Cause::Failed(errno), _) => format!("connection lost: {errno}"),
        };
        format!("{event}, {}", Missing { unanswered, unsent })
    }
}

/// Errors that mean: no answer, and nobody who says why.
pub(crate) fn is_silence(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ETIMEDOUT
            | Errno::EHOSTDOWN
            | Errno::EHOSTUNREACH
            | Errno::ENETDOWN
            | Errno::ENETUNREACH
    )
}

struct Missing {
    unanswered: u64,
    unsent: u64,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unanswered {
            0 => return f.write_str("nothing unanswered"),
            1 => f.write_str("1 byte unanswered")?,
            bytes => write!(f, "{bytes} bytes unanswered")?,
        }
        match self.unsent {
            0 => Ok(()),
            unsent => write!(f, " ({unsent} of them unsent)"),
        }
    }
}

/// The kernel's clock ticks every 1 to 10 ms: no digits below.
struct Ago(Duration);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            ms @ 0..1000 => write!(f, "{ms} ms ago"),
            _ => write!(f, "{:.1} s ago", self.0.as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Event {
        Took,
        InputEnded,
        Sent,
        HalfClosed,
        Received,
        Ending,
        Reset,
        BrokenPipe,
        Silent,
    }

    use Event::*;

    const EVENTS: [Event; 9] = [
        Took, InputEnded, Sent, HalfClosed, Received, Ending, Reset, BrokenPipe, Silent,
    ];

    /// Two bytes are taken at a time and one sent, so that every order has its partial writes.
    fn apply(session: &mut Session, event: Event) {
        match event {
            Took => session.took(2),
            InputEnded => session.input_ended(),
            Sent => session.sent(1),
            HalfClosed => session.half_closed(),
            Received => session.received(1),
            Ending => session.server_ending(),
            Reset => session.failed(Errno::ECONNRESET),
            BrokenPipe => session.failed(Errno::EPIPE),
            Silent => session.server_silent(),
        }
    }

    fn count(history: &[Event], event: Event) -> u64 {
        history.iter().filter(|e| **e == event).count() as u64
    }

    /// What a talk with this history can go on with.
    fn can_follow(session: &Session, history: &[Event], event: Event) -> bool {
        match event {
            Took | InputEnded => session.wants_input(),
            Sent => session.may_send() && count(history, Sent) < 2 * count(history, Took),
            HalfClosed => session.should_half_close(),
            _ => !session.is_silent(),
        }
    }

    /// The verdict, found again from the history alone.
    fn judge(history: &[Event]) -> Option<Outcome> {
        let first_sign = history
            .iter()
            .find(|e| matches!(e, Ending | Reset | BrokenPipe | Silent))?;
        let (taken, sent) = (2 * count(history, Took), count(history, Sent));
        let received = count(history, Received);
        if *first_sign != Reset && history.contains(&HalfClosed) && received >= taken {
            return Some(Outcome::Answered { sent, received });
        }
        Some(Outcome::CutShort {
            cause: if *first_sign == Reset {
                Cause::Failed(Errno::ECONNRESET)
            } else {
                Cause::Fin
            },
            unanswered: taken.saturating_sub(received).max(taken - sent),
            unsent: taken - sent,
        })
    }

    fn every_order(session: Session, history: &mut Vec<Event>, visit: &mut impl FnMut(&[Event])) {
        assert_eq!(session.outcome(0), judge(history), "{history:?}");
        visit(history);
        if history.len() == 9 {
            return;
        }
        for event in EVENTS {
            if can_follow(&session, history, event) {
                let mut next = session;
                apply(&mut next, event);
                history.push(event);
                every_order(next, history, visit);
                history.pop();
            }
        }
    }

    #[test]
    fn every_order_of_events_has_the_outcome_its_history_says() {
        let (mut orders, mut answered) = (0_u32, 0_u32);
        every_order(Session::default(), &mut Vec::new(), &mut |history| {
            orders += 1;
            if matches!(judge(history), Some(Outcome::Answered { .. })) {
                answered += 1;
                // Nothing is lost where the exit code is 0, and our FIN came first.
                assert!(
                    count(history, Sent) == 2 * count(history, Took),
                    "{history:?}"
                );
                assert!(
                    count(history, Received) >= count(history, Sent),
                    "{history:?}"
                );
            }
        });
        assert!(orders > 100_000 && answered > 100, "{orders} {answered}");
    }

    fn after(events: &[Event]) -> Session {
        let mut session = Session::default();
        for event in events {
            apply(&mut session, *event);
        }
        session
    }

    fn told(events: &[Event], heard: Option<Duration>) -> (String, Exit) {
        let outcome = after(events).outcome(0).expect("an end");
        (outcome.told(heard), outcome.exit())
    }

    #[test]
    fn unread_bytes_count_as_answers() {
        let session = after(&[Took, Sent, Sent, InputEnded, HalfClosed, Ending]);
        assert!(matches!(session.outcome(2), Some(Outcome::Answered { .. })));
        assert!(matches!(
            session.outcome(1),
            Some(Outcome::CutShort { unanswered: 1, .. })
        ));
    }

    #[test]
    fn a_fin_is_told_with_its_age() {
        let fin = told(&[Took, Sent, Sent, Silent], Some(Duration::from_millis(3)));
        let line = "server terminated prematurely (FIN) 3 ms ago, 2 bytes unanswered";
        assert_eq!(fin, (line.into(), Exit::Premature));
        let late = told(&[Silent], Some(Duration::from_millis(4210)));
        let line = "server terminated prematurely (FIN) 4.2 s ago, nothing unanswered";
        assert_eq!(late, (line.into(), Exit::Premature));
        let line = "server terminated prematurely (FIN), 2 bytes unanswered (1 of them unsent)";
        assert_eq!(told(&[Took, Sent, Silent], None).0, line);
    }

    #[test]
    fn a_reset_is_told_without_an_age() {
        let reset = told(
            &[Took, Sent, Sent, Received, Reset, Silent],
            Some(Duration::ZERO),
        );
        let line = "server reset the connection (RST), 1 byte unanswered";
        assert_eq!(reset, (line.into(), Exit::Reset));
    }

    #[test]
    fn silence_is_told_with_the_last_sign_of_life() {
        let mut session = after(&[Took, Sent, Sent]);
        session.failed(Errno::ETIMEDOUT);
        let outcome = session.outcome(0).expect("an end");
        assert_eq!(outcome.exit(), Exit::Unreachable);
        assert_eq!(
            outcome.told(Some(Duration::from_secs(15))),
            "connection lost: ETIMEDOUT: Connection timed out, \
             last heard from the server 15.0 s ago, 2 bytes unanswered"
        );
    }
}
