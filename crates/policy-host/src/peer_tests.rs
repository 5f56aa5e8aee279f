//! The pool: threads come, go and are never waited for.

use std::sync::mpsc;
use std::thread;

use edgestore_engine::env::SystemEnv;
use edgestore_engine::testing::{LONG, wait_until};

use super::super::testing::FakePeer;
use super::*;
use crate::Clock as _;

fn peer(max_threads: usize) -> Peer {
    Peer::new("p", Arc::new(FakePeer::default()), max_threads)
}

fn flag() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(false))
}

fn until(bell: &Bell, ready: impl FnMut() -> Option<()>) -> Option<()> {
    bell.wait(SystemEnv.monotonic() + LONG, ready)
}

#[test]
fn no_more_requests_run_at_a_time_than_allowed_and_all_of_them_do() {
    let (peer, bell) = (peer(3), Arc::new(Bell::new(&SystemEnv::shared())));
    let running = Arc::new(Mutex::new((0, 0)));
    let go_on = flag();
    let slots: Vec<_> = (0..20)
        .map(|_| {
            let (running, go_on) = (Arc::clone(&running), Arc::clone(&go_on));
            let request = move |_: &dyn PeerTransport| {
                {
                    let mut running = lock(&running);
                    running.0 += 1;
                    running.1 = running.1.max(running.0);
                }
                while !go_on.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                }
                lock(&running).0 -= 1;
            };
            peer.submit(false, &bell, &flag(), request).unwrap()
        })
        .collect();
    wait_until("three run", || lock(&running).0 == 3);
    go_on.store(true, Ordering::Relaxed);
    until(&bell, || slots.iter().all(|slot| slot.is_done()).then_some(())).unwrap();
    assert_eq!(lock(&running).1, 3);
    assert_eq!(lock(&peer.pool.state).threads, 3);
}

#[test]
fn a_thread_that_has_nothing_to_do_takes_the_next_request() {
    let (peer, bell) = (peer(8), Arc::new(Bell::new(&SystemEnv::shared())));
    for _ in 0..50 {
        let slot = peer.submit(false, &bell, &flag(), |_| ()).unwrap();
        until(&bell, || slot.take()?).unwrap();
        // The thread is idle a moment after it rang.
        while lock(&peer.pool.state).idle == 0 {
            thread::yield_now();
        }
    }
    assert_eq!(lock(&peer.pool.state).threads, 1);
}

#[test]
fn a_request_that_panics_is_lost_and_its_thread_goes_on() {
    let (peer, bell) = (peer(1), Arc::new(Bell::new(&SystemEnv::shared())));
    let slot = peer.submit::<()>(false, &bell, &flag(), |_| panic!("on purpose")).unwrap();
    assert_eq!(bell.wait(SystemEnv.monotonic() + LONG, || slot.take()), Some(None));
    let slot = peer.submit(false, &bell, &flag(), |_| 7).unwrap();
    assert_eq!(bell.wait(SystemEnv.monotonic() + LONG, || slot.take()), Some(Some(7)));
    assert_eq!(lock(&peer.pool.state).threads, 1);
}

#[test]
fn cancelled_requests_do_not_pile_up_behind_one_that_hangs() {
    let (peer, bell) = (peer(1), Arc::new(Bell::new(&SystemEnv::shared())));
    let (free, hang) = mpsc::channel::<()>();
    let hung = peer.submit(false, &bell, &flag(), move |_| hang.recv().is_ok()).unwrap();
    for _ in 0..100 {
        let cancel = flag();
        let slot = peer.submit(false, &bell, &cancel, |_| ()).unwrap();
        cancel.store(true, Ordering::Relaxed);
        assert!(!slot.is_done());
        assert!(lock(&peer.pool.state).queue.len() <= 2);
    }
    free.send(()).unwrap();
    assert_eq!(bell.wait(SystemEnv.monotonic() + LONG, || hung.take()), Some(Some(true)));
}

#[test]
fn a_fetch_that_waits_for_a_thread_is_sent_though_a_pause_begins() {
    let rule = FetchBackoff { failures: 1, longest: LONG };
    let (peer, bell) =
        (peer(1).with_fetch_backoff(rule), Arc::new(Bell::new(&SystemEnv::shared())));
    let (free, wait) = mpsc::channel::<()>();
    let gone = |_: &dyn PeerTransport| Err(FetchError::NotFound);
    let first = peer.submit_fetch(&bell, &flag(), move |transport| {
        wait.recv().unwrap();
        gone(transport)
    });
    let second = peer.submit_fetch(&bell, &flag(), gone).unwrap();
    free.send(()).unwrap();
    for slot in [first.unwrap(), second] {
        let outcome = bell.wait(SystemEnv.monotonic() + LONG, || slot.take()).unwrap().unwrap();
        assert!(matches!(outcome, Err(FetchError::NotFound)), "{outcome:?}");
    }
    assert!(peer.admit_fetch().is_err(), "none is begun");
}

#[test]
fn closing_cancels_what_runs_and_drops_what_waits() {
    let (peer, bell) = (peer(1), Arc::new(Bell::new(&SystemEnv::shared())));
    peer.watch(&bell);
    let cancel = flag();
    let seen = Arc::clone(&cancel);
    let running = peer
        .submit(false, &bell, &cancel, move |_| {
            while !seen.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
        })
        .unwrap();
    let waiting = peer.submit(false, &bell, &flag(), |_| ()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            // Until the first request has left the queue.
            while lock(&peer.pool.state).queue.len() > 1 {
                thread::yield_now();
            }
            peer.close();
        });
        let closed = || (peer.is_closed() && running.is_done() && waiting.is_done()).then_some(());
        until(&bell, closed).unwrap();
    });
    assert_eq!(running.take(), Some(Some(())));
    assert_eq!(waiting.take(), Some(None));
    assert!(peer.submit(false, &bell, &flag(), |_| ()).is_err());
}

#[test]
fn threads_end_with_the_peer() {
    let (peer, bell) = (peer(2), Arc::new(Bell::new(&SystemEnv::shared())));
    let slot = peer.submit(false, &bell, &flag(), |_| ()).unwrap();
    until(&bell, || slot.take()?).unwrap();
    let pool = Arc::clone(&peer.pool);
    drop(peer);
    assert!(IDLE > LONG, "an idle thread would have ended by itself");
    wait_until("all threads end", || lock(&pool.state).threads == 0);
}
