//! What hostile policies leave behind, after many of their ticks: nothing.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use edgestore_engine::testing::wait_until;

use super::super::super::testing::context;
use super::*;

/// All that leave their database as it is.
const CASES: [&Case<'static>; 40] = [
    &boundary::TRAPS,
    &boundary::INVALID_UTF8,
    &boundary::WILD_STRING,
    &boundary::HUGE_STRING,
    &boundary::WILD_LIST,
    &boundary::CROOKED_LIST,
    &boundary::WILD_RESULT,
    &boundary::WILD_REPORT,
    &boundary::NO_SUCH_CASE,
    &boundary::WILD_FAILURE,
    &boundary::CALLS_AFTER_THE_END,
    &boundary::LOOPS_AFTER_THE_END,
    &data::UPLOADS_FIRST,
    &data::STORES_AND_TRAPS,
    &data::LARGE_CURSOR,
    &data::LYING_REPORT,
    &data::LOG_FLOOD,
    &handles::HANDLE_FLOOD,
    &handles::MANIFEST_FLOOD,
    &handles::DROPS_TWICE,
    &handles::USES_AFTER_DROP,
    &handles::WRONG_TYPE,
    &handles::MADE_UP,
    &handles::FROM_ANOTHER_TICK,
    &handles::DROPS_ITS_LOAN,
    &memory::MEMORY_BOMB,
    &memory::MANY_MEMORIES,
    &memory::TABLE_BOMB,
    &time::ENDLESS_LOOP,
    &time::ENDLESS_RECURSION,
    &time::CALL_FLOOD,
    &time::WAITS_FOR_NOTHING,
    &time::WAITS_TWICE_FOR_ONE,
    &transfers::TRANSFER_FLOOD,
    &transfers::FORGED_HASH,
    &transfers::OTHER_PEER,
    &transfers::BYTE_FLOOD,
    &transfers::GIVES_UP,
    &transfers::TAKES_TWICE,
    &transfers::KEEPS_ALL,
];

/// All that do not. They have one of their own, so that the others find something to pull.
const APPLIERS: [&Case<'static>; 2] = [&data::APPLIES_TWICE, &data::APPLIES_AND_TRAPS];

/// Ticks in all, as `EDGESTORE_SOAK_TICKS` says; `.ci/run` does 10,000.
const TICKS: usize = 3000;
const WARM_UP: usize = 1000;

/// Set for the process that ticks.
const ALONE: &str = "EDGESTORE_SOAK_ALONE";

/// What a process holds.
#[derive(Debug)]
struct Held {
    /// What its descriptors lead to, without the tables and logs of record stores: a store opens
    /// those when it likes.
    files: Vec<String>,
    threads: usize,
}

impl Held {
    fn now(worlds: &[&World]) -> Self {
        let stores = worlds.iter().map(|world| world.engine.path().join("records"));
        let stores: Vec<_> = stores.map(|path| path.canonicalize().unwrap()).collect();
        let descriptors = fs::read_dir("/proc/self/fd").unwrap();
        // The descriptor of this listing is gone when it is looked at.
        let files = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        let files = files.filter(|file| !stores.iter().any(|store| file.starts_with(store)));
        let files = files.map(|file| file.display().to_string()).collect();
        Self { files, threads: fs::read_dir("/proc/self/task").unwrap().count() }
    }
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}

/// Counts would be disturbed by other tests of the same process.
#[test]
fn thousands_of_hostile_ticks_leave_nothing_behind() {
    if std::env::var_os(ALONE).is_some() {
        return soak();
    }
    // Not that of the thread: where a machine has one core, tests run on the main thread.
    let module = module_path!().split_once("::").unwrap().1;
    let name = format!("{module}::thousands_of_hostile_ticks_leave_nothing_behind");
    let mut test = Command::new(std::env::current_exe().unwrap());
    let done = test.args(["--exact", &name, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let told = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(done.status.success() && told[0].contains("1 passed"), "{}", told.concat());
}

fn soak() {
    let ticks = std::env::var("EDGESTORE_SOAK_TICKS").map_or(TICKS, |ticks| ticks.parse().unwrap());
    let limits = Limits {
        fuel: 200_000,
        handles: 500,
        host_calls: 2000,
        memory_bytes: 4 << 20,
        table_elements: 5000,
        pulled_bytes: 100_000,
        ..limits()
    };
    let engine = PolicyEngine::new(None, limits).unwrap();
    let load = |bytes: Vec<u8>| engine.load(&bytes).unwrap();
    let mut policies: Vec<Policy> = APPLIERS.iter().map(|case| load(case.component())).collect();
    policies.extend(CASES.iter().map(|case| load(case.component())));
    policies.extend(boundary::REALLOCS.map(|(body, _)| load(boundary::with_realloc(body))));

    let mut peer = offering();
    let fetched = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&fetched);
    peer.before_fetch = Box::new(move |_| {
        seen.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let applied_to = world();
    let pulled_from = World::new([peer, FakePeer::default()]);
    let worlds = [&applied_to, &pulled_from];
    let downloads: [Arc<Downloads>; 2] = Default::default();
    let tick = |at: usize| {
        let at = at % policies.len();
        let world = usize::from(at >= APPLIERS.len());
        let downloads = Arc::clone(&downloads[world]);
        let services = Services { downloads, ..worlds[world].services() };
        let error = policies[at].tick(services, context()).err();
        // Whatever happens is the policy's doing, and never the host's.
        assert!(error.as_ref().is_none_or(TickError::blames_policy), "{at}: {error:?}");
    };
    let settle = || {
        let peers = worlds.iter().flat_map(|world| &world.peers);
        wait_until("all transfers end", || peers.clone().all(|peer| peer.load() == 0));
        assert!(downloads.iter().all(|all| all.is_empty()));
        (Held::now(&worlds), resident_bytes())
    };
    (0..WARM_UP).for_each(tick);
    let (held, resident) = settle();
    (WARM_UP..ticks).for_each(tick);
    let (held_after, resident_after) = settle();

    assert!(held_after.files.len() <= held.files.len(), "{held:?} became {held_after:?}");
    // Those of peers come and go, five each at most.
    assert!(held_after.threads <= held.threads + 10, "{held:?} became {held_after:?}");
    let grown = resident_after.saturating_sub(resident);
    assert!(grown < 16 << 20, "{grown} bytes more than the {resident} after the warm-up");
    assert!(
        fetched.load(Ordering::Relaxed) > ticks / 10,
        "{fetched:?}: there was nothing to fetch"
    );
    for (world, segments) in worlds.iter().zip([3, 0]) {
        assert_eq!(fs::read_dir(world.engine.path().join("staging")).unwrap().count(), 0);
        assert_eq!(world.engine.stats().segments, segments);
    }
    for key in [b"1", b"2", b"3"] {
        assert_eq!(applied_to.engine.get(b"ns", key).unwrap().as_deref(), Some(&b"value"[..]));
    }
}
