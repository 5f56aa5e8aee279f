//! The imports themselves, called as an instance would.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use edgestore_engine::testing::{LONG, wait_until};
use edgestore_engine::{Engine, Hash};
use edgestore_protocol::FetchError;
use wasmtime::component::Resource;

use super::super::bindings::peers::{Host as _, HostManifest, HostPeer};
use super::super::bindings::transfers::{Host as _, HostSegment, HostTransfer};
use super::super::bindings::{archive, clock, cursor, local, random, types};
use super::super::resources::{PeerHandle, Transfer, handle};
use super::super::state::State;
use super::super::testing::{FakePeer, World};
use super::super::wait::lock;
use super::super::*;

const LONG_MS: u64 = LONG.as_millis() as u64;

fn layout() -> CursorLayout {
    CursorLayout { policy: "test".into(), schema: 1 }
}

/// A running tick of the first peer, with its handle.
fn tick(world: &World) -> (State, impl Fn() -> Resource<PeerHandle>) {
    tick_within(world, Limits { transfers: 3, cursor_bytes: 10, ..Limits::default() })
}

fn tick_within(world: &World, limits: Limits) -> (State, impl Fn() -> Resource<PeerHandle>) {
    let mut state = State::with_services(&limits, layout(), world.services());
    let rep = handle(&mut state.table, PeerHandle(0)).unwrap().rep();
    (state, move || Resource::new_borrow(rep))
}

fn borrow<T: 'static>(of: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(of.rep())
}

/// Segments of one record each.
fn segments(count: usize) -> FakePeer {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("db")).unwrap();
    for n in 0..count {
        engine.put(b"ns", &[n as u8], b"value").unwrap();
        engine.flush().unwrap().unwrap();
    }
    FakePeer::offering(&engine)
}

/// Lists what the peer has, so that it can be fetched.
fn list(state: &mut State, peer: Resource<PeerHandle>) -> Vec<types::Hash> {
    let manifest = state.manifest(peer).unwrap().unwrap();
    let missing = state.missing(borrow(&manifest)).unwrap();
    HostManifest::drop(state, manifest).unwrap();
    missing.iter().map(|segment| segment.hash).collect()
}

fn wait(state: &mut State, transfers: &[&Resource<Transfer>], timeout_ms: u64) -> Option<u32> {
    state.wait_any(transfers.iter().map(|transfer| borrow(transfer)).collect(), timeout_ms).unwrap()
}

#[test]
fn a_manifest_says_what_is_missing_in_the_order_of_the_peer() {
    let world = World::new([segments(5)]);
    let (mut state, peer) = tick(&world);
    let manifest = state.manifest(peer()).unwrap().unwrap();
    let all = state.missing(borrow(&manifest)).unwrap();
    assert_eq!(all.iter().map(|segment| segment.id).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(state.length(borrow(&manifest)).unwrap(), 5);
    let root = Hash::root(all.iter().map(|segment| segment.hash.into()));
    assert_eq!(Hash::from(HostManifest::root(&mut state, borrow(&manifest)).unwrap()), root);
    assert_eq!(Hash::from(state.probe(peer()).unwrap().unwrap().root), root);

    let transfer = state.start_fetch(peer(), all[2].hash).unwrap().unwrap();
    assert_eq!(wait(&mut state, &[&transfer], LONG_MS), Some(0));
    let segment = state.take(transfer).unwrap().unwrap();
    local::Host::apply(&mut state, segment).unwrap().unwrap();
    let left = state.missing(borrow(&manifest)).unwrap();
    assert_eq!(left.iter().map(|segment| segment.id).collect::<Vec<_>>(), [0, 1, 3, 4]);
}

#[test]
fn transfers_are_reported_once_and_counted_until_taken_or_dropped() {
    let mut fake = segments(4);
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    fake.before_fetch = Box::new(move |_| {
        let _ = lock(&gone).recv();
        Ok(())
    });
    let world = World::new([fake]);
    let (mut state, peer) = tick(&world);
    let hashes = list(&mut state, peer());
    let start = |state: &mut State, n: usize| state.start_fetch(peer(), hashes[n]).unwrap();
    let a = start(&mut state, 0).unwrap();
    let b = start(&mut state, 1).unwrap();
    let c = start(&mut state, 2).unwrap();
    assert!(matches!(start(&mut state, 3), Err(types::FetchError::TooManyTransfers)));
    assert!(matches!(state.take(borrow(&a)).unwrap(), Err(types::FetchError::NotReady)));
    assert_eq!(wait(&mut state, &[&a, &b, &c], 20), None);

    (0..3).for_each(|_| go.send(()).unwrap());
    while !state.table.get(&b).unwrap().slot.is_done() {
        std::thread::yield_now();
    }
    assert_eq!(wait(&mut state, &[&b], LONG_MS), Some(0));
    let segment = state.take(borrow(&b)).unwrap().unwrap();
    let hash = HostSegment::hash(&mut state, borrow(&segment)).unwrap();
    assert_eq!(Hash::from(hash), hashes[1].into());
    assert!(matches!(state.take(borrow(&b)).unwrap(), Err(types::FetchError::NotReady)));
    assert_eq!(wait(&mut state, &[&b], LONG_MS), None, "it was taken");
    assert!(matches!(wait(&mut state, &[&b, &a, &c], LONG_MS), Some(1 | 2)));

    // What was taken counts until it is applied or dropped: its bytes are on the disk.
    assert!(matches!(start(&mut state, 3), Err(types::FetchError::TooManyTransfers)));
    HostSegment::drop(&mut state, segment).unwrap();
    let d = start(&mut state, 3).unwrap();
    assert!(matches!(start(&mut state, 3), Err(types::FetchError::TooManyTransfers)));
    HostTransfer::drop(&mut state, d).unwrap();
    HostTransfer::drop(&mut state, b).unwrap();
    assert!(start(&mut state, 3).is_ok());
    assert!(matches!(start(&mut state, 3), Err(types::FetchError::TooManyTransfers)));
}

/// A policy must not take for tried what the host had no thread for.
#[test]
fn what_waits_for_a_thread_until_the_tick_nears_its_end_is_for_the_next_one() {
    let mut fake = segments(5);
    let sent = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&sent);
    fake.before_fetch = Box::new(move |cancel| {
        seen.fetch_add(1, Ordering::Relaxed);
        while !cancel.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(FetchError::Cancelled)
    });
    let world = World::new([fake]);
    let tick_timeout = Duration::from_millis(1200);
    let (mut state, peer) = tick_within(&world, Limits { tick_timeout, ..Limits::default() });
    state.probe(peer()).unwrap().unwrap();
    let hashes = list(&mut state, peer());
    let mut start = |n: usize| state.start_fetch(peer(), hashes[n]).unwrap().unwrap();
    let transfers: Vec<_> = (0..5).map(&mut start).collect();
    let all: Vec<_> = transfers.iter().collect();
    assert!(matches!(state.take(borrow(&transfers[4])).unwrap(), Err(types::FetchError::NotReady)));
    assert_eq!(wait(&mut state, &all, LONG_MS), Some(4));
    let taken = state.take(borrow(&transfers[4])).unwrap();
    assert!(matches!(taken, Err(types::FetchError::TooManyBytes)));
    assert_eq!(wait(&mut state, &all, LONG_MS), None, "those that were sent run to the end");
    transfers.into_iter().for_each(|transfer| HostTransfer::drop(&mut state, transfer).unwrap());
    drop(state);
    assert_eq!(sent.load(Ordering::Relaxed), 4, "nobody sends what was given up");
    let comparison = world.peers[0].compare(&world.engine, &Downloads::default());
    assert_eq!((comparison.failed, comparison.untried), (4, 1), "{comparison:?}");
}

#[test]
fn dropped_transfers_are_cancelled_and_so_are_those_of_a_tick_that_ends() {
    let cancelled = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&cancelled);
    let mut fake = segments(2);
    let (started, start) = mpsc::channel();
    fake.before_fetch = Box::new(move |cancel| {
        started.send(()).unwrap();
        while !cancel.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        seen.fetch_add(1, Ordering::Relaxed);
        Err(FetchError::Cancelled)
    });
    let world = World::new([fake]);
    let (mut state, peer) = tick(&world);
    let hashes = list(&mut state, peer());
    let a = state.start_fetch(peer(), hashes[0]).unwrap().unwrap();
    let _b = state.start_fetch(peer(), hashes[1]).unwrap().unwrap();
    start.recv().unwrap();
    start.recv().unwrap();
    let until = |count| {
        wait_until("it is cancelled", || cancelled.load(Ordering::Relaxed) >= count);
        assert_eq!(cancelled.load(Ordering::Relaxed), count);
    };
    HostTransfer::drop(&mut state, a).unwrap();
    until(1);
    drop(state);
    until(2);
}

#[test]
fn applying_twice_is_harmless_and_only_what_is_applied_is_archived() {
    struct Shelf;
    impl Archive for Shelf {
        fn upload(&self, _: &Engine, _: Hash) -> std::io::Result<UploadOutcome> {
            Ok(UploadOutcome::Stored)
        }
    }
    let mut world = World::new([segments(1)]);
    world.archive = Some(Arc::new(Shelf));
    let (mut state, peer) = tick(&world);
    let hash = list(&mut state, peer())[0];
    let transfer = state.start_fetch(peer(), hash).unwrap().unwrap();
    assert_eq!(wait(&mut state, &[&transfer], LONG_MS), Some(0));
    let segment = state.take(transfer).unwrap().unwrap();
    assert!(HostSegment::size(&mut state, borrow(&segment)).unwrap() > 0);

    use archive::Host as _;
    use local::Host as _;
    let refused = state.upload(borrow(&segment)).unwrap();
    assert!(matches!(refused, Err(archive::UploadError::NotApplied)));
    assert!(!state.has(hash).unwrap());
    let applied = state.apply(borrow(&segment)).unwrap().unwrap();
    assert_eq!((applied.written, applied.duplicate), (1, false));
    let applied = state.apply(borrow(&segment)).unwrap().unwrap();
    assert_eq!((applied.written, applied.duplicate), (0, true));
    assert!(state.has(hash).unwrap());
    let stored = state.upload(borrow(&segment)).unwrap();
    assert!(matches!(stored, Ok(archive::UploadOutcome::Stored)));
    assert_eq!(state.upload(segment).unwrap().is_ok(), state.available().unwrap());
}

#[test]
fn peers_are_apart() {
    let world = World::new([FakePeer::default(), segments(1)]);
    let (mut state, first) = tick(&world);
    let all = state.all().unwrap();
    let ids: Vec<_> = all.iter().map(|peer| state.id(borrow(peer)).unwrap()).collect();
    assert_eq!(ids, ["a", "b"]);
    let hash = list(&mut state, borrow(&all[1]))[0];
    let other = state.start_fetch(first(), hash).unwrap();
    assert!(matches!(other, Err(types::FetchError::NotInManifest)));
    assert!(state.start_fetch(borrow(&all[1]), hash).unwrap().is_ok());
    // Another peer that is closed fails requests, not the tick.
    world.peers[1].close();
    let answer = state.probe(borrow(&all[1])).unwrap();
    assert!(matches!(answer, Err(types::PeerError::Unreachable)));
    assert!(state.probe(first()).unwrap().is_ok());
    world.peers[0].close();
    assert!(state.probe(first()).is_err());
}

#[test]
fn cursors_are_bounded_both_ways() {
    use cursor::Host as _;
    let world = World::new([FakePeer::default()]);
    let (mut state, _) = tick(&world);
    assert_eq!(cursor::Host::load(&mut state).unwrap(), None);
    state.store(vec![7; 10]).unwrap().unwrap();
    let refused = state.store(vec![8; 11]).unwrap();
    assert!(matches!(refused, Err(cursor::StoreError::TooLarge(10))));
    assert_eq!(cursor::Host::load(&mut state).unwrap(), Some(vec![7; 10]));
    lock(&world.cursors.values).insert("a".into(), vec![9; 11]);
    assert_eq!(cursor::Host::load(&mut state).unwrap(), None);
}

#[test]
fn random_numbers_come_from_the_seed_and_time_never_goes_back() {
    struct Backwards(AtomicUsize);
    impl Clock for Backwards {
        fn now(&self) -> std::time::SystemTime {
            std::time::SystemTime::UNIX_EPOCH - Duration::from_secs(1)
        }
        fn monotonic(&self) -> Duration {
            Duration::from_millis(10 - self.0.fetch_add(1, Ordering::Relaxed) as u64)
        }
    }
    use clock::Host as _;
    use random::Host as _;
    let world = World::new([FakePeer::default()]);
    let (mut a, mut b) = (tick(&world).0, tick(&world).0);
    assert!((0..9).all(|_| a.next_u64().unwrap() == b.next_u64().unwrap()));

    let services = Services { clock: Arc::new(Backwards(0.into())), ..world.services() };
    let mut state = State::with_services(&Limits::default(), layout(), services);
    let times: Vec<_> = (0..3).map(|_| state.monotonic_ms().unwrap()).collect();
    assert_eq!((times, state.now_ms().unwrap()), (vec![10, 10, 10], 0));
}
