//! Dates as people of this place write them in a log; `localtime(3)`.

use std::mem::MaybeUninit;

use nix::libc;

/// `2026-11-21, 18:39:10`, in the zone of TZ or /etc/localtime; `at` is in seconds since 1970 (UTC).
pub fn local(at: u64) -> String {
    let seconds = at as libc::time_t;
    let mut parts = MaybeUninit::<libc::tm>::zeroed();
    #[expect(unsafe_code)]
    // SAFETY: both pointers are live; a tm is integers and a pointer, for which zero is a value, in
    // case that localtime_r refuses.
    let parts = unsafe {
        libc::localtime_r(&raw const seconds, parts.as_mut_ptr());
        parts.assume_init()
    };
    format!(
        "{}-{:02}-{:02}, {:02}:{:02}:{:02}",
        parts.tm_year + 1900,
        parts.tm_mon + 1,
        parts.tm_mday,
        parts.tm_hour,
        parts.tm_min,
        parts.tm_sec
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// What date(1) says, which asks the same zone.
    #[test]
    fn a_date_is_the_one_that_the_system_shows() {
        for at in [0, 951_782_400, 1_795_280_461] {
            let argument = format!("--date=@{at}");
            let output = Command::new("date")
                .args([&argument, "+%Y-%m-%d, %H:%M:%S"])
                .output()
                .expect("date is essential");
            let shown = String::from_utf8(output.stdout).expect("digits");
            assert_eq!(local(at), shown.trim_end());
        }
    }
}
