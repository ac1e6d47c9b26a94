//! The harness itself: does it start, wait for, observe and end what it says it does?

use std::fs;
use std::net::{TcpListener, TcpStream};

use tcpecho_lab::netns;

#[test]
fn namespaces_are_ones_own() -> anyhow::Result<()> {
    netns::test("namespaces_are_ones_own", || {
        assert_eq!(std::process::id(), 2);
        let interfaces: Vec<_> = fs::read_dir("/proc/thread-self/net/dev_snmp6")
            .map(|entries| entries.flatten().map(|e| e.file_name()).collect())
            .unwrap_or_default();
        assert_eq!(interfaces, ["lo"]);
        let listener = TcpListener::bind("127.0.0.1:9877")?;
        TcpStream::connect(listener.local_addr()?)?;
        Ok(())
    })
}
