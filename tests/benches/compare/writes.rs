//! Local writes into an empty database, automatic flushes to segments included.

use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use edgestore_host::engine::EngineOptions;
use serde::{Deserialize, Serialize};

use crate::data::{Data, NAMESPACE};
use crate::engines::{Node, batch_of, check_values, open_ours_with, open_stock};
use crate::job::Measured;
use crate::machine::peak_rss;

type Pair = (Vec<u8>, Vec<u8>);

#[derive(Debug, Serialize, Deserialize)]
pub struct Writes {
    pub node: Node,
    pub db: PathBuf,
    pub data: Data,
    /// Whether a write is on disk when it returns.
    pub sync: bool,
    /// Records that are written in one step.
    pub batch: usize,
    /// Stops after this time, whether or not all are written.
    pub seconds: f64,
}

pub fn measure(job: &Writes) -> Result<Measured> {
    match job.node {
        Node::Ours => ours(job),
        Node::Stock => stock(job),
    }
}

fn ours(job: &Writes) -> Result<Measured> {
    let options = EngineOptions { sync_writes: job.sync, ..EngineOptions::default() };
    let engine = open_ours_with(&job.db, options)?;
    let measured = timed(job, |pairs| {
        match pairs {
            [(key, value)] => engine.put(NAMESPACE, key, value)?,
            pairs => engine.write(batch_of(pairs))?,
        };
        Ok(())
    })?;
    check_values(&engine, &written(job, &measured)?)?;
    Ok(measured)
}

/// The stock engine has no option for it: a put is in the log file, and `flush` does its fsync. A
/// transaction, its only way to write several records in one step, always does.
fn stock(job: &Writes) -> Result<Measured> {
    let mut engine = open_stock(&job.db)?;
    ensure!(job.batch == 1 || job.sync, "a stock transaction always does an fsync");
    let measured = timed(job, |pairs| {
        if let [(key, value)] = pairs {
            engine.put(NAMESPACE, key, value)?;
            if job.sync {
                engine.flush()?;
            }
            return Ok(());
        }
        let now = SystemTime::UNIX_EPOCH.elapsed()?.as_nanos() as i64;
        let mut transaction = engine.begin();
        for (key, value) in pairs {
            transaction.put(NAMESPACE, key, value, 0, now)?;
        }
        engine.commit_transaction(transaction)?;
        Ok(())
    })?;
    check_values(&engine, &written(job, &measured)?)?;
    Ok(measured)
}

fn timed(job: &Writes, mut write: impl FnMut(&[Pair]) -> Result<()>) -> Result<Measured> {
    let pairs: Vec<_> = (0..job.data.records).map(|i| job.data.pair(i)).collect();
    let (start, mut records) = (Instant::now(), 0);
    for pairs in pairs.chunks(job.batch) {
        write(pairs)?;
        records += pairs.len() as u64;
        if start.elapsed().as_secs_f64() > job.seconds {
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Measured { seconds, records, bytes: 0, peak_rss: peak_rss() })
}

fn written(job: &Writes, measured: &Measured) -> Result<Data> {
    let records = u32::try_from(measured.records).context("too many records")?;
    Ok(Data { records, ..job.data })
}
