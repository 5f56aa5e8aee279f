//! One peer over HTTP, held to limits.
//!
//! A peer may be down, slow, broken or hostile. So every request has a
//! deadline, every read has one of its own, every body has a size limit that is
//! checked before a byte is buffered, and a segment goes from the socket to the
//! disk in pieces of 64 KiB, whatever its size. Redirects, content codings,
//! cookies and the environment's proxy settings are not used: the host talks to
//! the address it was given, and takes the bytes as they are.
//!
//! `https` checks the peer's certificate against the system's trust store, so a
//! private authority is added there.

mod body;
mod limits;
mod transport;
mod url;
mod version;

use std::io::{self, Write as _};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use edgestore_engine::{Hash, StagedSegment, StagingFile};
use ureq::Agent;
use ureq::http::StatusCode;
use ureq::tls::{RootCerts, TlsConfig};

use self::body::{Answer, AnswerReader, check_encoding};
pub use self::limits::ClientLimits;
use self::transport::Request;
use self::url::BaseUrl;
pub use self::url::InvalidUrl;
use self::version::Version1;
use super::list::ListBounds;
use super::wire::{self, ChangesBody, MerkleBody, WatermarkBody};
use super::{
    Changes, FetchError, KnownAddresses, PeerError, PeerTransport, Revision, SegmentList, Watermark,
};

/// Bytes of a segment held in memory at a time.
const CHUNK: usize = 64 * 1024;

/// Idle connections that are kept: as many as a host uses of one peer at a time. One that is closed
/// after each request would be opened again for the next, and a server that is full takes new
/// connections last.
const KEPT: usize = 9;

/// Idle connections are closed before servers close them (ours: after 15 s), so
/// that a request seldom meets a connection that is going away.
const MAX_IDLE: Duration = Duration::from_secs(10);

/// A peer that serves the protocol over HTTP, in either version. Cheap to keep:
/// it connects on demand and holds a few idle connections for some seconds.
#[derive(Debug)]
pub struct HttpPeer {
    agent: Agent,
    /// Connects anew for each request.
    unpooled: Agent,
    base: BaseUrl,
    limits: ClientLimits,
    version1: Version1,
}

impl HttpPeer {
    /// Takes the URL under which the peer serves, such as
    /// `http://10.0.0.7:8900` or `https://example.org/edge`. Does not connect.
    ///
    /// # Errors
    /// [`InvalidUrl`], which says what is wrong with it.
    pub fn new(base_url: &str, limits: ClientLimits) -> Result<Self, InvalidUrl> {
        Self::noting(base_url, limits, None)
    }

    /// The same, which notes the addresses that it connects to.
    pub fn noting(
        base_url: &str,
        limits: ClientLimits,
        known: Option<&Arc<KnownAddresses>>,
    ) -> Result<Self, InvalidUrl> {
        let base = BaseUrl::parse(base_url)?;
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let agent = |kept: usize| {
            let config = Agent::config_builder()
                .tls_config(tls.clone())
                .proxy(None)
                .max_redirects(0)
                .http_status_as_error(false)
                .user_agent(concat!("edgestore-host/", env!("CARGO_PKG_VERSION")))
                .accept_encoding("identity")
                .max_response_header_size(limits.max_header_bytes)
                .input_buffer_size(CHUNK)
                .max_idle_age(MAX_IDLE)
                .max_idle_connections(kept)
                .max_idle_connections_per_host(kept)
                .timeout_resolve(Some(limits.connect_timeout))
                .timeout_connect(Some(limits.connect_timeout))
                .timeout_per_read(Some(limits.read_timeout))
                .timeout_per_write(Some(limits.read_timeout));
            transport::agent(config.build(), known.map(Arc::clone))
        };
        let version1 = Version1::default();
        Ok(Self { agent: agent(KEPT), unpooled: agent(0), base, limits, version1 })
    }

    /// The URL, without a slash at the end.
    pub fn url(&self) -> &str {
        self.base.as_str()
    }

    /// Sends one request and returns the answer's body, if its status is 200
    /// and its stated length is within `limit`. To be called in [`Request::run`],
    /// as what reads the body.
    fn get(
        &self,
        request: &Rc<Request>,
        path: &str,
        what: &'static str,
        limit: u64,
    ) -> Result<Answer, PeerError> {
        self.get_waiting(request, path, what, limit, Duration::ZERO)
    }

    /// The same where the peer may take so long before it begins to answer.
    fn get_waiting(
        &self,
        request: &Rc<Request>,
        path: &str,
        what: &'static str,
        limit: u64,
        wait: Duration,
    ) -> Result<Answer, PeerError> {
        let url = self.base.join(path);
        let read_timeout = self.limits.read_timeout.saturating_add(wait);
        let call = |agent: &Agent| {
            let config = agent.get(&url).config().timeout_global(request.left());
            config.timeout_per_read(Some(read_timeout)).build().call()
        };
        let response = match call(&self.agent) {
            // The peer may have closed a kept connection just when it was used again.
            Err(ureq::Error::Io(error)) if is_hang_up(&error) => {
                tracing::debug!(url, %error, "asks again on a new connection");
                call(&self.unpooled)
            }
            answered => answered,
        };
        let response = response.map_err(|error| body::before_body(&url, error))?;
        tracing::trace!(url, status = response.status().as_u16(), "asked a peer");
        if response.status() != StatusCode::OK {
            return Err(PeerError::Status(response.status().as_u16()));
        }
        check_encoding(&url, response.headers())?;
        Answer::new(url, response.into_body(), what, limit, Rc::clone(request))
    }

    /// A control answer, whole.
    fn control(&self, path: &str, what: &'static str, limit: u64) -> Result<Vec<u8>, PeerError> {
        let request = self.request(self.limits.control_timeout, None);
        request.run(|| self.get(&request, path, what, limit)?.read_all())
    }

    fn request(&self, budget: Duration, cancel: Option<&Arc<AtomicBool>>) -> Rc<Request> {
        Request::new(budget, cancel, self.limits.max_header_bytes)
    }

    /// A manifest, decoded as it comes: the longest take as much memory as all else.
    fn read_manifest(
        &self,
        path: &str,
        read: impl FnOnce(
            &mut AnswerReader,
            ListBounds,
        ) -> Result<SegmentList, rmp_serde::decode::Error>,
    ) -> Result<SegmentList, PeerError> {
        let request = self.request(self.limits.control_timeout, None);
        request.run(|| {
            let answer = self.get(&request, path, "manifest", self.limits.max_manifest_bytes)?;
            let mut reader = AnswerReader::new(answer);
            let segments = read(&mut reader, ListBounds::within(self.limits.max_list_bytes));
            reader.finish(segments.map_err(|error| self.malformed(path, &error)))
        })
    }

    fn manifest_v2(&self) -> Result<SegmentList, PeerError> {
        self.read_manifest("/v2/segments", |from, bounds| wire::read_manifest_v2(from, bounds))
    }

    fn manifest_at(&self, now: Instant) -> Result<SegmentList, PeerError> {
        if self.version1.is_recent(now) {
            return self.manifest_v1();
        }
        let error = match self.manifest_v2() {
            Err(error) if may_have_version_1(&error) => error,
            other => return other,
        };
        match self.manifest_v1() {
            // It has no version 1 either, so what its version 2 failed by is the cause.
            Err(PeerError::Status(404)) => Err(error),
            manifest => {
                tracing::debug!(
                    url = self.url(), %error, "asks the peer by version 1 for a while"
                );
                self.version1.note(now);
                manifest
            }
        }
    }

    fn manifest_v1(&self) -> Result<SegmentList, PeerError> {
        self.read_manifest("/segments", |from, bounds| wire::read_manifest(from, bounds))
    }

    fn malformed(&self, path: &str, error: &rmp_serde::decode::Error) -> PeerError {
        PeerError::Malformed(format!("GET {}: {error}", self.base.join(path)))
    }
}

/// Whether a peer whose list of version 2 failed by this may have one of version 1 that is of use.
fn may_have_version_1(error: &PeerError) -> bool {
    match error {
        // The published server says 404; a proxy that knows its paths may say something else.
        PeerError::Status(400 | 403 | 404 | 405 | 410 | 501) => true,
        // That of version 1 is about half as long, and may be within the limit.
        PeerError::TooLarge { .. } => true,
        _ => false,
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

impl PeerTransport for HttpPeer {
    fn root(&self) -> Result<Hash, PeerError> {
        let body = self.control("/merkle", "root", self.limits.max_root_bytes)?;
        let root: MerkleBody =
            wire::decode(&body).map_err(|error| self.malformed("/merkle", &error))?;
        Ok(root.root.0)
    }

    fn watermark(&self) -> Result<Option<Watermark>, PeerError> {
        let body = match self.control("/watermark", "watermark", self.limits.max_root_bytes) {
            Err(PeerError::Status(404)) => return Ok(None),
            other => other?,
        };
        let watermark: WatermarkBody =
            wire::decode(&body).map_err(|error| self.malformed("/watermark", &error))?;
        Ok(Some(watermark.into()))
    }

    fn manifest(&self) -> Result<SegmentList, PeerError> {
        self.manifest_at(Instant::now())
    }

    fn has_changes(&self) -> bool {
        true
    }

    fn changes(
        &self,
        since: Option<Revision>,
        wait: Duration,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Changes, PeerError> {
        let path = match since {
            Some(since) => format!("/v2/changes?since={since}&wait={}ms", wait.as_millis()),
            None => "/v2/changes".to_owned(),
        };
        let budget = self.limits.control_timeout.saturating_add(wait);
        let request = self.request(budget, Some(cancel));
        let (what, limit) = ("list of changes", self.limits.max_changes_bytes);
        let body =
            request.run(|| self.get_waiting(&request, &path, what, limit, wait)?.read_all())?;
        let body: ChangesBody =
            wire::decode(&body).map_err(|error| self.malformed("/v2/changes", &error))?;
        let epoch = |error| PeerError::Malformed(format!("an epoch that is no number: {error}"));
        body.into_changes().map_err(epoch)
    }

    fn fetch(
        &self,
        hash: Hash,
        mut into: StagingFile,
        cancel: &Arc<AtomicBool>,
    ) -> Result<StagedSegment, FetchError> {
        let request = self.request(self.limits.transfer_timeout, Some(cancel));
        request.run(|| self.download(&request, hash, &mut into)).map_err(|error| {
            // Whatever a request that nobody wants any more ended with.
            if request.is_cancelled() { FetchError::Cancelled } else { error }
        })?;
        Ok(into.verify(hash)?)
    }
}

impl HttpPeer {
    fn download(
        &self,
        request: &Rc<Request>,
        hash: Hash,
        into: &mut StagingFile,
    ) -> Result<(), FetchError> {
        let wanted = || match request.is_cancelled() {
            true => Err(FetchError::Cancelled),
            false => Ok(()),
        };
        wanted()?;
        let (path, limit) = (format!("/segments/{hash}"), self.limits.max_segment_bytes);
        let mut answer =
            self.get(request, &path, "segment", limit).map_err(|error| match error {
                PeerError::Status(404) => FetchError::NotFound,
                other => other.into(),
            })?;
        let mut chunk = vec![0; CHUNK];
        loop {
            wanted()?;
            let bytes = answer.next(&mut chunk)?;
            if bytes.is_empty() {
                return Ok(());
            }
            into.write_all(bytes).map_err(FetchError::Storage)?;
        }
    }
}

#[cfg(test)]
mod tests;
