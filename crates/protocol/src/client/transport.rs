//! Connections that obey the request which they serve.
//!
//! ureq looks at its clock only between states of an answer that it counts, and it never looks at
//! whether the request is still wanted. It reads on by itself through interim answers (1xx), chunk
//! sizes and trailers, which are no part of a body and so of no limit on bodies. So the limits hold
//! here, under it and under TLS: each read of the socket checks the request's deadline and its
//! cancellation first, waits for a short time only before it checks again, and counts its bytes.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, RustlsConnector, TcpConnector, Transport,
};
use ureq::{Agent, Error, Timeout};

use crate::KnownAddresses;

/// Longest wait for bytes between two looks at whether the request is still wanted.
const SLICE: Duration = Duration::from_millis(250);

/// Bytes that may be read ahead of what the body has given: the input buffers, and a TLS handshake.
const AHEAD: u64 = 256 * 1024;

/// Bytes on the wire for each byte of the body. A chunk of one byte takes six.
const PER_BYTE: u64 = 8;

thread_local! {
    /// The request of this thread.
    static CURRENT: RefCell<Option<Rc<Request>>> = const { RefCell::new(None) };
}

/// The limits of one request, and what has come of its answer.
#[derive(Debug)]
pub(super) struct Request {
    deadline: Option<Instant>,
    cancel: Option<Arc<AtomicBool>>,
    max_header_bytes: u64,
    received: Cell<u64>,
    delivered: Cell<u64>,
}

impl Request {
    /// A request that ends after `budget` at the latest, and soon after `cancel` becomes true.
    pub(super) fn new(
        budget: Duration,
        cancel: Option<&Arc<AtomicBool>>,
        max_header_bytes: usize,
    ) -> Rc<Self> {
        Rc::new(Self {
            deadline: Instant::now().checked_add(budget),
            cancel: cancel.map(Arc::clone),
            max_header_bytes: max_header_bytes as u64,
            received: Cell::new(0),
            delivered: Cell::new(0),
        })
    }

    /// Runs what sends the request and reads the answer, all of it on this thread.
    pub(super) fn run<T>(self: &Rc<Self>, run: impl FnOnce() -> T) -> T {
        struct Restore(Option<Rc<Request>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(Rc::clone(self))));
        run()
    }

    /// Time that is left; none where there is no end.
    pub(super) fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Bytes of the body were handed over.
    pub(super) fn deliver(&self, bytes: usize) {
        self.delivered.set(self.delivered.get().saturating_add(bytes as u64));
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|cancel| cancel.load(Ordering::Relaxed))
    }

    fn check(&self) -> Result<(), Error> {
        if self.is_cancelled() {
            return Err(io::Error::other(Cancelled).into());
        }
        if self.left().is_some_and(|left| left.is_zero()) {
            return Err(Error::Timeout(Timeout::Global));
        }
        Ok(())
    }

    fn receive(&self, bytes: usize) -> Result<(), Error> {
        let received = self.received.get().saturating_add(bytes as u64);
        self.received.set(received);
        let limit = AHEAD + self.max_header_bytes;
        let body = self.delivered.get().saturating_mul(PER_BYTE);
        if received > limit.saturating_add(body) {
            return Err(io::Error::other(TooMuchFraming { limit }).into());
        }
        Ok(())
    }
}

/// The answer has more bytes around its body than any sound one.
#[derive(Debug)]
pub(super) struct TooMuchFraming {
    pub(super) limit: u64,
}

impl TooMuchFraming {
    pub(super) fn of(error: &Error) -> Option<&Self> {
        let Error::Io(error) = error else { return None };
        error.get_ref()?.downcast_ref()
    }
}

impl fmt::Display for TooMuchFraming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {} bytes around the body", self.limit)
    }
}

impl std::error::Error for TooMuchFraming {}

#[derive(Debug)]
struct Cancelled;

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request was cancelled")
    }
}

impl std::error::Error for Cancelled {}

/// An agent with such connections. The addresses that it connects to are noted in `known`.
pub(super) fn agent(config: Config, known: Option<Arc<KnownAddresses>>) -> Agent {
    let connector =
        ().chain(TcpConnector::default())
            .chain(Obedient { known })
            .chain(RustlsConnector::default());
    Agent::with_parts(config, connector, DefaultResolver::default())
}

/// Wraps connections.
#[derive(Debug)]
struct Obedient {
    known: Option<Arc<KnownAddresses>>,
}

impl<In: Transport> Connector<In> for Obedient {
    type Out = Connection<In>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Connection<In>>, Error> {
        if let Some(known) = &self.known {
            known.note(details.addrs.iter().map(|addr| addr.ip()));
        }
        Ok(chained.map(Connection))
    }
}

/// A connection that obeys the request of the thread that uses it.
#[derive(Debug)]
struct Connection<T>(T);

impl<T: Transport> Transport for Connection<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if let Some(request) = current() {
            request.check()?;
        }
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let Some(request) = current() else { return self.0.await_input(timeout) };
        let (start, whole) = (Instant::now(), timeout.for_read());
        let before = self.0.buffers().input().len();
        loop {
            request.check()?;
            let left = whole.after.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(Error::Timeout(whole.reason));
            }
            let slice = NextTimeout { after: left.min(SLICE).into(), ..whole };
            match self.0.await_input(slice) {
                // The next round finds out whether that was the end.
                Err(Error::Timeout(_)) => {}
                Err(error) => return Err(error),
                Ok(more) => {
                    let after = self.0.buffers().input().len();
                    request.receive(after.saturating_sub(before))?;
                    return Ok(more);
                }
            }
        }
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

fn current() -> Option<Rc<Request>> {
    CURRENT.with_borrow(Option::clone)
}
