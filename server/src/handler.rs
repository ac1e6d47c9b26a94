//! `--mistake slow-handler`: what a server does that has to find its answer somewhere.

use std::thread::sleep;

use tcpecho_common::defaults::SLOW_HANDLER;

/// A call that blocks, as the query of a database does: the thread sleeps until the answer is there.
/// Called once for what one read has brought, before it is echoed.
///
/// Whose thread it is decides what that means. In a process or thread per client only that client
/// waits. In a readiness loop, in a task, at a ring, nobody else is served meanwhile; they would have to
/// ask without waiting, and go on when told of the answer, or leave the waiting to other threads.
pub fn query() {
    sleep(SLOW_HANDLER);
}
