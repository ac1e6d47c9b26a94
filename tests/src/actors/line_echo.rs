//! An echo server that answers whole lines only: until the line has ended, it is silent. One client
//! after the other; socket option `TCP_NODELAY`, so that nothing holds back its answers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::{Context, Result};

use crate::actors::{Actor, say};

/// `line-echo PORT`.
pub static ACTOR: Actor = Actor {
    name: "line-echo",
    about: "PORT: echoes line by line, never less than a line",
    perform,
};

fn perform(args: &[String]) -> Result<()> {
    let port: u16 = args.first().context("which port?")?.parse()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    say(&format!("listening on {}", listener.local_addr()?))?;
    loop {
        // One that is reset is no reason to end.
        let _ = serve(listener.accept()?.0);
    }
}

fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        stream.write_all(&line)?;
        line.clear();
    }
    Ok(())
}
