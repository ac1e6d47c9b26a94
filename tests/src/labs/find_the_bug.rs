//! Find the bug: short listings, such as courses have, and what is seen when they run.
//!
//! Each act shows a listing, asks, and runs a program that makes the listing's mistake: tcpechod by
//! `--mistake`, a small actor, or bare sockets of our own. Asserted is what the kernel shows of it. The
//! mistakes that fill a lab (wait3, the parent that does not close, the shared buffer of readline and
//! others) are labs of their own; the last act names them.

mod listings;
mod stages;

use nix::sys::signal::Signal;

use crate::labs::cast::Cast;
use crate::labs::crowd::{Crowd, SS, in_words, outcomes};
use crate::narrate::{Act, Chapter, Lab, Scene, Stage, Typed, keys, shell};
use crate::netns::Isolation;
use crate::observe::calls::CallRecord;
use crate::observe::sockets;
use stages::{Bare, Late, Pipeline, Stacked, Typist};

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "find-the-bug",
    title: "Find the bug: what will be seen of it?",
    sections: "4.4-4.6, 5.3, 5.8, 5.9",
    chapter: Chapter::InputOutput,
    takes: 5,
    needs: &[],
    about: "Eight short listings, such as courses on sockets have them. In each something is \
        wrong, in most it is one line. Most of it does not show in a first test. Read; say what \
        will be seen; then see it.",
    acts: || {
        vec![
            Box::new(close_in_loop(CLOSES)) as Box<dyn Scene>,
            Box::new(one_client(ONCE)),
            Box::new(no_restart(NO_FLAG)),
            Box::new(words(WORDS)),
            Box::new(printf(PRINTS)),
            Box::new(nameless(false)),
            Box::new(same_pointer(true)),
            Box::new(locals(SMALL)),
        ]
    },
};

/// Closes after the first echo.
pub const CLOSES: &str =
    "tcpechod --model iterative --mistake close-in-loop --bind 127.0.0.1 {port}";
/// Ends after the first client.
pub const ONCE: &str = "tcpechod --model iterative --mistake one-client --bind 127.0.0.1 {port}";
/// Neither.
pub const ITERATIVE: &str = "tcpechod --model iterative --bind 127.0.0.1 {port}";
/// Waits in accept; its handler was installed without flags.
pub const NO_FLAG: &str = "tcpecho-lab actor blocked accept";
/// The same with `SA_RESTART`.
pub const RESTART: &str = "tcpecho-lab actor blocked accept --restart";
/// Reads with scanf.
pub const WORDS: &str = "tcpecho-lab actor faulty words 127.0.0.1:{port}";
/// Reads lines.
pub const LINES: &str = "tcpecho-lab actor faulty lines 127.0.0.1:{port}";
/// Prints in its handler.
pub const PRINTS: &str = "tcpecho-lab actor faulty handler";
/// Writes in its handler.
pub const WRITES: &str = "tcpecho-lab actor faulty handler-write";
/// A stack that is too small, in KiB.
pub const SMALL: u32 = 1024;
/// One that is not: what a shell usually gives.
pub const USUAL: u32 = 8192;

const CLIENT: &str = "tcpecho 127.0.0.1 {port}";

/// What every act begins with.
fn listed<S: Stage>(
    title: &'static str,
    open: impl Fn(&Isolation) -> anyhow::Result<S> + 'static,
    listing: &'static str,
) -> Act<S> {
    Act::open(title, open).listing("Read it. What is wrong?", listing)
}

/// Closes too early: a line in the wrong block.
pub fn close_in_loop(server: &'static str) -> Act<Crowd> {
    let act = listed(
        "a server that echoes lines",
        Crowd::open,
        listings::CLOSE_IN_LOOP,
    );
    act.predict(
        "A client connects, and its user types a line. What becomes of the client?",
        &[
            ("asleep", "it gets its echo, and waits for the next line"),
            ("exit status 3", "it gets its echo, and then a FIN"),
            ("exit status 4", "it gets no echo, but an RST"),
        ],
    )
    .server("tcpechod makes this mistake on request.", server)
    .client("In terminal 2, a client.", CLIENT)
    .line("A line.", 0, "hello")
    .answer("the client", "exit status 3", |c| c.fate_of_client(0))
    .expect("what came back", "hello", |c| c.echoed(0))
    .expect(
        "what the server did",
        "read = 6, write = 6, close = 0, read = -1 EBADF",
        up_to_the_error,
    )
    .show("The line on one time line:", |c| c.ladder(0, "connection"))
    .client("Another client.", CLIENT)
    .line("It types.", 1, "me too")
    .expect("what came back to it", "me too", |c| c.echoed(1))
    .expect("and then", "exit status 3", |c| c.fate_of_client(1))
    .explain(
        "Line 5 belongs behind line 6. The first echo is right, then the loop reads from a \
             descriptor that is no more: EBADF. So a test with one line passes. In a server with \
             threads it would be worse: between lines 5 and 3 another thread may be given the same \
             number for another client.",
    )
}

/// What the server has done with the connection since the line was typed, up to the first error.
fn up_to_the_error(crowd: &Crowd) -> anyhow::Result<String> {
    let mut calls: Vec<CallRecord> = outcomes(crowd.calls_of_parent()?);
    calls.retain(|call| matches!(&*call.call, "read" | "write" | "close"));
    let end = calls.iter().position(|call| call.errno.is_some());
    calls.truncate(end.map_or(calls.len(), |end| end + 1));
    Ok(in_words(&calls))
}

/// Ends too early: after the first client.
pub fn one_client(server: &'static str) -> Act<Late> {
    let act = listed(
        "a server that serves clients",
        Late::open,
        listings::ONE_CLIENT,
    );
    act.predict(
        "A client comes, is served, and leaves. Then a second one comes. What becomes of it?",
        &[
            ("asleep", "it is connected, and waits for its user"),
            ("exit status 1", "it is refused: ECONNREFUSED"),
            ("exit status 3", "it is connected, and gets a FIN"),
        ],
    )
    .act(
        "tcpechod makes this one as well.",
        shell(server),
        move |l| l.crowd.start_server(server),
    )
    .act("In terminal 2, a client.", shell(CLIENT), |l| {
        l.crowd.start_client(CLIENT)
    })
    .act("Its user types a line,", keys("hello"), |l| {
        l.crowd.type_line(0, "hello")
    })
    .expect("what came back", "hello", |l| l.crowd.echoed(0))
    .act("and leaves.", keys("^D"), |l| l.crowd.end_input(0))
    .expect("the client", "exit status 0", |l| l.crowd.fate_of_client(0))
    .act("The second.", shell(CLIENT), Late::come)
    .answer("the second client", "exit status 1", Late::second)
    .expect("the server", "exit status 0", |l| l.crowd.fate_of_server())
    .expect("who listens", "nobody", Late::listener)
    .observe("What is left:", SS, |l| l.crowd.ss())
    .explain(
        "Lines 6 and 7 belong behind line 8, where they never run. The loop is none: it says \
         for (;;), and goes round once. An exit status of 0 says that all is well.",
    )
}

/// The flag that never gets there.
pub fn no_restart(actor: &'static str) -> Act<Cast> {
    let act = listed(
        "a handler for every signal",
        Cast::open,
        listings::NO_RESTART,
    );
    act.predict(
        "This system's headers define SA_INTERRUPT. A program installs its handler for SIGUSR1 \
         with this function, and waits in accept. The signal comes, the handler returns. And \
         accept?",
        &[
            ("asleep", "it is restarted, and waits on"),
            ("EINTR", "it returns -1, EINTR"),
        ],
    )
    .actor(
        "What the compiler makes of lines 4 to 10 sets no flag for SIGUSR1. Nor does this program.",
        actor,
    )
    .kill("The signal.", 0, "kill -USR1 {actor}", Signal::SIGUSR1)
    .answer("accept", "EINTR", |c| stages::interrupted(c, 0))
    .actor("The same with SA_RESTART.", RESTART)
    .observe(
        "It waits in accept. (WCHAN: where in the kernel.)",
        "ps -o pid,stat,wchan:20,args -p {second}",
        |c| c.ps(1),
    )
    .kill("The signal.", 1, "kill -USR1 {second}", Signal::SIGUSR1)
    .expect("accept", "asleep", |c| stages::interrupted(c, 1))
    .explain(
        "The #else belongs to the #ifdef, not to the if. Where SA_INTERRUPT is defined (the GNU C \
         library does so, for old times' sake; it does nothing), no signal ever gets SA_RESTART. \
         Where it is not, only SIGALRM does: the one signal that was not to have it. The \
         book (figure 5.6) has an else between the two. What comes of EINTR: see eintr.",
    )
}

/// scanf, and a string without end.
pub fn words(client: &'static str) -> Act<Typist> {
    let act = listed(
        "a client that reads with scanf",
        Typist::open,
        listings::WORDS,
    );
    act.act(
        "In terminal 1, a server.",
        shell("tcpechod --bind 127.0.0.1 {port}"),
        |t| t.crowd.start_server("tcpechod --bind 127.0.0.1 {port}"),
    )
    .act("In terminal 2, the client.", shell(client), move |t| {
        t.start(client)
    })
    .predict(
        "The user types: hello be. What does the server read?",
        &[
            ("read = 8", "the line, 8 bytes"),
            ("read = 9", "the line with its newline, 9 bytes"),
            ("read = 5, read = 2", "5 bytes, and then 2"),
        ],
    )
    .predict(
        "And what does the client print?",
        &[
            ("hello be", "hello be"),
            ("hello, be", "hello, and then be"),
            ("hello, bello", "hello, and then bello"),
        ],
    )
    .act("A line.", keys("hello be"), |t| t.type_line("hello be"))
    .answer(
        "what the server read",
        "read = 5, read = 2",
        Typist::received,
    )
    .answer("what the client printed", "hello, bello", Typist::printed)
    .predict(
        "The user types ^D. Lines 4 and 5 are there for that. What does the client do?",
        &[
            ("it has ended", "it ends: the word is empty"),
            ("again and again", "it sends be, over and over"),
            ("asleep", "it waits"),
        ],
    )
    .act("The end of the input.", keys("^D"), Typist::end_input)
    .answer("what the client did", "again and again", |t| Ok(t.end()))
    .observe("(It had to be killed.) What is left:", SS, |t| t.crowd.ss())
    .explain(
        "Line 3: %s is a word, so spaces and newlines never get to the server. It returns EOF at \
         the end and leaves the variable as it is: nobody looks. (Nor is there a limit: a word of \
         1024 letters is written beyond the end.) Line 7: read brings bytes, and no 0 behind \
         them. be is written over the beginning of hello. For a line there is fgets; for its end, \
         what it returns.",
    )
}

/// printf in a handler, while the program is in printf.
pub fn printf(actor: &'static str) -> Act<Pipeline> {
    let open = |place: &Isolation| Ok(Pipeline::open(place));
    let act = listed("a handler that prints", open, listings::PRINTF);
    act.act(
        "The program prints into a pipe whose other end does not read for now.",
        Typed::Shell(actor),
        move |p| p.start(actor),
    )
    .expect("where it sleeps", "in main", Pipeline::sleeps_in)
    .explain("The pipe is full: printf has called write, and write waits. Now the signal comes.")
    .act("The signal.", shell("kill -USR1 {actor}"), |p| p.signal())
    .expect("where it sleeps", "in its handler", Pipeline::sleeps_in)
    .observe(
        "While a handler runs its signal is blocked (SIGUSR1 is 10: bit 9).",
        "grep SigBlk /proc/{actor}/status",
        Pipeline::blocked,
    )
    .predict(
        "The other end reads on, to the end. What of the 100000 lines has come?",
        &[
            ("each line once", "each line, once"),
            ("some lines twice", "each line, and some of them twice"),
            ("not all lines", "not all of them"),
            ("nothing", "nothing more: the program is stuck for ever"),
        ],
    )
    .act("Read to the end.", Typed::Nothing, Pipeline::read)
    .answer("what came", "some lines twice", |p| Ok(p.arrived()))
    .or_known(
        "not all lines",
        "another C library than glibc has another printf",
    )
    .show(
        "Bytes, and the place where the handler spoke:",
        Pipeline::place,
    )
    .explain(
        "printf was in the middle of handing its buffer to write. The handler's printf found the \
         buffer full, and wrote it as well; then it put its own words into it. When it returned, \
         the first write was started again, with that buffer. printf is one of the functions that \
         signal-safety(7) does not list: a handler may not call it. write it may; or it sets a \
         flag, and the loop in main prints.\n\n\
         The book (5.9) prints in its handlers, and says itself that this is not recommended. \
         Most of the time it goes well: the moment has to be the right one.",
    )
}

/// An address without a port, and a listener that does not listen.
pub fn nameless(listens: bool) -> Act<Bare> {
    let open = |_: &Isolation| Ok(Bare::default());
    let act = listed("a server that nobody finds", open, listings::NAMELESS);
    act.predict(
        "Two things have been forgotten. After line 5: which address has the socket?",
        &[
            ("0.0.0.0:0", "none: bind has failed"),
            ("0.0.0.0:PORT", "all of this host, and some port"),
        ],
    )
    .act("Lines 1 to 5.", Typed::Nothing, Bare::bind)
    .answer("getsockname", "0.0.0.0:PORT", Bare::own)
    .predict(
        "And line 6: what does accept do?",
        &[
            ("accept ...", "it waits for a client"),
            ("accept = -1 EINVAL", "it fails with EINVAL"),
            (
                "accept = -1 EAGAIN",
                "it fails with EAGAIN: nobody is there",
            ),
        ],
    )
    .act("Line 6.", Typed::Nothing, move |b| {
        if listens {
            b.listen()?;
        }
        b.accept()
    })
    .answer("accept", "accept = -1 EINVAL", |b| Ok(b.said()))
    .observe(
        "ss finds no listener on the port:",
        "ss -ltn 'sport = :{port}'",
        |_| Ok(sockets::ss_view(&[])),
    )
    .act("A client tries that port.", Typed::Nothing, Bare::connect)
    .expect("the client", "ECONNREFUSED", |b| Ok(b.said()))
    .act("listen(), and a client again.", Typed::Nothing, |b| {
        b.listen()?;
        b.connect()
    })
    .expect("the client", "connected", |b| Ok(b.said()))
    .act("accept.", Typed::Nothing, Bare::accept)
    .expect("accept", "a connection", |b| Ok(b.said()))
    .explain(
        "sin_port is 0, and 0 means: choose one. A server with a port of the kernel's choice is a \
         good thing, if it says which one (tcpechod 0 does). listen makes a listener of a socket: \
         before, it is one that might connect, and has no queue to accept from. Somebody who \
         writes bind(listenfd, LISTENQ) has melted two calls into one; the compiler minds.",
    )
}

/// One pointer for an address and its length, and names that are none.
pub fn same_pointer(mixed: bool) -> Act<Bare> {
    let open = |_: &Isolation| Ok(Bare::default());
    let act = listed("who has called?", open, listings::SAME_POINTER);
    act.act("A listener, and a client.", Typed::Nothing, |b| {
        b.bind()?;
        b.listen()?;
        b.connect()
    })
    .expect("the client", "connected", |b| Ok(b.said()))
    .predict(
        "The casts in line 3 keep the compiler quiet. What does line 6 print? (AF_INET is 2.)",
        &[
            (
                "family 2, the client's port",
                "family 2, and the client's port",
            ),
            ("family 2, port 0", "family 2, port 0"),
            ("family 16, port 0", "family 16, port 0"),
        ],
    )
    .act("Line 3.", Typed::Nothing, move |b| b.accept_into(mixed))
    .answer("what stands in addr", "family 16, port 0", |b| Ok(b.said()))
    .or_known(
        "family 0, port 16",
        "a machine that writes numbers the other way round",
    )
    .explain(
        "The third argument says how much room there is, and the kernel writes there how long the \
         address was. It found a 0: no room, so it wrote no address. Then it wrote the length, 16, \
         over the beginning of addr. len was never used.",
    )
    .observe(
        "And line 4? The names that the headers have:",
        "grep -hE 'ECONNABOR|ETIME' /usr/include/asm-generic/errno.h",
        |_| Ok(format!("{}\n", stages::known(NAMES))),
    )
    .expect(
        "of ECONNABORED, ECONNABORTED, ETIMEOUT, ETIMEDOUT there are",
        "ECONNABORTED, ETIMEDOUT",
        |_| Ok(stages::known(NAMES)),
    )
    .explain(
        "That one the compiler finds, and that is the best that can be said of a bug. It finds \
         line 3 as well, unless somebody casts its warning away. (ECONNABORTED is not to be seen \
         there on Linux anyhow: see abort-before-accept.)",
    )
}

const NAMES: &[&str] = &["ECONNABORED", "ECONNABORTED", "ETIMEOUT", "ETIMEDOUT"];

/// Too much on the stack.
pub fn locals(small: u32) -> Act<Stacked> {
    let open = |_: &Isolation| Ok(Stacked::default());
    let act = listed("a line for every occasion", open, listings::LOCALS);
    act.act(
        "A program with such a function, and the stack that a shell usually gives.",
        shell("ulimit -s 8192; tcpecho-lab actor faulty locals"),
        |s| s.start(USUAL),
    )
    .expect("it", "asleep", Stacked::fate)
    .observe(
        "It waits for its first line. Its stack:",
        "grep VmStk /proc/{actor}/status",
        Stacked::stack,
    )
    .expect("more than 1900 kB", "yes", |s| s.has_more_than(1900))
    .predict(
        "Two megabytes of variables, of eight. Now the same with a stack of one. What happens?",
        &[
            ("asleep", "the kernel makes room: it waits for a line"),
            (
                "exit status 1",
                "it says that there is not enough memory, and ends",
            ),
            ("killed by SIGSEGV", "it is killed"),
        ],
    )
    .act(
        "The same, with a stack of one megabyte.",
        shell("ulimit -s 1024; tcpecho-lab actor faulty locals"),
        move |s| s.start(small),
    )
    .answer("it", "killed by SIGSEGV", Stacked::fate)
    .explain(
        "There is no call that could fail, and so no error to look at: the first touch of a \
         variable beyond the end of the stack kills. On a shell's 8 MB nobody notices. But \
         threads have the stack that they are given, 2 MB in Rust, 128 kB in some C libraries. \
         What is large belongs on the heap, or is read piece by piece; a line has no longest \
         length.\n\n\
         More bugs of this kind have a lab of their own: a reaper that spins (wait3), a parent \
         that never closes (reference-counts), wait called once (one-wait), EINTR taken for \
         an error (eintr), a buffer that all connections share and a write that is not finished \
         (short-write), poll before fgets (stdio-trap). And some that are not in a program but in \
         a book: 65535 connections (port-range), nine minutes (host-crash), ECONNRESET after a \
         FIN (premature-termination), ECONNABORTED (abort-before-accept), the names in WCHAN \
         (normal-life).\n\n\
         Verdict: a first test has one client, one line, and a fast reader. Bugs live where there \
         are two.",
    )
    .try_it(
        "1$ tcpechod --model iterative --mistake close-in-loop\n\
         2$ tcpecho localhost\n\
         2> hello                                     (and that was all)\n\
         1> ^C\n\
         1$ tcpechod --model iterative --mistake one-client\n\
         2$ tcpecho localhost\n\
         2> hello\n\
         2> ^D                                        (look at 1)\n\
         2$ tcpecho localhost                         (fails: refused)\n\
         1$ tcpechod\n\
         2$ tcpecho-lab actor faulty words 127.0.0.1:9877\n\
         2> hello\n\
         2> be                                        (nothing: it is bello)\n\
         2> ^C\n\
         1> ^C                                        (--list-mistakes has more)\n\
         2$ (ulimit -s 1024; tcpecho-lab actor faulty locals)   (fails)",
    )
    .read(
        "Read: UNP 4.4, 4.5, 4.6, 5.3, 5.8 (figure 5.6), 5.9; signal-safety(7), scanf(3), \
         accept(2), getrlimit(2).",
    )
}
