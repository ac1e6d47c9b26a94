//! What a process has arranged for each signal: catch, ignore, default; and who inherits it
//! (UNP 5.8; signal(7)).
//!
//! All of it is read from the sets that the kernel keeps for every process (/proc/PID/status), and
//! from what becomes of the processes.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::labs::cast::Cast;
use crate::labs::crowd::{Crowd, contains, signal_set, signals_in};
use crate::narrate::{Act, Chapter, Lab, Scene, View, shell};
use crate::observe::rest::is_at_rest;
use crate::server::Server;
use crate::wait::eventually;

/// See the module's head.
pub static LAB: Lab = Lab {
    name: "dispositions",
    title: "Catch, ignore, default: what becomes of a signal",
    sections: "5.8, 25.2",
    chapter: Chapter::Signals,
    takes: 1,
    needs: &[],
    about: "A signal comes. What happens? The process has decided that before: for each signal it \
        has a handler, or ignores it, or leaves it to the default of the kernel. Which signals \
        leave it no choice? And who inherits the choice?",
    acts: || {
        vec![
            Box::new(three_clients([IGNORE, COUNT, DEFAULT])) as Box<dyn Scene>,
            Box::new(no_choice(CATCH_ALL)),
            Box::new(by_default(NOTHING)),
            Box::new(inherited(HEIRS)),
            Box::new(children(MORTAL)),
            Box::new(on_arrival(NOTIFIED)),
            Box::new(hangup()),
        ]
    },
};

const SERVER: &str = "tcpechod --bind 127.0.0.1 {port}";
/// Three clients that differ in one flag.
pub const IGNORE: &str = "tcpecho --sigpipe ignore 127.0.0.1 {port}";
/// See [`IGNORE`].
pub const COUNT: &str = "tcpecho --sigpipe count 127.0.0.1 {port}";
/// See [`IGNORE`].
pub const DEFAULT: &str = "tcpecho --sigpipe default 127.0.0.1 {port}";
/// Catches what can be caught.
pub const CATCH_ALL: &str = "tcpecho-lab actor disposed catch=all";
/// Has not decided anything.
pub const NOTHING: &str = "tcpecho-lab actor disposed";
/// Has two children, one by fork, one by fork and exec.
pub const HEIRS: &str = "tcpecho-lab actor disposed catch=USR1 ignore=USR2 block=HUP heirs";
/// Has a child that ends at once.
pub const MORTAL: [&str; 2] = [
    "tcpecho-lab actor disposed mortal",
    "tcpecho-lab actor disposed ignore=CHLD mortal",
];

/// Has a handler for SIGIO; has done what else it takes.
pub const NOTIFIED: [&str; 2] = [
    "tcpecho-lab actor notified",
    "tcpecho-lab actor notified owner async",
];

/// The same signal for three processes.
pub fn three_clients(clients: [&'static str; 3]) -> Act<Crowd> {
    let [ignores, counts, leaves] = clients;
    Act::open("three clients and SIGPIPE", Crowd::open)
        .server("In terminal 1, a server.", SERVER)
        .client("A client that ignores SIGPIPE.", ignores)
        .client("One that has a handler for it.", counts)
        .client("One that leaves it at the default.", leaves)
        .expect(
            "the kernel has noted for SIGPIPE",
            "ignored, caught, default",
            |c| {
                all_clients(c, |nth| {
                    Ok(disposition(c.client(nth)?.pid(), Signal::SIGPIPE)?.to_owned())
                })
            },
        )
        .predict(
            "All three get a SIGPIPE. What becomes of them?",
            &[
                ("asleep, asleep, killed by SIGPIPE", "the third is killed"),
                (
                    "asleep, killed by SIGPIPE, killed by SIGPIPE",
                    "the second and the third are killed",
                ),
                (
                    "asleep, asleep, asleep",
                    "nothing: nobody has written to a pipe",
                ),
            ],
        )
        .act("Send it.", shell("kill -PIPE {clients}"), |c| {
            (0..3).try_for_each(|nth| c.signal_client(nth, Signal::SIGPIPE))
        })
        .answer("the clients", "asleep, asleep, killed by SIGPIPE", |c| {
            all_clients(c, |nth| c.fate_of_client(nth))
        })
        .explain(
            "The kernel does not ask why a signal was sent. It looks at what the process has \
             arranged (with sigaction): run a function, do nothing, or the default, which for most \
             signals is the end.",
        )
}

/// A process that catches everything; almost.
pub fn no_choice(actor: &'static str) -> Act<Cast> {
    Act::open("the two that leave no choice", Cast::open)
        .actor(
            "A small program that installs a handler for every signal, 1 to 31.",
            actor,
        )
        .predict(
            "For which signals does sigaction fail?",
            &[
                ("none", "for none"),
                ("SIGKILL", "for SIGKILL"),
                ("SIGKILL, SIGSTOP", "for SIGKILL and SIGSTOP"),
                ("SIGSEGV, SIGKILL", "for SIGKILL and SIGSEGV"),
            ],
        )
        .answer("not caught", "SIGKILL, SIGSTOP", |c| {
            Ok(signals_in(!c.set(0, "SigCgt")?))
        })
        .observe(
            "What the kernel has noted, a bit for each signal:",
            "grep -E 'Sig(Blk|Ign|Cgt)' /proc/{actor}/status",
            |c| Ok(format!("SigCgt: {:016x}", c.set(0, "SigCgt")?)),
        )
        .actor(
            "Another, that ignores every signal.",
            "tcpecho-lab actor disposed ignore=all",
        )
        .expect("not ignored", "SIGKILL, SIGSTOP", |c| {
            Ok(signals_in(!c.set(1, "SigIgn")?))
        })
        .show("What sigaction returned for these:", |c| {
            let said = c.actor(1)?.stdout();
            let said = String::from_utf8_lossy(&said).into_owned();
            let refused = said.lines().filter(|line| line.contains("EINVAL"));
            Ok(View::Printed(refused.collect::<Vec<_>>().join("\n")))
        })
        .kill(
            "Tell the one that catches all to terminate.",
            0,
            "kill -TERM {actor}",
            Signal::SIGTERM,
        )
        .expect("it", "asleep", |c| at_rest(c, 0))
        .kill("Stop it.", 0, "kill -STOP {actor}", Signal::SIGSTOP)
        .expect("it", "stopped", |c| c.fate(0))
        .kill("Let it go on.", 0, "kill -CONT {actor}", Signal::SIGCONT)
        .expect("it", "asleep", |c| at_rest(c, 0))
        .kill("Kill it.", 0, "kill -KILL {actor}", Signal::SIGKILL)
        .expect("it", "killed by SIGKILL", |c| c.fate(0))
        .explain(
            "SIGKILL and SIGSTOP are the kernel's own: the administrator must always be able to \
             end and to stop a process (UNP 5.8). Who is killed so cannot clean up; that is why \
             one sends SIGTERM first.",
        )
}

/// A process that has arranged nothing.
pub fn by_default(actor: &'static str) -> Act<Cast> {
    const HARMLESS: [Signal; 4] = [
        Signal::SIGCHLD,
        Signal::SIGURG,
        Signal::SIGWINCH,
        Signal::SIGCONT,
    ];
    const DEADLY: [Signal; 6] = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGUSR1,
        Signal::SIGPIPE,
        Signal::SIGALRM,
        Signal::SIGTERM,
    ];
    let victims = DEADLY.len();
    Act::open("the default", Cast::open)
        .act(
            "Programs that have arranged nothing, one for each signal.",
            shell(actor),
            move |c| (0..=victims).try_for_each(|_| c.start(actor)),
        )
        .act(
            "One of them gets all of these.",
            shell("kill -CHLD {actor}; kill -URG {actor}; kill -WINCH {actor}; kill -CONT {actor}"),
            |c| HARMLESS.iter().try_for_each(|signal| c.signal(0, *signal)),
        )
        .expect("it", "asleep", |c| at_rest(c, 0))
        .act(
            "The others get one each: HUP, INT, USR1, PIPE, ALRM, TERM.",
            shell("kill -HUP {second}; kill -INT {third}; ..."),
            |c| {
                let mut all = DEADLY.iter().enumerate();
                all.try_for_each(|(nth, signal)| c.signal(nth + 1, *signal))
            },
        )
        .expect(
            "killed by",
            "SIGHUP, SIGINT, SIGUSR1, SIGPIPE, SIGALRM, SIGTERM",
            move |c| {
                let fates = (1..=victims)
                    .map(|nth| c.fate(nth))
                    .collect::<Result<Vec<_>>>()?;
                Ok(fates.join(", ").replace("killed by ", ""))
            },
        )
        .explain(
            "By default nearly every signal is the end: SIGUSR1 and SIGALRM as well. A few are \
             ignored, SIGCHLD and SIGURG (UNP 5.8) and SIGWINCH; SIGCONT continues who is stopped.",
        )
}

/// A parent with a handler, an ignored and a blocked signal, and two children.
pub fn inherited(actor: &'static str) -> Act<Cast> {
    Act::open("what survives fork, and what exec", Cast::open)
        .actor(
            "A program catches SIGUSR1, ignores SIGUSR2, blocks SIGHUP. Then it forks twice; the \
             second child becomes sleep by exec.",
            actor,
        )
        .observe(
            "The three of them:",
            "ps -o pid,ppid,stat,args -p {actor} --ppid {actor}",
            |c| {
                let tree = crate::observe::processes::tree(c.actor(0)?.pid());
                Ok(crate::observe::processes::ps_view(&tree))
            },
        )
        .expect(
            "after fork: SIGUSR1, SIGUSR2, SIGHUP",
            "caught, ignored, blocked",
            |c| heir(c, "tcpecho-lab"),
        )
        .predict(
            "Fork copies everything. And exec? What is SIGUSR1 in the program that sleeps now?",
            &[
                ("caught, ignored, blocked", "caught: nothing changes"),
                (
                    "default, ignored, blocked",
                    "default: its handler does not exist any more",
                ),
                (
                    "default, default, default",
                    "default, as everything: a new program, a new start",
                ),
            ],
        )
        .answer(
            "after exec: SIGUSR1, SIGUSR2, SIGHUP",
            "default, ignored, blocked",
            |c| heir(c, "sleep"),
        )
        .show("All of it:", heirs)
        .explain(
            "Exec puts another program in place of this one; the handler's code is gone, so \
             caught becomes default. What is ignored or blocked stays so. That is how nohup works. \
             It is also a trap: a server that was started with SIGCHLD ignored or SIGTERM blocked \
             should undo that. (tcpechod does.)",
        )
}

/// SIGCHLD: the default is to ignore it, and yet that is not the same as ignoring it.
pub fn children(parents: [&'static str; 2]) -> Act<Cast> {
    let [silent, deaf] = parents;
    Act::open("ignored by default, or ignored", Cast::open)
        .actor(
            "A parent that has arranged nothing for SIGCHLD. Its child ends at once.",
            silent,
        )
        .expect("zombies", 1, |c| zombies(c, 0))
        .predict(
            "Another parent says it explicitly: it ignores SIGCHLD. Its child ends at once. How \
             many zombies?",
            &[("0", "none"), ("1", "one: to ignore is the default anyway")],
        )
        .actor("The other parent.", deaf)
        .answer("zombies", "0", |c| zombies(c, 1))
        .explain(
            "Both do not notice SIGCHLD. But who says that he ignores it says that he will not \
             wait: the kernel clears his children away at once (POSIX; wait(2), NOTES). The price: \
             nobody learns how they ended. The book (5.9) warns that this is not \
             portable; POSIX has it since 2001.",
        )
}

/// SIGIO, which comes only to those who have asked for it; how often, and what is lost.
pub fn on_arrival(actors: [&'static str; 2]) -> Act<Cast> {
    const RUNS: &str = "runs of its handler";
    let [silent, asks] = actors;
    Act::open("SIGIO: a handler is not enough", Cast::open)
        .actor(
            "A program with a handler for SIGIO, the signal that says that there is something to \
             read. When it comes, it reads.",
            silent,
        )
        .expect("SIGIO is", "caught", |c| {
            disposition(c.actor(0)?.pid(), Signal::SIGIO)
        })
        .predict(
            "A line arrives. How often does the handler run?",
            &[("0", "never"), ("1", "once")],
        )
        .types("Somebody types a line.", 0, "one")
        .answer(RUNS, "0", |c| runs(c, 0))
        .actor(
            "Another one has also said whom to tell (F_SETOWN), and to tell at all (O_ASYNC).",
            asks,
        )
        .observe(
            "The kernel has noted it: 020000 is O_ASYNC.",
            "grep flags /proc/{second}/fdinfo/0",
            |c| {
                let info = format!("/proc/{}/fdinfo/0", c.actor(1)?.pid());
                Ok(std::fs::read_to_string(info)?)
            },
        )
        .types("The same line for this one.", 1, "one")
        .expect(RUNS, "1", |c| runs(c, 1))
        .kill("Stop it.", 1, "kill -STOP {second}", Signal::SIGSTOP)
        .expect("it", "stopped", |c| c.fate(1))
        .types("A line arrives meanwhile.", 1, "two")
        .types("Another.", 1, "three")
        .types("And a third.", 1, "four")
        .expect("signals that wait for it", "SIGIO", |c| {
            Ok(signals_in(c.set(1, "ShdPnd")?))
        })
        .predict(
            "It goes on. How often does the handler run for these three?",
            &[("1", "once"), ("3", "three times")],
        )
        .kill("Let it go on.", 1, "kill -CONT {second}", Signal::SIGCONT)
        .answer("runs for the three", "1", |c| {
            let runs: usize = runs(c, 1)?.parse()?;
            Ok(runs.saturating_sub(1).to_string())
        })
        .expect("bytes that it has read in all", 4 + 15, |c| {
            let said = said(c, 1)?;
            let words = said.split_whitespace().filter_map(|word| word.parse::<usize>().ok());
            Ok(words.sum::<usize>())
        })
        .show("It says:", |c| Ok(View::Printed(said(c, 1)?)))
        .explain(
            "The book (5.8, 25.2): SIGIO, SIGPOLL and SIGURG take more than a handler. This kernel: \
             the same; SIGPOLL is another name of SIGIO.\n\n\
             A signal that waits is one bit: three arrivals, one signal. No byte is lost by that, \
             if the program reads until there is nothing more (EAGAIN). If it reads once for each \
             signal, something stays behind.",
        )
}

/// The same server, started as a shell does, and as nohup does.
fn hangup() -> Act<Crowd> {
    Act::open("nohup", Crowd::open)
        .act(
            "A server that is started by somebody who ignores SIGHUP.",
            shell("(trap '' HUP; exec tcpechod --bind 127.0.0.1 {port}) &"),
            |c| {
                let server = Server::with_args(["--bind", "127.0.0.1"]);
                c.serve(server.ignoring(Signal::SIGHUP))
            },
        )
        .expect("SIGHUP is", "ignored", |c| {
            disposition(c.server()?.pid(), Signal::SIGHUP)
        })
        .expect(
            "it catches",
            "SIGINT, SIGUSR1, SIGALRM, SIGTERM, SIGCHLD",
            |c| {
                let caught = signal_set(c.server()?.pid(), "SigCgt")?;
                // The Rust runtime has handlers for these two, to tell a stack overflow.
                let theirs = [Signal::SIGSEGV, Signal::SIGBUS];
                let own = theirs
                    .iter()
                    .fold(caught, |set, s| set & !(1 << (*s as u32 - 1)));
                Ok(signals_in(own))
            },
        )
        .signal(
            "The terminal is closed.",
            shell("kill -HUP {server}"),
            Signal::SIGHUP,
        )
        .expect("the server", "asleep", |c| {
            c.rest()?;
            c.fate_of_server()
        })
        .explain(
            "Verdict: catch what you can do something about, ignore SIGPIPE, leave the rest; and \
             remember that whoever started you may have decided before you.",
        )
        .try_it(
            "1$ tcpechod --model fork\n\
             2$ grep Sig /proc/$(pidof tcpechod)/status\n\
             2$ kill -l                                   (names and numbers)\n\
             1> ^C\n\
             1$ nohup tcpechod\n\
             2$ grep SigIgn /proc/$(pidof tcpechod)/status      (bit 0 is SIGHUP)\n\
             1> ^C\n\
             1$ tcpecho-lab actor disposed catch=all\n\
             2$ pkill -INT -f 'actor disposed'\n\
             2$ pkill -TERM -f 'actor disposed'\n\
             2$ pkill -KILL -f 'actor disposed'           (which of the three ends it?)",
        )
        .read("Read: UNP 5.8; signal(7), sigaction(2); execve(2), fork(2); nohup(1).")
}

/// What becomes of a signal in this process; `blocked` comes before everything else.
fn disposition(pid: i32, signal: Signal) -> Result<&'static str> {
    let has = |name| Ok(contains(signal_set(pid, name)?, signal));
    let blocked: Result<bool> = has("SigBlk");
    Ok(match (blocked?, has("SigCgt")?, has("SigIgn")?) {
        (true, ..) => "blocked",
        (_, true, _) => "caught",
        (.., true) => "ignored",
        _ => "default",
    })
}

fn all_clients(crowd: &Crowd, of: impl Fn(usize) -> Result<String>) -> Result<String> {
    // One that is told all the same must have had time to hear of it.
    crowd.moment()?;
    Ok((0..3).map(of).collect::<Result<Vec<_>>>()?.join(", "))
}

/// The fate of an actor that has nothing more to do.
fn at_rest(cast: &Cast, nth: usize) -> Result<String> {
    let pid = cast.actor(nth)?.pid();
    eventually("rest", Duration::from_secs(1), || {
        (cast.actor(nth).ok()?.status().is_some() || is_at_rest(pid)).then_some(())
    })?;
    cast.fate(nth)
}

const TESTED: [Signal; 3] = [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGHUP];

/// What the child with this program has inherited.
fn heir(cast: &Cast, comm: &str) -> Result<String> {
    let mut children = cast.children(0)?.into_iter();
    let child = children.find(|child| child.comm == comm);
    let pid = child
        .with_context(|| format!("no child is called {comm}"))?
        .pid;
    let told = TESTED.iter().map(|signal| disposition(pid, *signal));
    Ok(told.collect::<Result<Vec<_>>>()?.join(", "))
}

fn heirs(cast: &Cast) -> Result<View> {
    let parent = cast.actor(0)?.pid();
    let told = TESTED.iter().map(|signal| disposition(parent, *signal));
    let parent = told.collect::<Result<Vec<_>>>()?.join(", ");
    let (forked, executed) = (heir(cast, "tcpecho-lab")?, heir(cast, "sleep")?);
    let columns = [&parent, &forked, &executed].map(|row| row.split(", ").collect::<Vec<_>>());
    let mut table = format!("{:<10}{:<10}{:<12}after exec\n", "", "parent", "after fork");
    for (nth, signal) in TESTED.iter().enumerate() {
        let of = |column: usize| columns[column].get(nth).copied().unwrap_or_default();
        let (signal, parent, forked) = (signal.as_str(), of(0), of(1));
        // Writing to a String cannot fail.
        let _ = writeln!(table, "{signal:<10}{parent:<10}{forked:<12}{}", of(2));
    }
    Ok(View::Printed(table))
}

/// How often the handler of the `nth` actor has run, when that has nothing more to do.
fn runs(cast: &Cast, nth: usize) -> Result<String> {
    at_rest(cast, nth)?;
    let runs = said(cast, nth)?.matches("SIGIO").count();
    Ok(runs.to_string())
}

/// What the `nth` actor has said.
fn said(cast: &Cast, nth: usize) -> Result<String> {
    let said = cast.actor(nth)?.stdout();
    Ok(String::from_utf8_lossy(&said).replace("ready\n", ""))
}

/// How many zombies the `nth` actor has.
fn zombies(cast: &Cast, nth: usize) -> Result<usize> {
    let children = cast.children(nth)?;
    anyhow::ensure!(
        children.iter().all(|c| c.state == 'Z'),
        "its child still lives"
    );
    Ok(children.len())
}
