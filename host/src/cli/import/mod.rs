//! `import`: the rows of a file become records, in batches. A wrong row ends it: what came before
//! stays, and the message says how much that was and what to change.

mod csv;
mod json;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::database::Database;
use super::{args, logging, output};
use crate::admin::{AdminError, Op};
use crate::engine::EngineError;

/// A batch is written when it has so many bytes, however few records those are.
const BATCH_BYTES: usize = 1 << 20;

/// Rows that are read ahead.
const AHEAD: usize = 1000;
/// How long a row waits for others of its batch.
const SILENCE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The file, or `-` for standard input
    file: PathBuf,
    /// Namespace of the records whose row names none in `ns`
    #[arg(long, value_name = "NS")]
    ns: String,
    /// Form of the file [default: by its name, or its first character]
    #[arg(long, value_enum)]
    format: Option<Format>,
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
    /// Records that are written together: all of them are on disk, or none
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(1..=1000))]
    batch: u64,
    /// Makes the database if there is none
    #[arg(long)]
    create: bool,
    /// Prints how many records are on disk, on a line of its own after each batch
    #[arg(long)]
    ack: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// With a header; columns ns and ttl (in seconds) are optional
    Csv,
    /// A JSON object on each line, with key and value, and maybe ns and ttl (in seconds)
    Jsonl,
}

/// Where a row's parts are, and what holds where it lacks some.
#[derive(Debug, Default)]
struct Columns {
    ns: String,
    key: Option<String>,
    value: Option<String>,
    ttl: Option<Duration>,
}

/// What is wrong in a line, and what to change.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    line: u64,
    text: String,
}

/// An operation with its line.
type Row = Result<(u64, Op), Problem>;
type Rows<'a> = Box<dyn Iterator<Item = Row> + 'a>;

pub(super) fn run(db: &Path, args: &ImportArgs) -> Result<ExitCode> {
    let stdin = args.file.as_os_str() == "-";
    let name = if stdin { "standard input".to_owned() } else { args.file.display().to_string() };
    let (source, bar) = open(&args.file, stdin).with_context(|| format!("can't read {name}"))?;
    let mut source = BufReader::with_capacity(256 << 10, bar.wrap_read(source));
    let format = match args.format.or_else(|| format_of(&args.file)) {
        Some(format) => format,
        None => sniff(&mut source).with_context(|| format!("can't read {name}"))?,
    };
    let (key, value) = (args.key.clone(), args.value.clone());
    let columns = Columns { ns: args.ns.clone(), key, value, ttl: args.ttl };

    let start = Instant::now();
    let mut database = Database::open_to_write(db, args.create)?;
    let rows = read_ahead(source, format, columns).context("can't start a thread")?;
    let rows = rows.map(|row| row.map(|row| if args.hex { decoded(row) } else { row }));
    let mut sink = Sink::new(args.batch, |ops| database.write(ops));
    // The rows are written, whatever becomes of the reports.
    let mut reports = output::Reports::default();
    let ended = sink.take_all(rows, |records| {
        bar.set_message(output::records(records));
        if args.ack {
            reports.print(&format!("{records}\n"));
        }
        Ok(())
    });
    bar.finish_and_clear();
    let Sink { records, bytes, .. } = sink;
    match ended {
        Ok(()) => {}
        Err(Ended::Problem(Problem { line, text })) => {
            bail!("{name}:{line}: {text} (imported before it: {})", output::records(records));
        }
        Err(Ended::Output(error)) => return Err(error.into()),
    }
    let elapsed = start.elapsed().as_secs_f64();
    let (records, bytes) = (output::records(records), output::size(bytes));
    output::note(&format!("imported {records}, {bytes} in {elapsed:.1} s"));
    reports.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Reads rows on a thread of its own, because a source that is silent must not keep the rows that
/// came before from the database: none is told when there was no row for a while. The thread ends
/// with the source or the program.
fn read_ahead(
    source: impl BufRead + Send + 'static,
    format: Format,
    columns: Columns,
) -> io::Result<impl Iterator<Item = Option<Row>>> {
    let (sender, rows) = mpsc::sync_channel(AHEAD);
    let read = move || {
        let rows: Rows<'_> = match format {
            Format::Csv => csv::rows(source, &columns),
            Format::Jsonl => Box::new(json::rows(source, &columns)),
        };
        for row in rows {
            if sender.send(row).is_err() {
                return;
            }
        }
    };
    let mut reader = Some(thread::Builder::new().name("edgestore-import".to_owned()).spawn(read)?);
    Ok(std::iter::from_fn(move || match rows.recv_timeout(SILENCE) {
        Ok(row) => Some(Some(row)),
        Err(RecvTimeoutError::Timeout) => Some(None),
        // The end, unless it is one that must not pass for it.
        Err(RecvTimeoutError::Disconnected) => reader.take()?.join().err().map(|_| {
            let text = "reading on panicked; please report this".to_owned();
            Some(Err(Problem { line: 0, text }))
        }),
    }))
}

fn open(path: &Path, stdin: bool) -> io::Result<(Box<dyn Read + Send>, ProgressBar)> {
    let style = |template| {
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
    };
    if stdin {
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
        "csv" => Some(Format::Csv),
        "jsonl" | "ndjson" => Some(Format::Jsonl),
        _ => None,
    }
}

/// JSON lines begin with a brace.
fn sniff(source: &mut impl BufRead) -> io::Result<Format> {
    let head = source.fill_buf()?;
    let head = head.strip_prefix(BOM).unwrap_or(head).trim_ascii_start();
    Ok(if head.starts_with(b"{") { Format::Jsonl } else { Format::Csv })
}

/// What some editors put in front of UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A row whose key and value are hexadecimal.
fn decoded(row: Row) -> Row {
    let (line, mut op) = row?;
    let decode = |text: &[u8]| {
        output::bytes(&String::from_utf8_lossy(text), true)
            .map_err(|error| Problem { line, text: error.to_string() })
    };
    op.key = decode(&op.key)?;
    op.value = op.value.as_deref().map(decode).transpose()?;
    Ok((line, op))
}

/// Why the rows were not all written.
enum Ended {
    Problem(Problem),
    /// What is on disk could not be told. It is there all the same.
    Output(io::Error),
}

impl From<Problem> for Ended {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Collects rows into batches.
struct Sink<W> {
    write: W,
    batch_records: u64,
    batch: Vec<(u64, Op)>,
    batch_bytes: usize,
    /// Written so far.
    records: u64,
    bytes: u64,
}

impl<W: FnMut(Vec<Op>) -> Result<()>> Sink<W> {
    fn new(batch_records: u64, write: W) -> Self {
        Self { write, batch_records, batch: Vec::new(), batch_bytes: 0, records: 0, bytes: 0 }
    }

    /// Writes all rows up to the first wrong one; where there is none for now, those so far. `written` is told how many are on disk, after
    /// each batch.
    fn take_all(
        &mut self,
        rows: impl Iterator<Item = Option<Row>>,
        mut written: impl FnMut(u64) -> io::Result<()>,
    ) -> Result<(), Ended> {
        for row in rows {
            let Some(row) = row else {
                self.write_batch(&mut written)?;
                continue;
            };
            let (line, op) = match row {
                Ok(row) => row,
                Err(problem) => {
                    self.write_batch(&mut written)?;
                    return Err(problem.into());
                }
            };
            // A large record goes by itself, because a batch must fit the admin socket.
            let full = self.batch_bytes + op.bytes() > BATCH_BYTES;
            if full || self.batch.len() as u64 >= self.batch_records {
                self.write_batch(&mut written)?;
            }
            self.batch_bytes += op.bytes();
            self.batch.push((line, op));
        }
        self.write_batch(&mut written)
    }

    fn write_batch(
        &mut self,
        written: &mut impl FnMut(u64) -> io::Result<()>,
    ) -> Result<(), Ended> {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        let Some((first, _)) = batch.first() else { return Ok(()) };
        let ops: Vec<_> = batch.iter().map(|(_, op)| op.clone()).collect();
        match (self.write)(ops) {
            Ok(()) => {
                batch.iter().for_each(|(_, op)| self.count(op));
                written(self.records).map_err(Ended::Output)
            }
            Err(error) if is_refusal(&error) => self.write_one_by_one(batch, written),
            Err(error) => Err(Problem { line: *first, text: logging::chain(&error) }.into()),
        }
    }

    /// To learn which one is refused.
    fn write_one_by_one(
        &mut self,
        batch: Vec<(u64, Op)>,
        written: &mut impl FnMut(u64) -> io::Result<()>,
    ) -> Result<(), Ended> {
        for (line, op) in batch {
            (self.write)(vec![op.clone()])
                .map_err(|error| Problem { line, text: logging::chain(&error) })?;
            self.count(&op);
            written(self.records).map_err(Ended::Output)?;
        }
        Ok(())
    }

    fn count(&mut self, op: &Op) {
        self.records += 1;
        self.bytes += u64::try_from(op.bytes()).unwrap_or_default();
    }
}

/// Whether the database did not take the records, as opposed to failing, or being out of reach.
fn is_refusal(error: &anyhow::Error) -> bool {
    let engine = error.downcast_ref::<EngineError>().is_some_and(|error| !error.is_storage());
    let host = error
        .downcast_ref::<AdminError>()
        .is_some_and(|error| matches!(error, AdminError::Failed(_) | AdminError::TooLarge(_)));
    engine || host
}

/// The seconds in a `ttl` column.
fn ttl_seconds(text: &str) -> Result<Duration, String> {
    match text.trim().parse::<u32>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => Err(format!(
            "the ttl {text:?} is no number of seconds: write a whole number from 1, or leave it \
             out to keep the record for ever"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: u64, bytes: usize) -> Result<(u64, Op), Problem> {
        let key = line.to_be_bytes().to_vec();
        Ok((line, Op { ns: vec![], key, value: Some(vec![0; bytes]), ttl: None }))
    }

    /// Sizes of the batches that were written, of which none may have a value of 13 bytes.
    fn batches(rows: Vec<Result<(u64, Op), Problem>>) -> (Vec<usize>, Option<Problem>) {
        let mut sizes = Vec::new();
        let mut sink = Sink::new(1000, |ops: Vec<Op>| {
            let lens = ops.iter().map(|op| op.value.as_ref().map_or(0, Vec::len));
            if lens.clone().any(|len| len == 13) {
                return Err(EngineError::EmptyKey.into());
            }
            anyhow::ensure!(!lens.clone().any(|len| len == 14), "the disk is full");
            sizes.push(ops.len());
            Ok(())
        });
        let mut told = 0;
        let rows = rows.into_iter().map(|row| match row {
            Err(Problem { line: SILENT, .. }) => None,
            row => Some(row),
        });
        let ended = sink.take_all(rows, |records| {
            told = records;
            Ok(())
        });
        let records = sink.records;
        assert_eq!((sizes.iter().sum::<usize>() as u64, told), (records, records));
        let problem = ended.err().map(|ended| match ended {
            Ended::Problem(problem) => problem,
            Ended::Output(error) => panic!("{error}"),
        });
        (sizes, problem)
    }

    #[test]
    fn batches_are_bounded_in_records_and_bytes() {
        assert_eq!(batches((0..2500).map(|n| row(n, 1)).collect()).0, [1000, 1000, 500]);
        assert_eq!(batches((0..3).map(|n| row(n, 600 << 10)).collect()).0, [1, 1, 1]);
        assert_eq!(batches(vec![row(0, 1), row(1, 2 << 20), row(2, 1)]).0, [1, 1, 1]);
        assert_eq!(batches(vec![]).0, [0; 0]);
    }

    /// Stands for a source that is silent, in these tests.
    const SILENT: u64 = u64::MAX;

    #[test]
    fn rows_do_not_wait_for_a_silent_source() {
        let silent = || Err(Problem { line: SILENT, text: String::new() });
        let rows = vec![silent(), row(0, 1), row(1, 1), silent(), silent(), row(2, 1)];
        assert_eq!(batches(rows), (vec![2, 1], None));
    }

    #[test]
    fn what_is_before_a_wrong_row_is_written() {
        let wrong = || Problem { line: 4, text: "x".into() };
        let rows = vec![row(0, 1), row(1, 1), Err(wrong()), row(2, 1)];
        assert_eq!(batches(rows), (vec![2], Some(wrong())));
    }

    #[test]
    fn a_record_that_the_database_refuses_is_named() {
        let wrong = Problem { line: 2, text: EngineError::EmptyKey.to_string() };
        let rows = vec![row(0, 1), row(1, 1), row(2, 13), row(3, 1)];
        assert_eq!(batches(rows), (vec![1, 1], Some(wrong)));
    }

    #[test]
    fn a_database_that_fails_is_not_asked_again() {
        let wrong = Problem { line: 0, text: "the disk is full".into() };
        assert_eq!(batches(vec![row(0, 1), row(1, 14)]), (vec![], Some(wrong)));
    }

    #[test]
    fn the_form_is_told_from_the_name_or_the_first_character() {
        assert_eq!(format_of(Path::new("a/b.CSV")), Some(Format::Csv));
        assert_eq!(format_of(Path::new("b.ndjson")), Some(Format::Jsonl));
        assert_eq!(format_of(Path::new("-")), None);
        assert_eq!(sniff(&mut &b"\xef\xbb\xbf {\"key\""[..]).unwrap(), Format::Jsonl);
        assert_eq!(sniff(&mut &b"key,value"[..]).unwrap(), Format::Csv);
    }

    #[test]
    fn a_time_to_live_is_whole_seconds_from_one() {
        assert_eq!(ttl_seconds(" 60 "), Ok(Duration::from_secs(60)));
        for bad in ["0", "-1", "1.5", "1h", "99999999999"] {
            assert!(ttl_seconds(bad).unwrap_err().contains("from 1"), "{bad}");
        }
    }
}
