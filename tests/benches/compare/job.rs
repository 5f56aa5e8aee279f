//! What a child process can be told to do, and what it answers.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bootstrap::{self, Pull, Raw};
use crate::reads::{self, Reads};
use crate::tick::{self, Tick};
use crate::writes::{self, Writes};

#[derive(Debug, Serialize, Deserialize)]
pub enum Job {
    /// Runs until its parent is gone: see [`crate::server`].
    Serve(Serve),
    Raw(Raw),
    Pull(Pull),
    Tick(Tick),
    Reads(Reads),
    Writes(Writes),
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Serve {
    pub node: crate::engines::Node,
    pub db: PathBuf,
    pub data: crate::data::Data,
}

/// What one measurement found.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Measured {
    pub seconds: f64,
    /// Records written, pulled or read in that time; for gets, gets.
    pub records: u64,
    /// Of the segments that were pulled.
    pub bytes: u64,
    /// Most memory that the process had until then, in bytes; none where the system does not say.
    pub peak_rss: Option<u64>,
}

impl Measured {
    pub fn rate(&self) -> f64 {
        self.records as f64 / self.seconds
    }
}

impl Job {
    /// Everything but serving, which is no single answer.
    pub fn measure(self) -> Result<Value> {
        Ok(match self {
            Self::Serve(_) => Value::Null,
            Self::Raw(raw) => serde_json::to_value(bootstrap::raw(&raw)?)?,
            Self::Pull(pull) => serde_json::to_value(bootstrap::pull(&pull)?)?,
            Self::Tick(tick) => serde_json::to_value(tick::measure(&tick)?)?,
            Self::Reads(reads) => serde_json::to_value(reads::measure(&reads)?)?,
            Self::Writes(writes) => serde_json::to_value(writes::measure(&writes)?)?,
        })
    }
}
