//! The records, which are the same at every call and for every engine.

use serde::{Deserialize, Serialize};

pub const NAMESPACE: &[u8] = b"readings";

/// Records of a segment. All segments have overlapping key ranges.
pub const SEGMENT: u32 = 20_000;

/// Records 0 to `records`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Data {
    pub records: u32,
    /// Bytes of each value.
    pub value: usize,
}

impl Data {
    pub fn pair(&self, i: u32) -> (Vec<u8>, Vec<u8>) {
        (key(i), value(i, self.value))
    }
}

pub fn key(i: u32) -> Vec<u8> {
    format!("sensor-{:05}/{i:010}", i % 997).into_bytes()
}

/// Does not compress to nothing.
fn value(i: u32, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(u64::from(i));
    std::iter::repeat_with(|| rng.alphanumeric() as u8).take(len).collect()
}
