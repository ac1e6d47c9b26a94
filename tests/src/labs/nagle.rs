//! Two writes for one line: Nagle's algorithm against the delayed acknowledgement (UNP 7.9).
//!
//! The same bytes in two writes, in two writes with `TCP_NODELAY`, and in one write, to a server that
//! answers whole lines. Asserted is how long a line takes, and what the packets carry.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tcpecho_common::defaults;

use crate::binaries;
use crate::client::ClientProcess;
use crate::labs::cast::begin;
use crate::narrate::ladder::{Ladder, Side};
use crate::narrate::{Act, Chapter, Expected, Lab, Names, Need, Scene, Stage, Unseen, View, shell};
use crate::netns::Isolation;
use crate::observe::packets::{Capture, Packet};
use crate::server::{Server, ServerProcess};

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "nagle",
    title: "Two writes, one line: where does the time go?",
    sections: "7.9",
    chapter: Chapter::InputOutput,
    takes: 1,
    needs: &[Need::Packets],
    about: "A client sends each line with two writes: the first byte, then the rest. Nobody \
        pauses, the network is the loopback. How long does a line take, there and back?",
    acts: || {
        vec![
            Box::new(slow("two writes", TWICE)) as Box<dyn Scene>,
            Box::new(quick("two writes and TCP_NODELAY", NODELAY, "1 5", AT_ONCE)),
            Box::new(last(quick("one write", JOINED, "6", ONE))),
        ]
    },
};

/// Two writes for each line.
pub const TWICE: &str = "tcpecho-lab actor halves 127.0.0.1:{port}";
/// The same with the socket option.
pub const NODELAY: &str = "tcpecho-lab actor halves nodelay 127.0.0.1:{port}";
/// One write for each line.
pub const JOINED: &str = "tcpecho-lab actor halves joined 127.0.0.1:{port}";

const SERVER: &str = "tcpecho-lab actor line-echo {port}";
const AT_ONCE: &str = "TCP_NODELAY switches Nagle's algorithm off. Both pieces leave at once.";
const ONE: &str = "One write, one segment: there is nothing that Nagle's algorithm could hold \
    back. The option is off again, and not needed.";

/// Far more than the loopback needs, and less than any delayed acknowledgement.
const HELD_BACK: Duration = Duration::from_millis(20);
const SOON: Duration = Duration::from_secs(20);

/// Both sides wait.
pub fn slow(title: &'static str, client: &'static str) -> Act<Line> {
    Act::open(title, Line::open)
        .act(
            "A server that echoes whole lines, and never less.",
            shell(SERVER),
            Line::start_server,
        )
        .predict(
            "The client sends a line with two writes and waits for the echo. Again and again. How \
             long does a line take, as a rule?",
            &[
                ("less than 20 ms", "less than a millisecond: it is loopback"),
                ("20 ms and more", "some 40 ms"),
            ],
        )
        .act(
            "The client; it prints the times.",
            shell(client),
            move |l| l.run(client),
        )
        .show("Each line there and back:", |l| Ok(l.times_view()))
        .answer("half of the lines took", "20 ms and more", Line::half)
        .expect(
            "half of the lines took _ or more",
            Expected::AtLeast(HELD_BACK),
            Line::median,
        )
        .show("The last line on one time line:", Line::ladder)
        .expect("what the last line's packets carried", "1 5", Line::pieces)
        .expect(
            "between the two pieces _ passed",
            Expected::AtLeast(HELD_BACK),
            Line::gap,
        )
        .observe(
            "The kernel counts the acknowledgements that it has held back.",
            "nstat -asz TcpExtDelayedACKs",
            |_| Ok(format!("TcpExtDelayedACKs {:>16}\n", delayed()?)),
        )
        .expect(
            "for nine in ten of the lines that took long it has held one back",
            "yes",
            Line::explained,
        )
        .explain(
            "Two rules that are good on their own. Nagle's, at the sender: while something small \
             is unacknowledged, send no other small piece. The delayed acknowledgement, at the \
             receiver: do not acknowledge at once, an answer may carry it along.\n\n\
             The client has `ello` and waits for the acknowledgement of `h`. The server has `h` \
             and waits for the line. Nothing moves until the server's kernel gives up waiting for \
             an answer, and acknowledges: some 40 ms later.",
        )
}

/// Nobody waits.
pub fn quick(
    title: &'static str,
    client: &'static str,
    pieces: &'static str,
    why: &'static str,
) -> Act<Line> {
    Act::open(title, Line::open)
        .act("The same server.", shell(SERVER), Line::start_server)
        .act("The client.", shell(client), move |l| l.run(client))
        .show("Each line there and back:", |l| Ok(l.times_view()))
        .expect(
            "half of the lines took _ or less",
            Expected::Below(HELD_BACK),
            Line::median,
        )
        .expect("what the last line's packets carried", pieces, Line::pieces)
        .explain(why)
}

fn last(act: Act<Line>) -> Act<Line> {
    act.explain(
        "The book (7.9): the interaction of Nagle's algorithm and delayed ACKs, with an example \
         of a header and its data in two writes. Its cures: writev, or one buffer and one write; \
         TCP_NODELAY only as the last. This kernel: the same; its delayed acknowledgement takes \
         40 ms, and the first lines of a connection are acknowledged at once.\n\n\
         Verdict: write what belongs together with one write.",
    )
    .try_it(
        "1$ tcpecho-lab actor line-echo 9877\n\
         2$ tcpecho-lab actor halves localhost:9877\n\
         2$ tcpecho-lab actor halves nodelay localhost:9877\n\
         2$ tcpecho-lab actor halves joined localhost:9877",
    )
    .read("Read: UNP 7.9 (TCP_NODELAY); RFC 896; tcp(7), TCP_NODELAY and TCP_QUICKACK.")
}

/// A line-buffering server, a client, and the packets between them.
pub struct Line {
    port: u16,
    server: Option<ServerProcess>,
    /// How long each line took.
    times: Vec<Duration>,
    /// What the kernel had counted before.
    delayed: u64,
    capture: Result<Capture, Unseen>,
}

impl Line {
    fn open(place: &Isolation) -> Result<Self> {
        let (port, capture) = match place {
            Isolation::Namespaces => (defaults::PORT, Ok(Capture::start()?)),
            Isolation::Plain(_) => {
                let why = "packets are seen only in namespaces";
                (0, Err(Unseen(why.into())))
            }
        };
        Ok(Self {
            port,
            server: None,
            times: Vec::new(),
            delayed: delayed()?,
            capture,
        })
    }

    fn start_server(&mut self) -> Result<()> {
        let program = binaries::path("tcpecho-lab")?;
        let port = self.port.to_string();
        let server = Server::plain(program, ["actor", "line-echo", &port]).start()?;
        self.port = server.address().port();
        self.server = Some(server);
        Ok(())
    }

    /// Lets the client do its work, to the end.
    fn run(&mut self, command: &str) -> Result<()> {
        let client: ClientProcess = begin(&command.replace("{port}", &self.port.to_string()))?;
        let status = client.wait(SOON)?;
        ensure!(status.success(), "{}", client.transcript());
        let said = String::from_utf8_lossy(&client.stdout()).into_owned();
        let times = said.lines().filter_map(|line| line.strip_suffix(" ms"));
        let times: Vec<f64> = times.map(str::parse).collect::<Result<_, _>>()?;
        self.times = times
            .iter()
            .map(|ms| Duration::from_secs_f64(ms / 1e3))
            .collect();
        Ok(())
    }

    fn median(&self) -> Result<Duration> {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied().context("no line yet")
    }

    /// Has the kernel held back an acknowledgement for nearly each line that took long? On a busy machine
    /// a line may take long without.
    fn explained(&self) -> Result<&'static str> {
        let long = self.times.iter().filter(|time| **time >= HELD_BACK).count();
        let held_back = delayed()? - self.delayed;
        Ok(if 10 * held_back >= 9 * long as u64 {
            "yes"
        } else {
            "no"
        })
    }

    fn half(&self) -> Result<&'static str> {
        Ok(if self.median()? < HELD_BACK {
            "less than 20 ms"
        } else {
            "20 ms and more"
        })
    }

    fn times_view(&self) -> View {
        let bar = |time: &Duration| {
            let ms = time.as_secs_f64() * 1e3;
            format!("{ms:>8.2} ms  {}\n", "#".repeat(ms.min(60.0) as usize))
        };
        View::Printed(self.times.iter().map(bar).collect())
    }

    /// The packets that the last line took.
    fn last_line(&self) -> Result<Vec<Packet>> {
        let capture = self.capture.as_ref();
        let packets = capture
            .map_err(|why| Unseen(why.0.clone()))?
            .packets_so_far();
        let server = self.address()?;
        let echoes = |p: &&Packet| p.from == server && p.len > 0;
        let mut echoes = packets.iter().filter(echoes).rev();
        let echo = echoes.next().context("no echo yet")?.at;
        let before = echoes.next().map_or(0, |packet| packet.at);
        let is_of_it =
            |p: &Packet| p.at > before && p.at <= echo && (p.len > 0 || p.from == server);
        Ok(packets.into_iter().filter(is_of_it).collect())
    }

    fn sent(&self) -> Result<Vec<Packet>> {
        let server = self.address()?;
        let mut packets = self.last_line()?;
        packets.retain(|packet| packet.to == server && packet.len > 0);
        Ok(packets)
    }

    /// How many bytes each packet of the client carried.
    fn pieces(&self) -> Result<String> {
        let lengths: Vec<_> = self.sent()?.iter().map(|p| p.len.to_string()).collect();
        Ok(lengths.join(" "))
    }

    /// How long after the first piece the second was sent.
    fn gap(&self) -> Result<Duration> {
        match &*self.sent()? {
            [first, second] => Ok(Duration::from_nanos(second.at - first.at)),
            other => bail!("{} pieces", other.len()),
        }
    }

    fn ladder(&self) -> Result<View> {
        let packets = self.last_line()?;
        let server = self.address()?;
        let first = packets.iter().find(|packet| packet.to == server);
        let first = first.context("no line yet")?;
        let ladder = Ladder::new(first.at)
            .remark("Time 0 is the first write of the last line.")
            .packets(first.from, &packets)
            .note(first.at, Side::Client, "write h, write ello");
        Ok(View::Ladder(ladder))
    }

    fn address(&self) -> Result<SocketAddr> {
        let server = self.server.as_ref();
        Ok(server.context("the server has not been started")?.address())
    }
}

/// The kernel's TcpExtDelayedACKs of this network namespace.
fn delayed() -> Result<u64> {
    let table = fs::read_to_string("/proc/thread-self/net/netstat")?;
    let mut lines = table.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next(), lines.next());
    let (names, values) = (names.context("no names")?, values.context("no values")?);
    let mut counters = names.split_whitespace().zip(values.split_whitespace());
    let counter = counters.find(|(name, _)| *name == "DelayedACKs");
    Ok(counter.context("not counted here")?.1.parse()?)
}

impl Stage for Line {
    fn names(&self) -> Names {
        vec![("port", self.port.to_string())]
    }
}
