//! Reads of a replica, whose caches are warm.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::data::{Data, key};
use crate::engines::{Database, Node, open_ours, open_stock};
use crate::job::Measured;
use crate::machine::peak_rss;

/// All kinds of reads.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reads {
    pub node: Node,
    pub db: PathBuf,
    pub data: Data,
    /// For each kind. One that takes longer is done once.
    pub seconds: f64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct ReadRates {
    pub get_present: Measured,
    pub get_absent: Measured,
    pub scan_100: Measured,
    pub scan_all: Measured,
}

/// Keys that are got in turn.
const KEYS: usize = 10_000;

/// Gets, or short scans, between two looks at the clock.
const STEP: usize = 16;

pub fn measure(job: &Reads) -> Result<ReadRates> {
    match job.node {
        Node::Ours => all(&open_ours(&job.db)?, job),
        Node::Stock => all(&open_stock(&job.db)?, job),
    }
}

/// The whole scan comes first: it warms the caches for the others.
fn all(db: &impl Database, job: &Reads) -> Result<ReadRates> {
    let records = job.data.records;
    let scan_all = timed(job.seconds, || {
        let found = db.scan_all()?;
        ensure!(found == u64::from(records), "{found} records and not {records}");
        Ok(found)
    })?;
    let mut rng = fastrand::Rng::with_seed(7);
    let present: Vec<_> = (0..KEYS).map(|_| key(rng.u32(..records))).collect();
    // Among the others in order, but above every number that there is.
    let absent: Vec<_> = (0..KEYS).map(|_| key(rng.u32(u32::MAX / 2..))).collect();
    let scan_100 = over(&present, job.seconds, |key| db.scan(key, 100))?;
    let get_present = over(&present, job.seconds, |key| {
        ensure!(db.get(key)?.is_some(), "a record is missing");
        Ok(1)
    })?;
    let get_absent = over(&absent, job.seconds, |key| {
        ensure!(db.get(key)?.is_none(), "a record is too many");
        Ok(1)
    })?;
    Ok(ReadRates { get_present, get_absent, scan_100, scan_all })
}

fn over(
    keys: &[Vec<u8>],
    seconds: f64,
    mut read: impl FnMut(&[u8]) -> Result<u64>,
) -> Result<Measured> {
    let mut keys = keys.iter().cycle();
    timed(seconds, || keys.by_ref().take(STEP).map(|key| read(key)).sum())
}

/// Reads once to warm up, and then for so long, or once.
fn timed(seconds: f64, mut read: impl FnMut() -> Result<u64>) -> Result<Measured> {
    read()?;
    let (start, mut records) = (Instant::now(), 0);
    loop {
        records += read()?;
        let elapsed = start.elapsed().as_secs_f64();
        if elapsed >= seconds {
            return Ok(Measured { seconds: elapsed, records, bytes: 0, peak_rss: peak_rss() });
        }
    }
}
