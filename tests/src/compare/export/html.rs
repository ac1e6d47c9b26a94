//! HTML: one file with everything in it, pictures too. It needs no script and no network.

use crate::compare::chart::pictures;
use crate::compare::ranking::Ranking;
use crate::compare::result::{Cell, Comparison, Workload};
use crate::compare::table::{self, Head, Table, count_of};
use crate::figures::{self, NONE};
use crate::page::document;
use crate::page::markup::Markup;

const STYLE: &str = include_str!("report.css");

/// The whole page.
pub fn html(comparison: &Comparison) -> String {
    document("Echo servers compared", STYLE, |page| {
        body(page, comparison);
    })
}

fn body(page: &mut Markup, comparison: &Comparison) {
    page.tag("header").holding(|page| header(page, comparison));
    page.tag("main").holding(|page| {
        conclusions(page, comparison);
        contestants(page, comparison);
        for (i, workload) in comparison.workloads.iter().enumerate() {
            let id = format!("workload-{i}");
            page.tag("section")
                .with("id", &id)
                .holding(|page| section(page, comparison, workload, &id));
        }
        method(page, comparison);
        raw_numbers(page, comparison);
    });
}

fn header(page: &mut Markup, comparison: &Comparison) {
    page.tag("h1").saying("Echo servers compared");
    let here = &comparison.environment;
    let what = format!(
        "{} servers, {} rounds of {} for each workload; {}, {}, {}",
        comparison.contestants.len(),
        comparison.rounds,
        table::duration(comparison),
        here.processor,
        here.system,
        comparison.began
    );
    page.tag("p").class("quiet").saying(&what);
    page.tag("nav")
        .with("aria-label", "Workloads")
        .holding(|page| {
            for (i, workload) in comparison.workloads.iter().enumerate() {
                page.tag("a")
                    .with("href", &format!("#workload-{i}"))
                    .saying(&workload.name);
            }
            page.tag("a")
                .with("href", "#method")
                .saying("where and how");
        });
}

fn conclusions(page: &mut Markup, comparison: &Comparison) {
    page.tag("section").class("conclusions").holding(|page| {
        page.tag("h2").saying("What the figures say");
        if comparison.interrupted {
            page.tag("p")
                .class("doubt")
                .saying("Interrupted: what is missing was not measured.");
        }
        sentences(page, "", &comparison.conclusions);
    });
    if !comparison.warnings.is_empty() {
        page.tag("section").class("doubt").holding(|page| {
            page.tag("h2").saying("What makes them doubtful");
            sentences(page, "", &comparison.warnings);
        });
    }
}

fn contestants(page: &mut Markup, comparison: &Comparison) {
    page.tag("section").holding(|page| {
        page.tag("h2").saying("Who took part");
        draw(page, "Who took part", &table::of_contestants(comparison));
    });
}

fn section(page: &mut Markup, comparison: &Comparison, workload: &Workload, id: &str) {
    page.tag("h2").holding(|page| {
        page.tag("span").class("name").saying(&workload.name);
        page.say(&format!(" {}", workload.title));
    });
    page.tag("p").class("shows").saying(&workload.shows);
    if comparison.is_swept(workload) {
        points(page, comparison, workload, id);
        return;
    }
    for point in comparison.points(workload) {
        let ranking = comparison.ranking(workload, point);
        pictures_of(page, pictures::cpu(&ranking, id));
        ranked(page, &ranking);
        sentences(page, "without", &table::reasons(comparison, workload));
        causes(page, &ranking);
        pictures_of(page, pictures::latency(comparison, &ranking, id));
        pictures_of(page, pictures::fairness(&ranking, id));
        if memory_is_best_seen(comparison, workload) {
            pictures_of(page, pictures::memory(&ranking, id));
        }
    }
}

/// A workload with points: how the figures go, and all of them in a box to be opened.
fn points(page: &mut Markup, comparison: &Comparison, workload: &Workload, id: &str) {
    pictures_of(page, pictures::sweep(comparison, workload, id));
    let what = workload.points.as_deref().unwrap_or_default();
    let caption = format!("CPU time per {}, over {what}", workload.per());
    draw(page, &caption, &table::of_points(comparison, workload).0);
    sentences(page, "without", &table::reasons(comparison, workload));
    for point in comparison.points(workload) {
        let ranking = comparison.ranking(workload, point);
        details(
            page,
            &format!("All figures with {} {what}", count_of(point)),
            |page| {
                ranked(page, &ranking);
                causes(page, &ranking);
            },
        );
    }
}

/// Is this the workload with most connections, so that memory per connection is seen best?
fn memory_is_best_seen(comparison: &Comparison, workload: &Workload) -> bool {
    let most = |name: &str| {
        let cells = comparison
            .cells
            .iter()
            .filter(|cell| cell.workload == name && cell.point.is_none());
        let summaries = cells.filter_map(|cell| cell.summary.as_ref());
        let known = summaries.filter(|summary| summary.pss_per_connection.is_some());
        known.map(|summary| summary.footprint.descriptors).max()
    };
    let best = comparison
        .workloads
        .iter()
        .rev()
        .max_by_key(|workload| most(&workload.name));
    best.is_some_and(|best| best.name == workload.name)
}

fn pictures_of(page: &mut Markup, picture: Option<String>) {
    if let Some(picture) = picture {
        page.raw(&picture);
    }
}

/// The figures.
fn ranked(page: &mut Markup, ranking: &Ranking<'_>) {
    let label = format!("Figures of {}", ranking.workload.name);
    draw(page, &label, &table::of_ranking(ranking));
}

/// Why, in figures.
fn causes(page: &mut Markup, ranking: &Ranking<'_>) {
    page.tag("h4").saying("Why, and at what price");
    let name = &ranking.workload.name;
    draw(
        page,
        &format!("Causes in {name}"),
        &table::of_causes(ranking),
    );
    let calls = table::of_calls(ranking);
    if !calls.rows.is_empty() {
        let summary = "System calls by name, counted in a run of their own";
        details(page, summary, |page| draw(page, summary, &calls));
    }
}

fn method(page: &mut Markup, comparison: &Comparison) {
    page.tag("section").with("id", "method").holding(|page| {
        page.tag("h2").saying("Where and how");
        page.tag("dl").holding(|page| {
            for (name, value) in table::of_environment(comparison) {
                page.tag("dt").saying(&name);
                page.tag("dd").saying(&value);
            }
        });
        page.tag("h3").saying("Command lines");
        page.tag("dl").holding(|page| {
            command(page, "this comparison", &table::command_line(comparison));
            for who in &comparison.contestants {
                command(page, &who.name, &who.command);
            }
            for load in &comparison.workloads {
                command(page, &load.name, &load.command);
            }
        });
    });
}

fn command(page: &mut Markup, name: &str, words: &str) {
    page.tag("dt").saying(name);
    page.tag("dd")
        .holding(|page| page.tag("code").saying(words));
}

/// Every round of every cell.
fn raw_numbers(page: &mut Markup, comparison: &Comparison) {
    page.tag("section").class("raw").holding(|page| {
        page.tag("h2").saying("Raw numbers");
        for workload in &comparison.workloads {
            details(page, &format!("Each round of {}", workload.name), |page| {
                draw(
                    page,
                    &format!("Rounds of {}", workload.name),
                    &rounds(comparison, workload),
                );
            });
        }
    });
}

fn rounds(comparison: &Comparison, workload: &Workload) -> Table {
    let here = |cell: &&Cell| cell.workload == workload.name;
    let mut table = Table {
        words: 1,
        ..Table::default()
    };
    let heads = [
        ("contestant", ""),
        ("at", ""),
        ("round", ""),
        ("measured", "s"),
        ("echoes", ""),
        ("bytes", ""),
        ("user", "s"),
        ("kernel", "s"),
        ("generator", "s"),
        ("p50", "us"),
        ("p99", "us"),
        ("longest", "us"),
        ("switches", "waited"),
        ("switches", "taken off"),
        ("processes", ""),
        ("threads", ""),
        ("memory", "bytes"),
        ("at rest", "bytes"),
        ("fairness", ""),
        ("others' load", ""),
    ];
    table.heads = heads
        .map(|(name, unit)| Head {
            name: name.into(),
            unit: unit.into(),
        })
        .to_vec();
    for cell in comparison.cells.iter().filter(here) {
        for round in &cell.rounds {
            let whole = |n: u64| {
                figures::plain(n as f64)
                    .trim_end_matches(".0")
                    .trim_end_matches(".00")
                    .to_string()
            };
            let latency = |of: fn(&crate::load::report::Latency) -> Option<f64>| {
                round
                    .latency
                    .as_ref()
                    .and_then(of)
                    .map_or(NONE.into(), figures::plain)
            };
            table.rows.push(vec![
                cell.contestant.clone(),
                count_of(cell.point),
                (round.round + 1).to_string(),
                figures::plain(round.measured_s),
                whole(round.echoes),
                whole(round.bytes),
                figures::plain(round.cpu.user_s),
                figures::plain(round.cpu.system_s),
                figures::plain(round.generator_cpu.total_s()),
                latency(|latency| latency.percentile(50.0)),
                latency(|latency| latency.percentile(99.0)),
                latency(|latency| Some(latency.max_us)),
                round.voluntary_switches.map_or(NONE.into(), whole),
                round.involuntary_switches.map_or(NONE.into(), whole),
                whole(round.footprint.processes),
                whole(round.footprint.threads),
                whole(round.footprint.pss),
                whole(round.at_rest.pss),
                figures::plain(round.fairness),
                figures::percent(round.foreign_load),
            ]);
        }
    }
    table
}

fn details(page: &mut Markup, summary: &str, content: impl FnOnce(&mut Markup)) {
    page.tag("details").holding(|page| {
        page.tag("summary").saying(summary);
        content(page);
    });
}

fn sentences(page: &mut Markup, class: &str, sentences: &[String]) {
    if sentences.is_empty() {
        return;
    }
    page.tag("ul").class(class).holding(|page| {
        for sentence in sentences {
            page.tag("li").saying(sentence);
        }
    });
}

/// A table in a frame of its own, which scrolls where the page is too narrow, with the keyboard too.
fn draw(page: &mut Markup, label: &str, table: &Table) {
    if table.rows.is_empty() {
        return;
    }
    let side = |i: usize| if i < table.words { "word" } else { "figure" };
    let frame = page.tag("div").class("frame").with("role", "region");
    frame
        .with("aria-label", label)
        .with("tabindex", "0")
        .holding(|page| {
            page.tag("table").holding(|page| {
                page.tag("thead").holding(|page| {
                    page.tag("tr").holding(|page| {
                        for (i, head) in table.heads.iter().enumerate() {
                            page.tag("th")
                                .with("scope", "col")
                                .class(side(i))
                                .holding(|page| {
                                    page.say(&head.name);
                                    if !head.unit.is_empty() {
                                        page.say(" ");
                                        page.tag("span").class("unit").saying(&head.unit);
                                    }
                                });
                        }
                    });
                });
                page.tag("tbody")
                    .holding(|page| table.rows.iter().for_each(|row| drawn(page, row, side)));
            });
        });
}

fn drawn(page: &mut Markup, row: &[String], side: impl Fn(usize) -> &'static str) {
    page.tag("tr").holding(|page| {
        for (i, text) in row.iter().enumerate() {
            if i == 0 {
                page.tag("th")
                    .with("scope", "row")
                    .class("word")
                    .saying(text);
            } else {
                page.tag("td").class(side(i)).saying(text);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::fixture;
    use crate::compare::result::{Outcome, Summary};
    use crate::page::markup;
    use proptest::prelude::*;

    /// How often there is such a picture.
    fn pictures(page: &str, kind: &str) -> usize {
        page.matches(&format!("-{kind}-title\"")).count()
    }

    #[test]
    fn the_page_is_well_formed_and_needs_nothing_else() {
        let page = html(&fixture::comparison());
        assert_eq!(markup::check(&page), Ok(()));
        let needs = [
            "http:", "https:", "src=", "<script", "@import", "url(", "<link",
        ];
        for foreign in needs {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn there_are_pictures_of_what_was_measured_only() {
        let mut comparison = fixture::comparison();
        let page = html(&comparison);
        // Five workloads without points, one of them in bulk, one uneven; one with points.
        for (kind, count) in [
            ("cpu", 5),
            ("latency", 4),
            ("fairness", 1),
            ("memory", 1),
            ("sweep", 1),
        ] {
            assert_eq!(pictures(&page, kind), count, "{kind}");
        }
        for cell in &mut comparison.cells {
            if let Some(summary) = &mut cell.summary {
                (summary.latency, summary.pss_per_connection) = (None, None);
            }
        }
        let page = html(&comparison);
        assert_eq!(
            (pictures(&page, "latency"), pictures(&page, "memory")),
            (0, 0)
        );
        assert_eq!(pictures(&page, "cpu"), 5);
    }

    #[test]
    fn a_picture_tells_its_figures_to_those_who_cannot_see_it() {
        let comparison = fixture::comparison();
        let ranking = comparison.ranking(&comparison.workloads[0], None);
        let least = figures::time_us(ranking.rows[0].summary.cpu_us.median);
        let page = html(&comparison);
        assert!(page.contains(&format!("Bars, shortest first. uring: {least}, of it ")));
        assert!(page.contains("select: 8.") && page.contains(" at 500 idle connections;"));
    }

    #[test]
    fn an_interrupted_comparison_says_so_and_what_is_missing() {
        let mut comparison = fixture::comparison();
        comparison.interrupted = true;
        for cell in &mut comparison.cells {
            (cell.outcome, cell.summary, cell.calls) = (Outcome::NotReached, None, None);
            cell.rounds.clear();
        }
        let page = html(&comparison);
        assert_eq!(markup::check(&page), Ok(()));
        assert!(page.contains("Interrupted: what is missing was not measured."));
        assert!(page.contains("reactor not reached: the comparison was interrupted before"));
        assert_eq!(page.matches("<svg").count(), 0);
    }

    /// Two workloads and few contestants, so that there is time for many of them.
    fn small() -> Comparison {
        let mut comparison = fixture::comparison();
        comparison
            .contestants
            .retain(|who| ["uring", "poll", "select"].contains(&who.name.as_str()));
        comparison
            .workloads
            .retain(|load| ["echoes", "idle"].contains(&load.name.as_str()));
        comparison
    }

    fn distort(summary: &mut Summary, with: f64) {
        summary.cpu_us.median = with;
        summary.cpu_us.low = with;
        summary.generator_cpu_us.high = with;
        summary.fairness.median = with;
        summary.pss_per_connection = Some(summary.cpu_us);
        if let Some(latency) = &mut summary.latency {
            (latency.min_us, latency.histogram) = (with, String::new());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn no_name_and_no_figure_breaks_the_page(name in fixture::any_text(), which in 0..18_usize, with in any::<f64>()) {
            let mut comparison = small();
            comparison.contestants[0].name.clone_from(&name);
            comparison.cells.iter_mut().filter(|cell| cell.contestant == "uring").for_each(|cell| cell.contestant.clone_from(&name));
            comparison.conclusions.push(name);
            let summaries = comparison.cells.iter_mut().filter_map(|cell| cell.summary.as_mut());
            summaries.skip(which).step_by(18).for_each(|summary| distort(summary, with));
            for cell in comparison.cells.iter_mut().skip(which).step_by(18) {
                cell.rounds.iter_mut().for_each(|round| round.cpu.user_s = with);
            }
            prop_assert_eq!(markup::check(&html(&comparison)), Ok(()));
        }
    }
}
