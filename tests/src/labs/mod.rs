//! The labs: demonstrations that check themselves, one file each.
//!
//! A new lab is a file here with a `pub static LAB`, a `mod` line, and its name in the list below.
//! From the list come `tcpecho-lab list`, `tcpecho-lab run NAME`, and one test per lab.

pub mod abort_before_accept;
pub mod backlog;
pub mod cast;
pub mod crash_and_reboot;
pub mod crowd;
pub mod dispositions;
pub mod edge_trigger;
pub mod eintr;
pub mod fin_or_reset;
pub mod find_the_bug;
pub mod half_close;
pub mod host_crash;
pub mod hosts;
pub mod idle_cost;
pub mod inetd;
pub mod nagle;
pub mod normal_life;
pub mod one_stalls_all;
pub mod one_wait;
pub mod pair;
pub mod pools;
pub mod port_range;
mod premature_termination;
pub mod processes_and_threads;
pub mod reference_counts;
pub mod second_client;
pub mod select_limit;
pub mod short_write;
pub mod shutdown;
pub mod sigpipe;
pub mod socket_pair;
pub mod states;
pub mod stdio_trap;
pub mod time_wait;
pub mod unreachable;
pub mod wait3;
pub mod zombies;

use crate::narrate::Lab;

/// The one list of labs: hands the names of their modules to the macro called `$then`.
#[macro_export]
macro_rules! every_lab {
    ($then:ident) => {
        $then! {
            normal_life
            half_close
            time_wait
            socket_pair
            port_range
            second_client
            backlog
            processes_and_threads
            reference_counts
            inetd
            pools
            select_limit
            idle_cost
            one_stalls_all
            edge_trigger
            zombies
            one_wait
            wait3
            eintr
            sigpipe
            dispositions
            premature_termination
            fin_or_reset
            abort_before_accept
            host_crash
            unreachable
            crash_and_reboot
            shutdown
            short_write
            nagle
            stdio_trap
            find_the_bug
        }
    };
}

macro_rules! register {
    ($($lab:ident)*) => {
        /// All labs, in the order of the course.
        pub static ALL: &[&Lab] = &[$(&$lab::LAB),*];
    };
}

every_lab!(register);

/// The lab of this name, as written on the command line or as its module is called.
pub fn find(name: &str) -> Option<&'static Lab> {
    let name = name.replace('_', "-");
    ALL.iter().find(|lab| lab.name == name).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::narrate::try_it;

    #[test]
    fn labs_are_complete_before_they_are_performed() {
        for lab in ALL {
            assert_eq!(find(lab.name).map(|l| l.title), Some(lab.title));
            let acts = (lab.acts)();
            assert!(!acts.is_empty(), "{} has no act", lab.name);
            for act in acts {
                assert_eq!(act.rehearse(), Ok(()), "{}: {}", lab.name, act.title());
                assert!(!act.outline().is_empty(), "{}: {}", lab.name, act.title());
            }
        }
    }

    /// What these are about is counted or copied, not sent.
    const WITHOUT_TIME_LINE: &[&str] = &[
        "processes-and-threads",
        "pools",
        "select-limit",
        "idle-cost",
        "one-wait",
        "dispositions",
        "short-write",
    ];

    #[test]
    fn every_lab_asks_looks_and_draws() {
        for lab in ALL {
            let acts = (lab.acts)();
            let steps: Vec<_> = acts.iter().flat_map(|act| act.outline()).collect();
            let has = |kind: &str| steps.iter().any(|step| step.starts_with(kind));
            assert!(has("predict "), "{} asks for no prediction", lab.name);
            assert!(has("observe "), "{} shows no command", lab.name);
            let drawn = steps.iter().any(|step| step.contains("time line"));
            let expected = !WITHOUT_TIME_LINE.contains(&lab.name);
            assert_eq!(drawn, expected, "{}: a time line?", lab.name);
        }
    }

    #[test]
    fn every_lab_has_lines_to_type_and_says_where_to_read_on() {
        for lab in ALL {
            let acts = (lab.acts)();
            let lines: Vec<_> = acts.iter().flat_map(|act| act.try_it()).collect();
            assert!(!lines.is_empty(), "{}: nothing to try", lab.name);
            for text in lines {
                try_it::lines(text).unwrap_or_else(|e| panic!("{}: {e:#}", lab.name));
            }
            let texts: Vec<_> = acts.iter().flat_map(|act| act.read()).collect();
            let said = texts.iter().any(|text| text.starts_with("Read: UNP "));
            assert!(said, "{}: nothing to read: {texts:?}", lab.name);
        }
    }

    #[test]
    fn a_module_has_the_name_of_its_lab() {
        macro_rules! names {
            ($($lab:ident)*) => { [$(stringify!($lab)),*] };
        }
        for (module, lab) in every_lab!(names).iter().zip(ALL) {
            assert_eq!(module.replace('_', "-"), lab.name);
        }
    }

    #[test]
    fn titles_fit_a_table_of_eighty_columns() {
        for lab in ALL {
            let line = lab.name.len() + lab.title.len() + lab.sections.len() + 4;
            assert!(line <= 80, "{}: {line} columns", lab.name);
            // The widest name, two letters of what it needs, three figures of seconds.
            assert!(lab.title.len() <= 50, "{}: {}", lab.name, lab.title);
        }
    }
}
