//! The handouts, in a real browser where there is one: nothing leaves the page's width, on a projector and
//! on a telephone; every link leads somewhere; nothing is loaded and nothing complains; words can be told
//! from their ground by day and by night; no two texts of a picture lie on each other. And the files
//! that `tcpecho-lab run` writes, also when something differs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tcpecho_lab::handout::Edition;
use tcpecho_lab::handout::html::html;
use tcpecho_lab::handout::markdown::markdown;
use tcpecho_lab::narrate::quiet::Quiet;
use tcpecho_lab::narrate::record::{Record, Recorder};
use tcpecho_lab::netns::{self, Isolation};
use tcpecho_lab::skip::skip;
use tcpecho_lab::{binaries, labs};

const EDITIONS: [Edition; 3] = [Edition::Complete, Edition::Student, Edition::Instructor];

/// Widths of pages: a projector, a telephone.
const WIDTHS: [u32; 2] = [1280, 400];

/// Looks at the page, which is in a frame of the given width, and says what is wrong with it.
const INSPECTOR: &str = include_str!("pages/inspector.js");

/// A directory of the test's own, gone at its end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Result<Self> {
        let place = std::env::temp_dir().join(format!("tcpecho-{name}-{}", std::process::id()));
        fs::create_dir(&place)?;
        Ok(Self(place))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Result<Vec<String>> {
        let names = fs::read_dir(&self.0)?.map(|entry| Ok(entry?.file_name()));
        let names: Result<Vec<_>> = names.collect();
        Ok(names?.iter().map(|n| n.to_string_lossy().into()).collect())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nobody is harmed by what is left in /tmp.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn chromium() -> Option<&'static str> {
    static FOUND: LazyLock<Option<&str>> = LazyLock::new(|| {
        ["chromium", "chromium-browser", "google-chrome"]
            .into_iter()
            .find(|name| {
                let version = Command::new(name).arg("--version").output();
                version.is_ok_and(|output| output.status.success())
            })
    });
    *FOUND
}

fn performed(names: &[&str], place: &Isolation) -> Result<Vec<Record>> {
    let mut quiet = Quiet::new();
    let mut recorder = Recorder::new(&mut quiet);
    for name in names {
        let lab = labs::find(name).context("no such lab")?;
        lab.perform(place, &mut recorder)?;
    }
    Ok(recorder.into_records())
}

/// What the inspector finds in each page (its name, itself), in each width.
fn inspect(browser: &str, pages: &[(String, String)], dark: bool) -> Result<Vec<Value>> {
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    let place = Place::new(&format!("look-{}", LOOKS.fetch_add(1, Ordering::Relaxed)))?;
    let wrapper = place.file("wrapper.html");
    // Strings in a script: nothing in them may end the script.
    let quoted = serde_json::to_string(pages)?.replace('<', "\\u003c");
    let script = format!("const pages = {quoted}, widths = {WIDTHS:?};\n{INSPECTOR}");
    let page = "<!DOCTYPE html><meta charset=\"utf-8\"><body><script>";
    fs::write(&wrapper, format!("{page}{script}</script>"))?;
    let scheme = i32::from(!dark);
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=60000"])
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!(
            "--user-data-dir={}",
            place.file("profile").display()
        ))
        .arg(format!("file://{}", wrapper.display()))
        .stdin(Stdio::null())
        .output()?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    // Chromium's own pages complain too, about a slow network for instance.
    let complaint = complaints
        .lines()
        .find(|line| line.contains("CONSOLE") && !line.contains("source: chrome://"));
    if let Some(complaint) = complaint {
        bail!("the browser complains: {complaint}");
    }
    let dom = String::from_utf8_lossy(&output.stdout);
    let report = dom.split("<pre id=\"report\">").nth(1);
    let report = report.and_then(|rest| rest.split("</pre>").next());
    let report = report.with_context(|| format!("no report: {dom:.300} {complaints:.300}"))?;
    let report = report.replace("&lt;", "<").replace("&gt;", ">");
    Ok(serde_json::from_str(&report.replace("&amp;", "&"))?)
}

/// The pages are in order in every width, by day and by night.
fn hold(browser: &str, pages: &[(String, String)]) -> Result<()> {
    for dark in [false, true] {
        let reports = inspect(browser, pages, dark)?;
        ensure!(reports.len() == pages.len() * WIDTHS.len());
        for report in reports {
            let what = format!("{}, dark {dark}", report["what"]);
            let wrong = report["wrong"].as_array().context("a list")?;
            ensure!(wrong.is_empty(), "{what}: {wrong:#?}");
            ensure!(report["dark"] == dark, "{what}: by {}", report["dark"]);
            ensure!(report["looked"].as_u64() > Some(20), "{what}: {report}");
        }
    }
    Ok(())
}

#[test]
fn a_lab_and_a_course_are_in_order_in_a_browser() -> Result<()> {
    const NAME: &str = "a_lab_and_a_course_are_in_order_in_a_browser";
    let Some(browser) = chromium() else {
        return skip(NAME, "there is no chromium");
    };
    netns::test(NAME, || {
        let records = performed(
            &["premature-termination", "normal-life"],
            &Isolation::Namespaces,
        )?;
        let mut pages = Vec::new();
        for edition in EDITIONS {
            pages.push((format!("{edition:?}"), html(&records[..1], edition)));
            pages.push((format!("course, {edition:?}"), html(&records, edition)));
        }
        hold(browser, &pages)
    })
}

#[test]
fn the_inspector_finds_what_is_wrong() -> Result<()> {
    let Some(browser) = chromium() else {
        return skip("the_inspector_finds_what_is_wrong", "there is no chromium");
    };
    let page = |body: &str| format!("<!DOCTYPE html><html><body>{body}</body></html>");
    let text = |at: u32, text: &str| format!("<text x='{at}' y='20'>{text}</text>");
    let wrongs = [
        ("<p style='width: 3000px'>x</p>".to_string(), "wide"),
        ("<a href='#nowhere'>x</a>".to_string(), "nowhere"),
        ("<i id='a'></i><i id='a'></i>".to_string(), "twice"),
        (
            "<p style='color: #999; background: #aaa'>x</p>".to_string(),
            "contrast",
        ),
        (
            format!("<svg viewBox='0 0 99 50'>{}</svg>", text(80, "leaves")),
            "leaves",
        ),
        (
            format!(
                "<svg viewBox='0 0 200 50'>{}{}</svg>",
                text(9, "one one"),
                text(20, "two")
            ),
            "lies on",
        ),
        ("<p id='a'><a href='#a'>fine</a>".to_string(), "[]"),
    ];
    let pages: Vec<_> = wrongs
        .iter()
        .map(|(body, word)| ((*word).to_string(), page(body)))
        .collect();
    let reports = inspect(browser, &pages, false)?;
    for (report, (body, word)) in reports.chunks(WIDTHS.len()).zip(&wrongs) {
        for report in report {
            let found = report["wrong"].to_string();
            ensure!(found.contains(word), "{body}: {report}");
        }
    }
    let complaint = inspect(
        browser,
        &[("x".into(), page("<script>x.y.z</script>"))],
        false,
    );
    ensure!(complaint.is_err_and(|error| error.to_string().contains("complains")));
    Ok(())
}

/// `tcpecho-lab` with these arguments, and programs from `programs` if given.
fn lab(args: &[&str], programs: Option<&Path>) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcpecho-lab"));
    command.args(args).stdin(Stdio::null());
    if let Some(programs) = programs {
        command.env("TCPECHO_BIN_DIR", programs);
    }
    Ok(command.output()?)
}

#[test]
fn run_writes_both_handouts_and_leaves_nothing_else() -> Result<()> {
    let place = Place::new("handouts")?;
    let (page, text) = (place.file("page.html"), place.file("page.md"));
    let (page_at, text_at) = (page.display().to_string(), text.display().to_string());
    let output = lab(
        &[
            "run",
            "premature-termination",
            "--auto",
            "--html",
            &page_at,
            "--markdown",
            &text_at,
            "--edition",
            "student",
        ],
        None,
    )?;
    ensure!(output.status.code() == Some(0), "{output:?}");
    let (page, text) = (fs::read_to_string(page)?, fs::read_to_string(text)?);
    ensure!(
        page.ends_with("</html>\n") && page.contains("student's edition"),
        "{page:.300}"
    );
    ensure!(
        text.starts_with("# ") && text.contains("- [ ] 1) "),
        "{text:.300}"
    );
    let mut names = place.names()?;
    names.sort();
    ensure!(names == ["page.html", "page.md"], "{names:?}");
    Ok(())
}

#[test]
fn a_handout_on_stdout_is_alone_there() -> Result<()> {
    let output = lab(
        &["run", "premature-termination", "--auto", "--html", "-"],
        None,
    )?;
    ensure!(output.status.code() == Some(0), "{output:?}");
    let page = String::from_utf8(output.stdout)?;
    ensure!(
        page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"),
        "{page:.300}"
    );
    Ok(())
}

#[test]
fn a_performance_that_differs_is_written_too() -> Result<()> {
    let place = Place::new("different")?;
    // A server that never waits for its children, whatever the lab wants.
    let server = place.file("tcpechod");
    let real = binaries::path("tcpechod")?;
    let script = format!(
        "#!/bin/sh\nexec {} \"$@\" --mistake no-reaper\n",
        real.display()
    );
    fs::write(&server, script)?;
    fs::set_permissions(&server, fs::Permissions::from_mode(0o755))?;
    std::os::unix::fs::symlink(binaries::path("tcpecho")?, place.file("tcpecho"))?;
    let page = place.file("page.html");
    let at = page.display().to_string();
    let output = lab(
        &["run", "premature-termination", "--auto", "--html", &at],
        Some(&place.0),
    )?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let page = fs::read_to_string(page)?;
    ensure!(
        page.contains("children the server still has should have been 0, but was 1"),
        "{page}"
    );
    ensure!(page.contains("something was different") && page.ends_with("</html>\n"));
    Ok(())
}

#[test]
fn a_file_that_cannot_be_written_is_told_before_anything_starts() -> Result<()> {
    for args in [["--html", "/no/such/place/x.html"], ["--markdown", "/"]] {
        let line = ["run", "premature-termination", "--auto"];
        let output = lab(&[&line[..], &args[..]].concat(), None)?;
        ensure!(output.status.code() == Some(2), "{output:?}");
        ensure!(output.stdout.is_empty(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            said.contains("cannot write") && said.lines().count() == 1,
            "{said}"
        );
    }
    Ok(())
}

#[test]
fn markdown_has_the_time_lines_in_letters() -> Result<()> {
    netns::test("markdown_has_the_time_lines_in_letters", || {
        let records = performed(&["premature-termination"], &Isolation::Namespaces)?;
        let text = markdown(&records, Edition::Complete);
        ensure!(text.contains("FIN,ACK seq=7 -"), "{text}");
        Ok(())
    })
}
