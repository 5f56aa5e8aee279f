//! What the user may tune. A typing error is reported, not ignored: a policy that silently runs with
//! defaults is worse than one that does not run.

/// The settings of a tick, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Transfers in flight at a time.
    pub window: usize,
    /// Failed tries of a segment before it is set aside.
    pub max_tries: u32,
    /// Backoff of a segment after its first failure; doubles with every further one.
    pub backoff_ms: u64,
    pub backoff_cap_ms: u64,
    /// How long a segment is set aside.
    pub quarantine_ms: u64,
    /// Longest time between two probes of a dead peer.
    pub probe_cap_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            window: 4,
            max_tries: 5,
            backoff_ms: 1000,
            backoff_cap_ms: 5 * 60 * 1000,
            quarantine_ms: 3600 * 1000,
            probe_cap_ms: 900 * 1000,
        }
    }
}

const KNOWN: &str =
    "window, max-tries, backoff-ms, backoff-cap-ms, quarantine-secs, probe-cap-secs";
const DAY_SECS: u64 = 24 * 3600;

impl Settings {
    /// Reads key-value pairs; a key given twice takes its last value. The error is a sentence for
    /// the user.
    pub fn parse(pairs: &[(String, String)]) -> Result<Settings, String> {
        let mut settings = Settings::default();
        for (key, value) in pairs {
            let number = |max| number(key, value, max);
            match key.as_str() {
                "window" => settings.window = number(64)? as usize,
                "max-tries" => settings.max_tries = number(1000)? as u32,
                "backoff-ms" => settings.backoff_ms = number(DAY_SECS * 1000)?,
                "backoff-cap-ms" => settings.backoff_cap_ms = number(DAY_SECS * 1000)?,
                "quarantine-secs" => settings.quarantine_ms = number(365 * DAY_SECS)? * 1000,
                "probe-cap-secs" => settings.probe_cap_ms = number(DAY_SECS)? * 1000,
                _ => return Err(["unknown setting \"", key, "\"; known are ", KNOWN].concat()),
            }
        }
        Ok(settings)
    }
}

/// A whole number from 1 to `max`.
fn number(key: &str, value: &str, max: u64) -> Result<u64, String> {
    match value.trim().parse() {
        Ok(n) if (1..=max).contains(&n) => Ok(n),
        _ => Err([
            key,
            " must be a whole number from 1 to ",
            &max.to_string(),
            ", not \"",
            value,
            "\"",
        ]
        .concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Settings::parse(&pairs)
    }

    #[test]
    fn no_settings_are_the_defaults() {
        assert_eq!(parse(&[]), Ok(Settings::default()));
    }

    #[test]
    fn every_known_key_is_read_in_its_unit() {
        let all = [
            ("window", "64"),
            ("max-tries", "2"),
            ("backoff-ms", "30"),
            ("backoff-cap-ms", "4000"),
            ("quarantine-secs", "5"),
            ("probe-cap-secs", " 6 "),
        ];
        let expected = Settings {
            window: 64,
            max_tries: 2,
            backoff_ms: 30,
            backoff_cap_ms: 4000,
            quarantine_ms: 5000,
            probe_cap_ms: 6000,
        };
        assert_eq!(parse(&all), Ok(expected));
        assert!(all.iter().all(|(key, _)| KNOWN.split(", ").any(|known| known == *key)));
        assert_eq!(all.len(), KNOWN.split(", ").count());
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_known_ones() {
        let message = parse(&[("windw", "4")]).unwrap_err();
        assert!(message.contains("\"windw\"") && message.contains(KNOWN), "{message}");
    }

    #[test]
    fn a_bad_value_is_answered_with_the_range() {
        for value in ["0", "65", "-1", "four", "", "4.5", "99999999999999999999999"] {
            let message = parse(&[("window", value)]).unwrap_err();
            assert!(message.contains("1 to 64") && message.contains(value), "{message}");
        }
    }
}
