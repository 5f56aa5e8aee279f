//! A peer made of a bare socket, for answers that no HTTP library would give.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Serves every connection with `answer`, which gets the request's head and the
/// socket, until the process ends. Returns the base URL.
pub(super) fn peer(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if let Some(head) = read_head(&mut stream) {
                answer(&head, &mut stream);
            }
        }
    });
    url
}

/// A peer that sends the same bytes whatever the request, then hangs up.
pub(super) fn peer_saying(answer: impl AsRef<[u8]> + Send + Sync + 'static) -> String {
    peer(move |_, stream| drop(stream.write_all(answer.as_ref())))
}

/// A peer that sends `answer` and then neither sends nor hangs up.
pub(super) fn peer_hanging_after(answer: &'static str) -> String {
    peer(move |_, stream| {
        stream.write_all(answer.as_bytes()).unwrap();
        wait_for_hang_up(stream);
    })
}

/// A peer that sends `head` and then `again` without end, with a pause after each and a call of
/// `sent`.
pub(super) fn peer_repeating(
    head: &'static str,
    again: &'static str,
    pause: Duration,
    sent: impl Fn() + Send + Sync + 'static,
) -> String {
    peer(move |_, stream| {
        let mut written = stream.write_all(head.as_bytes());
        while written.is_ok() {
            sent();
            thread::sleep(pause);
            written = stream.write_all(again.as_bytes());
        }
    })
}

/// A peer that answers one kind of request and shows the head of each.
pub(super) fn recording_peer(answer: Vec<u8>) -> (String, mpsc::Receiver<String>) {
    let (heads, seen) = mpsc::channel();
    let url = peer(move |head, stream| {
        heads.send(head.to_owned()).unwrap();
        stream.write_all(&answer).unwrap();
    });
    (url, seen)
}

/// A well-formed answer.
pub(super) fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

pub(super) fn wait_for_hang_up(stream: &mut TcpStream) {
    while matches!(stream.read(&mut [0; 1024]), Ok(n) if n > 0) {}
}

fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}
