//! Native code in the place of a policy, which benchmarks compare policies with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use edgestore_engine::testing::wait_until;
use edgestore_protocol::FetchError;

use super::super::native::{self, NativeHost, Peer, types};
use super::super::testing::{FakePeer, World, context, limits};
use super::super::*;
use super::sync::offering;

fn layout() -> CursorLayout {
    CursorLayout { policy: "native".into(), schema: 1 }
}

fn tick<R>(world: &World, run: impl for<'a> FnOnce(&'a NativeHost, Peer<'a>) -> R) -> R {
    let context = context();
    native::tick(&limits(), layout(), world.services(), context, |host, peer, _| run(host, peer))
        .unwrap()
}

#[test]
fn native_code_pulls_as_a_policy_does() {
    let world = World::new([offering(3)]);
    tick(&world, |host, peer| {
        let manifest = peer.manifest().unwrap().unwrap();
        let missing = manifest.missing().unwrap();
        assert_eq!((missing.len(), manifest.length().unwrap()), (3, 3));
        for segment in missing {
            let transfer = peer.start_fetch(segment.hash).unwrap().unwrap();
            assert_eq!(host.wait_any(&[&transfer], 10_000).unwrap(), Some(0));
            let segment = transfer.take().unwrap().unwrap();
            assert_eq!(segment.apply().unwrap().unwrap().written, 1);
        }
        assert!(manifest.missing().unwrap().is_empty());
        host.store_cursor(b"done").unwrap().unwrap();
    });
    assert_eq!(world.engine.get(b"ns", b"key 2").unwrap().as_deref(), Some(&b"value"[..]));
    assert_eq!(tick(&world, |host, _| host.load_cursor().unwrap()).as_deref(), Some(&b"done"[..]));
}

#[test]
fn what_is_on_its_way_from_a_peer_that_is_left_alone_can_still_come() {
    let (first, open) = (AtomicBool::new(true), Arc::new(AtomicBool::new(false)));
    let gate = Arc::clone(&open);
    let before_fetch = Box::new(move |_: &AtomicBool| {
        if !first.swap(false, Ordering::Relaxed) {
            return Err(FetchError::NotFound);
        }
        wait_until("the test opens", || gate.load(Ordering::Relaxed));
        Ok(())
    });
    let world = World::new([FakePeer { before_fetch, ..offering(2) }]);
    tick(&world, |host, peer| {
        let missing = peer.manifest().unwrap().unwrap().missing().unwrap();
        let slow = peer.start_fetch(missing[0].hash).unwrap().unwrap();
        let dead = || peer.start_fetch(missing[1].hash).unwrap();
        for _ in 0..FetchBackoff::default().failures {
            let transfer = dead().unwrap();
            assert_eq!(host.wait_any(&[&transfer], 10_000).unwrap(), Some(0));
            assert!(transfer.take().unwrap().is_err());
        }
        let refused = dead().err().unwrap();
        assert!(matches!(refused, types::FetchError::TooManyTransfers), "{refused:?}");
        open.store(true, Ordering::Relaxed);
        assert_eq!(host.wait_any(&[&slow], 10_000).unwrap(), Some(0));
        assert_eq!(slow.take().unwrap().unwrap().apply().unwrap().unwrap().written, 1);
    });
}

#[test]
fn native_code_is_held_to_the_same_limits_and_gives_its_handles_back() {
    let world = World::new([offering(1)]);
    tick(&world, |host, peer| {
        for _ in 0..100 {
            peer.manifest().unwrap().unwrap();
        }
        let held: Vec<_> = std::iter::from_fn(|| peer.manifest().ok()).collect();
        assert_eq!(held.len(), 16);
        drop(held);
        peer.manifest().unwrap().unwrap();
        let too_large = vec![0; limits().cursor_bytes + 1];
        host.store_cursor(&too_large).unwrap().unwrap_err();
    });
    let calls = Limits { host_calls: 2, ..limits() };
    let result = native::tick(&calls, layout(), world.services(), context(), |host, peer, _| {
        // Given back when no call is left, as when an instance ends.
        let _held = peer.manifest().unwrap().unwrap();
        host.now_ms().unwrap();
        host.now_ms().map(|_| ())
    });
    let error = result.unwrap().unwrap_err().to_string();
    assert!(error.contains("more than 2 host calls"), "{error}");
}

#[test]
fn lists_of_a_tick_take_a_bounded_amount_of_memory() {
    let world = World::new([offering(1)]);
    // 36 bytes for each hash, once, and 8 for each number in a manifest.
    for (bytes, expected) in
        [(131, [false; 3]), (132, [true, false, false]), (156, [true, true, false])]
    {
        let mut services = world.services();
        let peer = super::super::Peer::new("a", Arc::new(offering(3)), 1);
        services.peers = vec![Arc::new(peer.with_list_memory(bytes))];
        let given = native::tick(&limits(), layout(), services, context(), |_, peer, _| {
            let held = [0, 1, 2].map(|_| peer.manifest().unwrap());
            let given = held.each_ref().map(Result::is_ok);
            drop(held);
            // What was listed stays, so that it may be fetched.
            assert_eq!(peer.manifest().unwrap().is_ok(), given[0]);
            given
        });
        assert_eq!(given.unwrap(), expected, "{bytes}");
    }
}

#[test]
fn where_memory_is_small_a_tick_is_shown_less() {
    let world = World::new([offering(1)]);
    for (bytes, expected) in [(200, 1), (1320, 2), (u64::MAX, 3)] {
        let mut services = world.services();
        let peer = super::super::Peer::new("a", Arc::new(offering(3)), 1);
        services.peers = vec![Arc::new(peer.with_list_memory(bytes))];
        let shown = native::tick(&limits(), layout(), services, context(), |_, peer, _| {
            peer.manifest().unwrap().unwrap().missing().unwrap().len()
        });
        assert_eq!(shown.unwrap(), expected, "{bytes}");
    }
}
