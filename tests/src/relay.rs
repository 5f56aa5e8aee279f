//! A box between a node and its peer: it counts the requests, and may cut those that wait.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::localhost;

/// Relays connections to one address, until the process ends.
pub struct Relay {
    url: String,
    paths: Arc<Mutex<Vec<String>>>,
    bytes: Arc<AtomicU64>,
}

impl Relay {
    /// One that cuts every connection on which nothing came back for so long.
    pub fn to(server: SocketAddr, cut_after: Option<Duration>) -> Self {
        let listener = TcpListener::bind(localhost()).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let paths = Arc::<Mutex<Vec<String>>>::default();
        let bytes = Arc::<AtomicU64>::default();
        let (seen, passed) = (Arc::clone(&paths), Arc::clone(&bytes));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a connection");
                let Ok(server) = TcpStream::connect(server) else { continue };
                for stream in [&client, &server] {
                    stream.set_nodelay(true).expect("TCP_NODELAY");
                }
                server.set_read_timeout(cut_after).expect("a time");
                let (from, to) = (server.try_clone().expect("a clone"), client.try_clone());
                let to = to.expect("a clone");
                let (seen, there, back) =
                    (Arc::clone(&seen), Arc::clone(&passed), Arc::clone(&passed));
                std::thread::spawn(move || {
                    copy(client, server, |bytes| {
                        there.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        note(&seen, bytes);
                    });
                });
                std::thread::spawn(move || {
                    copy(from, to, |bytes| {
                        back.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    });
                });
            }
        });
        Self { url, paths, bytes }
    }

    /// Where it is reached.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All bytes that went either way.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The requests so far whose path begins like this.
    pub fn requests(&self, path: &str) -> usize {
        let paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        paths.iter().filter(|seen| seen.starts_with(path)).count()
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, note: impl Fn(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        note(&buffer[..n]);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// A request comes in one piece.
fn note(seen: &Mutex<Vec<String>>, bytes: &[u8]) {
    let head = String::from_utf8_lossy(bytes);
    if let Some(path) = head.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()) {
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
    }
}
