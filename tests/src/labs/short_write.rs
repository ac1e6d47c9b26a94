//! read and write may move less than they were asked to: writen, readn, readline (UNP 3.9).
//!
//! First the calls alone, on a connection of our own; then a server that forgets what did not fit,
//! and one whose threads share the buffer of readline. Asserted is what the calls return, how much
//! comes back, and whose bytes they are.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::labs::crowd::Crowd;
use crate::narrate::{Act, Chapter, Lab, Names, Scene, Stage, Typed, View};
use crate::netns::Isolation;
use crate::observe::sock_diag::SockDiag;
use crate::observe::sockets::{self, State};
use crate::wait::eventually;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "short-write",
    title: "write and read: how much do they move?",
    sections: "3.9, 26.5",
    chapter: Chapter::InputOutput,
    takes: 1,
    needs: &[],
    about: "A program asks write to send 100 MB, and read to fetch 10 bytes. When do they come back, \
        and what have they done? What becomes of a program that does not look at what they return? \
        And what is wrong with the buffer of the textbook's readline?",
    acts: || {
        vec![
            Box::new(calls(MUCH)) as Box<dyn Scene>,
            Box::new(forgetful(FORGETS)),
            Box::new(mixed(SHARED)),
        ]
    },
};

/// A loop that takes a short write for a whole one.
pub const FORGETS: &str = "tcpechod --mistake short-write --bind 127.0.0.1 {port}";
/// Threads that share a buffer.
pub const SHARED: &str = "tcpechod --model thread --mistake static-buffer --bind 127.0.0.1 {port}";
/// More than the buffers of a connection take.
pub const MUCH: usize = 100_000_000;

/// What the slow reader sends at most.
const LONG: usize = 16 << 20;
const ROUNDS: usize = 20_000;
const SOON: Duration = Duration::from_secs(20);

/// read and write alone.
pub fn calls(much: usize) -> Act<Ends> {
    Act::open("what read and write return", Ends::open)
        .explain("A connection of our own. Its one side writes, the other does not read yet.")
        .predict(
            "write(fd, buffer, 100000000) on a socket that does not block. What does it return?",
            &[
                ("all", "100000000: write takes all, or fails"),
                ("a part", "less: as much as the buffers take"),
                ("nothing", "-1, EAGAIN: it does not fit"),
            ],
        )
        .act("One write.", Typed::Nothing, move |e| e.write(much))
        .answer("it took", "a part", move |e| Ok(e.took(much)))
        .show("What it returned:", |e| {
            Ok(View::Printed(format!("write = {}", e.wrote)))
        })
        .observe(
            "Nobody has read. What write took is in the kernel: in the Send-Q of this end, in the \
             Recv-Q of the other, or in both.",
            "ss -tan | grep -E 'State|:{port} '",
            Ends::ss,
        )
        .expect("the queues have", "what write took", Ends::queued)
        .explain(
            "So a writer needs a loop: writen. It writes the rest, and again the rest. On a \
             blocking socket the kernel does that, unless a signal interrupts it: then write \
             returns what it has moved so far.",
        )
        .act("A new connection: 3 bytes are sent.", Typed::Nothing, |e| {
            *e = Ends::new()?;
            e.writer.write_all(b"abc")?;
            e.wait_for(3)
        })
        .predict(
            "read(fd, buffer, 10) on a socket that blocks, and 3 bytes are there. What does it do?",
            &[
                ("read = 3", "it returns 3"),
                ("read ...", "it waits for the other 7"),
            ],
        )
        .act("One read for 10 bytes.", Typed::Nothing, Ends::read)
        .answer("what it did", "read = 3", |e| {
            Ok(format!("read = {}", e.got))
        })
        .explain(
            "read waits only as long as there is nothing. TCP is a stream of bytes: it knows \
             nothing of lines and messages. Who needs 10 bytes asks again for the rest: readn. Who \
             needs a line asks until a newline has come: readline.",
        )
}

/// A server that does not look at what write returns.
pub fn forgetful(server: &'static str) -> Act<Slow> {
    Act::open("a server that does not look", Slow::open)
        .act(
            "A server that takes a short write for a whole one.",
            Typed::Shell(server),
            move |s| s.crowd.start_server(server),
        )
        .act(
            "A client sends 10 bytes and reads them.",
            Typed::Nothing,
            |s| s.talk(10, true),
        )
        .expect("came back", "all", |s| Ok(s.came_back()))
        .predict(
            "So it works. Now a client sends up to 16 MiB before it begins to read. How much comes \
             back?",
            &[
                ("all", "all of it"),
                ("not all", "not all, and nobody is told"),
                ("reset", "nothing: the connection is reset"),
            ],
        )
        .act(
            "A client that sends first, and reads later.",
            Typed::Nothing,
            |s| s.talk(LONG, false),
        )
        .answer("came back", "not all", |s| Ok(s.came_back()))
        .show("Bytes:", |s| {
            let Slow { sent, came, .. } = s;
            Ok(View::Printed(format!(
                "sent      {sent:>10}\ncame back {came:>10}"
            )))
        })
        .explain(
            "While the client reads as fast as it sends, every write fits, and nobody sees the \
             mistake. It needs a slow reader. Then write takes less than it was given, or nothing \
             (EAGAIN), and the server throws the rest away.",
        )
}

/// A server whose threads share a buffer.
pub fn mixed(server: &'static str) -> Act<Crowd> {
    Act::open("a static buffer", Crowd::open_unrecorded)
        .server("A server with threads, and one static buffer.", server)
        .predict(
            "One client sends only a, another only b, at the same time. What do they get back?",
            &[
                ("their own bytes", "each its own bytes: the sockets differ"),
                ("each other's bytes", "sooner or later, bytes of the other"),
            ],
        )
        .answer("they get", "each other's bytes", |c| {
            let foreign = swap(c.server()?.address())?;
            Ok(if foreign {
                "each other's bytes"
            } else {
                "their own bytes"
            })
        })
        .explain(
            "The book (3.9) gives readline a static buffer, for speed, and says itself (26.5) that \
             this is for one thread and one descriptor: whoever reads two descriptors in turn, or \
             has threads, mixes them. Its cure is a buffer for each thread or connection. This \
             system: the same.\n\n\
             Verdict: look at what read and write return; and keep what is left over where the \
             connection is kept.",
        )
        .try_it(
            "1$ tcpechod --mistake short-write\n\
         2$ head -c 16M /dev/zero | tcpecho --read-rate 4M localhost | wc -c\n\
         1> ^C\n\
         1$ tcpechod\n\
         2$ head -c 16M /dev/zero | tcpecho --read-rate 4M localhost | wc -c",
        )
        .read("Read: UNP 3.9, 26.5; write(2), RETURN VALUE; read(2); pipe(7).")
}

/// Both ends of a connection, and what the last calls returned.
pub struct Ends {
    writer: TcpStream,
    reader: TcpStream,
    wrote: usize,
    got: usize,
}

impl Ends {
    fn open(_: &Isolation) -> Result<Self> {
        Self::new()
    }

    fn new() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let writer = TcpStream::connect(listener.local_addr()?)?;
        let (reader, _) = listener.accept()?;
        Ok(Self {
            writer,
            reader,
            wrote: 0,
            got: 0,
        })
    }

    fn write(&mut self, much: usize) -> Result<()> {
        self.writer.set_nonblocking(true)?;
        self.wrote = self.writer.write(&vec![0; much])?;
        Ok(())
    }

    fn took(&self, much: usize) -> &'static str {
        match self.wrote {
            0 => "nothing",
            n if n == much => "all",
            _ => "a part",
        }
    }

    /// How much is in the queues of both ends, when nothing is under way.
    fn queued(&self) -> Result<String> {
        let (near, far) = (self.writer.local_addr()?, self.reader.local_addr()?);
        let diag = SockDiag::open()?;
        let unsent = diag.unacknowledged(near, far)?.context("no writer")?;
        let unread = diag.unread(far, near)?.context("no reader")?;
        let both = (unsent + unread) as usize;
        Ok(if both == self.wrote {
            "what write took".into()
        } else {
            format!("{both} bytes, and write took {}", self.wrote)
        })
    }

    fn ss(&self) -> Result<String> {
        let port = self.reader.local_addr()?.port();
        let mut sockets = sockets::tcp()?;
        sockets.retain(|s| s.state == State::Established);
        Ok(sockets::ss_view(&sockets::with_port(&sockets, port)))
    }

    fn read(&mut self) -> Result<()> {
        self.reader.set_read_timeout(Some(SOON))?;
        self.got = self.reader.read(&mut [0; 10])?;
        Ok(())
    }

    /// Waits until so many bytes can be read.
    fn wait_for(&self, bytes: u32) -> Result<()> {
        let (near, far) = (self.reader.local_addr()?, self.reader.peer_addr()?);
        let diag = SockDiag::open()?;
        eventually("bytes to read", SOON, || {
            (diag.unread(near, far).ok()?? == bytes).then_some(())
        })
    }
}

impl Stage for Ends {
    fn names(&self) -> Names {
        let port = self.reader.local_addr().map(|address| address.port());
        vec![("port", port.unwrap_or(0).to_string())]
    }
}

/// A server, and how much its last client has sent and got back.
pub struct Slow {
    crowd: Crowd,
    sent: usize,
    came: usize,
}

impl Slow {
    fn open(place: &Isolation) -> Result<Self> {
        Ok(Self {
            crowd: Crowd::open_unrecorded(place)?,
            sent: 0,
            came: 0,
        })
    }

    /// Sends as much as the server takes, at most `much`, then says goodbye and reads to the end.
    fn talk(&mut self, much: usize, all: bool) -> Result<()> {
        let mut stream = TcpStream::connect(self.crowd.server()?.address())?;
        stream.set_nonblocking(true)?;
        self.sent = 0;
        while self.sent < much {
            let piece = vec![b'x'; (much - self.sent).min(65_536)];
            match stream.write(&piece) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock && !all => {
                    // The server may be about to take more; once it sleeps it will not.
                    eventually("a server that waits", SOON, || self.crowd.rest().ok())?;
                    if !is_writable(&stream)? {
                        break;
                    }
                }
                Err(error) => return Err(error).context("send"),
            }
        }
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.shutdown(Shutdown::Write)?;
        let mut back = Vec::new();
        stream.read_to_end(&mut back)?;
        self.came = back.len();
        Ok(())
    }

    fn came_back(&self) -> &'static str {
        if self.came == self.sent {
            "all"
        } else {
            "not all"
        }
    }
}

impl Stage for Slow {
    fn names(&self) -> Names {
        self.crowd.names()
    }
}

/// Would it take anything now?
fn is_writable(stream: &TcpStream) -> Result<bool> {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
}

/// Two clients at the same time, many times: has one got a byte of the other?
fn swap(server: SocketAddr) -> Result<bool> {
    let a = thread::spawn(move || gets_foreign(server, b'a'));
    let b = gets_foreign(server, b'b')?;
    let a = a.join().map_err(|_| anyhow!("a client panicked"))??;
    Ok(a || b)
}

fn gets_foreign(server: SocketAddr, own: u8) -> Result<bool> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_nodelay(true)?;
    for _ in 0..ROUNDS {
        stream.write_all(&[own; 256])?;
        let mut back = [0; 256];
        stream.read_exact(&mut back)?;
        if back.iter().any(|byte| *byte != own) {
            return Ok(true);
        }
    }
    Ok(false)
}
