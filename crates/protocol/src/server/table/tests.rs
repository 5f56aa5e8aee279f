//! Who makes way, at times that the tests say.

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn table(max_connections: usize, max_per_address: usize) -> Arc<Table> {
    let limits = ServerLimits {
        max_connections,
        max_per_address,
        slow_grace: ms(2000),
        ..ServerLimits::default()
    };
    Table::new(&limits, Arc::default())
}

fn address(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

impl Entry {
    fn answering(&self) -> &Self {
        self.connection.activity().begin();
        self
    }

    /// Is answered, and idle from then on.
    fn answered(&self, bytes: usize, now: Duration) -> &Self {
        self.answering().connection.activity().wrote(bytes, now);
        self.connection.activity().complete();
        self.table.flushed(&self.connection, now);
        self
    }

    fn made_way(&self) -> bool {
        self.connection.is_closing()
    }
}

#[test]
fn the_connection_that_is_idle_for_longest_makes_way() {
    let table = table(3, 3);
    let late = table.enter(address(1), ms(300));
    let early = table.enter(address(2), ms(100));
    let busy = table.enter(address(3), ms(0));
    busy.answering();
    assert_eq!(table.place(address(4), ms(1000)), Place::Made);
    assert!(early.made_way() && !late.made_way() && !busy.made_way());
    // Its place counts as free, though its task has not ended yet.
    let _new = table.enter(address(4), ms(1000));
    assert_eq!(table.place(address(5), ms(1050)), Place::Made);
    assert!(late.made_way());
}

#[test]
fn one_that_was_never_answered_makes_way_before_one_that_was() {
    let table = table(2, 2);
    let served = table.enter(address(1), ms(0));
    served.answered(10, ms(100));
    let silent = table.enter(address(2), ms(500));
    assert_eq!(table.place(address(3), ms(700)), Place::Made);
    assert!(silent.made_way() && !served.made_way());
}

#[test]
fn a_request_that_may_be_on_its_way_is_waited_for() {
    let table = table(1, 1);
    let first = table.enter(address(1), ms(0));
    assert_eq!(table.place(address(2), ms(99)), Place::None);
    first.answered(10, ms(1000));
    assert_eq!(table.place(address(2), ms(1099)), Place::None);
    assert_eq!(table.place(address(2), ms(1100)), Place::Made);
}

#[test]
fn the_answer_that_lags_most_makes_way_after_the_grace() {
    let table = table(3, 3);
    let [slow, slower, fast] = [1, 2, 3].map(|last| table.enter(address(last), ms(0)));
    for (entry, blocked) in [(&slow, 500), (&slower, 100)] {
        entry.answering().connection.activity().blocked(ms(blocked));
    }
    fast.answering();
    assert_eq!(table.place(address(4), ms(2099)), Place::None);
    assert_eq!(table.place(address(4), ms(2600)), Place::Made);
    assert!(slower.made_way() && !slow.made_way() && !fast.made_way());
}

#[test]
fn an_answer_that_is_taken_at_the_least_rate_does_not_lag() {
    let table = table(1, 1);
    let entry = table.enter(address(1), ms(0));
    entry.answering();
    let half = usize::try_from(LEAST_RATE / 2).unwrap();
    for second in 0..60 {
        entry.connection.activity().blocked(ms(second * 1000));
        let now = ms((second + 1) * 1000);
        // At the full rate for half a minute, then at half of it.
        entry.connection.activity().wrote(if second < 30 { 2 * half } else { half }, now);
        let expected = if second < 33 { Place::None } else { Place::Made };
        assert_eq!(table.place(address(2), now), expected, "after {now:?}");
        if expected == Place::Made {
            return;
        }
    }
}

#[test]
fn the_time_that_the_server_takes_is_not_the_clients() {
    let table = table(1, 1);
    let entry = table.enter(address(1), ms(0));
    entry.answering();
    assert_eq!(table.place(address(2), ms(60_000)), Place::None);
}

#[test]
fn an_idle_connection_goes_before_an_answer_that_lags() {
    let table = table(2, 2);
    let slow = table.enter(address(1), ms(0));
    slow.answering().connection.activity().blocked(ms(0));
    let idle = table.enter(address(2), ms(8000));
    assert_eq!(table.place(address(3), ms(10_000)), Place::Made);
    assert!(idle.made_way());
    let idle = table.enter(address(2), ms(8000));
    // But one that asks now and then stays.
    idle.answered(10, ms(9800));
    assert_eq!(table.place(address(3), ms(10_000)), Place::Made);
    assert!(slow.made_way() && !idle.made_way());
}

#[test]
fn an_address_at_its_cap_gives_up_connections_of_its_own() {
    let table = table(16, 2);
    let other = table.enter(address(9), ms(0));
    let [first, second] = [100, 200].map(|at| table.enter(address(1), ms(at)));
    assert_eq!(table.place(address(1), ms(1000)), Place::Made);
    assert!(first.made_way() && !second.made_way() && !other.made_way());
    assert_eq!(table.place(address(2), ms(1000)), Place::Free);
}

#[test]
fn an_address_whose_connections_are_all_at_work_may_have_more_as_long_as_there_is_room() {
    let table = table(16, 2);
    let entries: Vec<_> = (0..14).map(|_| table.enter(address(1), ms(0))).collect();
    entries.iter().for_each(|entry| _ = entry.answering());
    // Two of sixteen are kept for known addresses.
    assert_eq!(table.place(address(1), ms(1000)), Place::None);
    drop(entries);
    assert_eq!(table.place(address(1), ms(1000)), Place::Free);
}

#[test]
fn a_place_is_kept_for_configured_peers() {
    let known = Arc::new(KnownAddresses::default());
    known.note([address(7)].into_iter());
    let limits = ServerLimits { max_connections: 8, ..ServerLimits::default() };
    let table = Table::new(&limits, known);
    let others: Vec<_> = (0..7).map(|last| table.enter(address(last), ms(0))).collect();
    others.iter().for_each(|other| _ = other.answering());
    assert_eq!(table.place(address(50), ms(1000)), Place::None);
    assert_eq!(table.place(address(7), ms(1000)), Place::Free);
    let peer = table.enter(address(7), ms(1000));
    // Idle as it is, it makes way for no stranger.
    assert_eq!(table.place(address(50), ms(60_000)), Place::None);
    assert!(!peer.made_way());
    // For another of its own kind it does, when no stranger can.
    assert_eq!(table.place(address(7), ms(60_000)), Place::Made);
    assert!(peer.made_way());
}

#[test]
fn an_address_is_known_for_a_while_that_has_taken_much() {
    let table = table(8, 8);
    let others: Vec<_> = (0..6).map(|last| table.enter(address(last), ms(0))).collect();
    others.iter().for_each(|other| _ = other.answering());
    let worker = table.enter(address(7), ms(0));
    worker.answered(usize::try_from(PROOF).unwrap(), ms(500));
    assert_eq!(table.place(address(50), ms(1000)), Place::Free, "the worker has the kept place");
    let stranger = table.enter(address(50), ms(1000));
    stranger.answering();
    drop(worker);
    let lasts = u64::try_from(PROOF_LASTS.as_millis()).unwrap();
    assert_eq!(table.place(address(7), ms(lasts)), Place::Free);
    assert_eq!(table.place(address(51), ms(lasts)), Place::None);
    assert_eq!(table.place(address(7), ms(lasts + 1000)), Place::None);
}

#[test]
fn a_shortage_of_descriptors_closes_an_eighth_and_no_connection_at_work() {
    let table = table(100, 100);
    let idle: Vec<_> = (0..16).map(|at| table.enter(address(1), ms(at))).collect();
    assert_eq!(table.relieve(ms(1000)), 2);
    assert!(idle[0].made_way() && idle[1].made_way() && !idle[2].made_way());
    drop(idle);
    let busy = table.enter(address(1), ms(0));
    busy.answering();
    assert_eq!(table.relieve(ms(1000)), 0);
}

#[test]
fn after_a_shortage_of_descriptors_some_are_left_for_others_for_a_while() {
    let table = table(100, 100);
    let idle: Vec<_> = (0..16).map(|at| table.enter(address(1), ms(at))).collect();
    assert_eq!(table.relieve(ms(1000)), 2);
    // Of the 14 that are left, one more is kept for known addresses.
    assert_eq!(table.place(address(2), ms(1000)), Place::Made);
    assert!(idle[2].made_way());
    let lasts = u64::try_from(SHORTAGE_LASTS.as_millis()).unwrap();
    assert_eq!(table.place(address(2), ms(1000 + lasts)), Place::Free);
}

#[test]
fn only_slow_manifests_are_cut_for_memory() {
    let table = table(100, 100);
    let [manifest, segment, fast] = [(); 3].map(|()| table.enter(address(1), ms(0)));
    for entry in [&manifest, &segment] {
        entry.answering().connection.activity().blocked(ms(0));
    }
    manifest.connection.activity().is_manifest();
    fast.answering().connection.activity().is_manifest();
    assert_eq!(table.cut_slow_manifests(ms(1999)), 0);
    assert_eq!(table.cut_slow_manifests(ms(2000)), 1);
    assert!(manifest.made_way() && !segment.made_way() && !fast.made_way());
}

#[test]
fn the_log_is_told_now_and_then_and_of_how_many() {
    let mut gate = Gate::default();
    assert_eq!(gate.pass(ms(0)), Some(1));
    for at in 1..100 {
        assert_eq!(gate.pass(ms(at)), None);
    }
    assert_eq!(gate.pass(LOG_EVERY), Some(100));
}
