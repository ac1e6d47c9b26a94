//! Dates, without a library of its own.

use std::mem::MaybeUninit;

use nix::libc;

/// Seconds since the epoch as in `2026-11-21T16:00:00Z`; days to a date as in "chrono-Compatible Low-Level
/// Date Algorithms".
pub fn utc(seconds: u64) -> String {
    let (day, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) = (
        day_of_year - (153 * shifted + 2) / 5 + 1,
        (shifted + 2) % 12 + 1,
    );
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Seconds since the epoch as people of this place write them in a log: `2026-11-21, 18:39:10`, in the
/// zone of TZ or /etc/localtime; localtime(3).
pub fn local(seconds: u64) -> String {
    let seconds = seconds as libc::time_t;
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

    #[test]
    fn seconds_become_a_date() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_795_276_800 + 3661), "2026-11-21T17:01:01Z");
    }

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
