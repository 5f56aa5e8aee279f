//! `import`: the rows of a file become records, in batches. A row that is not understood ends it,
//! and nothing of that row is stored: what came before stays, and the message says how much that
//! was, what to change and how to go on.

mod csv;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod json;
mod sink;
mod source;

#[cfg(any(test, fuzzing))]
pub(crate) use self::{csv::fuzz::csv as fuzz_csv, json::fuzz::json as fuzz_json};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};

use self::sink::Sink;
use self::source::{Place, Problem, begin};
use super::database::Database;
use super::{args, exit, output, streams};
use crate::admin::Op;

/// Bytes of rows that are read ahead.
const AHEAD: usize = 4 << 20;

/// How long a row waits for others of its batch.
const SILENCE: Duration = Duration::from_secs(1);

/// A disk with fewer free bytes is full: the store writes some megabytes at a time.
#[cfg(target_os = "linux")]
const FULL: u64 = 16 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The file, of CSV or JSON; `-` for standard input
    file: PathBuf,
    /// Namespace of the records whose row names none in `ns`
    #[arg(long, value_name = "NS", value_parser = args::namespace)]
    ns: String,
    /// Form of the file [default: by its name, or its first character]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What separates the columns of CSV: a character, or `tab` [default: `,`, `;`, tab or `|`, by
    /// the header]
    #[arg(long, value_name = "CHAR", value_parser = delimiter)]
    delimiter: Option<u8>,
    /// Column that holds the key [default: `key`; in CSV else the first]
    #[arg(long, value_name = "COLUMN")]
    key: Option<String>,
    /// Column that holds the value [default: `value`; in CSV else the row as a JSON object]
    #[arg(long, value_name = "COLUMN")]
    value: Option<String>,
    /// The records whose row has no seconds in `ttl` go after this time, as in 30d
    #[arg(long, value_name = "DURATION", value_parser = args::ttl)]
    ttl: Option<Duration>,
    /// Keys and values are hexadecimal, as `scan --hex` prints them
    #[arg(long)]
    hex: bool,
    /// Leaves out this many rows from the start, as those that an earlier import has stored
    #[arg(long, value_name = "ROWS", default_value_t = 0)]
    skip: u64,
    /// Records that are written together: all of them are on disk, or none
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(1..=1000))]
    batch: u64,
    /// Makes the database if there is none
    #[arg(long)]
    create: bool,
    /// Prints how many rows are on disk, those of --skip included, on a line of its own after each
    /// batch
    #[arg(long)]
    ack: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// With a header; columns ns and ttl (in seconds) are optional
    Csv,
    /// JSON objects, on lines or in an array, with key and value, and maybe ns and ttl (in seconds)
    #[value(name = "jsonl", alias = "json")]
    Json,
}

/// Where a row's parts are, and what holds where it lacks some.
#[derive(Debug, Default)]
struct Columns {
    ns: String,
    key: Option<String>,
    value: Option<String>,
    ttl: Option<Duration>,
    /// Keys and values are hexadecimal.
    hex: bool,
}

/// What a part of a row is called where the user does not say.
const NAMES: [&str; 4] = ["key", "value", "ns", "ttl"];

impl Columns {
    /// The names that the user has not replaced.
    fn guesses(&self) -> Vec<&'static str> {
        let replaced = |name: &&&str| match **name {
            "key" => self.key.is_some(),
            "value" => self.value.is_some(),
            _ => false,
        };
        NAMES.iter().filter(|name| !replaced(name)).copied().collect()
    }
}

/// Whether `found` is `name` but for spaces and case.
fn is_near(found: &str, name: &str) -> bool {
    found.trim().eq_ignore_ascii_case(name)
}

/// Why a column or field that is almost called `name` is refused.
fn unknown(what: &str, found: &str, name: &str) -> String {
    format!(
        "the {what} {found:?} is none that is known: call it {name:?}, without spaces and in small \
         letters, or rename it"
    )
}

/// An operation with the place of its row.
type Row = Result<(Place, Op), Problem>;
type Rows<'a> = Box<dyn Iterator<Item = Row> + 'a>;

/// Imports. The exit status is 0 when all rows are stored, 1 when one was refused, and 3 when the
/// file can't be read or the database not be written.
pub(super) fn run(db: &Path, args: &ImportArgs) -> Result<ExitCode> {
    let stdin = args.file.as_os_str() == "-";
    let name = if stdin { "standard input".to_owned() } else { args.file.display().to_string() };
    let unreadable = || format!("can't read {name}");
    let (input, bar) = open(&args.file, stdin).with_context(unreadable)?;
    let input = BufReader::with_capacity(256 << 10, bar.wrap_read(input));
    let (input, first) = begin(input).with_context(unreadable)?;
    let format = args.format.or_else(|| format_of(&args.file)).unwrap_or(match first {
        Some(b'{' | b'[') => Format::Json,
        _ => Format::Csv,
    });
    if format == Format::Json && args.delimiter.is_some() {
        return Err(exit::usage(format!(
            "--delimiter is for CSV, and {name} is JSON: leave it out"
        )));
    }
    let (key, value) = (args.key.clone(), args.value.clone());
    let columns = Columns { ns: args.ns.clone(), key, value, ttl: args.ttl, hex: args.hex };

    let start = Instant::now();
    let mut database = Database::open_to_write(db, args.create)?;
    let rows =
        read_ahead(input, format, columns, args.delimiter).context("can't start a thread")?;
    let rows = rows.map(|row| row.map(|row| if args.hex { decoded(row) } else { row }));
    // The rows are written, whatever becomes of the reports.
    let mut reports = output::Reports::default();
    let mut sink = Sink::new(args.batch, args.skip, |ops| database.write(ops));
    let ended = sink.take_all(rows, |rows| {
        bar.set_message(output::records(rows));
        if args.ack {
            reports.print(&format!("{rows}\n"));
        }
    });
    bar.finish_and_clear();
    let (stored, bytes, rows) = (sink.records, sink.bytes, sink.skipped + sink.records);
    if let Err(Problem { place, mut text, io }) = ended {
        if io && !text.to_lowercase().contains("no space left") {
            text += &full(db).unwrap_or_default();
        }
        let before = output::records(stored);
        let fixed = if io { "the cause is gone" } else { "the row is right" };
        let go_on = match rows {
            0 => String::new(),
            rows => format!("; when {fixed}, go on with --skip {rows}"),
        };
        let why = format!("{name}:{place}: {text} (imported before it: {before}{go_on})");
        return Err(if io { anyhow!(why) } else { exit::no(why) });
    }
    if sink.skipped < args.skip {
        let (rows, skip) = (sink.skipped, args.skip);
        return Err(exit::no(format!("{name} has {rows} rows, and --skip {skip} leaves out more")));
    }
    let elapsed = start.elapsed().as_secs_f64();
    let (records, bytes) = (output::records(stored), output::size(bytes));
    output::note(&format!("imported {records}, {bytes} in {elapsed:.1} s"));
    reports.finish().context("all rows are stored, and not all were acknowledged")?;
    Ok(ExitCode::SUCCESS)
}

/// Says that a disk is full. A store that has failed once may say no more than that.
fn full(db: &Path) -> Option<String> {
    #[cfg(target_os = "linux")]
    {
        let stat = rustix::fs::statvfs(db).ok()?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let size = output::size(free);
        let text = format!("; no space left on the disk of {}? It has {size} free", db.display());
        (free < FULL).then_some(text)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = db;
        None
    }
}

/// Bounds the bytes of the rows that are read ahead.
#[derive(Default)]
struct Ahead {
    bytes: Mutex<usize>,
    freed: Condvar,
}

impl Ahead {
    fn add(&self, bytes: usize) {
        let mut used = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && *used + bytes > AHEAD {
            used = self.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
    }

    fn free(&self, bytes: usize) {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
        self.freed.notify_all();
    }
}

/// What a row that waits takes, more or less.
fn weight(row: &Row) -> usize {
    row.as_ref().map_or(0, |(_, op)| op.bytes()) + 200
}

/// Reads rows on a thread of its own, because a source that is silent must not keep the rows that
/// came before from the database: none is told when there was no row for a while. The thread ends
/// with the source or the program.
fn read_ahead(
    source: impl BufRead + Send + 'static,
    format: Format,
    columns: Columns,
    delimiter: Option<u8>,
) -> io::Result<impl Iterator<Item = Option<Row>>> {
    let (sender, rows) = mpsc::channel();
    let ahead = Arc::new(Ahead::default());
    let room = Arc::clone(&ahead);
    let read = move || {
        let rows: Rows<'_> = match format {
            Format::Csv => csv::rows(source, &columns, delimiter),
            Format::Json => Box::new(json::rows(source, &columns)),
        };
        for row in rows {
            room.add(weight(&row));
            if sender.send(row).is_err() {
                return;
            }
        }
    };
    let mut reader = Some(thread::Builder::new().name("edgestore-import".to_owned()).spawn(read)?);
    Ok(std::iter::from_fn(move || match rows.recv_timeout(SILENCE) {
        Ok(row) => {
            ahead.free(weight(&row));
            Some(Some(row))
        }
        Err(RecvTimeoutError::Timeout) => Some(None),
        // The end, unless it is one that must not pass for it.
        Err(RecvTimeoutError::Disconnected) => reader.take()?.join().err().map(|_| {
            let text = "reading on panicked; please report this";
            Some(Err(Problem::io(Place::START, text)))
        }),
    }))
}

fn open(path: &Path, stdin: bool) -> io::Result<(Box<dyn Read + Send>, ProgressBar)> {
    let style = |template| {
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
    };
    if stdin {
        if streams::no_input() {
            let why = "it is closed: give it the rows, or name a file";
            return Err(io::Error::new(io::ErrorKind::NotConnected, why));
        }
        // Drawn on standard error, and not at all when that is no terminal; so is the bar.
        let bar = ProgressBar::new_spinner()
            .with_style(style("{spinner} {binary_bytes}  {binary_bytes_per_sec}  {msg}"));
        return Ok((Box::new(io::stdin()), bar));
    }
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let template = "{bar:32} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {msg}";
    Ok((Box::new(file), ProgressBar::new(meta.len()).with_style(style(template))))
}

fn format_of(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "csv" | "tsv" | "tab" => Some(Format::Csv),
        "json" | "jsonl" | "ndjson" => Some(Format::Json),
        _ => None,
    }
}

/// A character that separates columns.
fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        _ if text == "tab" || text == "\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !b"\"\r\n".contains(byte) => Ok(*byte),
        _ => Err("write one ASCII character that is no quote and no line break, or tab".to_owned()),
    }
}

/// A row whose key and value are hexadecimal.
fn decoded(row: Row) -> Row {
    let (place, mut op) = row?;
    let decode = |text: &[u8]| {
        output::bytes(&String::from_utf8_lossy(text), true)
            .map_err(|error| Problem::row(place, error.to_string()))
    };
    op.key = decode(&op.key)?;
    op.value = op.value.as_deref().map(decode).transpose()?;
    Ok((place, op))
}

/// The seconds in a `ttl` column.
fn ttl_seconds(text: &str) -> Result<Duration, String> {
    let digits = text.trim();
    match digits.parse::<u32>() {
        Ok(seconds) if seconds > 0 && !digits.starts_with('+') => {
            Ok(Duration::from_secs(seconds.into()))
        }
        _ => Err(format!(
            "the ttl {text:?} is no number of seconds: write a whole number from 1 to 4294967295, or leave it \
             out to keep the record for ever"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_told_from_the_name_or_the_first_character() {
        assert_eq!(format_of(Path::new("a/b.CSV")), Some(Format::Csv));
        assert_eq!(format_of(Path::new("a/b.tsv")), Some(Format::Csv));
        assert_eq!(format_of(Path::new("b.ndjson")), Some(Format::Json));
        assert_eq!(format_of(Path::new("b.json")), Some(Format::Json));
        assert_eq!(format_of(Path::new("-")), None);
        for (text, first) in [
            (&b"\xef\xbb\xbf {\"key\""[..], Some(b'{')),
            (b" \n\t[", Some(b'[')),
            (b"key,value", Some(b'k')),
            (b"\xef\xbb", Some(0xef)),
            (b"\xef\xbb\xbf", None),
            (b" ", None),
            (b"", None),
        ] {
            let (mut input, found) = begin(text).unwrap();
            let mut rest = Vec::new();
            input.read_to_end(&mut rest).unwrap();
            // A mark that is cut is none, and shows as bytes that are no text.
            let found = found.or(rest.first().copied().filter(|byte| !byte.is_ascii()));
            assert_eq!(found, first, "{text:?}");
            assert_eq!(rest, text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text));
        }
    }

    #[test]
    fn a_delimiter_is_one_character_or_tab() {
        for (text, byte) in
            [(";", b';'), ("tab", b'\t'), ("\\t", b'\t'), ("\t", b'\t'), (" ", b' ')]
        {
            assert_eq!(delimiter(text), Ok(byte));
        }
        for bad in ["", ";;", "\"", "\n", "\r", "ä"] {
            assert!(delimiter(bad).unwrap_err().contains("or tab"), "{bad:?}");
        }
    }

    #[test]
    fn a_time_to_live_is_whole_seconds_from_one() {
        assert_eq!(ttl_seconds(" 60 "), Ok(Duration::from_secs(60)));
        assert_eq!(ttl_seconds("4294967295"), Ok(Duration::from_secs(4_294_967_295)));
        for bad in ["", "0", "-1", "+60", "1.5", "1e3", "1h", "0x10", "4294967296", "99999999999"] {
            assert!(ttl_seconds(bad).unwrap_err().contains("from 1"), "{bad}");
        }
    }

    #[test]
    fn rows_that_are_read_ahead_are_bounded_in_bytes() {
        // Each row is half of what may wait: with the one in hand, no more than four are made
        // before one is taken.
        let value = "x".repeat(AHEAD / 2);
        let made = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        struct Counting {
            text: Vec<u8>,
            at: usize,
            left: usize,
            made: Arc<std::sync::atomic::AtomicUsize>,
        }
        impl Read for Counting {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.at == self.text.len() && self.left > 0 {
                    (self.at, self.left) = (0, self.left - 1);
                    self.made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
                let len = (&self.text[self.at..]).read(buffer)?;
                self.at += len;
                Ok(len)
            }
        }
        let text = format!("{{\"key\":\"k\",\"value\":\"{value}\"}}\n").into_bytes();
        let at = text.len();
        let input = Counting { text, at, left: 20, made: Arc::clone(&made) };
        let columns = Columns { ns: "n".into(), ..Columns::default() };
        let rows = read_ahead(BufReader::new(input), Format::Json, columns, None).unwrap();
        let mut taken = 0;
        for row in rows.flatten() {
            row.unwrap();
            taken += 1;
            let made = made.load(std::sync::atomic::Ordering::SeqCst);
            assert!(made <= taken + 4, "{made} of {taken}");
        }
        assert_eq!(taken, 20);
    }
}
