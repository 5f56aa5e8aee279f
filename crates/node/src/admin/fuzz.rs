//! Bytes of any kind, read as each frame of the admin protocol.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::backend::batch;
use super::wire::{self, Hello, Request, Response, Welcome};

/// Reads `bytes` as each kind of frame, with its length before it.
pub fn admin(bytes: &[u8]) {
    again::<Hello>(bytes);
    again::<Welcome>(bytes);
    again::<Response>(bytes);
    if let Some(Request::Write(ops)) = again::<Request>(bytes) {
        let _ = batch(&ops);
    }
}

/// The message, which has to be the same once it was written and read again.
fn again<T: Serialize + DeserializeOwned + Debug>(mut bytes: &[u8]) -> Option<T> {
    let message: T = wire::receive(&mut bytes).ok()?;
    // One that comes in short forms may not fit a frame in the form that is written.
    let frame = wire::encode(&message).ok()?;
    let read: T = wire::receive(&mut &frame[..]).expect("what is written is read");
    assert_eq!(wire::encode(&read).expect("it fits, as before"), frame, "{message:?}");
    Some(message)
}
