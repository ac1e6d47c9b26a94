//! A TCP echo client: sends stdin to a server, writes to stdout what comes back, and says on
//! stderr how it ended. A library so that its parts can be tested, and its command line shown
//! elsewhere; the program is [`run`].
//!
//! [`session`] knows what the events mean, [`talk`] makes them happen, in two ways.

pub mod buffer;
pub mod cli;
pub mod connect;
pub mod input;
pub mod output;
pub mod session;
pub mod socket;
pub mod talk;

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;

use tcpecho_common::{Exit, calls, logging};

use crate::cli::{Cli, Mode};
use crate::talk::{Stop, blocking, multiplexed};

/// The name in front of messages.
pub const PROGRAM: &str = "tcpecho";

/// Connects, talks, and tells what went wrong.
pub fn run(cli: &Cli) -> Exit {
    match connect::to(&cli.host, cli.port(), cli.connect_timeout) {
        Ok(stream) => {
            let exit = talk(&stream, cli.mode);
            calls::close(stream.into());
            exit
        }
        Err(failure) => {
            for line in failure.lines() {
                logging::say(PROGRAM, line);
            }
            failure.exit()
        }
    }
}

fn talk(stream: &TcpStream, mode: Mode) -> Exit {
    if let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) {
        log::info!("connected {local} -> {peer}");
    }
    let (stdin, stdout) = (io::stdin(), io::stdout());
    match mode {
        Mode::Multiplexed => multiplexed::talk(stream, stdin.as_fd(), stdout.as_fd()),
        Mode::Blocking => match stream.set_nonblocking(false) {
            Ok(()) => blocking::talk(stream, stdin.as_fd(), stdout.as_fd()),
            Err(error) => Stop::Failed("make the socket block", calls::errno(&error)).report(),
        },
    }
}
