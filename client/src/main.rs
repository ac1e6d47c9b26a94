//! TCP echo client.
fn main() {}
