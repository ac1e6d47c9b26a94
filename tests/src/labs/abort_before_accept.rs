//! A client connects and resets its connection before the server calls accept (UNP 5.11, 16.6).
//!
//! The server is stopped, so that connections wait in its queue. Asserted are the queue, the packets,
//! and what accept, read and write return in the server afterwards.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use tcpecho_common::{Mistake, Model, defaults};

use crate::client::{Client, ClientProcess};
use crate::labs::pair::{End, PROMPTLY, end_of, exchange, in_words, moves_data};
use crate::labs::states::now;
use crate::narrate::ladder::{Ladder, Side};
use crate::narrate::{Act, Chapter, Lab, Names, Need, Scene, Stage, Unseen, View, keys, shell};
use crate::netns::Isolation;
use crate::observe::calls::{CallRecord, Phase};
use crate::observe::packets::{Capture, Packet};
use crate::observe::sock_diag::SockDiag;
use crate::observe::sockets;
use crate::peer::Peer;
use crate::server::{Server, ServerProcess};
use crate::wait::eventually;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "abort-before-accept",
    title: "Reset before accept: what does it say?",
    sections: "5.11, 16.6",
    chapter: Chapter::Trouble,
    takes: 1,
    needs: &[Need::Packets],
    about: "A busy server: a client connects, changes its mind and resets the connection, all \
        before the server calls accept. What is accept to return? The book knows three answers, \
        each of another system. Which is this kernel's?",
    acts: || acts(None),
};

/// The acts, with a mistake that the server makes: a test wants one.
pub fn acts(mistake: Option<Mistake>) -> Vec<Box<dyn Scene>> {
    vec![Box::new(silent(mistake)), Box::new(talkative(mistake))]
}

const SS: &str = "ss -tan | grep -E 'State|:{port} '";

fn silent(mistake: Option<Mistake>) -> Act<Queue> {
    opening("it leaves without a word", mistake)
        .act(
            "Its user changes his mind. This client ends with an RST.",
            keys("^D"),
            Queue::leave,
        )
        .expect("the last packet", "client RST,ACK", Queue::last_packet)
        .expect("connections that wait for accept", 1, Queue::waiting)
        .observe(
            "The queue (Recv-Q of the listener) still has one; the connection is nowhere.",
            SS,
            Queue::ss,
        )
        .predict(
            "Now the server goes on, in accept. What does accept return?",
            &[
                ("nothing", "nothing: the kernel drops the connection (BSD)"),
                ("-1 EPROTO", "-1, EPROTO (SVR4)"),
                ("-1 ECONNABORTED", "-1, ECONNABORTED (POSIX)"),
                ("a descriptor", "a descriptor, as if nothing had happened"),
            ],
        )
        .act("Let it go on.", shell("kill -CONT {server}"), Queue::go_on)
        .answer("accept", "a descriptor", Queue::accepted)
        .expect("the first read", "read = -1 ECONNRESET", |q| {
            Ok(in_words(&q.call("read", 0)?))
        })
        .expect("the next client's echo", "hello", Queue::next_client)
        .show("The story on one time line:", Queue::ladder)
        .explain(
            "The handshake was complete, so the connection waits in the queue, and an RST does not \
         take it out again. accept hands it over, dead. The first read tells.\n\n\
         The book (5.11): Berkeley's kernels handle it inside, SVR4 said EPROTO, POSIX says \
         ECONNABORTED, so that the server just calls accept again. On Linux that errno \
         does not come this way. What the server needs here is not a special case in accept, but \
         one that it needs anyway: a connection that ends with ECONNRESET ends that connection, \
         not the server.",
        )
}

fn talkative(mistake: Option<Mistake>) -> Act<Queue> {
    opening(
        "it leaves a line behind",
        mistake,
    )
    .act("Its user types a line.", keys("hello"), Queue::type_hello)
    .expect("bytes that wait with the connection", 6, Queue::unread)
    .act(
        "He gets no echo and has enough. This client ends with an RST, however it ends.",
        keys("^C"),
        Queue::interrupt,
    )
    .expect("the last packet", "client RST,ACK", Queue::last_packet)
    .expect("connections that wait for accept", 1, Queue::waiting)
    .predict(
        "The line arrived before the RST did. The server goes on. What does its first read say?",
        &[
            ("read = 6", "6: the line can still be read"),
            ("read = -1 ECONNRESET", "-1, ECONNRESET: the line is lost"),
            ("read = 0", "0: end of file"),
        ],
    )
    .act("Let it go on.", shell("kill -CONT {server}"), Queue::go_on)
    .expect("accept", "a descriptor", Queue::accepted)
    .answer("the first read", "read = 6", |q| {
        Ok(in_words(&q.call("read", 0)?))
    })
    .expect("the write of the echo", "write = -1 ECONNRESET", |q| {
        Ok(in_words(&q.call("write", 0)?))
    })
    .expect("the next client's echo", "hello", Queue::next_client)
    .show("The story on one time line:", Queue::ladder)
    .explain(
        "What had arrived before the RST is still there: Linux throws nothing away that can be \
         read. The error waits for the next call and is told once, here to the write. There is no SIGPIPE: that is for the write after this one.\n\n\
         select and poll call the listener readable in both acts. On a kernel that drops the \
         connection instead, a server that trusts them then sleeps in accept while others wait \
         (16.6); so a listener under select should not block. Here it would not.",
    )
        .try_it(
            "1$ tcpechod --model iterative -vvv &\n\
             1$ kill -STOP %1\n\
             2$ tcpecho --reset localhost\n\
             2> ^D\n\
             1$ ss -tan | grep 9877                       (Recv-Q of the listener)\n\
             1$ kill -CONT %1                             (what say accept and read?)",
        )
        .read("Read: UNP 5.11, 16.6; accept(2), whose ERRORS list ECONNABORTED all the same.")
}

/// What both acts begin with: a stopped server, a client that is connected.
fn opening(title: &'static str, mistake: Option<Mistake>) -> Act<Queue> {
    Act::open(title, Queue::open)
        .act(
            "In terminal 1, a server that serves one client at a time.",
            shell("tcpechod --model iterative --bind 127.0.0.1 {port}"),
            move |q| q.start_server(mistake),
        )
        .act(
            "It is busy elsewhere: it cannot call accept now.",
            shell("kill -STOP {server}"),
            Queue::stop,
        )
        .act(
            "In terminal 2, a client.",
            shell("tcpecho --reset 127.0.0.1 {port}"),
            Queue::start_client,
        )
        .expect("connections that wait for accept", 1, Queue::waiting)
}

/// A server that is stopped, and a client that connects meanwhile.
struct Queue {
    port: u16,
    server: Option<ServerProcess>,
    client: Option<(ClientProcess, End)>,
    went_on: u64,
    marks: Vec<(u64, Side, &'static str)>,
    capture: Result<Capture, String>,
}

impl Queue {
    fn open(place: &Isolation) -> Result<Self> {
        let (port, capture) = match place {
            Isolation::Namespaces => (defaults::PORT, Ok(Capture::start()?)),
            Isolation::Plain(_) => (0, Err("packets are seen only in namespaces".into())),
        };
        Ok(Self {
            port,
            server: None,
            client: None,
            went_on: u64::MAX,
            marks: Vec::new(),
            capture,
        })
    }

    fn start_server(&mut self, mistake: Option<Mistake>) -> Result<()> {
        let server = Server::model(Model::Iterative).args(["--bind", "127.0.0.1"]);
        let server = mistake.into_iter().fold(server, Server::mistake);
        let server = server.port(self.port).events().start()?;
        self.port = server.address().port();
        self.server = Some(server);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.marks.push((now(), Side::Server, "stopped"));
        self.server()?.freeze()
    }

    fn go_on(&mut self) -> Result<()> {
        self.went_on = now();
        self.marks.push((self.went_on, Side::Server, "goes on"));
        self.server()?.thaw()
    }

    fn start_client(&mut self) -> Result<()> {
        let server = self.address();
        let client = Client::to(server).arg("--reset").events().on_pty();
        let client = client.start()?;
        let end = eventually("a connection", PROMPTLY, || {
            end_of(client.pid(), |s| s.remote == server)
        });
        let end = end.with_context(|| client.transcript())?;
        self.client = Some((client, end));
        Ok(())
    }

    fn type_hello(&mut self) -> Result<()> {
        self.marks.push((now(), Side::Client, "typed: hello"));
        self.client()?.0.type_line("hello")
    }

    fn leave(&mut self) -> Result<()> {
        self.marks.push((now(), Side::Client, "typed: ^D"));
        self.client()?.0.close_stdin()?;
        self.wait_for_end()
    }

    fn interrupt(&mut self) -> Result<()> {
        /// What the key sends; the terminal makes SIGINT of it.
        const CTRL_C: u8 = 0x03;
        self.marks.push((now(), Side::Client, "typed: ^C"));
        self.client()?.0.write(&[CTRL_C])?;
        self.wait_for_end()
    }

    fn wait_for_end(&mut self) -> Result<()> {
        self.client()?.0.wait(PROMPTLY).map(drop)
    }

    fn waiting(&self) -> Result<usize> {
        let queued = SockDiag::open()?.queued(self.address())?;
        Ok(queued.context("nobody listens")? as usize)
    }

    /// How many bytes have come on the connection that nobody has accepted.
    fn unread(&self) -> Result<usize> {
        let client = self.client()?.1.address;
        let unread = SockDiag::open()?.unread(self.address(), client)?;
        Ok(unread.context("there is no such connection")? as usize)
    }

    fn ss(&self) -> Result<String> {
        let sockets = sockets::with_port(&sockets::tcp()?, self.port);
        Ok(sockets::ss_view(&sockets))
    }

    /// What accept returned when the server went on.
    fn accepted(&self) -> Result<String> {
        let accept = self.accept()?;
        Ok(match &accept.errno {
            None => "a descriptor".into(),
            Some(errno) => format!("-1 {errno}"),
        })
    }

    fn accept(&self) -> Result<CallRecord> {
        let mut calls = self.server()?.calls().into_iter();
        let accept = calls.find(|c| is_return(c, "accept") && c.at >= self.went_on);
        accept.context("accept has not returned")
    }

    /// What the server's call number `n` on the accepted connection returned.
    fn call(&self, name: &str, n: usize) -> Result<CallRecord> {
        let fd = self.accept()?.result;
        let calls = self.server()?.calls().into_iter();
        let mut calls = calls.filter(|c| is_return(c, name) && i64::from(c.fd) == fd);
        calls.nth(n).with_context(|| format!("no {name} yet"))
    }

    /// Another client: what it gets back for its hello.
    fn next_client(&self) -> Result<&'static str> {
        Peer::connect(self.address())?.echo(b"hello\n")?;
        Ok("hello")
    }

    fn packets(&self) -> Result<Vec<Packet>> {
        let client = self.client()?.1.address;
        let capture = self.capture.as_ref().map_err(|why| Unseen(why.clone()))?;
        let mut packets = capture.packets_so_far();
        packets.retain(|p| p.from == client || p.to == client);
        Ok(packets)
    }

    fn last_packet(&self) -> Result<String> {
        let packets = self.packets()?;
        let last = packets.last().context("no packets")?;
        Ok(exchange(self.client()?.1.address, &[*last]))
    }

    fn ladder(&self) -> Result<View> {
        let (client, end) = self.client()?;
        let packets = self.packets().unwrap_or_default();
        let accept = self.accept()?;
        let fd = i32::try_from(accept.result)?;
        let mut of_client = client.calls();
        of_client.retain(|c| c.fd == end.fd && (moves_data(c) || c.call == "close"));
        let mut of_server = self.server()?.calls();
        // Not the next client's, which may have the same descriptor.
        let over = self.call("close", 0)?.at;
        of_server.retain(|c| c.at <= over && (c.call == "accept" || c.fd == fd));
        let origin = packets.first().map_or(self.went_on, |first| first.at);
        let mut ladder = Ladder::new(origin)
            .packets(end.address, &packets)
            .calls(Side::Client, &of_client)
            .calls(Side::Server, &of_server)
            .descriptor(Side::Client, end.fd, "the connection")
            .descriptor(Side::Server, accept.fd, "the listening socket")
            .descriptor(Side::Server, fd, "the connection");
        for (at, side, what) in &self.marks {
            ladder = ladder.note(*at, *side, *what);
        }
        for (at, line) in client.stderr_lines() {
            ladder = ladder.outcome(at, line);
        }
        Ok(View::Ladder(ladder))
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.port)
    }

    fn server(&self) -> Result<&ServerProcess> {
        let server = self.server.as_ref();
        server.context("the server has not been started")
    }

    fn client(&self) -> Result<&(ClientProcess, End)> {
        let client = self.client.as_ref();
        client.context("the client has not been started")
    }
}

fn is_return(call: &CallRecord, name: &str) -> bool {
    call.phase == Phase::Return && call.call == name
}

impl Stage for Queue {
    fn names(&self) -> Names {
        let mut names = vec![("port", self.port.to_string())];
        if let Some(server) = &self.server {
            names.push(("server", server.pid().to_string()));
        }
        names
    }
}
