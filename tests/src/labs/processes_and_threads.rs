//! The variable test: what a child has in common with its parent, and a thread with the others
//! (UNP 4.7, 26.1).
//!
//! Somebody changes a variable, opens a file, goes to another directory, reads on, ends: once a child
//! made by fork, once a thread. Then what goes wrong where memory is shared, and what it means for
//! the clients of a server. Memory, descriptors and positions are read from /proc.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, sysconf};

use crate::actors::adding::TIMES;
use crate::client::ClientProcess;
use crate::labs::cast::{Cast, begin, is_ready};
use crate::labs::crowd::{Crowd, fate};
use crate::labs::pair::PROMPTLY;
use crate::narrate::{Act, Chapter, Lab, Names, Scene, Stage, Typed, Unseen, View, keys, shell};
use crate::observe::processes;
use crate::wait::eventually;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "processes-and-threads",
    title: "fork or thread: who sees the change?",
    sections: "4.7, 26.1",
    chapter: Chapter::Concurrency,
    takes: 2,
    needs: &[],
    about: "A program has a variable, test = 1, and somebody who works beside it: a child, made by \
        fork, or a thread. The other one says test = 2. What is test now? And whose are the open \
        files, the directory, the end? A server that has one or the other for each client must \
        know.",
    acts: || {
        vec![
            Box::new(child(FORK)) as Box<dyn Scene>,
            Box::new(thread(THREAD)),
            Box::new(together([ADD, LOCK])),
            Box::new(dies_alone(PROCESSES)),
            Box::new(dies_with_all(THREADS)),
        ]
    },
};

/// Has a child.
pub const FORK: &str = "tcpecho-lab actor sharing fork";
/// Has a second thread.
pub const THREAD: &str = "tcpecho-lab actor sharing thread";
/// Adds without a lock.
pub const ADD: &str = "tcpecho-lab actor adding";
/// Adds with one.
pub const LOCK: &str = "tcpecho-lab actor adding lock";
/// A process per client.
pub const PROCESSES: &str = "tcpechod --model fork --bind 127.0.0.1 {port}";
/// A thread per client.
pub const THREADS: &str = "tcpechod --model thread --bind 127.0.0.1 {port}";
const CLIENT: &str = "tcpecho 127.0.0.1 {port}";

const PS: &str = "ps -L -o pid,lwp,ppid,stat,args -p {first} --ppid {first}";
const MEMORY: &str = "for p in {first} {second}; do dd if=/proc/$p/mem bs=1 count=1 \\\n        \
    skip={address} status=none 2>&- | od -An -tu1; done";
const POSITION: &str = "grep -H pos /proc/{first}/fdinfo/{notes} /proc/{second}/fdinfo/{notes}";

const OPENED: &str = "who has /dev/zero among the open files";
const MOVED: &str = "whose directory is /dev";

/// A child by fork.
pub fn child(actor: &'static str) -> Act<Two> {
    const TEST: &str = "test in the parent / in the child";
    const PAGE: &str = "the page of memory with test in it";
    const AT: &str = "the parent's place in the file / the child's";
    Act::open("a child, by fork", |_| Ok(Two::default()))
        .program(
            "A program says test = 1, opens a file, and forks. The child will do what is typed, \
             the parent does nothing.",
            actor,
        )
        .observe("PID is the process, LWP the thread:", PS, Two::ps)
        .expect("there are", "2 processes, 2 threads", Two::census)
        .expect(TEST, "1 / 1", Two::test)
        .expect(PAGE, "one for both", Two::page)
        .predict(
            "The child says test = 2. What is test then?",
            &[
                ("2 / 2", "2 in both"),
                ("1 / 2", "1 in the parent, 2 in the child"),
            ],
        )
        .typed("The child changes it.", "test = 2")
        .answer(TEST, "1 / 2", Two::test)
        .expect(PAGE, "one for each", Two::page)
        .observe(
            "The memory of the two, at the same address:",
            MEMORY,
            Two::memory,
        )
        .explain(
            "An address is a number of the process, not a place in the machine. fork gives the \
             child a copy of all memory, but copies nothing: both have the same pages until one \
             of them writes. Then the kernel makes the copy, of this one page (copy on write).",
        )
        .typed("The child opens another file.", "open /dev/zero")
        .expect(OPENED, "the child", |t| t.who(has_opened))
        .typed("It goes to another directory.", "cd /dev")
        .expect(MOVED, "the child", |t| t.who(is_there))
        .predict(
            "Both have had the first file open since before the fork. The child reads 4 bytes of \
             it. Where will the parent read on?",
            &[
                ("0 / 4", "at the beginning: it has not read"),
                ("4 / 4", "behind these 4 bytes"),
            ],
        )
        .typed("The child reads.", "read 4")
        .answer(AT, "4 / 4", Two::position)
        .observe("What the kernel says of the file:", POSITION, |t| {
            t.positions()
        })
        .explain(
            "The descriptors were copied, the open file was not: it has one place where it is \
             read and written, and both have a descriptor for it (UNP 4.8). With a socket it is \
             the same: what the child reads, the parent never sees.",
        )
        .predict(
            "The child calls exit. What becomes of the parent?",
            &[("asleep", "nothing"), ("exit status 0", "it ends as well")],
        )
        .typed("The child ends.", "exit")
        .expect("the child", "a zombie", Two::fate_of_second)
        .answer("the parent", "asleep", Two::fate_of_first)
        .explain(
            "A child has its own memory, descriptors, directory, and its own end. To tell its \
             parent anything it needs a pipe, a socket, a signal, its exit status.",
        )
}

/// A thread.
pub fn thread(actor: &'static str) -> Act<Two> {
    const TEST: &str = "test in the main thread / in the other";
    const AT: &str = "the main thread's place in the file / the other's";
    Act::open("a thread", |_| Ok(Two::default()))
        .program("The same program with a thread instead of a child.", actor)
        .observe("PID is the process, LWP the thread:", PS, Two::ps)
        .expect("there are", "1 process, 2 threads", Two::census)
        .expect(TEST, "1 / 1", Two::test)
        .predict(
            "The other thread says test = 2. What is test then?",
            &[
                ("2 / 2", "2 in both"),
                ("1 / 2", "1 in the main thread, 2 in the other"),
            ],
        )
        .typed("It changes it.", "test = 2")
        .answer(TEST, "2 / 2", Two::test)
        .typed("It opens another file.", "open /dev/zero")
        .expect(OPENED, "both", |t| t.who(has_opened))
        .typed("It goes to another directory.", "cd /dev")
        .expect(MOVED, "both", |t| t.who(is_there))
        .typed("It reads.", "read 4")
        .expect(AT, "4 / 4", Two::position)
        .explain(
            "There is one memory, one table of descriptors, one directory. A thread has its own \
             number, stack, registers, errno and blocked signals (UNP 26.1), and little more.",
        )
        .predict(
            "The other thread calls exit, not pthread_exit. What becomes of the main thread?",
            &[("asleep", "nothing"), ("exit status 0", "it ends as well")],
        )
        .typed("The other thread ends.", "exit")
        .answer("the program", "exit status 0", Two::fate_of_first)
        .explain("exit ends the process, and a process is all of its threads.")
}

/// Two threads that change the same variable.
pub fn together(actors: [&'static str; 2]) -> Act<Cast> {
    let [bare, locked] = actors;
    Act::open("two threads, one variable", Cast::open)
        .listing(
            "Each of two threads does this 100 times:",
            "old = test;\nusleep(1000);     /* or whatever there is to do */\ntest = old + 1;",
        )
        .predict(
            "test was 0. What is it when both have finished?",
            &[
                ("200", "200"),
                ("less than 200", "less"),
                ("more than 200", "more"),
            ],
        )
        .actor("Let them.", bare)
        .answer("test", "less than 200", |c| sum(c, 0))
        .show("It says:", |c| said(c, 0))
        .explain(
            "Both read 7, both store 8: one addition is lost. Without the pause reading and storing \
             are so close together that it may go well a thousand times, and it is as wrong.",
        )
        .actor(
            "Now each takes a lock before it reads, and gives it back when it has stored \
             (pthread_mutex_lock, pthread_mutex_unlock).",
            locked,
        )
        .expect("test", "200", |c| sum(c, 1))
        .explain(
            "So what is shared must be locked, by everybody, each time. Processes have no such \
             worry: they share nothing by accident.",
        )
}

/// One of a server's processes is killed.
pub fn dies_alone(server: &'static str) -> Act<Crowd> {
    two_clients("a server whose child dies", server)
        .predict(DEATH, FATES)
        .act(
            "The child of the first client is killed, as by a fault in its code.",
            shell("kill -KILL {child}"),
            |c| c.signal_child(0, Signal::SIGKILL),
        )
        .answer("the two clients", "exit status 3, asleep", fates)
        .line("The second types.", 1, "still there?")
        .expect("what has come back to it", "hello still there?", |c| {
            c.echoed(1)
        })
        .explain("The other child has noticed nothing.")
}

/// One of a server's threads is killed.
pub fn dies_with_all(server: &'static str) -> Act<Crowd> {
    two_clients("a server whose thread dies", server)
        .expect("threads of the server", 3, |c| {
            let server = processes::look(c.server()?.pid()).context("it is gone")?;
            Ok(server.threads as usize)
        })
        .predict(DEATH, FATES)
        .act(
            "A fault in the thread of the first client: the kernel sends its signal to this one \
             thread. So do we, with tgkill (the command kill can name processes only).",
            Typed::Nothing,
            |c| c.signal_thread(0, Signal::SIGKILL),
        )
        .answer("the two clients", "exit status 3, exit status 3", fates)
        .explain(
            "The book (4.7, 26.1): fork copies descriptors and memory; threads share the global \
             memory, and so need synchronisation. This kernel: the same, page by page.\n\n\
             Verdict: a process per client costs more and keeps apart; a thread per client costs \
             less, and one error is everybody's. Measure the cost: tcpecho-lab compare --models \
             fork,thread.",
        )
        .try_it(
            "1$ tcpecho-lab actor sharing fork\n\
             1> test = 2\n\
             1> open /dev/zero\n\
             2$ ps -L -o pid,lwp,ppid,args -C tcpecho-lab\n\
             2$ ls -l /proc/$(pgrep -o -f sharing)/fd     (the parent)\n\
             2$ ls -l /proc/$(pgrep -n -f sharing)/fd     (the child)\n\
             1> exit                                      (nothing: who has ended?)\n\
             1> ^C\n\
             1$ tcpecho-lab actor sharing thread\n\
             1> open /dev/zero\n\
             2$ ls /proc/$(pgrep -f sharing)/task\n\
             1> ^C\n\
             1$ tcpecho-lab actor adding\n\
             1> ^C\n\
             1$ tcpecho-lab actor adding lock",
        )
        .read(
            "Read: UNP 4.7, 4.8, 26.1, 26.7; fork(2), the list of what a child does not inherit; \
             pthreads(7), the list of what threads share; proc_pid_mem(5), proc_pid_fdinfo(5).",
        )
}

const DEATH: &str = "Whoever serves the first client dies. What of the two clients?";
const FATES: &[(&str, &str)] = &[
    ("exit status 3, asleep", "the first loses its server"),
    ("exit status 3, exit status 3", "both lose it"),
];

fn two_clients(title: &'static str, server: &'static str) -> Act<Crowd> {
    Act::open(title, Crowd::open)
        .server("In terminal 1, the server.", server)
        .client("A client.", CLIENT)
        .client("Another client.", CLIENT)
        .line("It types.", 1, "hello")
        .expect("what has come back to it", "hello", |c| c.echoed(1))
}

fn fates(crowd: &Crowd) -> Result<String> {
    crowd.moment()?;
    let (first, second) = (crowd.fate_of_client(0)?, crowd.fate_of_client(1)?);
    Ok(format!("{first}, {second}"))
}

/// What the `nth` actor has come to.
fn sum(cast: &Cast, nth: usize) -> Result<String> {
    let said = cast.actor(nth)?.stdout();
    let said = String::from_utf8_lossy(&said).into_owned();
    let sum: usize = number(&said, "test = ")?;
    let all = 2 * TIMES;
    Ok(match sum {
        _ if sum < all => format!("less than {all}"),
        _ if sum > all => format!("more than {all}"),
        _ => all.to_string(),
    })
}

fn said(cast: &Cast, nth: usize) -> Result<View> {
    let said = cast.actor(nth)?.stdout();
    let said = String::from_utf8_lossy(&said).replace("ready: ", "");
    Ok(View::Printed(said))
}

/// The number behind this word.
fn number<T: std::str::FromStr>(text: &str, word: &str) -> Result<T> {
    let (_, behind) = text
        .split_once(word)
        .with_context(|| format!("no {word}"))?;
    let end = behind.find(|c: char| !c.is_ascii_digit());
    let digits = &behind[..end.unwrap_or(behind.len())];
    let number = digits.parse().ok();
    number.with_context(|| format!("no number behind {word}"))
}

/// The actor `sharing`: one that waits, and a second one.
#[derive(Default)]
pub struct Two {
    actor: Option<ClientProcess>,
    /// The child, or the other thread: in /proc each has its number.
    second: i32,
    /// Where both have the variable.
    address: u64,
    /// The descriptor that both have of the file.
    notes: i32,
}

impl Two {
    fn start(&mut self, command: &str) -> Result<()> {
        let actor = begin(command)?;
        let ready = eventually("two that wait", PROMPTLY, || {
            is_ready(&actor).then(|| actor.stdout())
        });
        let ready = ready.with_context(|| actor.transcript())?;
        let ready = String::from_utf8_lossy(&ready);
        self.second = number(&ready, "second ")?;
        self.address = number(&ready, "test at ")?;
        self.notes = number(&ready, "notes ")?;
        self.actor = Some(actor);
        Ok(())
    }

    /// Has the second do this, and waits until it has.
    fn tell(&mut self, line: &str) -> Result<()> {
        let actor = self.actor()?;
        actor.type_line(line)?;
        let done = format!("done: {line}\n");
        eventually(&done, PROMPTLY, || {
            // Who is told to end says nothing any more.
            let said = actor.stdout();
            let said = String::from_utf8_lossy(&said).contains(&done);
            (said || line == "exit").then_some(())
        })
        .with_context(|| actor.transcript())
    }

    fn actor(&self) -> Result<&ClientProcess> {
        self.actor.as_ref().context("it has not been started")
    }

    fn both(&self) -> Result<[i32; 2]> {
        Ok([self.actor()?.pid(), self.second])
    }

    /// How many processes and threads there are.
    fn census(&self) -> Result<String> {
        let tree = processes::tree(self.actor()?.pid());
        let threads: u64 = tree.iter().map(|process| process.threads).sum();
        let plural = if tree.len() == 1 { "" } else { "es" };
        Ok(format!("{} process{plural}, {threads} threads", tree.len()))
    }

    /// The variable in the memory of the one and of the other: `1 / 2`.
    fn test(&self) -> Result<String> {
        let [first, second] = self.both()?.map(|pid| self.test_of(pid));
        Ok(format!("{} / {}", first?, second?))
    }

    fn test_of(&self, pid: i32) -> Result<u64> {
        let mut bytes = [0; 8];
        let memory = opened(&format!("/proc/{pid}/mem"))?;
        memory.read_exact_at(&mut bytes, self.address)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// What od would print of it.
    fn memory(&self) -> Result<String> {
        let [first, second] = self.both()?.map(|pid| self.test_of(pid));
        Ok(format!("{:4}\n{:4}\n", first?, second?))
    }

    /// Have they one page of memory for the variable, or has each its own?
    fn page(&self) -> Result<&'static str> {
        let [first, second] = self.both()?.map(|pid| self.is_exclusive(pid));
        match (first?, second?) {
            (false, false) => Ok("one for both"),
            (true, true) => Ok("one for each"),
            _ => bail!("it is being copied"),
        }
    }

    /// Is the page with the variable mapped by nobody else? `proc_pid_pagemap(5)`.
    fn is_exclusive(&self, pid: i32) -> Result<bool> {
        const PRESENT: u64 = 1 << 63;
        const EXCLUSIVE: u64 = 1 << 56;
        let size = sysconf(SysconfVar::PAGE_SIZE)?.context("pages have no size")?;
        let mut bytes = [0; 8];
        let pagemap = opened(&format!("/proc/{pid}/pagemap"))?;
        pagemap.read_exact_at(&mut bytes, self.address / size as u64 * 8)?;
        let entry = u64::from_ne_bytes(bytes);
        anyhow::ensure!(entry & PRESENT != 0, "the page is not in memory");
        Ok(entry & EXCLUSIVE != 0)
    }

    /// Of which of the two is this true?
    fn who(&self, is_so: fn(i32) -> Result<bool>) -> Result<&'static str> {
        let [first, second] = self.both()?;
        let is_child = processes::look(second).is_some_and(|process| process.ppid == first);
        Ok(match (is_so(first)?, is_so(second)?) {
            (true, true) => "both",
            (true, false) => "the first",
            (false, true) if is_child => "the child",
            (false, true) => "the other thread",
            (false, false) => "nobody",
        })
    }

    /// Where the one and the other will read on in the file: `0 / 4`.
    fn position(&self) -> Result<String> {
        let [first, second] = self.both()?.map(|pid| self.position_of(pid));
        Ok(format!("{} / {}", first?, second?))
    }

    fn position_of(&self, pid: i32) -> Result<u64> {
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", self.notes))?;
        number(&info, "pos:\t")
    }

    /// What grep would print of that.
    fn positions(&self) -> Result<String> {
        let mut text = String::new();
        for pid in self.both()? {
            let (at, notes) = (self.position_of(pid)?, self.notes);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "/proc/{pid}/fdinfo/{notes}:pos:\t{at}");
        }
        Ok(text)
    }

    fn fate_of_first(&self) -> Result<String> {
        let actor = self.actor()?;
        fate(actor.pid(), actor.status())
    }

    fn fate_of_second(&self) -> Result<String> {
        fate(self.second, None)
    }

    /// What `ps -L` would print.
    fn ps(&self) -> Result<String> {
        let mut table = String::from("    PID     LWP    PPID STAT COMMAND\n");
        for process in processes::tree(self.actor()?.pid()) {
            let (pid, parent, args) = (process.pid, process.ppid, process.args);
            let threads = processes::threads(pid).context("it is gone")?;
            for thread in threads {
                let state = processes::look(thread).context("a thread is gone")?.state;
                // Writing to a String cannot fail.
                let _ = writeln!(table, "{pid:>7} {thread:>7} {parent:>7} {state:<4} {args}");
            }
        }
        Ok(table)
    }
}

fn has_opened(pid: i32) -> Result<bool> {
    let descriptors = processes::descriptors(pid)?;
    Ok(descriptors.iter().any(|(_, target)| target == "/dev/zero"))
}

fn is_there(pid: i32) -> Result<bool> {
    Ok(fs::read_link(format!("/proc/{pid}/cwd"))?.as_os_str() == "/dev")
}

/// A file of another process's, which the kernel may keep to itself.
fn opened(path: &str) -> Result<File> {
    File::open(path).map_err(|error: io::Error| match error.kind() {
        ErrorKind::PermissionDenied => {
            Unseen(format!("{path} may not be looked at here ({error})")).into()
        }
        _ => anyhow::Error::new(error).context(format!("open {path}")),
    })
}

impl Act<Two> {
    /// The two are started by this command.
    fn program(self, what: &'static str, command: &'static str) -> Self {
        self.act(what, shell(command), move |t| t.start(command))
    }

    /// The second is told to do this.
    fn typed(self, what: &'static str, line: &'static str) -> Self {
        self.act(what, keys(line), move |t| t.tell(line))
    }
}

impl Stage for Two {
    fn names(&self) -> Names {
        let first = self.actor.iter().map(|a| ("first", a.pid().to_string()));
        let others = [
            ("second", self.second.to_string()),
            ("address", self.address.to_string()),
            ("notes", self.notes.to_string()),
        ];
        first.chain(others).collect()
    }
}
