//! A client that sends each line with two writes, the first byte and then the rest, with no pause,
//! and says how long the echo took; tcp(7), `TCP_NODELAY`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::actors::{Actor, say};

/// `halves [nodelay|joined] HOST:PORT`.
pub static ACTOR: Actor = Actor {
    name: "halves",
    about: "[nodelay|joined] HOST:PORT: sends lines in two writes, and says how long they took",
    perform,
};

/// How many lines it sends.
pub const LINES: usize = 12;

fn perform(args: &[String]) -> Result<()> {
    let (way, server) = match args {
        [server] => ("", server),
        [way, server] => (way.as_str(), server),
        _ => bail!("usage: halves {}", ACTOR.about),
    };
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(way == "nodelay")?;
    let line = b"hello\n";
    let first = if way == "joined" { line.len() } else { 1 };
    for _ in 0..LINES {
        let began = Instant::now();
        stream.write_all(&line[..first])?;
        stream.write_all(&line[first..])?;
        stream.read_exact(&mut [0; 6])?;
        say(&format!("{:.3} ms", began.elapsed().as_secs_f64() * 1e3))?;
    }
    Ok(())
}
