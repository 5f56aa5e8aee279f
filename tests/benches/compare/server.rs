//! The primary: a process that fills a database, serves it, and adds to it when told.

use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use edgestore::Engine as StockEngine;
use edgestore_host::engine::{Engine, EngineOptions, MAX_BATCH};
use edgestore_host::{Hash, Host};
use edgestore_host_tests::localhost;
use edgestore_repl::HttpReplicationServer;
use serde::{Deserialize, Serialize};

use crate::data::{Data, NAMESPACE, SEGMENT};
use crate::engines::{Database as _, Node, batch_of, open_ours_with, open_stock};
use crate::job::{Job, Serve};
use crate::machine::peak_rss;
use crate::process::{Child, respond};

/// What a primary says of itself after each change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Primary {
    pub url: String,
    pub root: Hash,
    pub data: Data,
    pub segments: u64,
    /// Of all segments.
    pub bytes: u64,
    /// That the last change took.
    pub seconds: f64,
    /// Most memory that its process has had, in bytes.
    pub peak_rss: Option<u64>,
}

/// A primary's process, as its parent sees it.
pub struct Server {
    child: Child,
    pub primary: Primary,
}

impl Server {
    pub fn start(node: Node, db: PathBuf, data: Data) -> Result<Self> {
        let dir = db.parent().map(PathBuf::from).unwrap_or_default();
        let mut child = Child::start(&Job::Serve(Serve { node, db, data }), &dir)?;
        let primary = child.answer().context("can't fill the primary")?;
        Ok(Self { child, primary })
    }

    /// Writes so many further records.
    pub fn add(&mut self, records: u32) -> Result<()> {
        self.primary = self.child.ask(&records).context("can't add to the primary")?;
        Ok(())
    }
}

/// The child's part. Does not end by itself.
pub fn run(job: &Serve, requests: &Receiver<String>) -> Result<()> {
    let start = Instant::now();
    let mut data = Data { records: 0, ..job.data };
    let database = match Served::open(job) {
        Ok(database) => database,
        Err(error) => return respond(Err::<(), _>(error)),
    };
    respond(database.grow(&mut data, job.data.records, start))?;
    for request in requests {
        let start = Instant::now();
        let more = request.parse().context("not a number of records");
        respond(more.and_then(|more| database.grow(&mut data, more, start)))?;
    }
    Ok(())
}

enum Served {
    Ours { engine: Arc<Engine>, url: String, _host: Box<Host> },
    Stock { engine: Arc<Mutex<StockEngine>>, url: String },
}

impl Served {
    fn open(job: &Serve) -> Result<Self> {
        match job.node {
            Node::Ours => {
                let options = EngineOptions {
                    sync_writes: false,
                    flush_bytes: MAX_BATCH as u64,
                    ..EngineOptions::default()
                };
                let engine = Arc::new(open_ours_with(&job.db, options)?);
                let day = std::time::Duration::from_secs(86_400);
                let host = Host::builder(Arc::clone(&engine)).listen(localhost()).interval(day);
                let host = host.compact_interval(None).start()?;
                let addr = host.local_addr().context("it does not serve")?;
                Ok(Self::Ours { engine, url: format!("http://{addr}"), _host: Box::new(host) })
            }
            Node::Stock => {
                let engine = Arc::new(Mutex::new(open_stock(&job.db)?));
                let server = HttpReplicationServer::new(Arc::clone(&engine));
                let (_, port) = server.start("127.0.0.1:0")?;
                Ok(Self::Stock { engine, url: format!("http://127.0.0.1:{port}") })
            }
        }
    }

    fn grow(&self, data: &mut Data, more: u32, start: Instant) -> Result<Primary> {
        let end = data.records.checked_add(more).context("too many records")?;
        while data.records < end {
            let next = end.min(data.records + SEGMENT);
            self.add_segment(&Data { records: next, ..*data }, data.records)?;
            data.records = next;
        }
        let seconds = start.elapsed().as_secs_f64();
        let (url, root, segments, bytes) = match self {
            Self::Ours { engine, url, .. } => {
                let stats = engine.stats();
                (url, engine.root(), stats.segments, stats.segment_bytes)
            }
            Self::Stock { engine, url } => {
                let engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
                let metas = engine.list_segment_metas();
                let bytes = metas.iter().map(|meta| meta.compressed_bytes).sum();
                (url, engine.root()?, metas.len() as u64, bytes)
            }
        };
        let (url, data, peak_rss) = (url.clone(), *data, peak_rss());
        Ok(Primary { url, root, data, segments, bytes, seconds, peak_rss })
    }

    /// Writes the records from `first` on, and puts them into a segment.
    fn add_segment(&self, data: &Data, first: u32) -> Result<()> {
        let pairs: Vec<_> = (first..data.records).map(|i| data.pair(i)).collect();
        match self {
            Self::Ours { engine, .. } => {
                for pairs in pairs.chunks(1000) {
                    engine.write(batch_of(pairs))?;
                }
                engine.flush()?;
            }
            Self::Stock { engine, .. } => {
                let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
                for (key, value) in &pairs {
                    engine.put(NAMESPACE, key, value)?;
                }
                engine.flush_to_segments()?;
            }
        }
        Ok(())
    }
}
