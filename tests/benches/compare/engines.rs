//! The two engines behind one face, for what is done alike with both.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use edgestore::{EdgestoreConfig, Engine as StockEngine};
use edgestore_host::Hash;
use edgestore_host::engine::{Engine, EngineOptions, WriteBatch};
use serde::{Deserialize, Serialize};

use crate::data::{Data, NAMESPACE, key};

/// Whose engine and loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node {
    Ours,
    Stock,
}

/// Greater than any key.
const END: &[u8] = &[0xff; 16];

pub trait Database {
    fn root(&self) -> Result<Hash>;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Reads up to `limit` records from `start` on; returns how many there were.
    fn scan(&self, start: &[u8], limit: usize) -> Result<u64>;

    /// Reads all records; returns how many there are.
    fn scan_all(&self) -> Result<u64>;
}

impl Database for Engine {
    fn root(&self) -> Result<Hash> {
        Ok(Self::root(self))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(Self::get(self, NAMESPACE, key)?)
    }

    fn scan(&self, start: &[u8], limit: usize) -> Result<u64> {
        let mut records = 0;
        for record in self.range(NAMESPACE, start, None)?.take(limit) {
            std::hint::black_box(record?);
            records += 1;
        }
        Ok(records)
    }

    fn scan_all(&self) -> Result<u64> {
        self.scan(b"", usize::MAX)
    }
}

impl Database for StockEngine {
    fn root(&self) -> Result<Hash> {
        Ok(Hash::from_bytes(self.range_merkle_root()?))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(Self::get(self, NAMESPACE, key)?)
    }

    fn scan(&self, start: &[u8], limit: usize) -> Result<u64> {
        let page = self.range_page(NAMESPACE, start, END, None, limit)?;
        Ok(std::hint::black_box(page.items).len() as u64)
    }

    fn scan_all(&self) -> Result<u64> {
        let records = self.range(NAMESPACE, b"", END)?;
        Ok(std::hint::black_box(records).len() as u64)
    }
}

pub fn open_ours(db: &Path) -> Result<Engine> {
    open_ours_with(db, EngineOptions::default())
}

pub fn open_ours_with(db: &Path, options: EngineOptions) -> Result<Engine> {
    Engine::open_with(db, options).context("can't open a database of ours")
}

pub fn open_stock(db: &Path) -> Result<StockEngine> {
    StockEngine::open(EdgestoreConfig::new(db)).context("can't open a stock database")
}

/// One step of many writes, as the engine of this host does it.
pub fn batch_of(pairs: &[(Vec<u8>, Vec<u8>)]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for (key, value) in pairs {
        batch.put(NAMESPACE, key, value, None);
    }
    batch
}

/// Whether a replica holds exactly `data`: its root, the number of records, and values here and
/// there.
pub fn check(db: &impl Database, data: &Data, root: Hash) -> Result<()> {
    let found = db.root()?;
    ensure!(found == root, "the root is {found} and not {root}");
    let records = db.scan_all()?;
    ensure!(records == u64::from(data.records), "{records} records and not {}", data.records);
    check_values(db, data)
}

/// Whether values are right, here and there and at the end.
pub fn check_values(db: &impl Database, data: &Data) -> Result<()> {
    let last = data.records.saturating_sub(1);
    for i in (0..data.records).step_by(1009).chain([last]) {
        if db.get(&key(i))? != Some(data.pair(i).1) {
            bail!("record {i} is wrong");
        }
    }
    Ok(())
}
