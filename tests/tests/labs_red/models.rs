//! The verdicts of the labs about the models and their queues can fail: each act is performed with a
//! program that does not do what the act expects, and must say so.

use anyhow::Result;
use tcpecho_lab::labs::{self, backlog, edge_trigger, idle_cost};
use tcpecho_lab::narrate::Scene;
use tcpecho_lab::netns::{self, Isolation};

use crate::red::{self, red};

/// Enough for poll to be found out, and quickly there.
const SILENT: usize = 1000;

red! {
    idle_cost {
        idle_cost::measured([idle_cost::SELECT, idle_cost::EPOLL, idle_cost::EPOLL], SILENT)
            => "with poll, the cost of an echo should have been climbs, but was";
        idle_cost::measured([idle_cost::SELECT, idle_cost::POLL, idle_cost::POLL], SILENT)
            => "with epoll, the cost of an echo should have been stays, but was climbs";
        idle_cost::measured([idle_cost::EPOLL, idle_cost::POLL, idle_cost::EPOLL], SILENT)
            => "with select, the cost of an echo should have been climbs, but was";
        idle_cost::calls("?", "tcpechod --model reactor --bind 127.0.0.1 {port}", "poll")
            => "what the server calls for that should have been poll = 1, read = 6";
    }

    edge_trigger {
        edge_trigger::forgotten(edge_trigger::DRAINS)
            => "bytes that came back should have been 4096, but was 8893";
        edge_trigger::drained(edge_trigger::ONCE)
            => "bytes that came back should have been 8893, but was 4096";
        edge_trigger::forgiven("?", edge_trigger::BY_EDGE, "?")
            => "bytes that came back should have been 8893, but was 4096";
    }

    backlog {
        backlog::queue(backlog::SEVEN)
            => "clients that are connected should have been 3, but was 4";
        backlog::full(backlog::SEVEN)
            => "the fourth client's socket should have been SYN-SENT, but was ESTAB";
    }
}

/// An RST where none should be, and none where one should.
#[test]
fn backlog_with_another_setting() -> Result<()> {
    const CASES: [red::Case; 2] = [
        (
            || vec![Box::new(backlog::late("?", 1, backlog::HALF, "?")) as Box<dyn Scene>],
            "should have been SYN-RECV / ESTAB, but was gone / gone",
        ),
        (
            || vec![Box::new(backlog::late("?", 0, backlog::NONE, "?")) as Box<dyn Scene>],
            "should have been gone / gone, but was SYN-RECV / ESTAB",
        ),
    ];
    netns::test("models::backlog_with_another_setting", || {
        let differs = |case| red::differs(&backlog::LAB, case, &Isolation::Namespaces);
        CASES.iter().try_for_each(differs)
    })
}
