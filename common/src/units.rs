//! Value parsers for the command lines: ports and durations, strict, with errors that say what
//! would have been right.

use std::time::Duration;

/// A port to listen on: 0 (the kernel's choice) to 65535, digits only.
pub fn listen_port(text: &str) -> Result<u16, String> {
    digits(text).ok_or_else(|| "a port is a number from 0 (the kernel's choice) to 65535".into())
}

/// A port to connect to: 1 to 65535, digits only.
pub fn connect_port(text: &str) -> Result<u16, String> {
    digits(text)
        .filter(|port| *port > 0)
        .ok_or_else(|| "a port to connect to is a number from 1 to 65535".into())
}

/// `u16::from_str` takes "+80" as well, which nobody means.
fn digits(text: &str) -> Option<u16> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// A backlog: 0 to 4096, which is as much as the default of `net.core.somaxconn` lets through.
pub fn backlog(text: &str) -> Result<u16, String> {
    digits(text)
        .filter(|backlog| *backlog <= 4096)
        .ok_or_else(|| "a backlog is a number from 0 to 4096".into())
}

/// A duration of at least 1 ms: `5` and `5s` are seconds, `250ms` milliseconds, `2m` minutes; a decimal
/// point is allowed. At most one day.
pub fn duration(text: &str) -> Result<Duration, String> {
    duration_or_zero(text).and_then(|d| {
        if d < Duration::from_millis(1) {
            Err("must be at least 1ms".into())
        } else {
            Ok(d)
        }
    })
}

/// A duration of a few microseconds: `50us`, or as [`duration_or_zero`]. At most a second.
pub fn short_duration(text: &str) -> Result<Duration, String> {
    let duration = match text.strip_suffix("us") {
        Some(number) => number
            .parse()
            .map(Duration::from_micros)
            .map_err(|_| "a duration looks like 50us or 1ms".into()),
        None => duration_or_zero(text),
    }?;
    if duration > Duration::from_secs(1) {
        return Err("at most one second; 50us are microseconds".into());
    }
    Ok(duration)
}

/// As [`duration`], but 0 is allowed.
pub fn duration_or_zero(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds_per_unit = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        _ => {
            return Err(format!(
                "unknown unit '{unit}': use ms, s or m, as in 500ms, 5s, 2m"
            ));
        }
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "a duration looks like 500ms, 5s or 2m".to_string())?;
    let seconds = number * seconds_per_unit;
    if seconds > 86_400.0 {
        return Err("at most one day (1440m)".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Bytes per second: `500`, `20k`, `1.5M`, `1G` (1k is 1000); 0 is allowed. At most 1 TB.
pub fn rate(text: &str) -> Result<u64, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        _ => return Err(format!("unknown unit '{unit}': use k, M or G, as in 20k")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "a rate is a number of bytes per second, such as 500, 20k or 1.5M")?;
    let bytes = number * factor;
    if bytes > 1e12 {
        return Err("at most 1000G".into());
    }
    Ok(bytes.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_digits_in_range() {
        assert_eq!(listen_port("0"), Ok(0));
        assert_eq!(listen_port("65535"), Ok(65535));
        for bad in ["", "+80", "-1", "65536", "80x", " 80"] {
            assert!(listen_port(bad).is_err(), "{bad}");
            assert!(connect_port(bad).is_err(), "{bad}");
        }
        assert!(connect_port("0").is_err());
    }

    #[test]
    fn short_durations_may_be_microseconds() {
        assert_eq!(short_duration("50us"), Ok(Duration::from_micros(50)));
        assert_eq!(short_duration("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(short_duration("0"), Ok(Duration::ZERO));
        for bad in ["us", "-1us", "1.5us", "2s", "50ns"] {
            assert!(short_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration_or_zero("0"), Ok(Duration::ZERO));
        for bad in [
            "", "s", "5h", "-1", "1e3", "1.2.3", "0", "0.5ms", "99999999", "inf", "nan",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_are_bytes_per_second() {
        for (text, bytes) in [
            ("0", 0),
            ("500", 500),
            ("20k", 20_000),
            ("1.5M", 1_500_000),
            ("1G", 1_000_000_000),
        ] {
            assert_eq!(rate(text), Ok(bytes));
        }
        for bad in ["", "k", "-1", "20kB", "1e3", "1.2.3", "9999G", "fast", "+5"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
