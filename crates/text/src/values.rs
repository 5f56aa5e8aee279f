//! Durations and sizes.

use std::time::Duration;

/// As [`time`], longer than zero.
pub fn duration(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("it must be longer than zero".to_owned()),
        duration => Ok(duration),
    }
}

/// `0s`, `30s`, `1h 30m`.
pub fn time(text: &str) -> Result<Duration, String> {
    let hint = "write a number and its unit, as in 500ms, 30s, 5m, 2h or 7d";
    if text.trim().parse::<f64>().is_ok() {
        return Err(format!("the unit is missing: {hint}"));
    }
    humantime::parse_duration(text.trim()).map_err(|_| hint.to_owned())
}

/// As [`duration`], of whole seconds.
pub fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if ttl.subsec_nanos() != 0 || u32::try_from(ttl.as_secs()).is_err() {
        return Err("a time to live is whole seconds, from 1s to about 136 years".to_owned());
    }
    Ok(ttl)
}

/// `256MiB`, `64 MB`, `65536`: more than zero bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("write a whole number and its unit, as in 512KiB, 256MiB or 1GB".to_owned()),
    }
}

/// In the largest unit that tells it exactly.
pub fn size_text(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!((time("0s"), time("5m")), (Ok(Duration::ZERO), Ok(Duration::from_secs(300))));
        assert!(duration("30").unwrap_err().contains("unit is missing"));
        assert!(duration("1.5").unwrap_err().contains("unit is missing"));
        assert!(duration("soon").unwrap_err().contains("30s"));
        assert!(duration("0s").is_err() && duration("-1s").is_err() && duration("").is_err());
        assert!(ttl("1500ms").is_err() && ttl("200years").is_err());
        assert_eq!(ttl("1h"), Ok(Duration::from_secs(3600)));
    }

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        for (text, bytes) in [
            ("1", 1),
            ("256MiB", 256 << 20),
            ("64 MB", 64_000_000),
            ("2g", 2 << 30),
            ("3 kib", 3 << 10),
            ("10B", 10),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MiB", "1.5MiB", "-1", "0", "5 apples", "99999999999 GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_size_is_written_as_it_is_read() {
        for bytes in [1, 1023, 1 << 10, 5 << 20, (1 << 30) + 1, 1_000_000] {
            assert_eq!(size(&size_text(bytes)), Ok(bytes));
        }
    }
}
