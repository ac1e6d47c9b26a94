//! A TCP echo client: sends stdin to a server, writes to stdout what comes back, and says on
//! stderr how it ended. A library so that its parts can be tested, and its command line shown
//! elsewhere; the program is [`run`].
//!
//! [`session`] knows what the events mean, [`talk`] makes them happen, in three ways.

pub mod buffer;
pub mod cli;
pub mod connect;
pub mod held;
pub mod input;
pub mod mistake;
pub mod output;
pub mod patience;
pub mod rate;
pub mod session;
pub mod sigpipe;
pub mod socket;
pub mod split;
pub mod talk;

use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;

use tcpecho_common::{Exit, calls, logging};

use crate::cli::{Cli, Mode};
use crate::held::Held;
use crate::talk::{Manner, Stop, blocking, multiplexed, stdio};

/// The name in front of messages.
pub const PROGRAM: &str = "tcpecho";

/// Connects, talks, and tells what went wrong.
pub fn run(cli: &Cli) -> Exit {
    if cli.list_mistakes {
        return list_mistakes();
    }
    if let Err(errno) = sigpipe::install(cli.sigpipe) {
        return Stop::Failed("prepare for SIGPIPE", errno).report();
    }
    let exit = connect_and_talk(cli);
    sigpipe::tell();
    exit
}

fn connect_and_talk(cli: &Cli) -> Exit {
    let (host, terms) = (cli.host.as_deref().unwrap_or_default(), cli.terms());
    let stream = match connect::to(host, cli.port(), &terms) {
        Ok(stream) => stream,
        Err(failure) => {
            for line in failure.lines() {
                logging::say(PROGRAM, line);
            }
            return failure.exit();
        }
    };
    let exit = match Held::beside(&stream, cli.connections as usize, &terms) {
        Ok(mut held) => {
            let exit = talk(&stream, &mut held, cli.mode, &cli.manner());
            // What nobody has noticed until now, because nobody could.
            held.look();
            calls::close(stream.into());
            let exit = held.judge(exit);
            held.close();
            return exit;
        }
        Err(shortage) => {
            logging::say(PROGRAM, shortage);
            Exit::Failed
        }
    };
    calls::close(stream.into());
    exit
}

fn talk(stream: &TcpStream, held: &mut Held, mode: Mode, manner: &Manner) -> Exit {
    if let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) {
        log::info!("connected {local} -> {peer}");
    }
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let (stdin, stdout) = (stdin.as_fd(), stdout.as_fd());
    if mode == Mode::Multiplexed {
        return multiplexed::talk(stream, held, stdin, stdout, manner);
    }
    if let Err(error) = stream.set_nonblocking(false) {
        return Stop::Failed("make the socket block", calls::errno(&error)).report();
    }
    match mode {
        Mode::Stdio => stdio::talk(stream, stdin, stdout, manner),
        _ => blocking::talk(stream, stdin, stdout, manner),
    }
}

fn list_mistakes() -> Exit {
    match io::stdout().write_all(mistake::list().as_bytes()) {
        Ok(()) => Exit::Done,
        Err(error) => Stop::stdout(calls::errno(&error)).report(),
    }
}
