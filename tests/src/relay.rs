//! A box between a node and its peer: it counts the requests, and may cut those that wait.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::localhost;

/// Relays connections to one address, until the process ends.
pub struct Relay {
    url: String,
    paths: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    /// One that cuts every connection on which nothing came back for so long.
    pub fn to(server: SocketAddr, cut_after: Option<Duration>) -> Self {
        let listener = TcpListener::bind(localhost()).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let paths = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&paths);
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
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || copy(client, server, |bytes| note(&seen, bytes)));
                std::thread::spawn(move || copy(from, to, |_| {}));
            }
        });
        Self { url, paths }
    }

    /// Where it is reached.
    pub fn url(&self) -> &str {
        &self.url
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
