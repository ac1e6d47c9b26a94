//! What every test of the client needs: a server, a client, its end, and a file for its stdin.
//!
//! Whatever goes wrong here panics; a panic makes both programs print all they have said.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tcpecho_common::Model;
use tcpecho_lab::client::{Client, ClientProcess};
use tcpecho_lab::server::{Server, ServerProcess};

/// How long anything may take that happens at once on an idle machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// All of them.
pub const MODES: [&str; 3] = ["multiplexed", "blocking", "stdio"];

pub fn serve(model: Model) -> ServerProcess {
    Server::model(model).start().expect("a server")
}

pub fn start(client: Client) -> ClientProcess {
    client.start().expect("a client")
}

/// Waits for its end; its exit code.
pub fn end(client: &ClientProcess) -> i32 {
    let status = client.wait(DEADLINE).expect("its end");
    status.code().expect("an exit code")
}

/// A file with this content and without a name, open at its start.
pub fn file(content: &[u8]) -> File {
    let mut file = unnamed();
    file.write_all(content).expect("room on the disk");
    file.rewind().expect("a file");
    file
}

/// An empty file that goes when it is closed.
pub fn unnamed() -> File {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("client-{}-{number}", std::process::id());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut options = File::options();
    let options = options.read(true).write(true).create_new(true);
    let file = options.open(&path).expect("a directory to write to");
    fs::remove_file(&path).expect("it was just made");
    file
}
