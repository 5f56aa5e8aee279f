//! One bit of one file of a database is flipped, in each kind of file in turn. Every command then
//! answers right, refuses with advice, or says what is missing: none answers wrongly in silence, no
//! sound segment file disappears, and `verify --repair` leaves a database that reads.
//!
//! `EDGESTORE_FLIPS` sets how many copies are damaged, `EDGESTORE_FLIP_SEED` where.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use edgestore_host::engine::{Engine, EngineOptions, RateLimiter};
use edgestore_host::{Hash, Host};
use edgestore_host_tests::{localhost, open, pull, serve};

const PROGRAM: &str = env!("CARGO_BIN_EXE_edgestore-host-under-test");
const FLIPS: usize = 40;
const NAMESPACES: [&str; 2] = ["own", "theirs"];

/// What a command said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    /// None where a signal ended it.
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(db: &Path, args: &[&str]) -> Said {
    let output = Command::new(PROGRAM).args(args).arg("--db").arg(db).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code();
    Said { code, out: text(&output.stdout), err: text(&output.stderr) }
}

/// All files beneath a folder, by relative path.
fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path().strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    found.sort_unstable();
    found
}

/// What is in a folder, names and contents.
fn image(dir: &Path) -> BTreeMap<PathBuf, Hash> {
    let hash = |path: &PathBuf| Hash::of(&fs::read(dir.join(path)).unwrap());
    files(dir).into_iter().map(|path| (path.clone(), hash(&path))).collect()
}

fn copy(from: &Path, to: &Path) {
    for path in files(from) {
        let to = to.join(&path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from.join(path), to).unwrap();
    }
    for dir in ["staging", "segments"] {
        fs::create_dir_all(to.join(dir)).unwrap();
    }
}

fn kind(path: &Path) -> &'static str {
    let text = path.to_string_lossy();
    let name = path.file_name().unwrap().to_string_lossy();
    match () {
        () if name.ends_with(".jnl") => "journal",
        () if name == "clean-stop" => "mark of a clean stop",
        () if name == "acknowledged" => "acknowledged",
        () if text.contains("/tables/") => "table",
        () if name == "current" => "current",
        () if name == "version" || text.starts_with("records/keyspaces") => "version",
        () if text.starts_with("segments") => "segment",
        () if text.starts_with("sync") => "cursor",
        () if text.starts_with("policies") => "policy",
        () => "FORMAT",
    }
}

/// A database to damage, and what it says when it is sound.
struct Base {
    dir: PathBuf,
    scans: Vec<String>,
    segments: String,
    /// Segments that must not disappear.
    kept: BTreeSet<PathBuf>,
    kinds: BTreeMap<&'static str, Vec<PathBuf>>,
}

impl Base {
    fn new(dir: PathBuf) -> Self {
        let scans: Vec<_> = NAMESPACES.iter().map(|ns| scan(&dir, ns)).collect();
        assert!(scans.iter().all(|said| said.code == Some(0)), "{scans:?}");
        let segments = run(&dir, &["segments"]);
        assert_eq!(segments.code, Some(0), "{segments:?}");
        let mut kinds = BTreeMap::<_, Vec<PathBuf>>::new();
        for path in files(&dir) {
            if fs::metadata(dir.join(&path)).unwrap().len() > 0 {
                kinds.entry(kind(&path)).or_default().push(path);
            }
        }
        let shown = |path: &Path| {
            let hash = path.file_stem().unwrap().to_string_lossy().into_owned();
            segments.out.contains(&hash[..8])
        };
        let kept = files(&dir).into_iter();
        let kept: BTreeSet<_> =
            kept.filter(|path| path.starts_with("segments") && shown(path)).collect();
        assert!(kept.len() > 2, "{}", segments.out);
        let scans = scans.into_iter().map(|said| said.out).collect();
        Self { dir, scans, segments: segments.out, kept, kinds }
    }
}

fn scan(db: &Path, ns: &str) -> Said {
    run(db, &["scan", ns, "--format", "jsonl"])
}

/// A node with segments of its own, merged and retired, with some that it has pulled, with writes
/// that wait for a flush, a cursor and a compiled policy: closed, and as a kill leaves it.
fn bases(dir: &Path, url: &str) -> [Base; 2] {
    let live = dir.join("live");
    let killed = dir.join("killed");
    {
        let engine = open(&live);
        for round in 0..6_u32 {
            for i in 0..40_u32 {
                let value = format!("{round} {i} {}", "x".repeat(fastrand::usize(..200)));
                engine.put(b"own", format!("key {i}").as_bytes(), value.as_bytes()).unwrap();
            }
            engine.flush().unwrap();
        }
        engine.compact(&RateLimiter::unbounded()).unwrap();
        assert!(pull(&engine, url).in_sync());
    }
    {
        let options = EngineOptions { sync_writes: false, ..EngineOptions::default() };
        let engine = Engine::open_with(&live, options).unwrap();
        for i in 0..50_u32 {
            engine.put(b"own", format!("late {i}").as_bytes(), b"not flushed").unwrap();
        }
        // Waits in memory.
        let late = dir.join("late");
        let other = open(&late);
        for i in 0..30_u32 {
            other.put(b"theirs", format!("late {i}").as_bytes(), b"not drained").unwrap();
        }
        let segment = other.flush().unwrap().unwrap();
        let bytes = fs::read(late.join(format!("segments/{}.dat", segment.hash))).unwrap();
        let mut staged = engine.stage().unwrap();
        std::io::Write::write_all(&mut staged, &bytes).unwrap();
        engine.apply(&mut staged.verify(segment.hash).unwrap()).unwrap();
        copy(&live, &killed);
    }
    [Base::new(live), Base::new(killed)]
}

#[derive(Debug, Default, Clone, Copy)]
struct Row {
    copies: usize,
    right: usize,
    refused: usize,
    reported: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Right,
    Reported,
    Refused,
}

/// What a command made of the damage. `None` is a wrong answer in silence.
fn judge(said: &Said, expected: &str) -> Option<Outcome> {
    let advice = ["verify", "backup", "pull", "quarantine", "write that into it", "damaged"];
    let advised = advice.iter().any(|word| said.err.contains(word) || said.out.contains(word));
    match said.code {
        Some(0) if said.out == expected => Some(Outcome::Right),
        Some(0) if advised => Some(Outcome::Reported),
        Some(code) if code > 0 && advised => Some(Outcome::Refused),
        _ => None,
    }
}

/// Flips one bit of a copy of `base`, and looks at all that follows.
fn damage(base: &Base, kind: &str, rng: &mut fastrand::Rng, to: &Path, url: &str) -> Outcome {
    let paths = &base.kinds[kind];
    let path = &paths[rng.usize(..paths.len())];
    copy(&base.dir, to);
    let mut bytes = fs::read(to.join(path)).unwrap();
    // Where there is something: a journal ends in zeros.
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(bytes.len(), |last| last + 1);
    let (at, bit) = (rng.usize(..end), rng.u8(..8));
    bytes[at] ^= 1 << bit;
    fs::write(to.join(path), bytes).unwrap();
    let context = format!("bit {bit} of byte {at} of {end} of {}", path.display());
    let before = image(to);
    let mut outcome = Outcome::Right;
    let mut note = |said: &Said, expected: &str| {
        let Some(found) = judge(said, expected) else { panic!("{context}: {said:?}") };
        outcome = outcome.max(found);
    };
    for (ns, expected) in NAMESPACES.iter().zip(&base.scans) {
        note(&scan(to, ns), expected);
    }
    note(&run(to, &["segments"]), &base.segments);
    let status = run(to, &["status"]);
    note(&status, &status.out.clone());
    let verified = run(to, &["verify"]);
    assert!(verified.code.is_some(), "{context}: {verified:?}");
    assert_eq!(image(to), before, "{context}: a command that reads has changed something");

    let put = run(to, &["put", "other", "key", "value"]);
    note(&put, "");
    for (ns, expected) in NAMESPACES.iter().zip(&base.scans) {
        note(&scan(to, ns), expected);
    }
    if ["cursor", "policy"].contains(&kind) {
        let once = run(to, &["run", "--once", "--peer", &format!("peer={url}")]);
        assert_eq!(once.code, Some(0), "{context}: {once:?}");
    }
    let repaired = run(to, &["verify", "--repair"]);
    if kind == "FORMAT" {
        return outcome;
    }
    assert!(matches!(repaired.code, Some(0 | 1)), "{context}: {repaired:?}");
    let says = ["lost", "left", "missing", "damaged", "quarantine"];
    let says = says.iter().any(|word| repaired.out.contains(word));
    for (ns, expected) in NAMESPACES.iter().zip(&base.scans) {
        let found = scan(to, ns);
        // A repair that left something unreadable says so, and a scan then says that it is not all.
        let agrees = found.code == Some(0) || (found.code, repaired.code) == (Some(3), Some(1));
        assert!(agrees, "{context}: after {repaired:?}: {found:?}");
        let known: BTreeSet<_> = expected.lines().collect();
        let keys = |text: &str| -> BTreeSet<String> {
            let key = |line: &str| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["key"].to_string()
            };
            text.lines().map(key).collect()
        };
        let missing = keys(expected).difference(&keys(&found.out)).count();
        assert!(missing == 0 || says, "{context}: {missing} records are gone in silence");
        let other = found.out.lines().filter(|line| !known.contains(line)).count();
        assert!(other == 0 || says, "{context}: {other} records differ in silence");
    }
    for kept in &base.kept {
        if kept != path {
            let name = kept.file_name().unwrap();
            let places = [to.join(kept), to.join("quarantine").join(name)];
            assert!(places.iter().any(|place| place.exists()), "{context}: {kept:?} is gone");
        }
    }
    outcome
}

#[test]
fn damage_of_one_bit_is_never_answered_wrongly_in_silence() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let flips = number("EDGESTORE_FLIPS").unwrap_or(FLIPS);
    let seed = number("EDGESTORE_FLIP_SEED").unwrap_or(1) as u64;
    let dir = tempfile::tempdir().unwrap();
    fastrand::seed(seed);
    let primary = open(&dir.path().join("primary"));
    for i in 0..60_u32 {
        primary.put(b"theirs", format!("key {i}").as_bytes(), b"theirs").unwrap();
        if i % 20 == 19 {
            primary.flush().unwrap();
        }
    }
    let (_host, url) = serve(&primary);
    let bases = bases(dir.path(), &url);
    let table = Mutex::new(BTreeMap::<&str, Row>::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= flips {
                        break;
                    }
                    // Each third one is of the killed database, which has no mark.
                    let base = &bases[usize::from(n % 3 == 2)];
                    let kinds: Vec<_> = base.kinds.keys().copied().collect();
                    let kind = kinds[n / 3 % kinds.len()];
                    let mut rng = fastrand::Rng::with_seed(seed << 32 | n as u64);
                    let to = dir.path().join(n.to_string());
                    let outcome = damage(base, kind, &mut rng, &to, &url);
                    let mut table = table.lock().unwrap();
                    let row = table.entry(kind).or_default();
                    row.copies += 1;
                    match outcome {
                        Outcome::Right => row.right += 1,
                        Outcome::Reported => row.reported += 1,
                        Outcome::Refused => row.refused += 1,
                    }
                    drop(table);
                    fs::remove_dir_all(to).unwrap();
                }
            });
        }
    });
    let table = table.into_inner().unwrap();
    println!("| kind of file | copies | opened right | reported | refused |");
    println!("|---|---|---|---|---|");
    for (kind, row) in &table {
        let Row { copies, right, reported, refused } = row;
        println!("| {kind} | {copies} | {right} | {reported} | {refused} |");
    }
    assert_eq!(table.values().map(|row| row.copies).sum::<usize>(), flips);
}

#[test]
fn reading_commands_leave_the_folder_byte_for_byte_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let commands: [&[&str]; 6] = [
        &["get", "own", "key 1"],
        &["scan", "own"],
        &["status"],
        &["segments"],
        &["verify"],
        &["config", "check"],
    ];
    for args in &commands[..5] {
        assert_ne!(run(&missing, args).code, Some(0), "{args:?}");
        assert!(!missing.exists(), "{args:?} makes a database");
    }
    let primary = open(&dir.path().join("primary"));
    primary.put(b"theirs", b"key", b"value").unwrap();
    primary.flush().unwrap();
    let host = Host::builder(primary).listen(localhost()).start().unwrap();
    let url = format!("http://{}", host.local_addr().unwrap());
    let [closed, killed] = bases(dir.path(), &url);
    let unknown = Hash::of(b"unknown");
    for base in [closed, killed] {
        // Some of what a start would clear away.
        fs::write(base.dir.join("staging/fetch-x.part"), "half").unwrap();
        fs::write(base.dir.join(format!("segments/{unknown}.dat")), "unknown").unwrap();
        fs::remove_dir_all(base.dir.join("sync")).unwrap_or_default();
        let before = image(&base.dir);
        for args in commands {
            let said = run(&base.dir, args);
            assert!(said.code.is_some(), "{args:?}: {said:?}");
            assert_eq!(image(&base.dir), before, "{args:?}");
            assert!(!base.dir.join("sync").exists(), "{args:?}");
        }
    }
}
