//! Connects, and closes at a moment that matters; close(2), UNP 7.5 (`SO_LINGER`).
//!
//! `closing unsent ADDRESS`: while bytes wait to be sent, to somebody who does not read them.
//! `closing unread ADDRESS`: while bytes wait to be read. `linger=SECONDS` sets `SO_LINGER`.

use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt::Linger};
use nix::unistd::close;

use crate::actors::{Actor, say};
use crate::peer::Peer;

/// `closing unsent|unread [linger=SECONDS] ADDRESS`.
pub static ACTOR: Actor = Actor {
    name: "closing",
    about: "unsent|unread [linger=SECONDS] ADDRESS: closes at a moment that matters",
    perform,
};

fn perform(args: &[String]) -> Result<()> {
    let (moment, seconds, address) = match args {
        [moment, address] => (moment, None, address),
        [moment, linger, address] => {
            let seconds = linger.strip_prefix("linger=").context("linger=SECONDS")?;
            (moment, Some(seconds.parse()?), address)
        }
        _ => bail!("usage: closing {}", ACTOR.about),
    };
    let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    if let Some(l_linger) = seconds {
        let l_onoff = 1;
        setsockopt(&stream, Linger, &libc::linger { l_onoff, l_linger })?;
    }
    let sent = match &**moment {
        "unsent" => Peer::over(stream.try_clone()?)?.send_until_stuck()?,
        "unread" => stream.peek(&mut [0]).map(|_| 0)?,
        _ => bail!("usage: closing {}", ACTOR.about),
    };
    say(&format!("sent {sent}"))?;
    // Peer has limited how long a write may wait; close takes its time from SO_LINGER.
    let began = Instant::now();
    let closed = close(stream);
    let took = began.elapsed().as_micros();
    say(&format!("took {took} us"))?;
    say(&match closed {
        Ok(()) => "close = 0".into(),
        Err(errno) => format!("close = -1 {errno:?}"),
    })
}
