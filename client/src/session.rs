//! What has happened between stdin, the server and us, and what it means: pure state, no sockets.
//!
//! A talk ends well in one order only: stdin ends, everything is sent, our FIN leaves, every byte
//! comes back, the server's FIN arrives. Every other order is an [`Outcome`] that says what is
//! missing. The first sign of the end decides on the cause: after a FIN, writing brings a reset
//! upon us, and that reset is our doing; and the kernel tells a socket's error only once, so a
//! read after it returns 0 as if there had been a FIN.
//!
//! Or we end it, for a reason of ours ([`Leave`]), if the server has not done so before.
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
    farewell: Farewell,
    input: Input,
    server: Server,
    fault: Option<Errno>,
    left: Option<Leave>,
}

/// What we do when stdin has ended and everything is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Farewell {
    /// Send our FIN, and take what still comes until the server's.
    #[default]
    HalfClose,
    /// Nothing: the server's FIN is the end (`--no-shutdown`).
    Stay,
    /// Close when every byte has come back: the way to an RST, which after our FIN would come too
    /// late (`--reset`).
    CloseAnswered,
    /// Close at once, whatever is still to come back (`--mistake close-on-eof`).
    CloseSent,
}

/// Why we end it, while the server would go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The farewell has it so.
    Closed,
    /// stdin ended this long ago (`--quit-after`).
    Quit(Duration),
    /// Nothing has moved for this long (`--idle-timeout`).
    Idle(Duration),
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
    /// We closed with stdin, and never asked what became of the rest.
    Closed {
        /// Bytes sent.
        sent: u64,
        /// Bytes received, fewer.
        received: u64,
    },
    /// We lost our patience before the server had answered everything.
    GivenUp {
        /// What had run out.
        why: Leave,
        /// Bytes taken from stdin for which nothing came back.
        unanswered: u64,
        /// How many of them the kernel never took from us.
        unsent: u64,
    },
}

impl Session {
    /// A talk that begins, and shall end so.
    pub fn with(farewell: Farewell) -> Self {
        Self {
            farewell,
            ..Self::default()
        }
    }

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

    /// We end it. Nothing changes if the server was faster.
    pub fn leave(&mut self, why: Leave) {
        if !self.is_ending() {
            self.left = Some(why);
        }
    }

    /// How often a byte has moved: from stdin, to the server, from the server.
    pub fn moved(&self) -> u64 {
        self.taken + self.sent + self.received
    }

    /// Is there a point in reading stdin?
    pub fn wants_input(&self) -> bool {
        self.input == Input::Open && !self.is_ending()
    }

    /// Has stdin come to its end?
    pub fn input_has_ended(&self) -> bool {
        self.input != Input::Open
    }

    /// Is there a point in sending what was taken?
    pub fn may_send(&self) -> bool {
        !self.is_ending()
    }

    /// Is it time for our FIN?
    pub fn should_half_close(&self) -> bool {
        self.farewell == Farewell::HalfClose && self.has_sent_all()
    }

    /// Is it time to close, without a FIN before?
    pub fn should_close(&self) -> bool {
        match self.farewell {
            Farewell::HalfClose | Farewell::Stay => false,
            Farewell::CloseAnswered => self.has_sent_all() && self.received >= self.taken,
            Farewell::CloseSent => self.has_sent_all(),
        }
    }

    fn has_sent_all(&self) -> bool {
        self.input == Input::Ended && self.sent == self.taken && self.may_send()
    }

    /// Will nothing new come from the server, or none of it matter?
    pub fn is_ending(&self) -> bool {
        self.server != Server::Talking || self.left.is_some()
    }

    /// Has everything been read that the server sent, or that we want?
    pub fn is_silent(&self) -> bool {
        self.server == Server::Silent || self.left.is_some()
    }

    /// What the end means, given that `unread` bytes of the server's are still to be read; None
    /// while it may go on.
    pub fn outcome(&self, unread: u64) -> Option<Outcome> {
        if !self.is_ending() {
            return None;
        }
        let (sent, received) = (self.sent, self.received + unread);
        let unsent = self.taken - sent;
        let unanswered = self.taken.saturating_sub(received).max(unsent);
        let answered = Outcome::Answered { sent, received };
        Some(match (self.left, self.fault) {
            (Some(Leave::Closed | Leave::Quit(_)), _) if unanswered == 0 => answered,
            (Some(Leave::Closed), _) => Outcome::Closed { sent, received },
            (Some(why), _) => Outcome::GivenUp {
                why,
                unanswered,
                unsent,
            },
            (None, None) if self.may_be_ended_by_the_server() && unanswered == 0 => answered,
            (None, fault) => Outcome::CutShort {
                cause: fault.map_or(Cause::Fin, Cause::Failed),
                unanswered,
                unsent,
            },
        })
    }

    /// Was the server's FIN due?
    fn may_be_ended_by_the_server(&self) -> bool {
        match self.farewell {
            Farewell::Stay => self.input == Input::Ended,
            _ => self.input == Input::HalfClosed,
        }
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
            Self::Answered { .. } | Self::Closed { .. } => Exit::Done,
            Self::CutShort { cause, .. } => cause.exit(),
            Self::GivenUp { .. } => Exit::Unreachable,
        }
    }

    /// What to tell the user. `heard` is how long ago the last segment came that the connection
    /// accepted, if that is known: after a FIN, the FIN; a reset leaves no such trace.
    pub fn told(&self, heard: Option<Duration>) -> String {
        match *self {
            Self::Answered { .. } => "every byte was answered".into(),
            Self::Closed { sent, received } => {
                format!("closed at the end of stdin: {sent} bytes sent, {received} came back")
            }
            Self::CutShort {
                cause,
                unanswered,
                unsent,
            } => format!("{}, {}", cause.told(heard), Missing { unanswered, unsent }),
            Self::GivenUp {
                why,
                unanswered,
                unsent,
            } => format!("{why}, {}", Missing { unanswered, unsent }),
        }
    }
}

impl Cause {
    /// The exit code that stands for it.
    pub fn exit(self) -> Exit {
        match self {
            Self::Fin => Exit::Premature,
            Self::Failed(Errno::ECONNRESET) => Exit::Reset,
            Self::Failed(errno) if is_silence(errno) => Exit::Unreachable,
            Self::Failed(_) => Exit::Failed,
        }
    }

    /// What to tell the user; for `heard` see [`Outcome::told`].
    pub fn told(self, heard: Option<Duration>) -> String {
        match (self, heard.map(Ago)) {
            (Self::Fin, Some(ago)) => format!("server terminated prematurely (FIN) {ago}"),
            (Self::Fin, None) => "server terminated prematurely (FIN)".into(),
            (Self::Failed(Errno::ECONNRESET), _) => "server reset the connection (RST)".into(),
            (Self::Failed(errno), Some(ago)) if is_silence(errno) => {
                format!("connection lost: {errno}, last heard from the server {ago}")
            }
            (Self::Failed(errno), _) => format!("connection lost: {errno}"),
        }
    }
}

impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Quit(limit) => {
                write!(f, "gave up {limit:?} after stdin had ended (--quit-after)")
            }
            Self::Idle(limit) => write!(f, "gave up: no byte moved for {limit:?} (--idle-timeout)"),
        }
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
        Close,
        Quit,
        Idle,
    }

    use Event::*;

    /// Without those that are ours.
    const THE_SERVERS: &[Event] = EVENTS.split_at(9).0;

    const EVENTS: [Event; 12] = [
        Took, InputEnded, Sent, HalfClosed, Received, Ending, Reset, BrokenPipe, Silent, Close,
        Quit, Idle,
    ];

    const PATIENCE: Duration = Duration::from_secs(2);

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
            Close => session.leave(Leave::Closed),
            Quit => session.leave(Leave::Quit(PATIENCE)),
            Idle => session.leave(Leave::Idle(PATIENCE)),
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
            Close => session.should_close(),
            Quit => session.input_has_ended() && !session.is_silent(),
            _ => !session.is_silent(),
        }
    }

    /// The verdict, found again from the history alone.
    fn judge(farewell: Farewell, history: &[Event]) -> Option<Outcome> {
        let is_sign = |e: &&Event| {
            matches!(
                e,
                Ending | Reset | BrokenPipe | Silent | Close | Quit | Idle
            )
        };
        let first_sign = history.iter().find(is_sign)?;
        let (taken, sent) = (2 * count(history, Took), count(history, Sent));
        let received = count(history, Received);
        let (unanswered, unsent) = (
            taken.saturating_sub(received).max(taken - sent),
            taken - sent,
        );
        let given_up = |why| Outcome::GivenUp {
            why,
            unanswered,
            unsent,
        };
        let may_be_over = match farewell {
            Farewell::Stay => history.contains(&InputEnded),
            _ => history.contains(&HalfClosed),
        };
        Some(match first_sign {
            Close | Quit if unanswered == 0 => Outcome::Answered { sent, received },
            Close => Outcome::Closed { sent, received },
            Quit => given_up(Leave::Quit(PATIENCE)),
            Idle => given_up(Leave::Idle(PATIENCE)),
            Reset => Outcome::CutShort {
                cause: Cause::Failed(Errno::ECONNRESET),
                unanswered,
                unsent,
            },
            _ if may_be_over && unanswered == 0 => Outcome::Answered { sent, received },
            _ => Outcome::CutShort {
                cause: Cause::Fin,
                unanswered,
                unsent,
            },
        })
    }

    /// Goes through every order of at most `left` more events.
    fn every_order(
        session: Session,
        events: &[Event],
        history: &mut Vec<Event>,
        left: u32,
        visit: &mut impl FnMut(&[Event]),
    ) {
        let verdict = judge(session.farewell, history);
        assert_eq!(
            session.outcome(0),
            verdict,
            "{:?}: {history:?}",
            session.farewell
        );
        visit(history);
        if left == 0 {
            return;
        }
        for &event in events {
            if can_follow(&session, history, event) {
                let mut next = session;
                apply(&mut next, event);
                history.push(event);
                every_order(next, events, history, left - 1, visit);
                history.pop();
            }
        }
    }

    #[test]
    fn every_order_of_events_has_the_outcome_its_history_says() {
        for (farewell, events, depth) in [
            (Farewell::HalfClose, THE_SERVERS, 9),
            (Farewell::HalfClose, &EVENTS, 7),
            (Farewell::Stay, &EVENTS, 7),
            (Farewell::CloseAnswered, &EVENTS, 7),
            (Farewell::CloseSent, &EVENTS, 7),
        ] {
            let (mut orders, mut answered) = (0_u32, 0_u32);
            let session = Session::with(farewell);
            every_order(session, events, &mut Vec::new(), depth, &mut |history| {
                orders += 1;
                if matches!(judge(farewell, history), Some(Outcome::Answered { .. })) {
                    answered += 1;
                    // Nothing is lost where the exit code is 0 (and no mistake was asked for).
                    assert!(
                        count(history, Sent) == 2 * count(history, Took),
                        "{history:?}"
                    );
                    assert!(
                        count(history, Received) >= count(history, Sent),
                        "{history:?}"
                    );
                    assert!(history.contains(&InputEnded), "{history:?}");
                }
            });
            assert!(
                orders > 10_000 && answered > 0,
                "{farewell:?}: {orders} {answered}"
            );
        }
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
    fn only_a_half_close_brings_our_fin_and_only_the_other_farewells_close() {
        let all_back = [Took, Sent, Sent, InputEnded, Received, Received];
        for (farewell, half_close, sent, answered) in [
            (Farewell::HalfClose, true, false, false),
            (Farewell::Stay, false, false, false),
            (Farewell::CloseAnswered, false, false, true),
            (Farewell::CloseSent, false, true, true),
        ] {
            let mut session = Session::with(farewell);
            all_back[..4].iter().for_each(|e| apply(&mut session, *e));
            assert_eq!(session.should_half_close(), half_close, "{farewell:?}");
            assert_eq!(session.should_close(), sent, "{farewell:?}");
            all_back[4..].iter().for_each(|e| apply(&mut session, *e));
            assert_eq!(session.should_close(), answered, "{farewell:?}");
        }
    }

    #[test]
    fn whoever_stays_is_content_with_the_fin_that_comes_when_all_is_answered() {
        let mut session = Session::with(Farewell::Stay);
        for event in [Took, Sent, Sent, InputEnded, Received, Ending] {
            apply(&mut session, event);
        }
        let premature = session.outcome(0).expect("an end");
        assert_eq!(premature.exit(), Exit::Premature);
        assert_eq!(session.outcome(1).expect("an end").exit(), Exit::Done);
    }

    #[test]
    fn a_lost_patience_is_told_with_what_is_missing() {
        assert_eq!(
            told(&[Took, Sent, InputEnded, Quit], None),
            (
                "gave up 2s after stdin had ended (--quit-after), \
                 2 bytes unanswered (1 of them unsent)"
                    .into(),
                Exit::Unreachable
            )
        );
        assert_eq!(
            told(&[Took, Sent, Sent, Received, Received, Idle], None),
            (
                "gave up: no byte moved for 2s (--idle-timeout), nothing unanswered".into(),
                Exit::Unreachable
            )
        );
        let quit = [Took, Sent, Sent, InputEnded, Received, Received, Quit];
        assert_eq!(told(&quit, None).1, Exit::Done);
    }

    #[test]
    fn nobody_leaves_a_server_that_has_ended() {
        let before = after(&[Took, Ending]);
        let mut session = before;
        session.leave(Leave::Idle(PATIENCE));
        assert_eq!(session, before);
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
