//! `scan`: lists the live records of a namespace, in key order.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use super::args::NsArg;
use super::database::Database;
use super::exit;
use super::output::{self, Output};
use crate::engine::{Record, prefix_end};
use crate::text::{LINE, exact};

/// Rows whose columns are aligned with each other; more would have to wait in memory.
const ROWS: usize = 1000;

#[derive(Debug, clap::Args)]
pub(super) struct ScanArgs {
    #[command(flatten)]
    ns: NsArg,
    /// Only keys that begin with this
    #[arg(long, value_name = "PREFIX", conflicts_with_all = ["start", "end"])]
    prefix: Option<String>,
    /// Only this key and those behind it
    #[arg(long, value_name = "KEY")]
    start: Option<String>,
    /// Only keys before this
    #[arg(long, value_name = "KEY")]
    end: Option<String>,
    /// At most so many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Keys and values are hexadecimal, in the arguments and in the output
    #[arg(long)]
    hex: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Format {
    /// Columns for people
    #[default]
    Table,
    /// A JSON object on each line, which `import` reads
    Jsonl,
    /// With a header, which `import` reads
    Csv,
}

pub(super) fn run(db: &Path, args: &ScanArgs) -> anyhow::Result<ExitCode> {
    let bound =
        |key: &Option<String>| key.as_ref().map(|key| output::bytes(key, args.hex)).transpose();
    let (start, end) = match bound(&args.prefix)? {
        Some(prefix) => {
            let end = prefix_end(&prefix);
            (prefix, end)
        }
        None => (bound(&args.start)?.unwrap_or_default(), bound(&args.end)?),
    };
    let mut database = Database::read(db)?;
    let limit = args.limit.unwrap_or(u64::MAX);
    let records = database.scan(&args.ns.bytes()?, &start, end.as_deref(), limit)?;
    let mut output = if args.format == Format::Jsonl { Output::json() } else { Output::new() };
    match args.format {
        Format::Table => print_table(&mut output, records, args.hex)?,
        Format::Jsonl => {
            for record in records {
                print_json(&mut output, &record?, args.hex)?;
                if output.is_closed() {
                    break;
                }
            }
        }
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(&mut output);
            csv.write_record(["key", "value", "written", "ttl"])?;
            for record in records {
                if csv.get_ref().is_closed() {
                    break;
                }
                let record = record?;
                let (key, value) = (field(&record.key, args.hex)?, field(&record.value, args.hex)?);
                let ttl = if record.ttl == 0 { String::new() } else { record.ttl.to_string() };
                csv.write_record([key, value, written(&record), ttl])?;
            }
            csv.flush()?;
        }
    }
    output.flush()?;
    if let Some(why) = database.incomplete()? {
        return Err(exit::unknown(format!("records may be missing from this: {why}")));
    }
    Ok(ExitCode::SUCCESS)
}

fn print_table(
    output: &mut Output,
    records: impl Iterator<Item = anyhow::Result<Record>>,
    hex: bool,
) -> anyhow::Result<()> {
    let mut records = records.peekable();
    let mut header = true;
    while header || (records.peek().is_some() && !output.is_closed()) {
        let mut table = output::table(&["key", "value", "written", ">ttl"]);
        for record in records.by_ref().take(ROWS) {
            let record = record?;
            let cell = |bytes: &Vec<u8>| match hex {
                true => hex::encode(bytes),
                false if output::is_terminal() => output::cell(bytes).into_owned(),
                false => output::printable(bytes).into_owned(),
            };
            let (key, value) = (cell(&record.key), cell(&record.value));
            let ttl = Duration::from_secs(record.ttl.into());
            let ttl = match record.ttl {
                0 => String::new(),
                _ => humantime::format_duration(ttl).to_string(),
            };
            table.add_row([key, value, written(&record), ttl]);
        }
        let lines = output::lines(&table);
        let lines = if header { &lines } else { lines.split_once('\n').map_or("", |(_, l)| l) };
        output.write_all(lines.as_bytes())?;
        header = false;
    }
    Ok(())
}

fn print_json(output: &mut Output, record: &Record, hex: bool) -> anyhow::Result<()> {
    let string = |bytes| anyhow::Ok(serde_json::to_string(&quoted(bytes, hex)?)?);
    let (key, value) = (string(&record.key)?, string(&record.value)?);
    write!(output, r#"{{"key":{key},"value":{value},"written":"{}""#, written(record))?;
    if record.ttl > 0 {
        write!(output, r#","ttl":{}"#, record.ttl)?;
    }
    output.write_all(b"}\n")?;
    Ok(())
}

/// What `import` reads again as the same bytes.
fn quoted(bytes: &[u8], hex: bool) -> anyhow::Result<String> {
    if hex {
        return Ok(hex::encode(bytes));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| {
        anyhow::anyhow!(
            "{} is no text: use --hex, which `import` takes as well",
            output::printable(bytes)
        )
    })
}

/// A field of CSV: [`quoted`], and on a terminal with what is hidden in it escaped.
fn field(bytes: &[u8], hex: bool) -> anyhow::Result<String> {
    let text = quoted(bytes, hex)?;
    Ok(match output::is_terminal() {
        true => exact(text.as_bytes(), LINE).into_owned(),
        false => text,
    })
}

/// When the record was written.
fn written(record: &Record) -> String {
    let nanos = Duration::from_nanos(record.timestamp.unsigned_abs());
    let time = match record.timestamp {
        0.. => SystemTime::UNIX_EPOCH.checked_add(nanos),
        _ => SystemTime::UNIX_EPOCH.checked_sub(nanos),
    };
    match time.filter(|time| *time >= SystemTime::UNIX_EPOCH) {
        Some(time) => humantime::format_rfc3339_millis(time).to_string(),
        None => format!("{} ns", record.timestamp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_utc_and_times_before_1970_as_they_are() {
        let record = |timestamp| Record { key: vec![], value: vec![], timestamp, ttl: 0 };
        assert_eq!(written(&record(1_700_000_000_123_456_789)), "2023-11-14T22:13:20.123Z");
        assert_eq!(written(&record(-5)), "-5 ns");
        assert_eq!(written(&record(i64::MIN)), format!("{} ns", i64::MIN));
    }
}
