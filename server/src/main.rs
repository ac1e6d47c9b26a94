//! TCP echo server.
fn main() {}
