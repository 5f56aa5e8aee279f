//! Policies that take too much memory. What they have when they start is looked at in `load`.

use super::*;

pub(super) const MEMORY_BOMB: Case =
    Case::new("(loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable");

/// Grows eight more memories, each to an eighth of what all may have.
pub(super) const MANY_MEMORIES: Case = Case::with(
    "(drop (memory.grow $a (i32.const 128))) (drop (memory.grow $b (i32.const 128)))
    (drop (memory.grow $c (i32.const 128))) (drop (memory.grow $d (i32.const 128)))
    (drop (memory.grow $e (i32.const 128))) (drop (memory.grow $f (i32.const 128)))
    (drop (memory.grow $g (i32.const 128))) (drop (memory.grow $h (i32.const 128)))
    unreachable",
    "(memory $a 0) (memory $b 0) (memory $c 0) (memory $d 0) (memory $e 0) (memory $f 0)
    (memory $g 0) (memory $h 0)",
);

pub(super) const TABLE_BOMB: Case = Case::with(
    "(loop (drop (table.grow $t (ref.null func) (i32.const 1000))) (br 0)) unreachable",
    "(table $t 1 funcref)",
);

#[test]
fn memory_is_limited() {
    assert_eq!(tick_of(&MEMORY_BOMB), Err(TickError::Memory(64 << 20)));
    assert!(TickError::Memory(1).to_string().contains("limits.memory"));
}

#[test]
fn many_small_memories_count_together() {
    assert_eq!(tick_of(&MANY_MEMORIES), Err(TickError::Memory(64 << 20)));
}

#[test]
fn tables_are_limited() {
    assert_eq!(tick_of(&TABLE_BOMB), Err(TickError::Table(100_000)));
    assert!(TickError::Table(1).to_string().contains("limits.table-elements"));
}

#[test]
fn a_memory_that_is_full_by_its_own_limit_is_no_fault() {
    let case = Case::with(
        "(call $check (i32.eq (memory.grow $m (i32.const 2)) (i32.const -1))) (i32.const 1024)",
        "(memory $m 1 2)",
    );
    passes(&case);
}
