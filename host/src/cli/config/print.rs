//! Configuration as a file: the one that a host runs with, and one to start from.

use std::fmt::Write as _;

use super::Effective;
use super::limits::LIMITS;
use super::schema::{Key, Schema, Section};
use crate::text::without_secrets;

/// Columns of a comment.
const WIDTH: usize = 90;

/// A file that says the same as `config`, with the origin of each value. Secrets of URLs, which a
/// setting may have, are left out.
pub(super) fn effective(config: &Effective) -> String {
    let mut text = match &config.file {
        Some(file) => {
            format!("# The command line over {} over the defaults\n", file.path.display())
        }
        None => "# The command line over the defaults; there is no file\n".to_owned(),
    };
    match &config.file {
        Some(file) if file.bytes.trim_ascii().is_empty() => text += "# The file is empty\n",
        Some(file) if file.values.is_empty() => text += "# The file sets nothing\n",
        _ => {}
    }
    for section in Section::ALL {
        let values: Vec<_> = config.of(section).collect();
        if values.is_empty() {
            continue;
        }
        let lines = values.iter().map(|value| match &value.text {
            Some(text) => entry(&value.key, &without_secrets(text)),
            None => format!("# {}", value.key),
        });
        let lines: Vec<_> = lines.collect();
        // One long value does not move the comments of all.
        let widths = lines.iter().map(|line| line.chars().count()).filter(|width| *width <= 50);
        let width = widths.max().unwrap_or_default();
        // Writing to a string does not fail.
        let _ = write!(text, "\n[{}]\n", section.name());
        for (line, value) in lines.iter().zip(values) {
            let origin = match value.text {
                None => "not set".to_owned(),
                Some(_) => value.origin.text(config.path()),
            };
            let _ = writeln!(text, "{line:width$}  # {origin}");
        }
    }
    text
}

/// A file with every key, commented out.
pub(super) fn example() -> String {
    let mut text = comment(
        "What `edgestore-host run` reads from edgestore-host.toml in the folder that it is started \
         in, or from --config FILE. Options of the command line beat it. What is commented out \
         shows a default, or an example where there is none. Relative paths are those of the folder \
         of this file.",
    );
    let schema = Schema::new();
    for section in Section::ALL {
        let _ = write!(text, "\n[{}]\n", section.name());
        match section {
            Section::Host | Section::Policy => {
                for key in schema.keys().filter(|key| key.section == section) {
                    text += &option(key);
                }
            }
            Section::Limits => {
                for limit in &LIMITS {
                    let value = entry(limit.name, &limit.default_text());
                    text += &format!("{}#{value}\n", comment(limit.help));
                }
            }
            Section::Peers => {
                text += &comment(
                    "Nodes to pull from, as ID = \"URL\". The id names the node in logs; one with \
                     dots is written in quotes",
                );
                text += &format!("#{}\n", entry("primary", "http://10.0.0.1:8900"));
            }
            Section::Settings => {
                text += &comment(
                    "What the policy knows, here the embedded one: see docs/policies.md. A running \
                     host takes changes of these; all others wait for its next start",
                );
                text += &format!("#{}\n", entry("window", "4"));
            }
        }
    }
    text
}

fn option(key: &Key) -> String {
    let help = key.help();
    // The value below says it.
    let told = key.default_text().and_then(|_| help.split_once(" [default:"));
    let help = told.map_or(help.as_str(), |(help, _)| help);
    let value = key.default_text().unwrap_or_else(|| key.example().to_owned());
    format!("{}#{}\n", comment(help), entry(key.name(), &value))
}

fn comment(text: &str) -> String {
    let mut lines = vec!["#".to_owned()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("# {word}")),
        }
    }
    lines.join("\n") + "\n"
}

/// `key = value`, with quotes where they are needed.
fn entry(key: &str, text: &str) -> String {
    let value = match text {
        "true" => toml::Value::Boolean(true),
        "false" => toml::Value::Boolean(false),
        _ => match text.parse::<i64>() {
            Ok(number) if number.to_string() == text => toml::Value::Integer(number),
            _ => toml::Value::String(text.to_owned()),
        },
    };
    let line = toml::Table::from_iter([(key.to_owned(), value)]).to_string();
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_quotes_where_it_needs_them() {
        assert_eq!(entry("window", "4"), "window = 4");
        assert_eq!(entry("listen", "0.0.0.0:80"), "listen = \"0.0.0.0:80\"");
        assert_eq!(entry("a", "007"), "a = \"007\"");
        assert_eq!(entry("10.0.0.1", "true"), "\"10.0.0.1\" = true");
        let odd: toml::Table = entry("a\n\"", "\u{7}\n'\\\"\"\"").parse().unwrap();
        assert_eq!(odd["a\n\""].as_str(), Some("\u{7}\n'\\\"\"\""));
    }

    #[test]
    fn comments_are_wrapped() {
        let text = comment(&"word ".repeat(40));
        assert!(text.lines().count() > 1);
        assert!(text.lines().all(|line| line.starts_with("# word") && line.len() <= WIDTH));
    }
}
