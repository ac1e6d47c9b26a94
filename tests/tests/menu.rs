//! `tcpecho-lab` as somebody at a terminal has it: the menu by its keys, `explain`, `doctor`.
//!
//! Whatever ends or stops the menu, the terminal must be as it was before.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, Termios};
use tcpecho_lab::client::{Client, ClientProcess};
use tcpecho_lab::observe::processes;
use tcpecho_lab::runner::menu::screen::Screen;
use tcpecho_lab::wait::eventually;
use tcpecho_lab::{binaries, labs, netns};

const SOON: Duration = Duration::from_secs(20);
const LAB: &str = env!("CARGO_BIN_EXE_tcpecho-lab");

const DOWN: &[u8] = b"\x1b[B";
/// What a terminal sends for ^C and ^Z, and turns into signals.
const INTERRUPT: &[u8] = b"\x03";
const STOP: &[u8] = b"\x1a";
/// Takes the second page of the terminal, and gives it back.
const TAKEN: &str = "\x1b[?1049h";
const GIVEN_BACK: &str = "\x1b[?25h\x1b[?1049l";

/// tcpecho-lab, with programs that are built already.
fn lab() -> Client {
    let lab = Client::plain(LAB, [""; 0]);
    match binaries::directory() {
        Ok(Some(directory)) => lab.env(binaries::DIRECTORY, directory),
        _ => lab,
    }
}

/// The menu in a window of this size.
fn menu(columns: u16, rows: u16) -> Client {
    lab()
        .in_window(columns, rows)
        .env("TERM", "xterm")
        .env("NO_COLOR", "1")
}

fn all(terminal: &ClientProcess) -> String {
    String::from_utf8_lossy(&terminal.stdout()).into_owned()
}

/// What has been drawn last, or written since.
fn page(terminal: &ClientProcess) -> String {
    let all = all(terminal);
    let last = all.rsplit("\x1b[H").next().unwrap_or_default();
    anstream::adapter::strip_str(last).to_string()
}

fn wait_for(terminal: &ClientProcess, part: &str) -> Result<String> {
    let shown = || Some(page(terminal)).filter(|page| page.contains(part));
    eventually(&format!("'{part}'"), SOON, shown)
        .map_err(|error| anyhow!("{error}\nlast page:\n{}\n{terminal}", page(terminal)))
}

/// How the row of the chosen lab begins, if it is at this place.
fn chosen(place: usize) -> String {
    format!(">{:>3} {}", place + 1, labs::ALL[place].name)
}

/// Started, with the first page drawn, and how its terminal was before.
fn opened(menu: Client) -> Result<ClientProcess> {
    let menu = menu.start()?;
    wait_for(&menu, &chosen(0))?;
    let keys = menu.settings()?.local_flags;
    ensure!(!keys.contains(LocalFlags::ICANON), "keys come one by one");
    Ok(menu)
}

/// The terminal reads lines again and has its own page.
fn is_restored(terminal: &ClientProcess) -> Result<()> {
    let settings: Termios = terminal.settings()?;
    let flags = settings.local_flags;
    ensure!(
        flags.contains(LocalFlags::ICANON | LocalFlags::ISIG | LocalFlags::IEXTEN),
        "{flags:?}"
    );
    let all = all(terminal);
    let (taken, back) = (all.matches(TAKEN).count(), all.matches(GIVEN_BACK).count());
    ensure!(
        taken == back && all.rfind(GIVEN_BACK) >= all.rfind(TAKEN),
        "{taken} {back}\n{all:?}"
    );
    Ok(())
}

// -- Keys ---------------------------------------------------------------------------------------

#[test]
fn keys_move_search_explain_and_leave() -> Result<()> {
    let menu = opened(menu(80, 24))?;
    let name = |place: usize| labs::ALL[place].name;
    wait_for(&menu, labs::ALL[0].title)?;
    menu.write(DOWN)?;
    wait_for(&menu, &chosen(1))?;
    menu.write(b"j")?;
    wait_for(&menu, &chosen(2))?;
    menu.write(b"\x1b[5~12")?;
    wait_for(&menu, &chosen(11))?;
    menu.write(b"/zomb")?;
    let page = wait_for(&menu, "/zomb_")?;
    ensure!(
        page.contains(" zombies ") && !page.contains(name(0)),
        "{page}"
    );
    menu.write(b"\n ")?;
    wait_for(&menu, "zombies, to read")?;
    menu.write(b"q\x1b")?;
    wait_for(&menu, name(0))?;
    menu.write(b"q")?;
    ensure!(menu.wait(SOON)?.success(), "{menu}");
    is_restored(&menu)
}

#[test]
fn enter_performs_a_lab_and_comes_back_with_its_outcome() -> Result<()> {
    let menu = opened(menu(80, 24))?;
    menu.write(b"/premature\n\n")?;
    wait_for(&menu, "[Enter] next")?;
    is_restored(&menu).context("while the lab has the terminal")?;
    // No more pauses.
    menu.write(b"s\n")?;
    wait_for(&menu, "[Enter] to the menu")?;
    menu.write(b"\n")?;
    let place = labs::ALL
        .iter()
        .position(|lab| lab.name == "premature-termination");
    let page = wait_for(&menu, &chosen(place.context("no such lab")?))?;
    let row = page.lines().find(|line| line.starts_with('>'));
    ensure!(
        row.is_some_and(|row| row.trim_end().ends_with("OK")),
        "{page}"
    );
    menu.write(b"q")?;
    ensure!(menu.wait(SOON)?.success(), "{menu}");
    is_restored(&menu)
}

#[test]
fn what_the_menu_should_begin_with_comes_first() -> Result<()> {
    let begun = menu(80, 24)
        .arg("menu")
        .arg("premature-termination")
        .start()?;
    wait_for(&begun, "[Enter] next")?;
    begun.write(b"q\n")?;
    wait_for(&begun, "[Enter] to the menu")?;
    begun.write(b"q")?;
    ensure!(begun.wait(SOON)?.success(), "{begun}");
    ensure!(!all(&begun).contains(TAKEN), "{begun}");
    is_restored(&begun)
}

// -- Windows and terminals ----------------------------------------------------------------------

#[test]
fn the_smallest_window_will_do_and_any_size_is_survived() -> Result<()> {
    let menu = opened(menu(40, 10))?;
    menu.write(DOWN)?;
    let page = wait_for(&menu, &chosen(1))?;
    ensure!(page.lines().count() <= 10, "{page}");
    for (columns, rows) in [(5, 2), (1, 1), (200, 60)] {
        menu.resize(columns, rows)?;
    }
    // In a window this high all of them are seen.
    wait_for(&menu, labs::ALL.last().context("no labs")?.title)?;
    menu.write(b"\x1b")?;
    ensure!(menu.wait(SOON)?.success(), "{menu}");
    is_restored(&menu)
}

#[test]
fn a_terminal_that_is_no_screen_gets_a_list_and_a_prompt() -> Result<()> {
    let dumb = menu(80, 24).env("TERM", "dumb");
    let unknown = lab().on_pty().env("TERM", "xterm");
    for small in [dumb, unknown, menu(39, 24), menu(80, 9)] {
        let prompt = small.start()?;
        wait_for(&prompt, "Number or name")?;
        prompt.type_line("e zombies")?;
        wait_for(&prompt, "-- Act 1")?;
        prompt.type_line("rain")?;
        wait_for(&prompt, "nothing is called 'rain'")?;
        prompt.type_line("q")?;
        ensure!(prompt.wait(SOON)?.success(), "{prompt}");
        ensure!(!all(&prompt).contains('\x1b'), "{prompt}");
    }
    Ok(())
}

#[test]
fn a_lab_is_performed_from_the_prompt() -> Result<()> {
    let prompt = menu(80, 24).env("TERM", "dumb").start()?;
    wait_for(&prompt, "Number or name")?;
    prompt.type_line("premature-termination")?;
    wait_for(&prompt, "[Enter] next")?;
    prompt.type_line("s")?;
    wait_for(&prompt, "premature-termination: OK")?;
    prompt.close_stdin()?;
    ensure!(prompt.wait(SOON)?.success(), "{prompt}");
    Ok(())
}

#[test]
fn colours_are_shown_unless_nobody_wants_them() -> Result<()> {
    const BOLD: &str = "\x1b[1m";
    let colourful = lab().in_window(80, 24);
    let colourful = opened(colourful.env("TERM", "xterm").env("CLICOLOR_FORCE", "1"))?;
    ensure!(all(&colourful).contains(BOLD), "{colourful}");
    let plain = opened(menu(80, 24))?;
    ensure!(!all(&plain).contains(BOLD), "{plain}");
    Ok(())
}

#[test]
fn without_a_terminal_there_is_help_a_list_or_what_was_asked_for() -> Result<()> {
    let help = run(&[])?;
    ensure!(
        help.status.success() && said(&help).contains("Usage: tcpecho-lab"),
        "{help:?}"
    );
    let list = run(&["menu"])?;
    ensure!(
        list.status.success() && said(&list).contains("zombies"),
        "{list:?}"
    );
    let lab = run(&["menu", "premature-termination"])?;
    ensure!(
        lab.status.success() && said(&lab).contains("-- Act 2"),
        "{lab:?}"
    );
    Ok(())
}

// -- Whatever ends or stops it ------------------------------------------------------------------

#[test]
fn a_signal_ends_it_and_the_terminal_is_as_before() -> Result<()> {
    for signal in [
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGHUP,
    ] {
        let menu = opened(menu(80, 24))?;
        menu.signal(signal)?;
        let status = menu.wait(SOON)?;
        ensure!(status.signal() == Some(signal as i32), "{status}\n{menu}");
        is_restored(&menu)?;
    }
    let menu = opened(menu(80, 24))?;
    menu.write(INTERRUPT)?;
    let status = menu.wait(SOON)?;
    ensure!(
        status.signal() == Some(Signal::SIGINT as i32),
        "{status}\n{menu}"
    );
    is_restored(&menu)
}

#[test]
fn what_ends_the_menu_ends_the_lab() -> Result<()> {
    let menu = opened(menu(80, 24))?;
    menu.write(b"/premature\n\n")?;
    wait_for(&menu, "[Enter] next")?;
    menu.write(b"\n")?;
    let started = eventually("a server", SOON, || {
        let tree = processes::tree(menu.pid());
        tree.iter().any(|p| p.comm == "tcpechod").then_some(tree)
    })?;
    menu.signal(Signal::SIGTERM)?;
    let status = menu.wait(SOON)?;
    ensure!(
        status.signal() == Some(Signal::SIGTERM as i32),
        "{status}\n{menu}"
    );
    eventually("the end of all of them", SOON, || {
        let ended = |pid| processes::look(pid).is_none_or(|p| p.state == 'Z');
        started.iter().all(|p| ended(p.pid)).then_some(())
    })?;
    is_restored(&menu)
}

#[test]
fn an_interrupted_lab_leads_back_to_the_menu() -> Result<()> {
    let menu = opened(menu(80, 24))?;
    menu.write(b"/premature\n\n")?;
    wait_for(&menu, "[Enter] next")?;
    menu.write(INTERRUPT)?;
    wait_for(&menu, "[Enter] to the menu")?;
    menu.write(b"\n")?;
    wait_for(&menu, "interrupted")?;
    menu.write(b"q")?;
    ensure!(menu.wait(SOON)?.success(), "{menu}");
    is_restored(&menu)
}

/// The menu as a job of a shell, which gets the terminal back when it is stopped. `status` shows
/// that the shell goes on.
#[test]
fn it_stops_and_goes_on_as_jobs_do() -> Result<()> {
    let script = "exec 2>&1; set -m; \"$1\"; echo \"status $?\"; read line; fg > /dev/null; echo \"status $?\"";
    let shell = Client::plain("bash", ["-c", script, "bash", LAB]);
    let shell = shell
        .in_window(80, 24)
        .env("TERM", "xterm")
        .env("NO_COLOR", "1");
    let shell = opened(shell)?;
    shell.write(DOWN)?;
    wait_for(&shell, &chosen(1))?;
    shell.write(STOP)?;
    wait_for(&shell, "status 148")?;
    is_restored(&shell)?;
    shell.type_line("")?;
    wait_for(&shell, &chosen(1))?;
    shell.write(DOWN)?;
    wait_for(&shell, &chosen(2)).context("keys come one by one again")?;
    shell.write(b"q")?;
    wait_for(&shell, "status 0")?;
    is_restored(&shell)
}

#[test]
#[ignore = "panics on purpose, for the test below"]
fn panics_on_the_screen() {
    let screen = Screen::open().expect("a terminal");
    screen.take().expect("a terminal");
    screen.draw(&["a page".into()]).expect("a terminal");
    panic!("as it should");
}

#[test]
fn a_panic_leaves_the_terminal_as_it_was() -> Result<()> {
    let own = std::env::current_exe()?;
    let args = [
        "--exact",
        "panics_on_the_screen",
        "--ignored",
        "--nocapture",
    ];
    let test = Client::plain(own, args).in_window(80, 24).start()?;
    let status = test.wait(SOON)?;
    ensure!(
        status.code() == Some(101) && test.stderr().contains("as it should"),
        "{test}"
    );
    ensure!(all(&test).contains(TAKEN), "{test}");
    is_restored(&test)
}

// -- explain and doctor -------------------------------------------------------------------------

fn run(args: &[&str]) -> Result<Output> {
    let output = Command::new(LAB).args(args).stdin(Stdio::null()).output();
    output.context("run tcpecho-lab")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn fits(text: &str) -> Result<()> {
    let wide = text.lines().find(|line| line.chars().count() > 80);
    ensure!(wide.is_none(), "more than 80 columns: {wide:?}");
    Ok(())
}

#[test]
fn explain_tells_a_lab_and_knows_them_all() -> Result<()> {
    let told = run(&["explain", "zombies"])?;
    ensure!(
        told.status.success() && said(&told).contains("-- Act 1"),
        "{told:?}"
    );
    fits(&said(&told))?;
    let all = run(&["explain"])?;
    for lab in labs::ALL {
        ensure!(said(&all).contains(lab.name), "{all:?}");
    }
    let unknown = run(&["explain", "zombie"])?;
    let complaint = String::from_utf8_lossy(&unknown.stderr);
    ensure!(unknown.status.code() == Some(2), "{unknown:?}");
    ensure!(complaint.contains("similar"), "{complaint}");
    let unheard_of = run(&["explain", "rain"])?;
    let complaint = String::from_utf8_lossy(&unheard_of.stderr);
    ensure!(complaint.contains("host-crash"), "{complaint}");
    Ok(())
}

#[test]
fn doctor_tells_what_there_is_and_judges_by_the_labs() -> Result<()> {
    let output = run(&["doctor"])?;
    let text = said(&output);
    fits(&text)?;
    for name in [
        "programs",
        "namespaces",
        "descriptors",
        "strace",
        "io_uring",
        "kernel",
        "tcpdump",
    ] {
        ensure!(text.contains(&format!(" {name} ")), "{name}\n{text}");
    }
    let whole = format!("All {} demonstrations can be seen whole.", labs::ALL.len());
    let expected = i32::from(!text.contains(&whole));
    ensure!(output.status.code() == Some(expected), "{output:?}");
    Ok(())
}

#[test]
fn doctor_says_who_refuses_namespaces_what_is_lost_and_what_mends_it() -> Result<()> {
    netns::test(
        "doctor_says_who_refuses_namespaces_what_is_lost_and_what_mends_it",
        || {
            // In here this is ours to forbid.
            fs::write("/proc/sys/user/max_user_namespaces", "0")?;
            let output = Command::new(LAB)
                .arg("doctor")
                .env_remove("TCPECHO_NAMESPACES")
                .output()?;
            let text = said(&output);
            ensure!(output.status.code() == Some(1), "{text}");
            for part in [
                "REFUSED   namespaces",
                "mend: sudo sysctl -w user.max_user_namespaces=10000",
                "lost: all of ",
                "host-crash",
            ] {
                ensure!(text.contains(part), "{part}\n{text}");
            }
            fits(&text)
        },
    )
}

#[test]
fn doctor_says_what_is_too_little() -> Result<()> {
    let script = "ulimit -n 1000; exec \"$0\" doctor";
    let doctor = Client::plain("sh", ["-c", script, LAB]).start()?;
    let status = doctor.wait(SOON)?;
    let text = doctor.stdout();
    let text = String::from_utf8_lossy(&text);
    ensure!(status.code() == Some(1), "{text}");
    ensure!(
        text.contains("LOW       descriptors") && text.contains("select-limit"),
        "{text}"
    );
    ensure!(text.contains("mend: ulimit -Hn"), "{text}");
    Ok(())
}
