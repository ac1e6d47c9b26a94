//! One client's connection on a time line: its packets, the calls of the client on the left and of
//! all the server's processes on the right, what was typed and which signals were sent.

use anyhow::{Result, bail};

use super::Crowd;
use crate::labs::pair::{moves_data, without_glances, without_vain_returns};
use crate::labs::states::now;
use crate::narrate::ladder::{Ladder, Side};
use crate::narrate::{Unseen, View};
use crate::observe::calls::{CallRecord, Phase};
use crate::observe::packets::Packet;

impl Crowd {
    /// Something was made to happen just now.
    pub(super) fn mark(&mut self, side: Side, what: impl Into<String>) {
        self.acted = now();
        self.marks.push((self.acted, side, what.into()));
    }

    /// The packets of the `nth` client's connection so far.
    pub fn packets(&self, nth: usize) -> Result<Vec<Packet>> {
        let client = self.guest(nth)?.address;
        let capture = self.capture.as_ref().map_err(|why| Unseen(why.clone()))?;
        let mut packets = capture.packets_so_far();
        self.missed.set(self.missed.get() + capture.take_dropped()?);
        if self.missed.get() > 0 {
            bail!("the capture missed {} frames", self.missed.get());
        }
        packets.retain(|p| p.from == client || p.to == client);
        Ok(packets)
    }

    /// What happened on the `nth` client's connection, and in the server's processes meanwhile. Time
    /// is counted from what was last made to happen; what came before is summed up as `prologue`.
    pub fn ladder(&self, nth: usize, prologue: &str) -> Result<View> {
        let guest = self.guest(nth)?;
        let packets = self.packets(nth).unwrap_or_default();
        let of_server = self.told_by_server()?;
        let mut ladder = Ladder::new(self.acted)
            .prologue(prologue)
            .interruptions()
            .packets(guest.address, &packets)
            .calls(Side::Client, &self.told_by_client(nth)?)
            .calls(Side::Server, &of_server)
            .descriptor(Side::Client, 0, "the keyboard")
            .descriptor(Side::Client, guest.fd, "the connection");
        let parent = self.server()?.pid();
        if of_server.iter().any(|c| c.pid != parent) {
            let who = "At the server the parent accepts and waits, its child reads and writes.";
            ladder = ladder.remark(who);
        }
        for (at, side, what) in &self.marks {
            ladder = ladder.note(*at, *side, what.clone());
        }
        for (at, line) in guest.process.stderr_lines() {
            ladder = ladder.outcome(at, line);
        }
        Ok(View::Ladder(ladder))
    }

    /// What the client does with the keyboard and the connection, and where it waits or rests.
    fn told_by_client(&self, nth: usize) -> Result<Vec<CallRecord>> {
        let guest = self.guest(nth)?;
        let mut calls = guest.process.calls();
        calls.retain(|c| {
            let waits = matches!(&*c.call, "epoll_wait" | "nanosleep" | "poll");
            waits || moves_data(c) && (c.fd == 0 || c.fd == guest.fd)
        });
        Ok(without_vain_returns(without_glances(calls)))
    }

    /// What the server's processes read and write, accept and wait for.
    fn told_by_server(&self) -> Result<Vec<CallRecord>> {
        let mut calls = self.server()?.calls();
        calls.retain(|c| match &*c.call {
            "accept" | "epoll_wait" | "dup2" | "execve" | "getpeername" => true,
            "waitpid" => c.phase == Phase::Return,
            _ => moves_data(c),
        });
        // Who was killed before the story begins does not wait in it.
        for (pid, _) in self.killed.iter().filter(|(_, at)| *at < self.acted) {
            let last = calls.iter().rposition(|c| c.pid == *pid);
            if let Some(last) = last.filter(|i| calls[*i].phase == Phase::Enter) {
                calls.remove(last);
            }
        }
        Ok(calls)
    }
}
