//! select and the descriptor 1024 (UNP 6.3; select(2), BUGS).
//!
//! A server with select and more clients than fit into its sets, then one with poll; then what the
//! C macros and the kernel do with a descriptor beyond the set. Asserted is which descriptor is the
//! first that is refused, and what stands in the memory behind a set.

use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::unistd::{pipe2, write};

use crate::labs::crowd::Crowd;
use crate::limit::no_room_for;
use crate::narrate::{Act, Chapter, Lab, Names, Need, Scene, Stage, Typed, Unseen, View, shell};
use crate::netns::Isolation;
use crate::observe::processes;
use crate::peer::Peer;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "select-limit",
    title: "select, and the client that does not fit",
    sections: "6.3, 6.8",
    chapter: Chapter::Concurrency,
    takes: 2,
    needs: &[Need::Descriptors],
    about: "A set of descriptors (fd_set) is an array of bits, one for each descriptor. How many \
        bits has it? And what happens to the client whose descriptor has no bit?",
    acts: || {
        vec![
            Box::new(refused(SELECT)) as Box<dyn Scene>,
            Box::new(no_limit(POLL)),
            Box::new(beyond(1024)),
        ]
    },
};

/// The server with sets.
pub const SELECT: &str = "tcpechod --model select --bind 127.0.0.1 {port}";
/// The server with an array.
pub const POLL: &str = "tcpechod --model poll --bind 127.0.0.1 {port}";

/// More clients than bits.
const CLIENTS: usize = 1030;
const FIRST: &str = "the first that is not served would be descriptor";

/// With select.
pub fn refused(server: &'static str) -> Act<Full> {
    crowded("a server with select", server)
        .predict(
            "1030 clients come. Nobody has limited the descriptors (ulimit -n is far more). How \
             many are served?",
            &[
                ("none", "all of them"),
                ("1024", "those with a descriptor below 1024"),
            ],
        )
        .act(
            "They come, one after the other; they are made of bare sockets.",
            Typed::Nothing,
            Full::come,
        )
        .answer(FIRST, "1024", Full::first_refused)
        .expect("the highest descriptor that it has", 1023, Full::highest)
        .observe(
            "The last of its descriptors:",
            "ls /proc/{server}/fd | sort -n | tail -3",
            Full::last_descriptors,
        )
        .show("Served, and what the server says:", |f| {
            let number = f.served.len();
            let said = f.word()?.replace(", ", ",\n");
            Ok(View::Printed(format!("{number} clients\n{said}")))
        })
        .act("One of them leaves.", Typed::Nothing, Full::leave)
        .expect("the next is", "served", Full::next)
        .explain(
            "FD_SETSIZE is 1024, fixed when the C library was made. Not the number of clients \
             counts, but the number of the descriptor. This server looks at it, closes the client \
             whom it cannot watch, and says so; the others are not disturbed.",
        )
}

/// With poll.
pub fn no_limit(server: &'static str) -> Act<Full> {
    crowded("a server with poll", server)
        .act("The same 1030 clients.", Typed::Nothing, Full::come)
        .expect(FIRST, "none", Full::first_refused)
        .explain("poll gets an array with an entry for each descriptor, as long as it needs to be.")
}

/// What C would have done with this descriptor.
pub fn beyond(fd: usize) -> Act<Frame> {
    Act::open("what C would have done", move |_| Frame::new(fd))
        .listing(
            "FD_SET as the C library has it, and our variables:",
            "#define FD_SET(fd, set) (set)->bits[(fd) / 64] |= 1UL << ((fd) % 64)\n\
             fd_set set;              /* 16 words */\n\
             long balance = 1000;     /* the next word in memory */",
        )
        .expect("bits in a set", 1024, |_| {
            Ok(8 * std::mem::size_of::<libc::fd_set>())
        })
        .predict(
            "Descriptor 1024 is a pipe. FD_SET(1024, &set): the set has bits 0 to 1023. What \
             happens?",
            &[
                ("1000", "nothing: the macro looks at the number"),
                ("1001", "another variable changes"),
            ],
        )
        .act("FD_SET.", Typed::Nothing, |f| {
            f.set();
            Ok(())
        })
        .answer("the variable behind the set", "1001", |f| {
            Ok(f.balance().to_string())
        })
        .explain(
            "Bit 1024 is the first bit behind the set. The macro does not look, and nothing tells \
             that anything went wrong. (With -D_FORTIFY_SOURCE the program is aborted instead.)",
        )
        .predict(
            "A byte is in the pipe. Now select(1025, &set, ...). What is in the variable then?",
            &[
                ("1001", "1001: the kernel does not touch it"),
                ("1", "1: the kernel writes its answer there"),
            ],
        )
        .act("select.", Typed::Nothing, Frame::select)
        .expect("select returned", 1, |f| Ok(f.ready as usize))
        .answer("the variable behind the set", "1", |f| {
            Ok(f.balance().to_string())
        })
        .explain(
            "The kernel has no such limit: it believes the 1025, reads so many bits, and writes as \
             many back, over whatever is there. A server whose 1025th client makes a sum vanish: \
             good luck finding that.\n\n\
             The book (6.3): FD_SETSIZE is often 1024; to change it in a program is not enough, \
             where the kernel has a limit of its own. This kernel: no limit in the kernel, one in \
             the C library; select(2) calls it a bug, and says: use poll.\n\n\
             Verdict: who uses select must look at the number of each descriptor.",
        )
        .try_it(
            "1$ ulimit -n 4096; tcpechod --model select\n\
             2$ ulimit -n 4096; tcpecho --connections 1030 localhost\n\
             1> ^C\n\
             1$ tcpechod --model poll\n\
             2$ tcpecho --connections 1030 localhost      (and nobody is closed)",
        )
        .read("Read: UNP 6.3, 6.8; select(2), the sections NOTES and BUGS; FD_SET(3).")
}

fn crowded(title: &'static str, server: &'static str) -> Act<Full> {
    Act::open(title, Full::open).act("In terminal 1, the server.", shell(server), move |f| {
        f.crowd.start_server(server)
    })
}

/// A server and more clients than it may be able to serve.
pub struct Full {
    crowd: Crowd,
    served: Vec<Peer>,
    /// Has anybody come who was not?
    turned_away: bool,
}

impl Full {
    fn open(place: &Isolation) -> Result<Self> {
        if let Some(why) = no_room_for(CLIENTS)? {
            return Err(Unseen(why).into());
        }
        Ok(Self {
            crowd: Crowd::open_unrecorded(place)?,
            served: Vec::new(),
            turned_away: false,
        })
    }

    /// They come until one is not served.
    fn come(&mut self) -> Result<()> {
        for _ in 0..CLIENTS {
            let Some(peer) = self.visit()? else {
                self.turned_away = true;
                break;
            };
            self.served.push(peer);
        }
        Ok(())
    }

    /// Another client, if it is served.
    fn visit(&self) -> Result<Option<Peer>> {
        let mut peer = Peer::connect(self.crowd.server()?.address())?;
        Ok(peer.echo(b"hello\n").is_ok().then_some(peer))
    }

    fn leave(&mut self) -> Result<()> {
        self.served.pop().context("nobody is there")?;
        Ok(())
    }

    fn next(&self) -> Result<&'static str> {
        Ok(match self.visit()? {
            Some(_) => "served",
            None => "refused",
        })
    }

    fn word(&self) -> Result<String> {
        let lines = self.crowd.logged("its descriptor would be")?;
        let line = lines.first().map_or("", String::as_str);
        let word = line.split_once("its descriptor").map(|(_, rest)| rest);
        Ok(word.map_or(String::new(), |rest| format!("its descriptor{rest}")))
    }

    /// The descriptor that the first of those would have had whom the server refused.
    fn first_refused(&self) -> Result<String> {
        let word = self.word()?;
        // It closes first, and speaks then.
        if self.turned_away && word.is_empty() {
            bail!("somebody was turned away, and the server has not said why");
        }
        let number = word.split_whitespace().nth(4);
        let number = number.map(|word| word.trim_end_matches(','));
        Ok(number.unwrap_or("none").into())
    }

    fn highest(&self) -> Result<usize> {
        let highest = self.descriptors()?.last().copied();
        Ok(highest.context("none")? as usize)
    }

    fn last_descriptors(&self) -> Result<String> {
        let descriptors = self.descriptors()?;
        let last = &descriptors[descriptors.len().saturating_sub(3)..];
        let last: Vec<_> = last.iter().map(ToString::to_string).collect();
        Ok(last.join("\n"))
    }

    fn descriptors(&self) -> Result<Vec<i32>> {
        let descriptors = processes::descriptors(self.crowd.server()?.pid())?;
        let mut numbers: Vec<_> = descriptors.into_iter().map(|(fd, _)| fd).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

impl Stage for Full {
    fn names(&self) -> Names {
        self.crowd.names()
    }
}

/// A set of descriptors with a variable behind it, as the stack of a C program may have them.
pub struct Frame {
    /// 16 words of set, one of the variable.
    words: [libc::c_ulong; 17],
    fd: usize,
    ready: i32,
    /// Descriptor 1024, and the pipe whose end it is.
    _far: OwnedFd,
    _pipe: (OwnedFd, OwnedFd),
}

impl Frame {
    fn new(fd: usize) -> Result<Self> {
        if let Some(why) = no_room_for(CLIENTS)? {
            return Err(Unseen(why).into());
        }
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        write(&writer, b"!")?;
        let far = fcntl(&reader, FcntlArg::F_DUPFD_CLOEXEC(fd as i32))?;
        #[expect(unsafe_code)]
        // SAFETY: it has just been made, and nobody else has it.
        let far = unsafe { OwnedFd::from_raw_fd(far) };
        if far.as_raw_fd() as usize != fd {
            return Err(Unseen(format!("descriptor {fd} of this process is in use")).into());
        }
        let mut words = [0; 17];
        words[16] = 1000;
        Ok(Self {
            words,
            fd,
            ready: 0,
            _far: far,
            _pipe: (reader, writer),
        })
    }

    /// What FD_SET does.
    fn set(&mut self) {
        self.words[self.fd / 64] |= 1 << (self.fd % 64);
    }

    /// select, as if the 17 words were a set.
    fn select(&mut self) -> Result<()> {
        let mut now = libc::timeval {
            tv_sec: 0,
            tv_usec: 0,
        };
        let none = std::ptr::null_mut;
        let set = self.words.as_mut_ptr().cast();
        #[expect(unsafe_code)]
        // SAFETY: the kernel reads and writes 1025 bits, which 17 words have.
        let ready = unsafe { libc::select(1025, set, none(), none(), &raw mut now) };
        self.ready = Errno::result(ready)?;
        Ok(())
    }

    fn balance(&self) -> libc::c_ulong {
        self.words[16]
    }
}

impl Stage for Frame {
    fn names(&self) -> Names {
        Names::new()
    }
}
