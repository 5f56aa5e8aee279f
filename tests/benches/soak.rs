//! A host that is written to while it is killed, its disk fills up, and it runs out of descriptors, in
//! turn and by chance. After each of these, writes have to go on by themselves, and all that was
//! acknowledged has to be there.
//!
//! ```text
//! cargo bench -p edgestore-host-tests --bench soak                    # an hour
//! cargo bench -p edgestore-host-tests --bench soak -- MINUTES [SEED]
//! ```
//!
//! For root, or where a user may make mount namespaces: the database is on a disk of its own in memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use edgestore_host::admin::{AdminClient, Op};

const PROGRAM: &str = env!("CARGO_BIN_EXE_edgestore-host-under-test");
/// Set in the process that has a disk of its own.
const DISK: &str = "EDGESTORE_SOAK_DISK";
const KEYS: u64 = 20_000;
const FAULTS: [&str; 3] = ["kill", "full disk", "no descriptors"];
/// A host that has not written by then does not recover.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let args: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    if let Some(disk) = std::env::var_os(DISK) {
        let minutes = args.first().copied().unwrap_or(60);
        let seed = args.get(1).copied().unwrap_or(1);
        return soak(Path::new(&disk), Duration::from_secs(60 * minutes), seed);
    }
    let dir = tempfile::tempdir()?;
    let disk = "mount -t tmpfs -o size=2g none \"$EDGESTORE_SOAK_DISK\" && exec \"$@\"";
    let status = Command::new("unshare")
        .args(["-rm", "sh", "-c", disk, "sh"])
        .arg(std::env::current_exe()?)
        .args(args.iter().map(ToString::to_string))
        .env(DISK, dir.path())
        .status()?;
    ensure!(status.success(), "the soak has failed");
    Ok(())
}

fn soak(disk: &Path, time: Duration, seed: u64) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut soak = Soak::new(disk)?;
    soak.resume().context("at the start")?;
    let (start, mut said) = (Instant::now(), Instant::now());
    let mut faults: BTreeMap<&str, Resumed> = BTreeMap::new();
    while start.elapsed() < time {
        soak.write(Duration::from_millis(random.u64(50..800)))?;
        // Most are kills: they take the least time.
        let fault = FAULTS[[0, 0, 0, 0, 0, 0, 0, 0, 1, 2][random.usize(..10)]];
        match fault {
            "kill" => soak.kill()?,
            "full disk" => soak.fill(random.u64(100..2000))?,
            _ => soak.starve(random.u64(100..2000))?,
        }
        let resumed = soak.resume().with_context(|| format!("after {fault}"))?;
        let seen = faults.entry(fault).or_default();
        (seen.count, seen.longest) = (seen.count + 1, seen.longest.max(resumed));
        if random.u8(..20) == 0 {
            soak.check()?;
        }
        if said.elapsed() > Duration::from_secs(60) {
            said = Instant::now();
            eprintln!("{:.0} s: {faults:?}, {} writes", start.elapsed().as_secs_f64(), soak.writes);
        }
    }
    soak.check()?;
    soak.stop()?;
    println!("| fault | times | longest until a write was taken again, s |\n|---|---|---|");
    for (fault, Resumed { count, longest }) in faults {
        println!("| {fault} | {count} | {:.1} |", longest.as_secs_f64());
    }
    println!("\n{} acknowledged writes, of which none is missing (seed {seed})", soak.writes);
    Ok(())
}

#[derive(Debug, Default)]
struct Resumed {
    count: u64,
    longest: Duration,
}

struct Soak {
    disk: PathBuf,
    host: Child,
    client: Option<AdminClient>,
    /// By key, the last value that was acknowledged, and later ones that may have been written.
    written: BTreeMap<u64, (u64, Vec<u64>)>,
    next: u64,
    writes: u64,
}

impl Soak {
    fn new(disk: &Path) -> Result<Self> {
        let host = start(disk)?;
        let (disk, written) = (disk.to_owned(), BTreeMap::new());
        Ok(Self { disk, host, client: None, written, next: 1, writes: 0 })
    }

    fn db(&self) -> PathBuf {
        self.disk.join("db")
    }

    fn client(&mut self) -> Result<&mut AdminClient> {
        if self.client.is_none() {
            self.client = Some(AdminClient::connect(&self.db())?);
        }
        self.client.as_mut().context("no client")
    }

    /// Writes one more value.
    fn put(&mut self) -> Result<()> {
        let value = self.next;
        self.next += 1;
        let key = value % KEYS;
        let (ns, bytes) = (b"ns".to_vec(), value.to_be_bytes().repeat(12));
        let op = Op { ns, key: key.to_be_bytes().to_vec(), value: Some(bytes), ttl: None };
        let (last, maybe) = self.written.entry(key).or_default();
        let client = self.client.as_mut().context("the host does not answer");
        let done = client.and_then(|client| Ok(client.write(vec![op])?));
        if done.is_ok() {
            (*last, self.writes) = (value, self.writes + 1);
            maybe.clear();
        } else {
            maybe.push(value);
            // After an error nobody knows what a connection says next.
            self.client = None;
        }
        done.map(drop)
    }

    fn write(&mut self, time: Duration) -> Result<()> {
        self.client()?;
        let start = Instant::now();
        while start.elapsed() < time {
            self.put().context("a write is refused, and nothing is wrong")?;
        }
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        self.host.kill()?;
        self.host.wait()?;
        self.client = None;
        self.host = start(&self.disk)?;
        Ok(())
    }

    /// Somebody takes all of the disk, to the last byte, for some milliseconds of writes.
    fn fill(&mut self, ms: u64) -> Result<()> {
        let path = self.disk.join("filler");
        let mut filler = fs::File::create(&path)?;
        for block in [1 << 20, 1 << 12] {
            let block = vec![7; block];
            while filler.write_all(&block).is_ok() {}
        }
        self.write_whatever_comes(ms);
        fs::remove_file(path)?;
        Ok(())
    }

    /// The host may open no more files for some milliseconds of writes.
    fn starve(&mut self, ms: u64) -> Result<()> {
        self.limit("8:")?;
        self.write_whatever_comes(ms);
        self.limit("1024:")
    }

    /// The soft limit of the host's descriptors.
    fn limit(&self, limit: &str) -> Result<()> {
        let pid = format!("--pid={}", self.host.id());
        let set = Command::new("prlimit").args([pid, format!("--nofile={limit}")]).status()?;
        ensure!(set.success(), "prlimit: {set}");
        Ok(())
    }

    fn write_whatever_comes(&mut self, ms: u64) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(ms) {
            let _ = self.client();
            if self.put().is_err() {
                thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// How long it takes until a write is taken.
    fn resume(&mut self) -> Result<Duration> {
        let start = Instant::now();
        loop {
            if let Some(ended) = self.host.try_wait()? {
                bail!("the host has ended by itself: {ended}");
            }
            let _ = self.client();
            match self.put() {
                Ok(()) => return Ok(start.elapsed()),
                Err(error) if start.elapsed() > PATIENCE => {
                    return Err(error.context("no write is taken any more"));
                }
                Err(_) => {}
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Looks for all that was acknowledged.
    fn check(&mut self) -> Result<()> {
        self.client()?;
        let client = self.client.as_mut().context("no client")?;
        for (key, (last, maybe)) in &mut self.written {
            let found = client.get(b"ns", &key.to_be_bytes())?;
            let found = found.and_then(|value| Some(u64::from_be_bytes(*value.first_chunk()?)));
            let found = found.unwrap_or(0);
            ensure!(
                found == *last || maybe.contains(&found),
                "key {key} has {found}; acknowledged is {last}, and perhaps {maybe:?}"
            );
            *last = found;
            maybe.clear();
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        let pid = self.host.id().to_string();
        Command::new("sh").args(["-c", "kill $0", &pid]).status()?;
        let ended = self.host.wait()?;
        ensure!(ended.success(), "the host has ended with {ended}");
        let verify = Command::new(PROGRAM).args(["verify", "--db"]).arg(self.db()).status()?;
        ensure!(verify.success(), "verify says {verify}");
        Ok(())
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        let _ = self.host.kill();
        let _ = self.host.wait();
    }
}

fn start(disk: &Path) -> Result<Child> {
    let log = fs::File::create(std::env::temp_dir().join("edgestore-soak.log"))?;
    let args = ["run", "--listen=none", "--flush-interval=200ms", "--compact-interval=1s", "--db"];
    let mut host = Command::new(PROGRAM);
    Ok(host.args(args).arg(disk.join("db")).stdout(Stdio::null()).stderr(log).spawn()?)
}
