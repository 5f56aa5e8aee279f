//! A span of the local day, which may go over midnight: for what is to happen at night alone, or not
//! in working hours. The offset to UTC is a fixed one and knows nothing of summer time.

use crate::settings::{SettingError, Settings, bad};

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

/// From one time of the day to another, in UTC. It is asked with times by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Daily {
    from_ms: u64,
    length_ms: u64,
}

impl Daily {
    /// Reads the settings `from` and `to`, with their defaults, which are such as 22:00; and
    /// `utc-offset`, such as +02:00, with the default +00:00.
    pub fn read(settings: &mut Settings, from: &str, to: &str) -> Result<Daily, SettingError> {
        let from = settings.text("from").unwrap_or(from);
        let to = settings.text("to").unwrap_or(to);
        let (from_ms, to_ms) = (time_ms("from", from)?, time_ms("to", to)?);
        let offset = settings.text("utc-offset").unwrap_or("+00:00");
        // How much to add to a local time for UTC: a day less the offset, or the offset.
        let to_utc_ms = match (offset.strip_prefix('+'), offset.strip_prefix('-')) {
            (Some(east), _) => DAY_MS - time_ms("utc-offset", east)?,
            (_, Some(west)) => time_ms("utc-offset", west)?,
            _ => return Err(bad("utc-offset", offset, "a sign and a time, such as +02:00")),
        };
        if from_ms == to_ms {
            return Err(bad("to", to, "another time than from"));
        }
        let from_utc_ms = (from_ms + to_utc_ms) % DAY_MS;
        Ok(Daily { from_ms: from_utc_ms, length_ms: (DAY_MS + to_ms - from_ms) % DAY_MS })
    }

    /// How long it lasts still; none outside of it.
    pub fn left_ms(&self, now_ms: u64) -> Option<u64> {
        let open_for_ms = (DAY_MS + now_ms % DAY_MS - self.from_ms) % DAY_MS;
        self.length_ms.checked_sub(open_for_ms).filter(|left_ms| *left_ms > 0)
    }

    /// How long until it begins the next time.
    pub fn starts_in_ms(&self, now_ms: u64) -> u64 {
        (DAY_MS + self.from_ms - now_ms % DAY_MS) % DAY_MS
    }
}

/// HH:MM.
fn time_ms(key: &str, text: &str) -> Result<u64, SettingError> {
    let number = |digits: &str, below: u64| {
        let number = digits.parse::<u64>().ok().filter(|number| *number < below);
        number.filter(|_| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_digit()))
    };
    let time = text.split_once(':').and_then(|(hours, minutes)| {
        Some((number(hours, 24)? * 60 + number(minutes, 60)?) * MINUTE_MS)
    });
    time.ok_or_else(|| bad(key, text, "a time of the day, such as 22:30"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 60 * MINUTE_MS;

    fn daily(from: &str, to: &str, offset: &str) -> Result<Daily, SettingError> {
        let pairs = [("from", from), ("to", to), ("utc-offset", offset)];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Daily::read(&mut Settings::new(&pairs), "22:00", "06:00")
    }

    #[test]
    fn it_may_go_over_midnight() {
        let night = Daily::read(&mut Settings::new(&[]), "22:00", "06:00").unwrap();
        for (hour, left, starts_in) in [
            (12, None, 10),
            (21, None, 1),
            (22, Some(8), 0),
            (23, Some(7), 23),
            (0, Some(6), 22),
            (5, Some(1), 17),
            (6, None, 16),
        ] {
            let now_ms = 20_000 * DAY_MS + hour * HOUR_MS;
            assert_eq!(night.left_ms(now_ms), left.map(|hours: u64| hours * HOUR_MS), "{hour}:00");
            assert_eq!(night.starts_in_ms(now_ms), starts_in * HOUR_MS, "{hour}:00");
        }
        assert_eq!(night.left_ms(6 * HOUR_MS - 1), Some(1));
    }

    #[test]
    fn the_offset_moves_it() {
        let utc = daily("20:00", "04:00", "+00:00").unwrap();
        assert_eq!(daily("22:00", "06:00", "+02:00"), Ok(utc));
        assert_eq!(daily("14:30", "22:30", "-05:30"), Ok(utc));
        assert_eq!(daily("00:00", "08:00", "+04:00"), Ok(utc));
    }

    #[test]
    fn what_is_no_time_is_refused_with_an_example() {
        for (from, to, offset, part) in [
            ("22", "06:00", "+00:00", "from must be a time of the day, such as 22:30, not \"22\""),
            ("22:00", "24:00", "+00:00", "to must be"),
            ("22:00", "6:00", "+00:00", "to must be"),
            ("22:00", "06:+1", "+00:00", "to must be"),
            ("22:00", "06:00", "02:00", "utc-offset must be a sign and a time"),
            ("22:00", "06:00", "+2", "utc-offset must be a time"),
            ("22:00", "22:00", "+00:00", "to must be another time than from"),
        ] {
            let error = daily(from, to, offset).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
