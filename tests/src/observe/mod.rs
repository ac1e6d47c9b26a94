//! Facts from the kernel and from the programs' own records, and the view of them that `ps`, `ss`
//! and `tcpdump` would give.

pub mod accounts;
pub mod calls;
pub mod icmp;
pub mod packets;
pub mod pcap;
pub mod processes;
pub mod resources;
pub mod rest;
pub mod sock_diag;
pub mod sockets;
