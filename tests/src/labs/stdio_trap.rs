//! poll and a buffered reader: lines that the program has and does not see (UNP 6.5).
//!
//! A client that waits with poll for stdin and connection, and then calls fgets: tried by hand, then
//! with three lines in one burst. Asserted is what it read, what it sent, where it sleeps.

use anyhow::Result;

use crate::labs::crowd::{Crowd, in_words};
use crate::narrate::{Act, Chapter, Lab, Scene};
use crate::observe::calls::CallRecord;
use crate::observe::processes;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "stdio-trap",
    title: "poll and fgets: where are the other lines?",
    sections: "6.3, 6.5",
    chapter: Chapter::InputOutput,
    takes: 1,
    needs: &[],
    about: "The client must wait for the keyboard and the connection at once: so poll for both, \
        and then fgets for what is ready. It looks right, and works when one tries it. Then \
        somebody uses it with a pipe.",
    acts: || {
        vec![
            Box::new(by_hand()) as Box<dyn Scene>,
            Box::new(trap(PIPED)),
            Box::new(cure(CURED)),
        ]
    },
};

/// The client with poll and fgets, and three lines at once.
pub const PIPED: &str =
    "(printf 'one\\ntwo\\nthree\\n'; cat) | tcpecho --mode stdio 127.0.0.1 {port}";
/// The same for the client that reads without a buffer.
pub const CURED: &str = "(printf 'one\\ntwo\\nthree\\n'; cat) | tcpecho 127.0.0.1 {port}";

const SERVER: &str = "tcpechod --bind 127.0.0.1 {port}";
const BURST: &[u8] = b"one\ntwo\nthree\n";
const HOW_MANY: &str = "Three lines were in the pipe when it started: one, two, three. What has \
    come back, now that nothing moves?";
const CAME_BACK: &[(&str, &str)] = &[
    ("one two three", "all three"),
    ("one", "only the first"),
    ("three", "only the last"),
];

/// By hand it works.
fn by_hand() -> Act<Crowd> {
    Act::open("by hand", Crowd::open)
        .server("In terminal 1, a server.", SERVER)
        .client(
            "In terminal 2, a client: poll, then fgets.",
            "tcpecho --mode stdio 127.0.0.1 {port}",
        )
        .line("Its user types.", 0, "one")
        .line("And again.", 0, "two")
        .line("And again.", 0, "three")
        .expect("what came back", "one two three", |c| c.echoed_at_rest(0))
        .explain("All is well. Would you hand it in?")
}

/// Through a pipe it does not.
pub fn trap(client: &'static str) -> Act<Crowd> {
    Act::open("through a pipe", Crowd::open)
        .server("In terminal 1, a server.", SERVER)
        .piped_client(
            "In terminal 2, the same client behind a pipe.",
            client,
            BURST,
        )
        .predict(HOW_MANY, CAME_BACK)
        .answer("what came back", "one", |c| c.echoed_at_rest(0))
        .predict(
            "So two lines are missing. Where are they?",
            &[
                (
                    "4 read, 4 sent",
                    "in the pipe: the client has not read them",
                ),
                ("14 read, 14 sent", "on the way, or at the server"),
                ("14 read, 4 sent", "in the client itself"),
            ],
        )
        .answer(
            "bytes that the client has",
            "14 read, 4 sent",
            read_and_sent,
        )
        .expect("where it sleeps", "poll ...", client_sleeps_in)
        .observe(
            "WCHAN is the kernel function it sleeps in:",
            "ps -o pid,stat,wchan:30,args -p {client}",
            |c| {
                let client = processes::look(c.client(0)?.pid());
                Ok(processes::ps_view(&client.into_iter().collect::<Vec<_>>()))
            },
        )
        .show("Its calls on one time line:", |c| c.ladder(0, "the start"))
        .explain(
            "fgets is asked for a line and takes all there is: 14 bytes with one read. It returns \
             the first line and keeps the rest in its buffer. Then the client calls poll. poll \
             asks the kernel: is there anything in the pipe? There is not. It sleeps, with two \
             lines in its pocket.",
        )
        .predict(
            "Now a fourth line comes through the pipe. What comes back, all in all?",
            &[
                ("one four", "the fourth; two and three are lost"),
                ("one two", "the second: always one line late"),
                ("one two three four", "everything"),
            ],
        )
        .line("Somebody types into cat.", 0, "four")
        .answer("what came back", "one two three four", |c| {
            c.echoed_at_rest(0)
        })
        .explain(
            "As long as the fourth line is in the pipe, poll says `readable`, and fgets serves \
             from its buffer: two, three. Then it reads the fourth. So nothing is lost, only late: \
             as late as the next line.\n\n\
             By hand it worked because a terminal hands over one line with each read.",
        )
}

/// The client that reads without a buffer that poll cannot see.
pub fn cure(client: &'static str) -> Act<Crowd> {
    Act::open("the cure", Crowd::open)
        .server("In terminal 1, a server.", SERVER)
        .piped_client(
            "The client that reads with read, and sends all that it got.",
            client,
            BURST,
        )
        .predict(HOW_MANY, CAME_BACK)
        .answer("what came back", "one two three", |c| c.echoed_at_rest(0))
        .expect("bytes that it has", "14 read, 14 sent", read_and_sent)
        .explain(
            "The book (6.5): mixing stdio, or its own readline, with select is error-prone, since \
             select knows nothing of their buffers. This system: the same, with poll and epoll, \
             and in every language: Python's sys.stdin and Rust's BufReader have such a buffer \
             too.\n\n\
             Verdict: who waits for descriptors reads descriptors, or looks into the buffer \
             before it waits.",
        )
        .try_it(
            "1$ tcpechod\n\
             2$ tcpecho --mode stdio localhost\n\
             2> hello                                     (by hand all is well)\n\
             2> ^D\n\
             2$ (printf 'one\\ntwo\\nthree\\n'; cat) | tcpecho --mode stdio localhost\n\
             2> four                                      (now come two and three, too)\n\
             2> ^D\n\
             2$ (printf 'one\\ntwo\\nthree\\n'; cat) | tcpecho localhost\n\
             2> four\n\
             2> ^D",
        )
        .read("Read: UNP 6.5 (the end of it), 3.9; setvbuf(3), poll(2).")
}

/// How many bytes the client has read from its stdin, and how many the server has got of them.
fn read_and_sent(crowd: &Crowd) -> Result<String> {
    crowd.echoed_at_rest(0)?;
    let sum = |calls: Vec<CallRecord>, is_it: fn(i32) -> bool| {
        let reads = calls.into_iter().filter(|call| call.call == "read");
        let of_it = reads.filter(|call| is_it(call.fd));
        of_it.map(|call| call.result.max(0)).sum::<i64>()
    };
    let read = sum(crowd.client(0)?.calls(), |fd| fd == 0);
    let arrived = sum(crowd.server()?.calls(), |fd| fd > 2);
    Ok(format!("{read} read, {arrived} sent"))
}

/// The call in which the client sleeps.
fn client_sleeps_in(crowd: &Crowd) -> Result<String> {
    crowd.echoed_at_rest(0)?;
    let calls = crowd.client(0)?.calls();
    Ok(in_words(&calls[calls.len().saturating_sub(1)..]))
}
