//! Policies that fetch too much, or what they may not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use edgestore_engine::Hash;

use super::*;

/// Fetches without end, until an error other than the one it expects: too many transfers.
pub(super) const TRANSFER_FLOOD: Case = Case::new(
    "(local $hash i32) (local $begun i32)
    (local.set $hash (call $list (local.get $peer)))
    (loop
        (if (i32.eq (call $try_fetch (local.get $peer) (local.get $hash)) (i32.const -1))
            (then
                (local.set $begun (i32.add (local.get $begun) (i32.const 1)))
                (br 1))))
    (call $check (i32.eq (i32.load8_u (i32.const 2068)) (i32.const 4)))
    (call $check (i32.eq (local.get $begun) (i32.const 4)))
    (i32.const 1024)",
);

/// Pulls one segment again and again and throws it away, until that is refused: too many bytes.
/// Then nothing else is begun.
pub(super) const BYTE_FLOOD: Case = Case::new(
    "(local $hash i32) (local $transfer i32)
    (local.set $hash (call $list (local.get $peer)))
    (loop
        (local.set $transfer (call $fetch (local.get $peer) (local.get $hash)))
        (call $wait (local.get $transfer))
        (if (i32.eq (call $try_take (local.get $transfer)) (i32.const -1))
            (then
                (call $drop_transfer (local.get $transfer))
                (call $drop_segment (i32.load (i32.const 2100)))
                (br 1))))
    (call $check (i32.eq (i32.load8_u (i32.const 2100)) (i32.const 5)))
    (call $check
        (i32.eq (call $try_fetch (local.get $peer) (local.get $hash)) (i32.const 5)))
    (i32.const 1024)",
);

/// Fetches and gives up at once, a hundred times.
pub(super) const GIVES_UP: Case = Case::new(
    "(local $hash i32) (local $n i32)
    (local.set $hash (call $list (local.get $peer)))
    (loop
        (call $drop_transfer (call $fetch (local.get $peer) (local.get $hash)))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if 0 (i32.lt_u (local.get $n) (i32.const 100))))
    (i32.const 1024)",
);

/// Asks for a hash that it made up. In a manifest is no such thing.
pub(super) const FORGED_HASH: Case = Case::new(
    "(i64.store (i32.const 3000) (i64.const 7))
    (drop (call $list (local.get $peer)))
    (call $check (i32.eq (call $try_fetch (local.get $peer) (i32.const 3000)) (i32.const 3)))
    (i32.const 1024)",
);

/// Asks for what the peer has before it has asked what that is: the hash comes from the cursor.
const UNLISTED_HASH: Case = Case::new(
    "(call $load_cursor (i32.const 2176))
    (call $check (i32.load8_u (i32.const 2176)))
    (call $check (i32.eq
        (call $try_fetch (local.get $peer) (i32.load (i32.const 2180))) (i32.const 3)))
    (i32.const 1024)",
);

/// Asks the second peer for what only the first one has.
pub(super) const OTHER_PEER: Case = Case::new(
    "(local $hash i32)
    (local.set $hash (call $list (local.get $peer)))
    (call $all (i32.const 2184))
    (call $check (i32.eq (i32.load (i32.const 2188)) (i32.const 2)))
    (call $check (i32.eq
        (call $try_fetch (i32.load offset=4 (i32.load (i32.const 2184))) (local.get $hash))
        (i32.const 3)))
    (i32.const 1024)",
);

/// Takes before there is something, and after it was taken: not ready, both times.
pub(super) const TAKES_TWICE: Case = Case::new(
    "(local $transfer i32)
    (local.set $transfer (call $fetch (local.get $peer) (call $list (local.get $peer))))
    (call $wait (local.get $transfer))
    (call $check (i32.eq (call $try_take (local.get $transfer)) (i32.const -1)))
    (call $check (i32.eq (call $try_take (local.get $transfer)) (i32.const 6)))
    (i32.const 1024)",
);

/// Leaves a segment that it took and a transfer that it began to the end of the tick.
pub(super) const KEEPS_ALL: Case = Case::new(
    "(local $hash i32)
    (local.set $hash (call $list (local.get $peer)))
    (drop (call $get (local.get $peer) (local.get $hash)))
    (drop (call $fetch (local.get $peer) (local.get $hash)))
    (i32.const 1024)",
);

/// Soon nothing is fetched any more, and nothing is left in the staging folder.
#[track_caller]
fn is_clean(world: &World, services: &Services) {
    let staging = world.engine.path().join("staging");
    let staged = || std::fs::read_dir(&staging).unwrap().count();
    // Requests that were cancelled go when a thread comes to them.
    edgestore_engine::testing::wait_until("nothing is left of any transfer", || {
        world.peers.iter().all(|peer| peer.load() == 0) && staged() == 0
    });
    assert!(services.downloads.is_empty());
}

/// The policy gets through its tick, and leaves nothing behind.
#[track_caller]
fn leaves_nothing(case: &Case) {
    let (world, policy) = (world(), load_with(limits(), case));
    let services = world.services();
    let downloads = Arc::clone(&services.downloads);
    let result = policy.tick(services, super::super::super::testing::context());
    assert_eq!(result, Ok(TickReport::default()));
    is_clean(&world, &Services { downloads, ..world.services() });
}

#[test]
fn transfers_are_limited() {
    leaves_nothing(&TRANSFER_FLOOD);
}

#[test]
fn the_bytes_of_a_tick_are_limited() {
    let mut peer = offering();
    let (size, fetched) = (peer.segments[0].1.len(), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&fetched);
    peer.before_fetch = Box::new(move |_| {
        seen.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let pulled_bytes = 10 * size as u64 + 1;
    let policy = load_with(Limits { pulled_bytes, ..limits() }, &BYTE_FLOOD);
    let world = World::new([peer]);
    for ticks in 1..=2 {
        assert_eq!(world.tick(&policy), Ok(TickReport::default()));
        assert_eq!(fetched.load(Ordering::Relaxed), ticks * 11, "ten, and one that was too many");
    }
    is_clean(&world, &world.services());
}

#[test]
fn bytes_that_are_thrown_away_count_too() {
    let mut peer = offering();
    let size = peer.segments[0].1.len();
    peer.segments[0].1[size - 1] ^= 1;
    let case = Case::new(
        "(local $hash i32) (local $transfer i32)
        (local.set $hash (call $list (local.get $peer)))
        (local.set $transfer (call $fetch (local.get $peer) (local.get $hash)))
        (call $wait (local.get $transfer))
        ;; A hash mismatch.
        (call $check (i32.eq (call $try_take (local.get $transfer)) (i32.const 2)))
        (local.set $transfer (call $fetch (local.get $peer) (local.get $hash)))
        (call $wait (local.get $transfer))
        (call $check (i32.eq (call $try_take (local.get $transfer)) (i32.const 5)))
        (i32.const 1024)",
    );
    let policy = load_with(Limits { pulled_bytes: size as u64 + 1, ..limits() }, &case);
    assert_eq!(World::new([peer]).tick(&policy), Ok(TickReport::default()));
}

#[test]
fn a_transfer_that_is_dropped_is_over() {
    leaves_nothing(&GIVES_UP);
}

#[test]
fn a_segment_that_no_manifest_lists_is_not_fetched() {
    passes(&FORGED_HASH);
    let world = world();
    let hash = Hash::root(std::iter::empty());
    world.cursors.values.lock().unwrap().insert("a".into(), hash.as_bytes().to_vec());
    let policy = load_with(limits(), &UNLISTED_HASH);
    assert_eq!(world.tick(&policy), Ok(TickReport::default()));
}

#[test]
fn what_one_peer_lists_is_not_fetched_from_another() {
    passes(&OTHER_PEER);
}

#[test]
fn a_segment_is_taken_once() {
    passes(&TAKES_TWICE);
}

#[test]
fn what_a_policy_keeps_ends_with_the_tick() {
    leaves_nothing(&KEEPS_ALL);
}
