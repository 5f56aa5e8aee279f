//! The limits of a policy as a user names them: one table for `--limit`, for the configuration file
//! and for what is printed of both.

use std::fmt;
use std::str::FromStr;

use crate::cli::args;
use crate::policy::Limits;
use crate::text::{nearest, secretless, size_text};

/// One field of [`Limits`].
pub(super) struct Limit {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    set: fn(&mut Limits, &str) -> Result<(), String>,
    get: fn(&Limits) -> String,
}

pub(super) const LIMITS: [Limit; 15] = [
    Limit {
        name: "tick-timeout",
        help: "Longest time of a tick",
        set: |limits, text| put(&mut limits.tick_timeout, args::duration(text)),
        get: |limits| humantime::format_duration(limits.tick_timeout).to_string(),
    },
    Limit {
        name: "fuel",
        help: "Most instructions of a tick, more or less",
        set: |limits, text| put(&mut limits.fuel, count(text)),
        get: |limits| limits.fuel.to_string(),
    },
    Limit {
        name: "memory",
        help: "Most memory of an instance",
        set: |limits, text| put(&mut limits.memory_bytes, args::size(text)),
        get: |limits| size_text(limits.memory_bytes),
    },
    Limit {
        name: "table-elements",
        help: "Most elements of all tables of an instance",
        set: |limits, text| put(&mut limits.table_elements, count(text)),
        get: |limits| limits.table_elements.to_string(),
    },
    Limit {
        name: "instances",
        help: "Most core instances in the component",
        set: |limits, text| put(&mut limits.instances, count(text)),
        get: |limits| limits.instances.to_string(),
    },
    Limit {
        name: "handles",
        help: "Most handles held at a time",
        set: |limits, text| put(&mut limits.handles, count(text)),
        get: |limits| limits.handles.to_string(),
    },
    Limit {
        name: "host-calls",
        help: "Most calls into the host in a tick",
        set: |limits, text| put(&mut limits.host_calls, count(text)),
        get: |limits| limits.host_calls.to_string(),
    },
    Limit {
        name: "transfers",
        help: "Most transfers alive at a time",
        set: |limits, text| put(&mut limits.transfers, count(text)),
        get: |limits| limits.transfers.to_string(),
    },
    Limit {
        name: "pulled-bytes",
        help: "Most bytes of segments pulled in a tick",
        set: |limits, text| put(&mut limits.pulled_bytes, args::size(text)),
        get: |limits| size_text(limits.pulled_bytes),
    },
    Limit {
        name: "settings",
        help: "Most bytes of all settings, keys and values",
        set: |limits, text| put(&mut limits.settings_bytes, small_size(text)),
        get: |limits| size_text(limits.settings_bytes as u64),
    },
    Limit {
        name: "cursor",
        help: "Most bytes of a cursor",
        set: |limits, text| put(&mut limits.cursor_bytes, small_size(text)),
        get: |limits| size_text(limits.cursor_bytes as u64),
    },
    Limit {
        name: "missing",
        help: "Most missing segments that a tick is shown; the next one is shown the next",
        set: |limits, text| put(&mut limits.missing, count(text)),
        get: |limits| limits.missing.to_string(),
    },
    Limit {
        name: "log-lines",
        help: "Most log lines of a tick",
        set: |limits, text| put(&mut limits.log_lines, count(text)),
        get: |limits| limits.log_lines.to_string(),
    },
    Limit {
        name: "compile-time",
        help: "Most processor time that it takes to compile the policy, in whole seconds",
        set: |limits, text| put(&mut limits.compile_time, args::duration(text)),
        get: |limits| humantime::format_duration(limits.compile_time).to_string(),
    },
    Limit {
        name: "compile-memory",
        help: "Most memory that it takes to compile the policy",
        set: |limits, text| put(&mut limits.compile_memory_bytes, args::size(text)),
        get: |limits| size_text(limits.compile_memory_bytes),
    },
];

impl Limit {
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        const { &LIMITS }.iter().find(|limit| limit.name == name)
    }

    /// The value where nobody says another.
    pub(super) fn default_text(&self) -> String {
        (self.get)(&Limits::default())
    }
}

/// A limit and its value, which is a good one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct LimitValue {
    pub(super) name: &'static str,
    pub(super) text: String,
}

impl LimitValue {
    /// The limit of this name, of a value as that limit's is written.
    pub(in crate::cli) fn new(name: &str, text: &str) -> Result<Self, String> {
        let Some(limit) = Limit::find(name) else {
            let names: Vec<_> = LIMITS.iter().map(|limit| limit.name).collect();
            let shown = secretless(name);
            return Err(match nearest(name, &names) {
                Some(near) => format!("there is no limit `{shown}`; did you mean `{near}`?"),
                None => format!("there is no limit `{shown}`; known are {}", names.join(", ")),
            });
        };
        (limit.set)(&mut Limits::default(), text)?;
        Ok(Self { name: limit.name, text: text.to_owned() })
    }

    /// `NAME=VALUE`.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
        Self::new(name, value)
    }

    pub(in crate::cli) fn tick_timeout(text: &str) -> Result<Self, String> {
        Self::new("tick-timeout", text)
    }

    pub(in crate::cli) fn memory(text: &str) -> Result<Self, String> {
        Self::new("memory", text)
    }

    /// Changes the limit to this value.
    pub(in crate::cli) fn apply(&self, limits: &mut Limits) {
        // Checked when this was made.
        let _ = Limit::find(self.name).map(|limit| (limit.set)(limits, &self.text));
    }
}

impl fmt::Display for LimitValue {
    /// As [`LimitValue::parse`] takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.text)
    }
}

/// What `--limit` is for, with all names and defaults.
pub(in crate::cli) fn help() -> String {
    let all: Vec<_> =
        LIMITS.iter().map(|limit| format!("{} [{}]", limit.name, limit.default_text())).collect();
    format!(
        "A limit of the policy; may be given many times. Names and defaults: {}",
        all.join(", ")
    )
}

fn put<T>(field: &mut T, value: Result<T, String>) -> Result<(), String> {
    *field = value?;
    Ok(())
}

fn count<T: FromStr + Default + PartialEq>(text: &str) -> Result<T, String> {
    let value = text.trim().parse().ok().filter(|value| *value != T::default());
    value.ok_or_else(|| "write a whole number above zero, as in 1000".to_owned())
}

fn small_size(text: &str) -> Result<usize, String> {
    usize::try_from(args::size(text)?).map_err(|_| "this machine has no such memory".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_one_name_that_sets_it_and_reads_it() {
        let mut limits = Limits::default();
        let mut changed = Vec::new();
        for limit in &LIMITS {
            let (before, text) =
                (limits.clone(), if limit.name.contains("time") { "7s" } else { "7" });
            LimitValue::new(limit.name, text).unwrap().apply(&mut limits);
            assert_ne!(limits, before, "{}", limit.name);
            assert_eq!((limit.get)(&limits), text, "{}", limit.name);
            changed.push(limit.name);
        }
        // A limit that is missing in the table is missing here, or has its default.
        let seven = Limits {
            tick_timeout: std::time::Duration::from_secs(7),
            fuel: 7,
            memory_bytes: 7,
            table_elements: 7,
            instances: 7,
            handles: 7,
            host_calls: 7,
            transfers: 7,
            pulled_bytes: 7,
            settings_bytes: 7,
            cursor_bytes: 7,
            missing: 7,
            log_lines: 7,
            compile_time: std::time::Duration::from_secs(7),
            compile_memory_bytes: 7,
        };
        assert_eq!(limits, seven);
    }

    #[test]
    fn a_default_is_written_as_it_is_read() {
        let mut limits = Limits::default();
        for limit in &LIMITS {
            LimitValue::new(limit.name, &limit.default_text()).unwrap().apply(&mut limits);
        }
        assert_eq!(limits, Limits::default());
        assert_eq!(Limit::find("memory").unwrap().default_text(), "256MiB");
    }

    #[test]
    fn an_unknown_limit_is_answered_with_the_nearest_or_all() {
        let near = LimitValue::parse("memry=1MiB").unwrap_err();
        assert!(near.ends_with("did you mean `memory`?"), "{near}");
        let far = LimitValue::parse("zzz=1").unwrap_err();
        assert!(far.contains("tick-timeout, fuel, memory"), "{far}");
        assert!(LimitValue::parse("memory").unwrap_err().contains("NAME=VALUE"));
    }

    #[test]
    fn a_value_is_of_the_kind_of_its_limit_and_above_zero() {
        for bad in
            ["fuel=1MiB", "fuel=0", "fuel=-1", "tick-timeout=5", "cursor=1s", "log-lines=5e9"]
        {
            assert!(LimitValue::parse(bad).is_err(), "{bad}");
        }
        assert!(LimitValue::parse("log-lines=4294967296").is_err());
    }
}
