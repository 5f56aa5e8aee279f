//! Frames and what is in them: a length (u32, little endian) and that many bytes of MessagePack.

use std::io::{self, Read, Write};
use std::time::Duration;

use edgestore_engine::{Compacted, Hash, Record, SegmentMeta};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{HostStatus, PolicyChange, PolicyEvent};

/// Of the protocol. Both ends must have the same.
pub const VERSION: u32 = 5;

/// Bytes of the largest frame, without its length.
pub const MAX_FRAME: usize = 16 << 20;

/// The first frame of a client. Its form is the same in all versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u32,
}

/// The server's answer to [`Hello`]. Its form is the same in all versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Welcome {
    pub(super) version: u32,
    /// Why the connection ends here, if it does.
    pub(super) refusal: Option<String>,
}

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// Namespace.
    #[serde(with = "serde_bytes")]
    pub ns: Vec<u8>,
    /// Key in the namespace.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// None deletes.
    #[serde(with = "serde_bytes")]
    pub value: Option<Vec<u8>>,
    /// None keeps the record for ever.
    pub ttl: Option<Duration>,
}

impl Op {
    /// Bytes of the namespace, the key and the value.
    pub fn bytes(&self) -> usize {
        self.ns.len() + self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// A segment as `segments` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentInfo {
    /// Local number, ascending in order of registration.
    pub id: u64,
    /// BLAKE3 of the file.
    pub hash: Hash,
    /// Size of the file.
    pub bytes: u64,
    /// Entries in it, superseded ones included.
    pub records: u64,
}

impl From<SegmentMeta> for SegmentInfo {
    fn from(meta: SegmentMeta) -> Self {
        Self { id: meta.id, hash: meta.hash, bytes: meta.bytes, records: meta.records }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    Status,
    /// One page: the segments with greater ids than this, in order of their ids.
    Segments {
        after: Option<u64>,
    },
    Get {
        #[serde(with = "serde_bytes")]
        ns: Vec<u8>,
        #[serde(with = "serde_bytes")]
        key: Vec<u8>,
    },
    /// One page: records from `start` on, of which the host decides how many.
    Scan {
        #[serde(with = "serde_bytes")]
        ns: Vec<u8>,
        #[serde(with = "serde_bytes")]
        start: Vec<u8>,
        #[serde(with = "serde_bytes")]
        end: Option<Vec<u8>>,
        limit: u64,
    },
    /// All of it becomes visible, and durable, together.
    Write(Vec<Op>),
    Flush,
    /// One peer, or all; with what is set aside.
    Wake {
        peer: Option<String>,
        retry: bool,
    },
    /// Answered when it is through.
    Compact {
        bytes_per_sec: Option<u64>,
    },
    /// The path of a component, as the host sees it. Answered when it has taken over.
    SwapPolicy(String),
    RollBackPolicy,
    /// The last so many events.
    PolicyHistory(u32),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Response {
    Status(Box<HostStatus>),
    /// Empty when there are no more.
    Segments(Vec<SegmentInfo>),
    Value(#[serde(with = "serde_bytes")] Option<Vec<u8>>),
    Page(Page),
    /// The last LSN.
    Written(u64),
    Flushed(Option<SegmentInfo>),
    /// Whether there is such a peer.
    Woken(bool),
    Compacted(Compacted),
    PolicyChanged(PolicyChange),
    PolicyHistory(Vec<PolicyEvent>),
    /// What failed, and what to do; the connection can go on.
    Error(String),
    /// The same, of what kept the host from finding out.
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Page {
    pub(super) records: Vec<WireRecord>,
    /// Where the next page starts; none when this was the last.
    #[serde(with = "serde_bytes")]
    pub(super) next: Option<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WireRecord {
    #[serde(with = "serde_bytes")]
    key: Vec<u8>,
    #[serde(with = "serde_bytes")]
    value: Vec<u8>,
    timestamp: i64,
    ttl: u32,
}

impl From<Record> for WireRecord {
    fn from(record: Record) -> Self {
        let Record { key, value, timestamp, ttl } = record;
        Self { key, value, timestamp, ttl }
    }
}

impl From<WireRecord> for Record {
    fn from(record: WireRecord) -> Self {
        let WireRecord { key, value, timestamp, ttl } = record;
        Self { key, value, timestamp, ttl }
    }
}

/// The frame of `message`, with its length.
///
/// # Errors
/// `FileTooLarge` when it takes more than [`MAX_FRAME`].
pub(super) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    rmp_serde::encode::write_named(&mut frame, message).map_err(io::Error::other)?;
    let len = frame.len() - 4;
    if len > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!(
                "a message of {len} bytes does not fit the admin socket, which takes {MAX_FRAME}: \
                 use smaller values, or stop the host and open the database directly"
            ),
        ));
    }
    let len = u32::try_from(len).map_err(io::Error::other)?;
    frame[..4].copy_from_slice(&len.to_le_bytes());
    Ok(frame)
}

/// Writes one frame.
pub(super) fn send<T: Serialize>(stream: &mut impl Write, message: &T) -> io::Result<()> {
    stream.write_all(&encode(message)?)?;
    stream.flush()
}

/// The length that a frame begins with.
///
/// # Errors
/// `InvalidData` when it is over [`MAX_FRAME`], as of something that speaks another protocol.
pub(super) fn frame_len(head: [u8; 4]) -> io::Result<usize> {
    let len = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
    if len > MAX_FRAME {
        let text = format!("a frame of {len} bytes is over the limit of {MAX_FRAME}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(len)
}

/// Reads what follows the length. Memory grows with what arrives, not with what is announced.
pub(super) fn body<T: DeserializeOwned>(stream: &mut impl Read, len: usize) -> io::Result<T> {
    let mut bytes = Vec::with_capacity(len.min(64 << 10));
    let limit = u64::try_from(len).map_err(io::Error::other)?;
    if stream.take(limit).read_to_end(&mut bytes)? < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    rmp_serde::from_slice(&bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// Reads one frame.
pub(super) fn receive<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<T> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    body(stream, frame_len(head)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: Serialize + DeserializeOwned>(message: &T) -> T {
        receive(&mut encode(message).unwrap().as_slice()).unwrap()
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let op = |value, ttl| Op { ns: b"n".into(), key: vec![0, 255], value, ttl };
        let requests = [
            Request::Status,
            Request::Get { ns: b"n".into(), key: vec![] },
            Request::Scan { ns: vec![], start: vec![], end: None, limit: 7 },
            Request::Scan { ns: vec![], start: vec![], end: Some(vec![]), limit: u64::MAX },
            Request::Write(vec![
                op(Some(vec![]), Some(Duration::from_secs(5))),
                op(Some(b"v".into()), None),
                op(None, None),
            ]),
            Request::Flush,
            Request::Wake { peer: None, retry: false },
            Request::Wake { peer: Some("a".into()), retry: true },
            Request::Compact { bytes_per_sec: None },
            Request::Compact { bytes_per_sec: Some(u64::MAX) },
        ];
        for request in requests {
            assert_eq!(round_trip(&request), request);
        }
        let record = Record { key: b"k".into(), value: b"v".into(), timestamp: -1, ttl: 9 };
        let page = Page { records: vec![record.into()], next: Some(b"k\0".into()) };
        for response in [
            Response::Value(None),
            Response::Value(Some(vec![])),
            Response::Page(page),
            Response::Flushed(None),
            Response::Compacted(Compacted { retired: 3, stopped: true, ..Compacted::default() }),
            Response::Error("no".into()),
            Response::Unknown("no disk".into()),
        ] {
            assert_eq!(round_trip(&response), response);
        }
    }

    #[test]
    fn a_hello_of_a_later_version_with_more_in_it_is_understood() {
        #[derive(Serialize)]
        struct Later {
            version: u32,
            token: &'static str,
        }
        let frame = encode(&Later { version: 2, token: "x" }).unwrap();
        assert_eq!(receive::<Hello>(&mut frame.as_slice()).unwrap(), Hello { version: 2 });
    }

    #[test]
    fn frames_over_the_limit_are_neither_sent_nor_read() {
        let error = encode(&Response::Value(Some(vec![0; MAX_FRAME]))).unwrap_err();
        assert!(error.to_string().contains("use smaller values"), "{error}");
        let mut head: &[u8] = &u32::MAX.to_le_bytes();
        let error = receive::<Request>(&mut head).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_frame_that_breaks_off_or_is_no_message_is_an_error() {
        let frame = encode(&Request::Flush).unwrap();
        for cut in 0..frame.len() {
            let error = receive::<Request>(&mut &frame[..cut]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        let mut bad: &[u8] = &[1, 0, 0, 0, 0xc1];
        assert_eq!(receive::<Request>(&mut bad).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
