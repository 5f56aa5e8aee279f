//! Tables of a scenario's file: which keys they have, and what is said of others.

use std::ops::Range;

use edgestore_text::{Diagnostics, Item, items, nearest};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::values::Parsed;

/// A table and the keys that it may have.
pub(super) struct Section {
    /// As it is written.
    pub(super) name: &'static str,
    pub(super) keys: &'static [&'static str],
}

pub(super) const SCENARIO: Section = Section {
    name: "",
    keys: &[
        "name",
        "about",
        "nodes",
        "topology",
        "duration",
        "interval",
        "flush_interval",
        "compact_interval",
        "clock_skew",
        "clock_drift_ppm",
        "link",
        "settings",
        "writers",
        "faults",
        "expect",
    ],
};
pub(super) const TOPOLOGY: Section =
    Section { name: "topology", keys: &["kind", "degree", "regions", "between"] };
pub(super) const LINK: Section =
    Section { name: "[link]", keys: &["latency", "jitter", "bandwidth", "loss"] };
pub(super) const BETWEEN: Section = Section { name: "between", keys: LINK.keys };
pub(super) const WRITERS: Section = Section {
    name: "[[writers]]",
    keys: &[
        "nodes",
        "per_minute",
        "keys",
        "skew",
        "conflicts",
        "deletes",
        "expiring",
        "ttl",
        "value_bytes",
    ],
};
pub(super) const FAULTS: Section = Section {
    name: "[[faults]]",
    keys: &["kind", "at", "per_hour", "lasts", "nodes", "factor", "by"],
};
pub(super) const EXPECT: Section =
    Section { name: "[expect]", keys: &["converge_within", "max_overhead"] };

/// The first of these that has a key is the one that the key belongs in.
const ALL: [&Section; 6] = [&SCENARIO, &LINK, &WRITERS, &FAULTS, &EXPECT, &TOPOLOGY];

impl Section {
    fn unknown(&self, key: &str) -> String {
        let of = match self.name {
            "" => String::new(),
            name => format!(" in {name}"),
        };
        let elsewhere = ALL.into_iter().find(|other| other.keys.contains(&key));
        let hint = match (elsewhere, nearest(key, self.keys)) {
            (Some(other), _) if other.name.is_empty() => "it belongs above all tables".to_owned(),
            (Some(other), _) => format!("it belongs in {}", other.name),
            (None, Some(near)) => format!("did you mean `{near}`?"),
            (None, None) => format!("known are {}", self.keys.join(", ")),
        };
        format!("unknown key `{key}`{of}; {hint}")
    }
}

/// What a table holds.
pub(super) struct Table<'t> {
    pub(super) span: Range<usize>,
    pub(super) items: Vec<Item<'t>>,
}

impl<'t> Table<'t> {
    pub(super) fn value(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.item(key).map(|(_, _, value)| *value)
    }

    /// Where a key stands.
    pub(super) fn key_span(&self, key: &str) -> Option<Range<usize>> {
        self.item(key).map(|(_, span, _)| span.clone())
    }

    fn item(&self, key: &str) -> Option<&Item<'t>> {
        self.items.iter().find(|(name, _, _)| *name == key)
    }
}

/// Takes values out of tables, and notes what is wrong with them.
pub(super) struct Reader<'a> {
    pub(super) diagnostics: Diagnostics<'a>,
}

impl Reader<'_> {
    /// The items of a table whose unknown keys have been noted.
    pub(super) fn table<'t>(
        &mut self,
        span: Range<usize>,
        table: &'t DeTable<'t>,
        section: &Section,
    ) -> Table<'t> {
        let items = items(table);
        for (key, span, _) in &items {
            if !section.keys.contains(key) {
                self.diagnostics.add(span.clone(), section.unknown(key));
            }
        }
        Table { span, items }
    }

    /// A table inside of another one; empty when it is not there.
    pub(super) fn inner<'t>(
        &mut self,
        outer: &Table<'t>,
        key: &str,
        section: &Section,
    ) -> Table<'t> {
        let empty = Table { span: outer.span.clone(), items: Vec::new() };
        let Some(value) = outer.value(key) else { return empty };
        match value.get_ref().as_table() {
            Some(table) => self.table(value.span(), table, section),
            None => {
                let name = section.name;
                self.diagnostics.add(value.span(), format!("{key}: this is a table, {name}"));
                empty
            }
        }
    }

    /// The tables of a list of them; none when it is not there.
    pub(super) fn tables<'t>(
        &mut self,
        outer: &Table<'t>,
        key: &str,
        section: &Section,
    ) -> Option<Vec<Table<'t>>> {
        let value = outer.value(key)?;
        let name = section.name;
        let Some(array) = value.get_ref().as_array() else {
            self.diagnostics.add(value.span(), format!("{key}: there may be many: write {name}"));
            return Some(Vec::new());
        };
        let mut tables = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_table() {
                Some(table) => tables.push(self.table(item.span(), table, section)),
                None => self.diagnostics.add(item.span(), format!("this is a table: write {name}")),
            }
        }
        Some(tables)
    }

    /// A value that may be missing.
    pub(super) fn optional<T>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        parse: impl Fn(&DeValue<'_>) -> Parsed<T>,
    ) -> Option<T> {
        let value = table.value(key)?;
        match parse(value.get_ref()) {
            Ok(parsed) => Some(parsed),
            Err(wrong) => {
                let span = wrong.span.unwrap_or_else(|| value.span());
                self.diagnostics.add(span, format!("{key}: {}", wrong.why));
                None
            }
        }
    }

    /// A value that has to be there.
    pub(super) fn required<T>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        example: &str,
        parse: impl Fn(&DeValue<'_>) -> Parsed<T>,
    ) -> Option<T> {
        if table.value(key).is_none() {
            self.missing(table, key, example);
        }
        self.optional(table, key, parse)
    }

    pub(super) fn missing(&mut self, table: &Table<'_>, key: &str, example: &str) {
        // At its head alone: marks below a whole table say nothing.
        let at = table.span.start;
        self.diagnostics.add(at..at, format!("`{key}` is missing: write {example}"));
    }
}
