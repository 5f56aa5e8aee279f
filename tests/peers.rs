//! Peers that are down, broken or hostile: each gets an error that says so, nothing of it becomes
//! visible, and what is sound is pulled all the same.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use edgestore_host::engine::Engine;
use edgestore_host::policy::Limits;
use edgestore_host::protocol::ClientLimits;
use edgestore_host::runtime::PeerStatus;
use edgestore_host::{Hash, Host};
use edgestore_host_tests::{
    LONG, answer, dump, fake_peer, is_alone, merkle_body, open, pull, put, segment, segments_body,
    wait_until,
};

/// Sizes that the peers in these tests exceed soon, and times that a busy machine keeps.
fn limits() -> ClientLimits {
    ClientLimits {
        connect_timeout: LONG,
        read_timeout: LONG,
        control_timeout: LONG,
        transfer_timeout: LONG,
        max_segment_bytes: 1 << 20,
        ..ClientLimits::default()
    }
}

/// Times that a peer which hangs or trickles exceeds soon. The sound answers need them, too.
fn impatient() -> ClientLimits {
    const SOON: Duration = Duration::from_secs(10);
    ClientLimits { read_timeout: SOON, control_timeout: SOON, transfer_timeout: SOON, ..limits() }
}

fn pull_within(limits: ClientLimits, engine: &Arc<Engine>, url: &str) -> PeerStatus {
    let ticks = Limits { tick_timeout: 2 * LONG, ..Limits::default() };
    let host = Host::builder(Arc::clone(engine)).peer("peer", url).client_limits(limits);
    host.limits(ticks).run_once().unwrap().remove(0)
}

/// Neither answers nor hangs up.
fn hang() {
    loop {
        std::thread::park();
    }
}

/// An engine with a record of its own, which must survive everything.
struct Victim {
    _dir: tempfile::TempDir,
    engine: Arc<Engine>,
    root: Hash,
}

impl Victim {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        engine.put(b"ns", b"own", b"record").unwrap();
        engine.flush().unwrap();
        let root = engine.root();
        Self { _dir: dir, engine, root }
    }

    /// The tick fails with this text, and nothing has changed.
    #[track_caller]
    fn fails(&self, url: &str, text: &str) {
        self.fails_within(limits(), url, text);
    }

    #[track_caller]
    fn fails_within(&self, limits: ClientLimits, url: &str, text: &str) {
        let status = pull_within(limits, &self.engine, url);
        let error = status.last_error.expect("the tick fails");
        assert!(error.contains(text), "{error:?} does not say {text:?}");
        self.assert_unchanged();
    }

    #[track_caller]
    fn assert_unchanged(&self) {
        assert_eq!(self.engine.root(), self.root);
        assert_eq!(dump(&self.engine, b"ns").len(), 1);
        let staging = self.engine.path().join("staging");
        assert_eq!(std::fs::read_dir(staging).unwrap().count(), 0, "bytes were left behind");
    }
}

#[test]
fn a_peer_that_is_down_is_unreachable() {
    // No test gets this port, as it may one that was free a moment ago.
    Victim::new().fails("http://127.0.0.1:9", "unreachable");
}

#[test]
fn a_peer_that_hangs_times_out() {
    let start = Instant::now();
    Victim::new().fails_within(impatient(), &fake_peer(|_, _| hang()), "timeout");
    assert!(start.elapsed() < LONG);
}

#[test]
fn a_peer_that_hangs_does_not_hold_up_another() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let good = segment(&[put("key", "value", 1)]);
    // The hanging peer is in its first request to the end of the test.
    let patient = ClientLimits { read_timeout: 3 * LONG, control_timeout: 3 * LONG, ..limits() };
    let host = Host::builder(Arc::clone(&engine))
        .peer("hanging", fake_peer(|_, _| hang()))
        .peer("good", honest(vec![good]))
        .client_limits(patient)
        .limits(Limits { tick_timeout: 3 * LONG, ..Limits::default() })
        .start()
        .unwrap();
    wait_until("the good one is pulled from", || engine.get(b"ns", b"key").unwrap().is_some());
    let comparison = &host.status().peers[0].comparison;
    assert!(
        !comparison.in_sync && comparison.unknown.is_some(),
        "nothing is known: {comparison:?}"
    );
    let start = Instant::now();
    host.shutdown();
    assert!(start.elapsed() < LONG, "the hanging peer holds up the shutdown");
}

#[test]
fn a_root_of_another_length_is_malformed() {
    for len in [0, 31, 33] {
        let url = fake_peer(move |_, stream| answer(stream, &merkle_body(&vec![7; len])));
        Victim::new().fails(&url, "malformed");
    }
}

#[test]
fn garbage_and_error_pages_are_no_answer() {
    let url = fake_peer(|_, stream| answer(stream, b"<html>It works!</html>"));
    Victim::new().fails(&url, "malformed");
    let url = fake_peer(|_, stream| drop(stream.write_all(b"\x16\x03\x01 no HTTP at all\r\n\r\n")));
    Victim::new().fails(&url, "malformed");
    let url = fake_peer(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
    });
    Victim::new().fails(&url, "503");
}

#[test]
fn a_manifest_without_end_is_too_large() {
    let url = fake_peer(|path, stream| match path {
        "/merkle" => answer(stream, &merkle_body(&[7; 32])),
        "/segments" | "/v2/segments" => endless(stream),
        _ => {}
    });
    let limits = ClientLimits { max_manifest_bytes: 1 << 20, ..limits() };
    let victim = Victim::new();
    let once = Host::builder(Arc::clone(&victim.engine)).peer("peer", url).client_limits(limits);
    let status = once.run_once().unwrap().remove(0);
    assert!(status.last_error.unwrap().contains("too large"));
    victim.assert_unchanged();
}

/// A peer that serves these segments as it should.
fn honest(segments: Vec<Vec<u8>>) -> String {
    peer_with_bad_segment(segments, Hash::ZERO, |_, _| {})
}

/// A peer that serves `sound` as it should, lists `bad` besides, and answers for that like this.
fn peer_with_bad_segment(
    sound: Vec<Vec<u8>>,
    bad: Hash,
    bad_answer: impl Fn(u32, &mut TcpStream) + Send + Sync + 'static,
) -> String {
    let asked = AtomicU32::new(0);
    let mut hashes: Vec<Hash> = sound.iter().map(|bytes| Hash::of(bytes)).collect();
    if bad != Hash::ZERO {
        hashes.insert(0, bad);
    }
    fake_peer(move |path, stream| match path {
        "/merkle" => answer(stream, &merkle_body(Hash::root(hashes.clone()).as_bytes())),
        "/segments" => answer(stream, &segments_body(&hashes)),
        path => {
            let name = path.trim_start_matches("/segments/");
            if name == bad.to_string() {
                return bad_answer(asked.fetch_add(1, Ordering::Relaxed), stream);
            }
            match sound.iter().find(|bytes| name == Hash::of(bytes).to_string()) {
                Some(bytes) => answer(stream, bytes),
                None => {
                    let _ = stream.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
                }
            }
        }
    })
}

fn endless(stream: &mut TcpStream) {
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    // Ends when the client hangs up.
    while stream.write_all(&[0x93; 64 * 1024]).is_ok() {}
}

fn sound() -> Vec<Vec<u8>> {
    vec![segment(&[put("a", "1", 1)]), segment(&[put("b", "2", 2)])]
}

/// The sound segments are applied, the bad one is not, and the policy will try it again.
#[track_caller]
fn pulls_the_rest(bad_answer: impl Fn(u32, &mut TcpStream) + Send + Sync + 'static) {
    pulls_the_rest_within(limits(), bad_answer);
}

#[track_caller]
fn pulls_the_rest_within(
    limits: ClientLimits,
    bad_answer: impl Fn(u32, &mut TcpStream) + Send + Sync + 'static,
) {
    let victim = Victim::new();
    let url = peer_with_bad_segment(sound(), Hash::of(b"bad"), bad_answer);
    let status = pull_within(limits, &victim.engine, &url);
    let report = status.last_report.as_ref().unwrap_or_else(|| panic!("{status:?}"));
    assert_eq!((report.applied, report.failed, report.pending), (2, 1, 1), "{report:?}");
    assert!(!report.in_sync);
    assert!(report.next_tick.is_some(), "it is to be tried again soon");
    assert_eq!(dump(&victim.engine, b"ns").len(), 3);
    assert_eq!(victim.engine.manifest().len(), 3);
}

#[test]
fn a_cut_body_is_tried_again() {
    pulls_the_rest(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nEDSG");
    });
}

#[test]
fn a_body_without_end_is_cut_off() {
    pulls_the_rest(|_, stream| endless(stream));
}

#[test]
fn a_body_that_trickles_is_given_up() {
    pulls_the_rest_within(impatient(), |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

#[test]
fn bytes_of_another_hash_are_thrown_away() {
    pulls_the_rest(|_, stream| answer(stream, &segment(&[put("own", "forged", i64::MAX)])));
}

#[test]
fn a_segment_that_is_listed_and_not_served_is_tried_again() {
    pulls_the_rest(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
    });
}

#[test]
fn a_segment_that_comes_right_at_the_second_try_is_applied() {
    let victim = Victim::new();
    let good = segment(&[put("late", "3", 3)]);
    let hash = Hash::of(&good);
    let url = peer_with_bad_segment(sound(), hash, move |asked, stream| match asked {
        0 => answer(stream, b"not yet"),
        _ => answer(stream, &good),
    });
    let host = Host::builder(Arc::clone(&victim.engine)).peer("peer", url).client_limits(limits());
    let host = host.start().unwrap();
    wait_until("the second try", || victim.engine.has(&hash));
    host.shutdown();
}

#[test]
fn a_peer_that_lists_much_and_serves_nothing_is_left_alone() {
    const LISTED: u32 = 5000;
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let hashes: Vec<Hash> = (0..LISTED).map(|n| Hash::of(&n.to_le_bytes())).collect();
    let url = fake_peer(move |path, stream| match path {
        "/merkle" => answer(stream, &merkle_body(Hash::root(hashes.clone()).as_bytes())),
        "/segments" => answer(stream, &segments_body(&hashes)),
        path => {
            counter.fetch_add(u32::from(path != "/v2/segments"), Ordering::Relaxed);
            let _ = stream.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let victim = Victim::new();
    let status = pull_within(limits(), &victim.engine, &url);
    assert!(!status.in_sync());
    victim.assert_unchanged();
    // It is asked 100 times, and then once after each pause; pauses double.
    let asked = asked.load(Ordering::Relaxed);
    assert!((100..LISTED / 5).contains(&asked), "{asked} fetches");
}

/// What is named by its true hash and is no segment: rejected once, and never asked for again.
#[track_caller]
fn is_rejected(bytes: Vec<u8>) {
    let victim = Victim::new();
    let hash = Hash::of(&bytes);
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let url = peer_with_bad_segment(sound(), hash, move |_, stream| {
        counter.fetch_add(1, Ordering::Relaxed);
        answer(stream, &bytes);
    });
    let status = pull(&victim.engine, &url);
    let report = status.last_report.as_ref().unwrap_or_else(|| panic!("{status:?}"));
    assert_eq!((report.applied, report.failed, report.pending), (2, 1, 0), "{report:?}");
    assert!(report.in_sync, "nobody waits for what can never be applied");
    assert_eq!(victim.engine.manifest().len(), 3);
    assert!(!victim.engine.has(&hash));
    pull(&victim.engine, &url);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn a_record_from_the_future_waits_until_it_is_none() {
    let victim = Victim::new();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as i64;
    let future = segment(&[put("own", "wins for ever", now + (1 << 50))]);
    let hash = Hash::of(&future);
    let url = peer_with_bad_segment(sound(), hash, move |_, stream| answer(stream, &future));
    let status = pull(&victim.engine, &url);
    let report = status.last_report.as_ref().unwrap_or_else(|| panic!("{status:?}"));
    assert_eq!((report.applied, report.failed, report.pending), (2, 1, 1), "{report:?}");
    assert!(!report.in_sync && report.next_tick.is_some(), "{report:?}");
    assert_eq!(victim.engine.get(b"ns", b"own").unwrap().unwrap(), b"record");
    assert!(!victim.engine.has(&hash));
}

/// A block as the format has it.
fn block(compressed: &[u8]) -> Vec<u8> {
    let mut block = b"GSDE".to_vec();
    block.extend((compressed.len() as u32).to_le_bytes());
    block.extend(compressed);
    block.resize(block.len().next_multiple_of(4096), 0);
    block
}

const HEADER: &[u8] = b"GSDE\x01\0\0\0";

#[test]
fn the_format_is_what_this_file_takes_it_for() {
    let whole = segment(&[put("a", "1", 1)]);
    assert!(whole.starts_with(HEADER) && whole[8..].starts_with(b"GSDE"));
    let len = u32::from_le_bytes(whole[12..16].try_into().unwrap()) as usize;
    let inflated = zstd::decode_all(&whole[16..16 + len]).unwrap();
    let again = [HEADER, &block(&zstd::encode_all(&inflated[..], 1).unwrap())].concat();
    assert_eq!(again, whole);
}

#[test]
fn a_decompression_bomb_is_rejected_before_it_inflates() {
    if !is_alone("a_decompression_bomb_is_rejected_before_it_inflates") {
        return;
    }
    let bomb = zstd::encode_all(std::io::repeat(0).take(1 << 30), 1).unwrap();
    assert!(bomb.len() < 200_000, "{}", bomb.len());
    let before = resident_peak_kib();
    is_rejected([HEADER, &block(&bomb)].concat());
    let grown = resident_peak_kib().saturating_sub(before);
    assert!(grown < 300 << 10, "{grown} KiB more were resident");
}

#[test]
fn bytes_that_are_no_segment_are_rejected() {
    is_rejected(b"hello".to_vec());
    is_rejected(HEADER[..5].to_vec());
    is_rejected([HEADER, b"not a block"].concat());
    is_rejected([HEADER, &block(b"not zstd")].concat());
    let mut version_2 = segment(&[put("x", "1", 1)]);
    version_2[4] = 2;
    is_rejected(version_2);
    // A block whose length points beyond the file.
    let mut beyond = segment(&[put("x", "1", 1)]);
    beyond[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    is_rejected(beyond);
    // An entry that is cut, and one with an operation that is none.
    let entry = |op: u8| [&[5, 0, 0, 0], &b"\0\x02nsx"[..], &[0; 4], &[0; 20], &[op]].concat();
    for bad in [entry(1)[..20].to_vec(), entry(3), [entry(1), vec![0]].concat()] {
        let compressed = zstd::encode_all(&bad[..], 1).unwrap();
        is_rejected([HEADER, &block(&compressed)].concat());
    }
    // The same, sound, is none of these.
    let sound = [HEADER, &block(&zstd::encode_all(&entry(1)[..], 1).unwrap())].concat();
    let victim = Victim::new();
    let status = pull(&victim.engine, &honest(vec![sound]));
    assert!(status.in_sync(), "{status:?}");
}

#[test]
fn a_policy_has_no_more_time_than_its_limit_whatever_the_peer_does() {
    let victim = Victim::new();
    let url = peer_with_bad_segment(sound(), Hash::of(b"bad"), |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
        hang();
    });
    // Longer than the sound segments take.
    let ticks = Limits { tick_timeout: Duration::from_secs(10), ..Limits::default() };
    let patient = ClientLimits { read_timeout: 2 * LONG, transfer_timeout: 2 * LONG, ..limits() };
    let start = Instant::now();
    let once = Host::builder(Arc::clone(&victim.engine)).peer("peer", url);
    let status = once.client_limits(patient).limits(ticks).run_once().unwrap().remove(0);
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
    assert_eq!(status.segments_applied, 2);
    assert!(!status.in_sync());
}

/// The most memory that this process ever had resident.
fn resident_peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// They are within all limits of a request, and would be first again after each tick.
#[test]
fn peers_that_trickle_keep_nothing_from_being_pulled_elsewhere() {
    let segments: Vec<_> =
        (0..6).map(|n| segment(&[put(&format!("key-{n}"), "value", n + 1)])).collect();
    let hashes: Vec<Hash> = segments.iter().map(|bytes| Hash::of(bytes)).collect();
    let held = Arc::new(AtomicU32::new(0));
    let slow = || {
        let (hashes, held) = (hashes.clone(), Arc::clone(&held));
        fake_peer(move |path, stream| match path {
            "/merkle" => answer(stream, &merkle_body(Hash::root(hashes.clone()).as_bytes())),
            "/segments" => answer(stream, &segments_body(&hashes)),
            "/v2/segments" => {
                drop(stream.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"))
            }
            _ => {
                held.fetch_add(1, Ordering::Relaxed);
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
                let mut sent = stream.write_all(head);
                while sent.is_ok() {
                    std::thread::sleep(Duration::from_millis(200));
                    sent = stream.write_all(b"x");
                }
            }
        })
    };
    let (a, b) = (slow(), slow());
    let good = honest(segments);
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    // The good one comes last.
    let last = fake_peer(move |path, stream| {
        while held.load(Ordering::Relaxed) < 4 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut to = TcpStream::connect(good.trim_start_matches("http://")).unwrap();
        write!(to, "GET {path} HTTP/1.1\r\nHost: good\r\nConnection: close\r\n\r\n").unwrap();
        let _ = std::io::copy(&mut to, stream);
    });
    let host = Host::builder(Arc::clone(&engine))
        .client_limits(limits())
        .interval(Duration::from_millis(500))
        .limits(Limits { tick_timeout: 3 * LONG, ..Limits::default() })
        .peer("a", a)
        .peer("b", b)
        .peer("good", last);
    let host = host.start().unwrap();
    wait_until("all is pulled", || engine.manifest().len() == 6);
    host.shutdown();
}
