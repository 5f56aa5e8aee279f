//! A replica with 256 MiB of memory that pulls 100,000 records from a good peer, beside each kind of
//! hostile peer, and beside all together. Printed as Markdown: the time until all is there, and the
//! most memory meanwhile.
//!
//! ```text
//! cargo bench -p edgestore-host-tests --bench hostile               # all
//! cargo bench -p edgestore-host-tests --bench hostile -- NAME...    # some
//! ```
//!
//! As root, the replica runs in a memory control group of that size, without swap, and takes its
//! budget from it. Else it gets the budget as an option, and nothing but itself holds it to that.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use edgestore_host::{Hash, Host};
use edgestore_host_tests::{
    answer, fake_peer, localhost, manifest_v2_body, merkle_body, not_found, open, segment,
    segments_body, tombstone,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_edgestore-host-under-test");
const MEMORY: u64 = 256 << 20;
const RECORDS: u32 = 100_000;
const SEGMENTS: u32 = 1000;
/// A replica that has not got everything by then never will.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a hostile peer does, and how a run beside it is begun.
struct Kind {
    name: &'static str,
    what: &'static str,
    attack: fn() -> Attack,
}

enum Attack {
    /// Peers to pull from.
    Peers(Vec<String>),
    /// What is done to the replica's server, until the flag is set.
    Clients(fn(SocketAddr, &AtomicBool)),
}

const KINDS: [Kind; 8] = [
    Kind {
        name: "long-list",
        what: "lists 1,000,000 segments that nobody has, as many as its part of the memory has room for",
        attack: || Attack::Peers(vec![lists(1_000_000, false)]),
    },
    Kind {
        name: "new-lists",
        what: "lists 1,800,000, others each time",
        attack: || Attack::Peers(vec![lists(1_800_000, true)]),
    },
    Kind {
        name: "eight-lists",
        what: "is eight of them, each of which lists 120,000 that nobody has",
        attack: || Attack::Peers((0..8).map(|_| lists(120_000, false)).collect()),
    },
    Kind {
        name: "large-segments",
        what: "has two segments of 3,000,000 deletes each",
        attack: || Attack::Peers(vec![large_segments()]),
    },
    Kind {
        name: "nothing-served",
        what: "lists 100,000 segments and serves none",
        attack: || Attack::Peers(vec![lists(100_000, false)]),
    },
    Kind {
        name: "endless-answers",
        what: "never ends its trailers, as fast as it can",
        attack: || Attack::Peers(vec![endless()]),
    },
    Kind {
        name: "unread-manifests",
        what: "256 clients that ask for manifests and do not read",
        attack: || Attack::Clients(ask_and_do_not_read),
    },
    Kind {
        name: "slow-connections",
        what: "500 connections that send a byte a second",
        attack: || Attack::Clients(trickle),
    },
];

fn main() -> Result<()> {
    let only: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    let dir = tempfile::tempdir()?;
    let source = open(&dir.path().join("source"));
    for n in 0..RECORDS {
        source.put(b"ns", &n.to_be_bytes(), &[n as u8; 100])?;
        if (n + 1) % (RECORDS / SEGMENTS) == 0 {
            source.flush()?;
        }
    }
    let good = Host::builder(source).listen(localhost()).compact_interval(None).start()?;
    let good = format!("http://{}", good.local_addr().context("no address")?);
    println!("| beside a peer that | records | seconds | most memory, MiB | of the group, MiB |");
    println!("|---|---|---|---|---|");
    if wanted("none") {
        row("(there is none)", &run(&dir.path().join("none"), &good, &[])?);
    }
    for kind in KINDS.iter().filter(|kind| wanted(kind.name)) {
        let attacks = [(kind.attack)()];
        row(kind.what, &run(&dir.path().join(kind.name), &good, &attacks)?);
    }
    if wanted("all") {
        let attacks: Vec<_> = KINDS.iter().map(|kind| (kind.attack)()).collect();
        row("(all of these)", &run(&dir.path().join("all"), &good, &attacks)?);
    }
    Ok(())
}

struct Run {
    records: u64,
    seconds: f64,
    peak: u64,
    /// Of the control group, what the system caches of files included.
    group: Option<u64>,
}

fn row(what: &str, run: &Run) {
    let mib = |bytes: u64| bytes >> 20;
    let group = run.group.map_or("-".to_owned(), |bytes| mib(bytes).to_string());
    println!("| {what} | {} | {:.1} | {} | {group} |", run.records, run.seconds, mib(run.peak));
}

fn run(db: &Path, good: &str, attacks: &[Attack]) -> Result<Run> {
    let mut args = vec![format!("--peer=good={good}")];
    for attack in attacks {
        if let Attack::Peers(urls) = attack {
            args.extend(urls.iter().map(|url| format!("--peer={url}")));
        }
    }
    let group = Group::new();
    let start = Instant::now();
    let mut replica = Replica::start(db, &args, group.as_ref())?;
    let end = AtomicBool::new(false);
    let done = thread::scope(|scope| {
        let listen = replica.listen();
        for attack in attacks {
            if let (Attack::Clients(clients), Ok(addr)) = (attack, &listen) {
                let (end, addr) = (&end, *addr);
                scope.spawn(move || clients(addr, end));
            }
        }
        let done = listen.and_then(|_| replica.wait_until_equal(start));
        // Some of what hostile peers do comes later than that.
        thread::sleep(Duration::from_secs(5));
        end.store(true, Ordering::Relaxed);
        done
    })?;
    let peak = replica.peak()?;
    replica.stop()?;
    let engine = open(db);
    let mut records = 0;
    for n in 0..RECORDS {
        records += u64::from(engine.get(b"ns", &n.to_be_bytes())?.is_some());
    }
    Ok(Run { records, seconds: done, peak, group: group.as_ref().and_then(Group::peak) })
}

/// A memory control group, removed when dropped.
struct Group {
    path: PathBuf,
    peak: &'static str,
}

impl Group {
    /// None where this process may not make one.
    fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("edgestore-hostile-{}-{next}", std::process::id());
        let make = |root: &str, limit: &str, peak: &'static str| {
            let path = Path::new(root).join(&name);
            fs::create_dir(&path).ok()?;
            let group = Self { path, peak };
            fs::write(group.path.join(limit), MEMORY.to_string()).ok()?;
            let _ = fs::write(group.path.join("memory.swap.max"), "0");
            Some(group)
        };
        make("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes")
            .or_else(|| make("/sys/fs/cgroup", "memory.max", "memory.peak"))
    }

    fn peak(&self) -> Option<u64> {
        fs::read_to_string(self.path.join(self.peak)).ok()?.trim().parse().ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

struct Replica {
    child: Child,
    db: PathBuf,
}

impl Replica {
    fn start(db: &Path, peers: &[String], group: Option<&Group>) -> Result<Self> {
        let mut command = Command::new("sh");
        match group {
            // It is in the group before it looks.
            Some(group) => command
                .args(["-c", "echo $$ > \"$0\"; exec \"$@\""])
                .arg(group.path.join("cgroup.procs")),
            None => command.args(["-c", "exec \"$@\" --memory-budget=256MiB", "sh"]),
        };
        command.arg(PROGRAM).args(["run", "--listen=127.0.0.1:0", "--interval=1s", "--db"]);
        let child = command.arg(db).args(peers).stderr(Stdio::null()).spawn()?;
        Ok(Self { child, db: db.to_owned() })
    }

    fn status(&mut self) -> Result<serde_json::Value> {
        loop {
            if let Some(ended) = self.child.try_wait()? {
                bail!("the replica has ended: {ended}");
            }
            let mut status = Command::new(PROGRAM);
            let status = status.args(["status", "--json", "--db"]).arg(&self.db);
            let status = status.stderr(Stdio::null()).output()?;
            match serde_json::from_slice::<serde_json::Value>(&status.stdout) {
                Ok(status) if status["running"] == true => return Ok(status),
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn listen(&mut self) -> Result<SocketAddr> {
        let status = self.status()?;
        Ok(status["listen"].as_str().context("it serves nobody")?.parse()?)
    }

    /// Seconds until it has all that the good peer has.
    fn wait_until_equal(&mut self, start: Instant) -> Result<f64> {
        while self.status()?["peers"][0]["in_sync"] != true {
            ensure!(start.elapsed() < PATIENCE, "not in sync: {:#}", self.status()?["peers"][0]);
            thread::sleep(Duration::from_millis(20));
        }
        Ok(start.elapsed().as_secs_f64())
    }

    fn peak(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.context("no VmHWM")?.trim().trim_end_matches(" kB").parse::<u64>()?;
        Ok(kib * 1024)
    }

    fn stop(&mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        Command::new("sh").args(["-c", "kill $0", &pid]).status()?;
        let ended = self.child.wait()?;
        ensure!(ended.success(), "the replica has ended with {ended}");
        Ok(())
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A peer that lists so many segments that nobody has.
fn lists(count: u32, changes: bool) -> String {
    let hashes: Vec<_> = (0..count).map(|n| Hash::of(&n.to_le_bytes())).collect();
    let (list, root) = (manifest_v2_body(&hashes), Hash::root(hashes));
    let asked = AtomicU32::new(0);
    fake_peer(move |path, stream| match path {
        "/merkle" if changes => {
            let n = asked.fetch_add(1, Ordering::Relaxed);
            answer(stream, &merkle_body(Hash::of(&n.to_be_bytes()).as_bytes()));
        }
        "/merkle" => answer(stream, &merkle_body(root.as_bytes())),
        "/v2/segments" if changes => {
            let mut other = list.clone();
            other[9..17]
                .copy_from_slice(&asked.fetch_add(1, Ordering::Relaxed).to_be_bytes().repeat(2));
            answer(stream, &other);
        }
        "/v2/segments" => answer(stream, &list),
        _ => not_found(stream),
    })
}

fn large_segments() -> String {
    let segments = [0, 1].map(|n| {
        let deletes: Vec<_> = (0..3_000_000).map(|k| tombstone(&format!("{n}{k:07}"), 1)).collect();
        segment(&deletes)
    });
    let hashes = [0, 1].map(|n: usize| Hash::of(&segments[n]));
    let list = segments_body(&hashes);
    let root = Hash::root(hashes);
    fake_peer(move |path, stream| match path {
        "/merkle" => answer(stream, &merkle_body(root.as_bytes())),
        "/segments" => answer(stream, &list),
        path => {
            match segments.iter().zip(&hashes).find(|(_, hash)| path.ends_with(&hash.to_string())) {
                Some((bytes, _)) => answer(stream, bytes),
                None => not_found(stream),
            }
        }
    })
}

fn endless() -> String {
    fake_peer(|_, stream| {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
        let mut sent = stream.write_all(head);
        while sent.is_ok() {
            sent = stream.write_all(b"x-more: and more\r\n");
        }
    })
}

/// Connects as often as the server hangs up, until the end.
fn keep_connections(
    count: usize,
    addr: SocketAddr,
    end: &AtomicBool,
    each: impl Fn(&mut TcpStream) -> std::io::Result<()>,
    pause: Duration,
    greet: impl Fn(&mut TcpStream) -> std::io::Result<()>,
) {
    let mut connections: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    while !end.load(Ordering::Relaxed) {
        for connection in &mut connections {
            let lives = connection.as_mut().is_some_and(|stream| each(stream).is_ok());
            if !lives {
                *connection = TcpStream::connect(addr)
                    .and_then(|mut stream| greet(&mut stream).map(|()| stream))
                    .ok();
            }
        }
        thread::sleep(pause);
    }
}

fn ask_and_do_not_read(addr: SocketAddr, end: &AtomicBool) {
    let ask = |stream: &mut TcpStream| {
        stream.set_nonblocking(true)?;
        let ask = b"GET /segments HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n";
        stream.write_all(&ask.repeat(20))
    };
    let lives = |stream: &mut TcpStream| match stream.take_error()? {
        Some(error) => Err(error),
        None => stream.write_all(b"G").or_else(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => Ok(()),
            _ => Err(error),
        }),
    };
    keep_connections(256, addr, end, lives, Duration::from_millis(200), ask);
}

fn trickle(addr: SocketAddr, end: &AtomicBool) {
    let byte = |stream: &mut TcpStream| stream.write_all(b"x");
    let greet = |stream: &mut TcpStream| stream.write_all(b"GET /segments HTTP/1.1\r\nx: ");
    keep_connections(500, addr, end, byte, Duration::from_secs(1), greet);
}
