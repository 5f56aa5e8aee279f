//! The host of a native policy: `edgestore_policy::Host` on the host functions that a component is
//! linked to.
//!
//! The types on both sides are made of one contract, so what translates them here moves integers.

use std::time::Duration;
use std::vec;

use anyhow::{Result, anyhow};
use edgestore_host::policy::native::{self as host, NativeHost};
use edgestore_host::policy::{self, CursorLayout, Limits, Services};
use edgestore_policy::types::{
    Applied, ApplyError, Context, FetchError, Hash, KeyRange, Level, PeerError, Reason, RootInfo,
    SegmentInfo, SegmentRef, StoreError, TickFailure, TickReport, UploadError, UploadOutcome,
    Watermark,
};
use edgestore_policy::{Policy, host as guest};

/// A function of the host that fails ends a component. Nothing here is to make one fail.
const ENDS: &str = "the host goes on with the tick";

/// A policy that does nothing.
pub struct Nothing;

impl Policy for Nothing {
    const NAME: &str = "nothing";
    const VERSION: &str = "1";
    const CURSOR_SCHEMA: u32 = 1;

    fn tick<H: guest::Host>(_: &H, _: &Context) -> Result<TickReport, TickFailure> {
        Ok(TickReport::default())
    }
}

/// One tick of `P`, without WebAssembly.
pub fn tick<P: Policy>(
    limits: &Limits,
    layout: CursorLayout,
    services: Services,
    context: policy::Context,
) -> Result<policy::TickReport> {
    let result = host::tick(limits, layout, services, context, |host, peer, context| {
        let context = Context {
            reason: Reason::Interval,
            budget_ms: context.budget_ms,
            interval_ms: context.interval_ms,
            settings: context.settings,
        };
        P::tick(&Native { host, peer: Peer(peer) }, &context)
    });
    let report = result.map_err(|error| anyhow!("{error:#}"))?;
    let report = report.map_err(|failure| anyhow!("the tick failed: {failure:?}"))?;
    let TickReport { in_sync, missing, applied, records_written, records_skipped, .. } = report;
    let TickReport { failed, pending, quarantined, next_tick_ms, .. } = report;
    Ok(policy::TickReport {
        in_sync,
        missing,
        applied,
        records_written,
        records_skipped,
        failed,
        pending,
        quarantined,
        next_tick: next_tick_ms.map(Duration::from_millis),
    })
}

struct Native<'a> {
    host: &'a NativeHost,
    peer: Peer<'a>,
}

struct Peer<'a>(host::Peer<'a>);
struct Manifest<'a>(host::Manifest<'a>);
struct Transfer<'a>(host::Transfer<'a>);
struct Segment<'a>(host::Segment<'a>);

impl<'a> guest::Host for Native<'a> {
    type Peer = Peer<'a>;
    type Manifest = Manifest<'a>;
    type Transfer = Transfer<'a>;
    type Segment = Segment<'a>;

    fn peer(&self) -> &Peer<'a> {
        &self.peer
    }

    fn peers(&self) -> Vec<Peer<'a>> {
        self.host.peers().expect(ENDS).into_iter().map(Peer).collect()
    }

    fn wait_any(&self, transfers: &[&Transfer<'a>], timeout_ms: u64) -> Option<u32> {
        let transfers: Vec<_> = transfers.iter().map(|transfer| &transfer.0).collect();
        self.host.wait_any(&transfers, timeout_ms).expect(ENDS)
    }

    fn local_root(&self) -> Hash {
        from_host(self.host.root().expect(ENDS))
    }

    fn has(&self, hash: Hash) -> bool {
        self.host.has(to_host(hash)).expect(ENDS)
    }

    fn fetching(&self, hash: Hash) -> bool {
        self.host.fetching(to_host(hash)).expect(ENDS)
    }

    fn apply(&self, segment: &Segment<'a>) -> Result<Applied, ApplyError> {
        use host::types::ApplyError::{ClockAhead, Rejected, Storage};
        match segment.0.apply().expect(ENDS) {
            Ok(host::local::Applied { written, skipped, duplicate }) => {
                Ok(Applied { written, skipped, duplicate })
            }
            Err(Rejected) => Err(ApplyError::Rejected),
            Err(ClockAhead) => Err(ApplyError::ClockAhead),
            Err(Storage) => Err(ApplyError::Storage),
        }
    }

    fn load_cursor(&self) -> Option<Vec<u8>> {
        self.host.load_cursor().expect(ENDS)
    }

    fn store_cursor(&self, value: &[u8]) -> Result<(), StoreError> {
        use host::cursor::StoreError::{Storage, TooLarge};
        self.host.store_cursor(value).expect(ENDS).map_err(|error| match error {
            TooLarge(limit) => StoreError::TooLarge(limit),
            Storage => StoreError::Storage,
        })
    }

    fn archive_available(&self) -> bool {
        self.host.archive_available().expect(ENDS)
    }

    fn upload(&self, segment: &Segment<'a>) -> Result<UploadOutcome, UploadError> {
        use host::archive::UploadError::{Failed, NotApplied, Unavailable};
        use host::archive::UploadOutcome::{AlreadyThere, Stored};
        match segment.0.upload().expect(ENDS) {
            Ok(Stored) => Ok(UploadOutcome::Stored),
            Ok(AlreadyThere) => Ok(UploadOutcome::AlreadyThere),
            Err(Unavailable) => Err(UploadError::Unavailable),
            Err(NotApplied) => Err(UploadError::NotApplied),
            Err(Failed) => Err(UploadError::Failed),
        }
    }

    fn now_ms(&self) -> u64 {
        self.host.now_ms().expect(ENDS)
    }

    fn monotonic_ms(&self) -> u64 {
        self.host.monotonic_ms().expect(ENDS)
    }

    fn random(&self) -> u64 {
        self.host.random().expect(ENDS)
    }

    fn log(&self, level: Level, message: &str) {
        let level = match level {
            Level::Error => host::log::Level::Error,
            Level::Warn => host::log::Level::Warn,
            Level::Info => host::log::Level::Info,
            Level::Debug => host::log::Level::Debug,
        };
        self.host.log(level, message).expect(ENDS);
    }
}

impl<'a> guest::Peer for Peer<'a> {
    type Manifest = Manifest<'a>;
    type Transfer = Transfer<'a>;

    fn id(&self) -> String {
        self.0.id().expect(ENDS)
    }

    fn load(&self) -> u32 {
        self.0.load().expect(ENDS)
    }

    fn probe(&self) -> Result<RootInfo, PeerError> {
        let info = self.0.probe().expect(ENDS).map_err(peer_error)?;
        let watermark = info.watermark.map(|watermark| Watermark {
            confirmed_lsn: watermark.confirmed_lsn,
            write_token: watermark.write_token,
        });
        Ok(RootInfo { root: from_host(info.root), watermark })
    }

    fn manifest(&self) -> Result<Manifest<'a>, PeerError> {
        self.0.manifest().expect(ENDS).map(Manifest).map_err(peer_error)
    }

    fn start_fetch(&self, hash: Hash) -> Result<Transfer<'a>, FetchError> {
        self.0.start_fetch(to_host(hash)).expect(ENDS).map(Transfer).map_err(fetch_error)
    }
}

impl guest::Manifest for Manifest<'_> {
    fn length(&self) -> u32 {
        self.0.length().expect(ENDS)
    }

    fn root(&self) -> Hash {
        from_host(self.0.root().expect(ENDS))
    }

    fn missing(&self) -> vec::IntoIter<SegmentRef> {
        let missing = self.0.missing().expect(ENDS).into_iter().map(|segment| SegmentRef {
            hash: from_host(segment.hash),
            id: segment.id,
            info: segment.info.map(|info| SegmentInfo {
                size: info.size,
                records: info.records,
                newest_ms: info.newest_ms,
                created_ms: info.created_ms,
            }),
        });
        missing.collect::<Vec<_>>().into_iter()
    }

    fn keys(&self, hash: Hash) -> Option<KeyRange> {
        self.0.keys(to_host(hash)).expect(ENDS).map(|keys| KeyRange {
            first_namespace: keys.first_namespace,
            first_key: keys.first_key,
            last_namespace: keys.last_namespace,
            last_key: keys.last_key,
        })
    }
}

impl<'a> guest::Transfer for Transfer<'a> {
    type Segment = Segment<'a>;

    fn hash(&self) -> Hash {
        from_host(self.0.hash().expect(ENDS))
    }

    fn take(self) -> Result<Segment<'a>, FetchError> {
        self.0.take().expect(ENDS).map(Segment).map_err(fetch_error)
    }
}

impl guest::Segment for Segment<'_> {
    fn hash(&self) -> Hash {
        from_host(self.0.hash().expect(ENDS))
    }

    fn size(&self) -> u64 {
        self.0.size().expect(ENDS)
    }
}

fn to_host(Hash { a, b, c, d }: Hash) -> host::types::Hash {
    host::types::Hash { a, b, c, d }
}

fn from_host(host::types::Hash { a, b, c, d }: host::types::Hash) -> Hash {
    Hash { a, b, c, d }
}

fn peer_error(error: host::types::PeerError) -> PeerError {
    use host::types::PeerError::{Malformed, Status, Timeout, TooLarge, Unreachable};
    match error {
        Unreachable => PeerError::Unreachable,
        Timeout => PeerError::Timeout,
        Status(status) => PeerError::Status(status),
        Malformed => PeerError::Malformed,
        TooLarge => PeerError::TooLarge,
    }
}

fn fetch_error(error: host::types::FetchError) -> FetchError {
    use host::types::FetchError as Error;
    match error {
        Error::Peer(error) => FetchError::Peer(peer_error(error)),
        Error::NotFound => FetchError::NotFound,
        Error::HashMismatch => FetchError::HashMismatch,
        Error::NotInManifest => FetchError::NotInManifest,
        Error::TooManyTransfers => FetchError::TooManyTransfers,
        Error::TooManyBytes => FetchError::TooManyBytes,
        Error::NotReady => FetchError::NotReady,
        Error::Storage => FetchError::Storage,
    }
}
