//! The labs of the group "Life and death of a connection" can fail: each is performed with something
//! else happening than it tells, and must say so.

use anyhow::Result;
use tcpecho_lab::labs::{half_close, normal_life, port_range, socket_pair, time_wait};

use crate::red::finds;

#[test]
fn normal_life_with_a_server_that_never_closes() -> Result<()> {
    finds(
        "life::normal_life_with_a_server_that_never_closes",
        &normal_life::LAB,
        || normal_life::acts(&["--mistake", "leak-connfd"]),
        &[
            "sockets, server's / client's should have been gone / TIME-WAIT, but was CLOSE-WAIT / FIN-WAIT-2",
        ],
    )
}

#[test]
fn half_close_with_clients_that_close_in_another_way() -> Result<()> {
    finds(
        "life::half_close_with_clients_that_close_in_another_way",
        &half_close::LAB,
        || {
            vec![
                Box::new(half_close::shut_down(half_close::WHOLE)),
                Box::new(half_close::closed(half_close::HALF)),
            ]
        },
        &[
            "what came back should have been hello late, but was hello",
            "the client's kernel then should have been client RST, but was client ACK",
        ],
    )
}

#[test]
fn half_close_with_the_ways_exchanged() -> Result<()> {
    use half_close::{LINGER_0, LINGER_1, UNREAD, UNSENT};
    finds(
        "life::half_close_with_the_ways_exchanged",
        &half_close::LAB,
        || {
            vec![Box::new(half_close::ways([
                LINGER_0, UNREAD, UNSENT, LINGER_1,
            ]))]
        },
        &[
            "what arrives should have been all, and a FIN, but was a part, and an RST",
            "what arrives should have been a part, and an RST, but was nothing, and an RST",
            "close took ... to return should have been at least 1.0 s",
            "what arrives should have been nothing, and an RST, but was all, and a FIN",
        ],
    )
}

#[test]
fn time_wait_with_other_servers() -> Result<()> {
    use time_wait::{CAREFUL, CARELESS, LEAKY};
    finds(
        "life::time_wait_with_other_servers",
        &time_wait::LAB,
        || {
            vec![
                Box::new(time_wait::server_first(CAREFUL)),
                Box::new(time_wait::both_careful(CARELESS)),
                Box::new(time_wait::still_served(CARELESS)),
                Box::new(time_wait::client_first(LEAKY)),
                Box::new(time_wait::never_closed(CARELESS)),
            ]
        },
        &[
            "starting it again with SO_REUSEADDR should have been EADDRINUSE, but was listening",
            "starting it again with SO_REUSEADDR should have been listening, but was EADDRINUSE",
            "sockets, server's / client's should have been gone / TIME-WAIT, but was CLOSE-WAIT / FIN-WAIT-2",
            "sockets, server's / client's should have been CLOSE-WAIT / FIN-WAIT-2, but was gone / TIME-WAIT",
        ],
    )
}

#[test]
fn port_range_with_twenty_ports() -> Result<()> {
    finds(
        "life::port_range_with_twenty_ports",
        &port_range::LAB,
        || vec![Box::new(port_range::scarce("20000 20019"))],
        &[
            "connections made, and then should have been 10, EADDRNOTAVAIL, but was 20, EADDRNOTAVAIL",
            "connections that the server has should have been 30, but was 60",
        ],
    )
}

#[test]
fn socket_pair_with_other_sockets() -> Result<()> {
    finds(
        "life::socket_pair_with_other_sockets",
        &socket_pair::LAB,
        || {
            vec![
                Box::new(socket_pair::three_sockets("127.0.0.1")),
                Box::new(socket_pair::names(false)),
            ]
        },
        &[
            "the listener's own address should have been 0.0.0.0, but was 127.0.0.1",
            "getsockname of the accepted socket should have been 127.0.0.7:PORT, but was 0.0.0.0:PORT",
        ],
    )
}
