//! A cursor of the author's own type.
//!
//! It is written as MessagePack with field names, so fields may be added (with `#[serde(default)]`)
//! and removed while the policy's `CURSOR_SCHEMA` stays what it is. After any other change, raise
//! the schema: the policy then starts from the default.
//!
//! What the policy must not do is to forget a segment that is neither applied nor to be found again
//! in the peer's manifest; apply first, store then.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::host::Host;
use crate::types::{PolicyError, StoreError, TickFailure};

/// A value that is kept from one tick to the next. It is read and changed like a `T`.
#[derive(Clone, Debug)]
pub struct Cursor<T> {
    value: T,
    stored: Option<Vec<u8>>,
}

/// Why a cursor was not stored. The last one that was is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CursorError {
    /// It is larger than the host takes.
    TooLarge {
        /// So large it is.
        bytes: u64,
        /// So much the host takes.
        limit: u64,
    },
    /// The host could not write.
    Storage,
    /// The value cannot be written as MessagePack, for this reason.
    Encode(String),
}

impl<T: Default + Serialize + DeserializeOwned> Cursor<T> {
    /// The value that was stored last. There is none in the first tick, and one that is not a `T`
    /// costs a warning in the log: both are the default.
    pub fn load(host: &impl Host) -> Self {
        let stored = host.load_cursor();
        let value = stored.as_deref().map(rmp_serde::from_slice);
        let value = value.transpose().unwrap_or_else(|error| {
            host.warn(format_args!(
                "the cursor is undecodable, starting from an empty one: {error}"
            ));
            None
        });
        Cursor { value: value.unwrap_or_default(), stored }
    }

    /// Stores the value, unless it is what is stored already. It is on disk when this returns.
    pub fn store(&mut self, host: &impl Host) -> Result<(), CursorError> {
        let bytes = rmp_serde::to_vec_named(&self.value)
            .map_err(|error| CursorError::Encode(error.to_string()))?;
        if self.stored.as_ref() != Some(&bytes) {
            host.store_cursor(&bytes).map_err(|error| match error {
                StoreError::TooLarge(limit) => {
                    CursorError::TooLarge { bytes: bytes.len() as u64, limit }
                }
                StoreError::Storage => CursorError::Storage,
            })?;
            self.stored = Some(bytes);
        }
        Ok(())
    }
}

impl<T> Deref for Cursor<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Cursor<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl fmt::Display for CursorError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            CursorError::TooLarge { bytes, limit } => {
                write!(
                    f,
                    "the cursor has {bytes} bytes, and the host takes {limit}: keep less in it"
                )
            }
            CursorError::Storage => f.write_str("the host could not write the cursor"),
            CursorError::Encode(why) => write!(f, "the cursor cannot be encoded: {why}"),
        }
    }
}

impl std::error::Error for CursorError {}

impl From<CursorError> for TickFailure {
    fn from(error: CursorError) -> Self {
        match error {
            CursorError::Storage => PolicyError::Storage.into(),
            _ => PolicyError::Other(error.to_string()).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::mock::{Event, MockHost};
    use crate::types::Hash;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    struct State {
        window: u32,
        #[serde(default)]
        seen: Vec<Hash>,
    }

    #[test]
    fn a_value_is_the_default_at_first_and_what_was_stored_later() {
        let host = MockHost::with([]);
        let mut cursor = Cursor::<State>::load(&host);
        assert_eq!(*cursor, State::default());
        cursor.window = 7;
        cursor.seen.push(Hash { a: 1, b: 2, c: 3, d: 4 });
        cursor.store(&host).unwrap();
        assert_eq!(*Cursor::<State>::load(&host), *cursor);
    }

    #[test]
    fn what_did_not_change_is_not_stored_again() {
        let host = MockHost::with([]);
        let mut cursor = Cursor::<State>::load(&host);
        cursor.window = 7;
        for _ in 0..3 {
            cursor.store(&host).unwrap();
        }
        Cursor::<State>::load(&host).store(&host).unwrap();
        assert_eq!(host.count(&Event::Store), 1);
    }

    #[test]
    fn a_field_that_was_added_later_has_its_default() {
        #[derive(Default, Serialize, Deserialize)]
        struct Older {
            window: u32,
        }
        let host = MockHost::with([]);
        let mut older = Cursor::<Older>::load(&host);
        older.window = 3;
        older.store(&host).unwrap();
        assert_eq!(*Cursor::<State>::load(&host), State { window: 3, seen: vec![] });
    }

    #[test]
    fn bytes_of_something_else_are_the_default_and_a_warning() {
        let host = MockHost::with([]);
        *host.stored.borrow_mut() = Some(b"something else".to_vec());
        assert_eq!(*Cursor::<State>::load(&host), State::default());
        assert!(host.logged("undecodable"));
    }

    #[test]
    fn a_cursor_that_is_too_large_is_refused_with_both_sizes() {
        let host = MockHost::with([]);
        host.store_limit.set(Some(10));
        let mut cursor = Cursor::<State>::load(&host);
        cursor.seen.push(Hash::ZERO);
        let error = cursor.store(&host).unwrap_err();
        assert!(matches!(error, CursorError::TooLarge { bytes: 40.., limit: 10 }), "{error:?}");
        let failure = TickFailure::from(error);
        assert!(matches!(failure.error, PolicyError::Other(why) if why.contains("takes 10")));
    }

    #[test]
    fn a_full_disk_is_told_as_such() {
        let host = MockHost::with([]);
        host.disk_full.set(true);
        let error = Cursor::<State>::load(&host).store(&host).unwrap_err();
        assert_eq!(TickFailure::from(error).error, PolicyError::Storage);
    }
}
