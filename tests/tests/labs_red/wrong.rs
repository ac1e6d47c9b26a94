//! The labs of the group "When things go wrong" can fail: each is performed with something else
//! happening than it tells, and must say so.

use anyhow::Result;
use tcpecho_common::Mistake;
use tcpecho_lab::labs::hosts::Fall;
use tcpecho_lab::labs::{
    abort_before_accept, crash_and_reboot, fin_or_reset, host_crash, shutdown, unreachable,
};
use tcpecho_lab::netns::host::Way;

use crate::red::finds;

#[test]
fn crash_and_reboot_with_a_host_that_remembers() -> Result<()> {
    finds(
        "wrong::crash_and_reboot_with_a_host_that_remembers",
        &crash_and_reboot::LAB,
        || crash_and_reboot::acts(Fall::CutOff),
        &["what tells the client should have been read = -1 ECONNRESET"],
    )
}

#[test]
fn host_crash_with_a_server_that_is_only_killed() -> Result<()> {
    finds(
        "wrong::host_crash_with_a_server_that_is_only_killed",
        &host_crash::LAB,
        || host_crash::acts(Fall::Killed),
        &["A should have been read = -1 ETIMEDOUT, but was read = 0"],
    )
}

#[test]
fn fin_or_reset_with_a_server_that_reads() -> Result<()> {
    finds(
        "wrong::fin_or_reset_with_a_server_that_reads",
        &fin_or_reset::LAB,
        || fin_or_reset::acts(false),
        // How much is unread depends on who is quicker, we or the server.
        &["packets since should have been server RST,ACK, but was server FIN,ACK"],
    )
}

#[test]
fn abort_before_accept_with_a_server_that_dies_of_it() -> Result<()> {
    finds(
        "wrong::abort_before_accept_with_a_server_that_dies_of_it",
        &abort_before_accept::LAB,
        || abort_before_accept::acts(Some(Mistake::DieOnReset)),
        &["the next client's echo should have been hello"],
    )
}

#[test]
fn unreachable_with_a_router_that_says_nothing() -> Result<()> {
    finds(
        "wrong::unreachable_with_a_router_that_says_nothing",
        &unreachable::LAB,
        || unreachable::acts(Way::Blackhole),
        &["H should have been read = -1 EHOSTUNREACH, but was read = -1 ETIMEDOUT"],
    )
}

#[test]
fn shutdown_with_children_that_keep_the_listening_socket() -> Result<()> {
    finds(
        "wrong::shutdown_with_children_that_keep_the_listening_socket",
        &shutdown::LAB,
        || shutdown::acts(&["--mistake", "keep-listenfd"]),
        &["starting it again should have been listening, but was EADDRINUSE"],
    )
}
