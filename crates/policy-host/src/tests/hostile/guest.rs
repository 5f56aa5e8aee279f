//! What hostile policies are made of: every import of the contract under a short name, and what
//! most of them do before they turn bad.

use super::super::super::testing::policy;

/// A policy in WebAssembly text.
pub(in super::super) struct Case<'a> {
    body: &'a str,
    more: &'a str,
}

impl<'a> Case<'a> {
    /// One whose tick does `body`: `$peer` is the peer's handle, 1024 the address of a report of
    /// zeros. The addresses from 2048 to 4096 are for results.
    pub(super) const fn new(body: &'a str) -> Self {
        Self { body, more: "" }
    }

    /// The same, with more definitions.
    pub(super) const fn with(body: &'a str, more: &'a str) -> Self {
        Self { body, more }
    }

    pub(in super::super) fn component(&self) -> Vec<u8> {
        policy(IMPORTS, self.body, &format!("{HELPERS}{}", self.more))
    }
}

const IMPORTS: &str = r#"
    (import "edgestore:sync/peers@0.2.0" "all" (func $all (param i32)))
    (import "edgestore:sync/peers@0.2.0" "[method]peer.id" (func $id (param i32 i32)))
    (import "edgestore:sync/peers@0.2.0" "[method]peer.load" (func $load (param i32) (result i32)))
    (import "edgestore:sync/peers@0.2.0" "[method]peer.probe" (func $probe (param i32 i32)))
    (import "edgestore:sync/peers@0.2.0" "[method]peer.manifest" (func $manifest (param i32 i32)))
    (import "edgestore:sync/peers@0.2.0" "[method]peer.start-fetch"
        (func $start_fetch (param i32 i64 i64 i64 i64 i32)))
    (import "edgestore:sync/peers@0.2.0" "[method]manifest.length"
        (func $length (param i32) (result i32)))
    (import "edgestore:sync/peers@0.2.0" "[method]manifest.missing"
        (func $missing (param i32 i32)))
    (import "edgestore:sync/peers@0.2.0" "[resource-drop]manifest"
        (func $drop_manifest (param i32)))
    (import "edgestore:sync/transfers@0.2.0" "wait-any" (func $wait_any (param i32 i32 i64 i32)))
    (import "edgestore:sync/transfers@0.2.0" "[method]transfer.take" (func $take (param i32 i32)))
    (import "edgestore:sync/transfers@0.2.0" "[resource-drop]transfer"
        (func $drop_transfer (param i32)))
    (import "edgestore:sync/transfers@0.2.0" "[method]segment.size"
        (func $size (param i32) (result i64)))
    (import "edgestore:sync/transfers@0.2.0" "[resource-drop]segment"
        (func $drop_segment (param i32)))
    (import "edgestore:sync/local@0.2.0" "apply" (func $apply (param i32 i32)))
    (import "edgestore:sync/cursor@0.2.0" "load" (func $load_cursor (param i32)))
    (import "edgestore:sync/cursor@0.2.0" "store" (func $store_cursor (param i32 i32 i32)))
    (import "edgestore:sync/archive@0.2.0" "upload" (func $upload (param i32 i32)))
    (import "edgestore:sync/random@0.2.0" "next-u64" (func $random (result i64)))
    (import "edgestore:sync/log@0.2.0" "write" (func $log (param i32 i32 i32)))
"#;

const HELPERS: &str = r#"
    (func $check (param i32) (if (i32.eqz (local.get 0)) (then unreachable)))

    ;; A manifest of the peer.
    (func $manifest_of (param $peer i32) (result i32)
        (call $manifest (local.get $peer) (i32.const 2048))
        (call $check (i32.eqz (i32.load8_u (i32.const 2048))))
        (i32.load (i32.const 2052)))

    ;; Where the first of the peer's segments that are missing lies; each takes 80 bytes.
    (func $list (param $peer i32) (result i32)
        (call $missing (call $manifest_of (local.get $peer)) (i32.const 2056))
        (i32.load (i32.const 2056)))

    ;; -1 when the fetch has begun and its handle lies at 2068, or the number of the error.
    (func $try_fetch (param $peer i32) (param $hash i32) (result i32)
        (call $start_fetch (local.get $peer)
            (i64.load (local.get $hash)) (i64.load offset=8 (local.get $hash))
            (i64.load offset=16 (local.get $hash)) (i64.load offset=24 (local.get $hash))
            (i32.const 2064))
        (select (i32.load8_u (i32.const 2068)) (i32.const -1) (i32.load8_u (i32.const 2064))))

    ;; A transfer.
    (func $fetch (param $peer i32) (param $hash i32) (result i32)
        (call $check (i32.eq (call $try_fetch (local.get $peer) (local.get $hash)) (i32.const -1)))
        (i32.load (i32.const 2068)))

    ;; Waits for one transfer.
    (func $wait (param $transfer i32)
        (i32.store (i32.const 2080) (local.get $transfer))
        (call $wait_any (i32.const 2080) (i32.const 1) (i64.const 20000) (i32.const 2088))
        (call $check (i32.load8_u (i32.const 2088))))

    ;; -1 when the segment came and its handle lies at 2100, or the number of the error.
    (func $try_take (param $transfer i32) (result i32)
        (call $take (local.get $transfer) (i32.const 2096))
        (select (i32.load8_u (i32.const 2100)) (i32.const -1) (i32.load8_u (i32.const 2096))))

    ;; A segment of the peer.
    (func $get (param $peer i32) (param $hash i32) (result i32)
        (local $transfer i32)
        (local.set $transfer (call $fetch (local.get $peer) (local.get $hash)))
        (call $wait (local.get $transfer))
        (call $check (i32.eq (call $try_take (local.get $transfer)) (i32.const -1)))
        (call $drop_transfer (local.get $transfer))
        (i32.load (i32.const 2100)))

    ;; Applies a segment, and says whether it was a duplicate.
    (func $apply_it (param $segment i32) (result i32)
        (call $apply (local.get $segment) (i32.const 2112))
        (call $check (i32.eqz (i32.load8_u (i32.const 2112))))
        (i32.load8_u (i32.const 2136)))

    ;; Stores a number as the cursor.
    (func $remember (param $number i32)
        (i32.store (i32.const 2144) (local.get $number))
        (call $store_cursor (i32.const 2144) (i32.const 4) (i32.const 2152))
        (call $check (i32.eqz (i32.load8_u (i32.const 2152)))))

    ;; The number, or 0.
    (func $remembered (result i32)
        (call $load_cursor (i32.const 2176))
        (if (result i32) (i32.load8_u (i32.const 2176))
            (then (i32.load (i32.load (i32.const 2180))))
            (else (i32.const 0))))
"#;
