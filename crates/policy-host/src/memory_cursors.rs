//! Cursors in memory, for tests and the fuzz target of the contracts.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;

use super::wait::lock;
use super::{CursorLayout, CursorStore};

/// They are one a peer, whichever the layout.
#[derive(Default)]
pub(super) struct Cursors {
    pub(super) values: Mutex<HashMap<String, Vec<u8>>>,
    pub(super) unreadable: bool,
    pub(super) unwritable: bool,
}

impl CursorStore for Cursors {
    fn load(&self, peer: &str, _: &CursorLayout) -> io::Result<Option<Vec<u8>>> {
        if self.unreadable {
            return Err(io::Error::other("bad sector"));
        }
        Ok(lock(&self.values).get(peer).cloned())
    }

    fn store(&self, peer: &str, _: &CursorLayout, value: &[u8]) -> io::Result<()> {
        if self.unwritable {
            return Err(io::Error::other("disk full"));
        }
        lock(&self.values).insert(peer.into(), value.into());
        Ok(())
    }
}
