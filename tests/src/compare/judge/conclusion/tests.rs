use super::*;
use crate::compare::judge::example::{
    again, cell, comparison, latency_of, with_calls, with_rounds, without,
};
use crate::compare::result::{Calls, Cell, Outcome};

fn concluded(cells: Vec<Cell>) -> Vec<String> {
    comparison(cells).conclusions
}

/// The one with these words in it.
#[track_caller]
fn one(said: &[String], words: &str) -> String {
    let found: Vec<_> = said
        .iter()
        .filter(|sentence| sentence.contains(words))
        .collect();
    assert_eq!(found.len(), 1, "{words}: {said:#?}");
    found[0].clone()
}

#[track_caller]
fn none(said: &[String], words: &str) {
    assert!(
        !said.iter().any(|sentence| sentence.contains(words)),
        "{said:#?}"
    );
}

fn small(who: &str, cpu_us: f64) -> Cell {
    cell(who, "echo-small", None, cpu_us)
}

#[test]
fn who_needs_least_and_why_another_needs_more() {
    let calls = [("recvfrom", 1.0), ("sendto", 1.0)];
    let fork = with_rounds(with_calls(small("fork", 10.3), &calls), |round| {
        round.voluntary_switches = Some(190_000);
        round.involuntary_switches = Some(0);
        (round.footprint.processes, round.footprint.threads) = (51, 51);
    });
    let said = concluded(vec![with_calls(small("reactor", 7.0), &calls), fork]);
    assert_eq!(
        one(&said, "least CPU"),
        "echo-small: reactor needs least CPU per echo, 7.10 us."
    );
    let why = one(&said, "times the CPU");
    assert!(why.starts_with("fork needs 1.48 (1."), "{why}");
    assert!(why.ends_with(
        ") times the CPU of reactor per echo: with 51 processes against 1, for each it makes 2.0 system calls, as reactor does, but 1.9 context switches against 0.03."
    ), "{why}");
}

#[test]
fn the_call_that_makes_the_difference_is_named() {
    let reactor = with_calls(small("reactor", 7.0), &[("recvfrom", 1.0), ("sendto", 1.0)]);
    let foreign = with_calls(
        small("foreign", 14.0),
        &[("epoll_ctl", 1.9), ("recvfrom", 1.1), ("sendto", 1.0)],
    );
    let why = one(&concluded(vec![reactor, foreign]), "times the CPU");
    assert!(why.ends_with(": for each it makes 0.03 context switches, as reactor does, but 4.0 system calls against 2.0 (1.9 more of epoll_ctl)."), "{why}");
}

#[test]
fn copies_are_told_where_they_differ() {
    let with = |who, cpu_us, copies| {
        let mut cell = with_calls(small(who, cpu_us), &[("read", 1.0), ("write", 1.0)]);
        cell.calls = cell.calls.map(|calls| Calls { copies, ..calls });
        cell
    };
    let why = |cells: [Cell; 2]| one(&concluded(cells.into()), "times the CPU");
    let cat = why([
        with("reactor", 7.0, Some(2.0)),
        with("cat", 14.0, Some(6.0)),
    ]);
    assert!(
        cat.ends_with("but 6.0 copies of each byte against 2.0."),
        "{cat}"
    );
    let splice = why([
        with("splice", 7.0, Some(0.01)),
        with("reactor", 14.0, Some(2.0)),
    ]);
    assert!(
        splice.contains("2.0 copies of each byte against 0.01"),
        "{splice}"
    );
    for (one, other) in [
        (Some(2.0), Some(2.01)),
        (None, Some(2.0)),
        (Some(2.0), None),
    ] {
        let why = why([with("reactor", 7.0, one), with("poll", 14.0, other)]);
        assert!(!why.contains("copies"), "{why}");
    }
}

#[test]
fn a_cause_that_was_not_counted_is_not_named() {
    let why = one(
        &concluded(vec![small("reactor", 7.0), small("fork", 14.0)]),
        "times the CPU",
    );
    assert!(why.ends_with(
        ": for each it makes no more context switches than reactor, but it spends 6.39 us of 7.10 us more in the kernel."
    ), "{why}");
    assert!(!why.contains("system calls"), "{why}");
    let busy = with_rounds(small("python", 14.0), |round| {
        std::mem::swap(&mut round.cpu.user_s, &mut round.cpu.system_s);
    });
    let why = one(
        &concluded(vec![small("reactor", 7.0), busy]),
        "times the CPU",
    );
    let times = " more in the program itself and ";
    assert!(
        why.contains(times) && why.ends_with(" less in the kernel."),
        "{why}"
    );
}

#[test]
fn who_cannot_be_told_apart_is_not_ranked() {
    let mut poll = small("poll", 7.0);
    poll.rounds[2].cpu.system_s *= 1.1;
    let said = concluded(vec![small("reactor", 7.0), poll]);
    assert!(
        one(&said, "cannot be told apart").contains("; poll (0.9"),
        "{said:?}"
    );
    none(&said, "times the CPU");
}

#[test]
fn when_median_and_pairs_contradict_each_other_it_says_so() {
    // Odd rounds are slow for both; in those that are left `b` needs less, but its median is a slow one.
    let in_rounds = |who: &str, costs: [f64; 7]| {
        let mut cell = small(who, 7.0);
        for (round, cost) in cell.rounds.iter_mut().zip(costs) {
            (round.cpu.user_s, round.cpu.system_s) = (0.0, 0.1 * cost);
        }
        cell
    };
    let mut a = in_rounds("a", [7.0, 7.0, 7.0, 7.0, 14.0, 14.0, 14.0]);
    a.rounds.retain(|round| round.round != 6);
    a.rounds.push(crate::compare::judge::example::round(7, 6.0));
    let b = in_rounds("b", [6.9, 6.9, 6.9, 6.9, 13.7, 13.7, 13.7]);
    let mut slow = b.clone();
    for number in 10..14 {
        let late = crate::compare::judge::example::round(number, 20.0);
        slow.rounds.push(late);
    }
    let said = concluded(vec![a, slow]);
    assert!(one(&said, "least CPU").contains("a needs least CPU"));
    let undecided = one(&said, "undecided");
    assert!(undecided.contains(", b needed 0.98"), "{undecided}");
    none(&said, "cannot be told apart");
}

#[test]
fn a_few_rounds_that_show_hardly_more_or_less_are_even() {
    let mut cells = vec![small("reactor", 7.0), small("poll", 7.1)];
    for cell in &mut cells {
        cell.rounds.truncate(3);
    }
    let said = concluded(cells);
    assert!(said[0].contains("; poll about as much."), "{said:?}");
}

#[test]
fn too_few_rounds_show_and_prove_nothing() {
    let mut cells = vec![
        small("reactor", 7.0),
        small("fork", 14.0),
        small("poll", 7.7),
    ];
    for cell in &mut cells {
        cell.rounds.truncate(3);
    }
    let said = concluded(cells);
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said[0].starts_with("echo-small: in 3 rounds reactor needed least CPU per echo, 7."));
    assert!(
        said[0].contains("; poll 1.09 times as much and fork 1.99"),
        "{said:?}"
    );
    assert!(
        said[0].ends_with(" times as much. Too few rounds to be sure of that."),
        "{said:?}"
    );
}

#[test]
fn of_many_only_the_last_is_explained() {
    let names = ["a", "b", "c", "d", "e"];
    let costs = [7.0, 8.0, 10.0, 12.0, 14.0];
    let cells = names
        .iter()
        .zip(costs)
        .map(|(who, cpu)| small(who, cpu))
        .collect();
    let said = concluded(cells);
    let listed = one(&said, "More than a:");
    assert!(
        listed.contains("b 1.14 times (") && listed.contains(" and d 1.71 times ("),
        "{listed}"
    );
    assert!(one(&said, "times the CPU").starts_with("e needs 2.00 ("));
}

#[test]
fn one_alone_is_compared_with_nobody() {
    assert_eq!(
        concluded(vec![small("reactor", 7.0)]),
        ["echo-small: reactor needs 7.10 us of CPU per echo."]
    );
    assert!(concluded(Vec::new()).is_empty());
}

#[test]
fn bulk_is_told_per_64_kib_and_in_megabytes() {
    let bulk = |who, cpu_us, mega: u64| {
        with_rounds(cell(who, "bulk", None, cpu_us), |round| {
            round.bytes = 1_000_000 * mega;
        })
    };
    let said = concluded(vec![bulk("reactor", 7.0, 2000), bulk("fork", 7.0, 1000)]);
    assert!(
        one(&said, "least CPU").contains("per 64 KiB, 23."),
        "{said:?}"
    );
    assert_eq!(
        one(&said, "MB per second"),
        "bulk: reactor echoes most bytes, 2,000 MB per second; fork 0.500 times that (0.500 to 0.500)."
    );
    assert!(
        one(&said, "times the CPU").contains("per 64 KiB"),
        "{said:?}"
    );
    none(&said, "per echo");
}

#[test]
fn the_slowest_echoes_are_told_where_somebody_may_have_to_wait() {
    let with = |who, workload: &str, ns| {
        with_rounds(cell(who, workload, None, 7.0), |round| {
            round.latency = latency_of(ns, 1000);
        })
    };
    let cells = ["firehose", "echo-small"].map(|load| {
        [
            with("reactor", load, 1_000_000),
            with("thread", load, 300_000),
        ]
    });
    let said = concluded(cells.concat());
    assert!(one(&said, "99 %").starts_with(
        "firehose: with thread 99 % of all echoes are back within 300 us; reactor 3.33 times that ("
    ), "{said:?}");
}

#[test]
fn slow_answers_are_about_waiting_and_not_about_cpu() {
    let with = |who, cpu, ns, echoes| {
        with_rounds(cell(who, "slow-handler", None, cpu), |round| {
            round.latency = latency_of(ns, 100);
            round.echoes = echoes;
        })
    };
    let said = concluded(vec![
        with("reactor", 7.0, 200_000_000, 100),
        with("thread", 14.0, 10_000_000, 2000),
    ]);
    assert!(
        one(&said, "per second").starts_with("slow-handler: thread echoes most messages, ")
            && one(&said, "per second").contains("; reactor 0.050 times that ("),
        "{said:?}"
    );
    assert_eq!(
        one(&said, "half of"),
        "slow-handler: half of the echoes are back within 10.0 ms with thread and 200 ms with reactor."
    );
    none(&said, "CPU per echo");
    none(&said, "beside");
}

fn idle(who: &str, costs: &[(u64, f64)]) -> Vec<Cell> {
    costs
        .iter()
        .map(|(point, cpu)| cell(who, "idle", Some(*point), *cpu))
        .collect()
}

#[test]
fn idle_connections_cost_some_and_others_not() {
    let said = concluded(
        [
            idle("reactor", &[(0, 7.0), (1000, 7.0), (8000, 7.0)]),
            idle("poll", &[(0, 7.0), (1000, 20.0), (8000, 87.0)]),
            idle("select", &[(0, 7.0), (1000, 23.0)]),
        ]
        .concat(),
    );
    let poll = one(&said, "poll needs");
    assert!(poll.starts_with("idle: with 8,000 idle connections poll needs 12.4 times the CPU per echo that it needs with 0 (12."), "{poll}");
    assert!(poll.ends_with("): 10.1 ns more for each."), "{poll}");
    assert!(
        one(&said, "select needs").contains(
            "with 1,000 idle connections, the most it was measured with, select needs 3.29"
        )
    );
    let flat = one(&said, "no growth");
    assert!(flat.starts_with("idle: no growth of CPU per echo from 0 to 8,000 idle connections can be told of reactor (1.00 to 1.00)"), "{flat}");
    none(&said, "least CPU");
}

#[test]
fn growth_needs_rounds() {
    let mut cells = idle("poll", &[(0, 7.0), (8000, 87.0)]);
    for cell in &mut cells {
        cell.rounds.truncate(3);
    }
    let said = concluded(cells);
    assert_eq!(
        said,
        [
            "idle: CPU per echo with 8,000 idle connections against 0: poll (12.4 in 3 rounds). Too few rounds to be sure of that."
        ]
    );
}

#[test]
fn who_never_reads_stalls_the_others_of_some() {
    let fine = with_rounds(cell("reactor", "never-read", None, 7.0), |round| {
        round.latency = latency_of(100_000, 1000);
    });
    let mut stalled = cell("bad", "never-read", None, 7.0);
    for round in &mut stalled.rounds[..2] {
        (round.echoes, round.bytes) = (0, 0);
    }
    stalled.rounds[2].latency = latency_of(600_000_000, 1);
    assert_eq!(
        one(&concluded(vec![fine.clone(), stalled.clone()]), "beside"),
        "never-read: beside a client that never reads, others get no echo for half the time measured or more with bad (in 3 of 7 rounds); nobody waits so long with reactor."
    );
    assert!(
        one(&concluded(vec![fine]), "beside")
            .ends_with("none of the others waits for half the time measured with reactor.")
    );
    for round in &mut stalled.rounds {
        round.echoes = 0;
    }
    assert!(one(&concluded(vec![stalled]), "beside").ends_with("with bad (in 7 of 7 rounds)."));
}

#[test]
fn who_serves_a_part_of_its_clients_is_named() {
    let pool = with_rounds(cell("thread-pool", "burst", None, 7.0), |round| {
        round.fairness = 0.125;
    });
    let mut comparison = comparison(vec![cell("reactor", "burst", None, 7.0), pool]);
    comparison.contestants[1].serves = Some(8);
    again(&mut comparison);
    let unfair = one(&comparison.conclusions, "Jain");
    assert!(
        unfair.ends_with(": thread-pool 12.5 %, serving 8 at a time (Jain's index)."),
        "{unfair}"
    );
    assert!(!unfair.contains("reactor"));
}

#[test]
fn memory_is_told_where_there_are_many_connections() {
    let with = |who, bytes: u64| {
        with_rounds(cell(who, "idle", Some(950), 7.0), |round| {
            round.at_rest.pss = 2_000_000;
            round.footprint.pss += 1000 * bytes;
        })
    };
    let said = concluded(vec![with("fork", 141_000), with("reactor", 64)]);
    assert_eq!(
        one(&said, "Memory"),
        "Memory for each connection, without the kernel's (idle, 950 idle connections): reactor 64 B and fork 141 kB."
    );
}

#[test]
fn who_could_not_is_named_with_the_reason() {
    let cannot = |why: &str| Outcome::Cannot { why: why.into() };
    let failed = Outcome::Failed {
        why: "connection 7: reset.\n".into(),
    };
    let said = concluded(vec![
        without("iterative", "echo-small", cannot("one client at a time")),
        without("iterative", "connections", cannot("one client at a time")),
        without("pool", "echo-small", cannot("8 at a time, here are 50")),
        without("pool", "connections", cannot("8 at a time, here are 5000")),
        without("foreign", "bulk", failed.clone()),
        without("foreign", "bulk", failed),
        without("fork", "bulk", Outcome::NotReached),
    ]);
    assert_eq!(
        said,
        [
            "iterative cannot do echo-small and connections: one client at a time.",
            "pool cannot do echo-small and connections (echo-small: 8 at a time, here are 50).",
            "foreign failed under bulk: connection 7: reset.",
        ]
    );
}

#[test]
fn how_far_one_gets_is_told() {
    let mut cells = idle("select", &[(0, 7.0), (1000, 7.0), (2000, 7.0)]);
    for cell in &mut cells[1..] {
        let why = format!("here are {:?}", cell.point);
        (cell.outcome, cell.rounds) = (Outcome::Cannot { why }, Vec::new());
    }
    cells.reverse();
    assert_eq!(
        one(&concluded(cells), "cannot"),
        "select cannot do idle from 1,000 idle connections on: here are Some(1000)."
    );
}

#[test]
fn without_intervals_no_rate_is_ranked() {
    let mut cells = vec![
        cell("reactor", "bulk", None, 7.0),
        cell("fork", "bulk", None, 14.0),
    ];
    for cell in &mut cells {
        cell.rounds.truncate(3);
    }
    none(&concluded(cells), "MB per second");
}

#[test]
fn counts_that_are_nearly_equal_are_equal() {
    let calls = |who, cpu_us, each| with_calls(small(who, cpu_us), &[("read", each)]);
    let why = one(
        &concluded(vec![calls("a", 7.0, 20.0), calls("b", 14.0, 21.0)]),
        "times the CPU",
    );
    assert!(
        why.contains("makes no more system calls and context switches than a, but"),
        "{why}"
    );
    let why = one(
        &concluded(vec![calls("a", 7.0, 20.0), calls("b", 14.0, 23.0)]),
        "times the CPU",
    );
    assert!(
        why.contains("but 23 system calls against 20 (3.0 more of read)"),
        "{why}"
    );
}

#[test]
fn how_many_intervals_may_miss_is_told() {
    let said = concluded(vec![small("reactor", 7.0), small("fork", 14.0)]);
    assert_eq!(
        one(&said, "expect"),
        "Each interval by itself contains the true ratio with at least 98.4 %. There are 2 of them: expect fewer than one to miss."
    );
}

#[test]
fn lists_read_like_sentences() {
    let of = |items: &[&str]| list(items.iter().map(ToString::to_string));
    assert_eq!(
        [of(&[]), of(&["a"]), of(&["a", "b"]), of(&["a", "b", "c"])],
        ["", "a", "a and b", "a, b and c"]
    );
}
