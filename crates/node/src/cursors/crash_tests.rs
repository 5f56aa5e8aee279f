//! Cursors on a disk that fails at every operation in turn, and loses power at every one.

use std::path::PathBuf;

use edgestore_engine::disk::{Fault, FaultyDisk, test_folder};

use super::*;

const STEPS: [(&str, &[u8]); 5] =
    [("a", b"1"), ("b", b"first of b"), ("a", &[2; 5000]), ("a", b"3"), ("b", b"")];

struct Setup {
    dir: tempfile::TempDir,
    db: PathBuf,
    disk: FaultyDisk,
}

impl Setup {
    fn new() -> Self {
        let dir = test_folder();
        let db = dir.path().join("root/db");
        std::fs::create_dir_all(&db).unwrap();
        let disk = FaultyDisk::new(&dir.path().join("root"));
        Self { dir, db, disk }
    }

    fn open(&self) -> io::Result<CursorFiles> {
        CursorFiles::open_on(&self.db, self.disk.shared(), Arc::new(NoData))
    }

    /// The cursors of both peers after a power failure.
    fn after_crash(&self, seed: u64) -> [Option<Vec<u8>>; 2] {
        let to = self.dir.path().join(format!("crashed-{seed}"));
        self.disk.crash(seed, &to);
        let cursors = CursorFiles::open(&to.join("db")).unwrap();
        assert!(cursors.damaged().unwrap().is_empty());
        let names: Vec<_> = std::fs::read_dir(&cursors.dir).unwrap().collect();
        let loaded = ["a", "b"].map(|peer| cursors.load(peer, &stock()).unwrap());
        assert_eq!(names.len(), loaded.iter().flatten().count(), "leftovers: {names:?}");
        std::fs::remove_dir_all(to).unwrap();
        loaded
    }
}

fn index(peer: &str) -> usize {
    usize::from(peer == "b")
}

#[test]
fn after_a_power_loss_a_cursor_is_the_old_one_or_the_new_one_and_a_stored_one_is_there() {
    for n in 0.. {
        let setup = Setup::new();
        setup.disk.plan(n, Fault::PowerLoss);
        // By peer: what was acknowledged, and what it may be.
        let mut acknowledged = [None, None];
        let mut attempted = [None, None];
        if let Ok(cursors) = setup.open() {
            for (peer, value) in STEPS {
                attempted[index(peer)] = Some(value.to_vec());
                if cursors.store(peer, &stock(), value).is_err() {
                    break;
                }
                acknowledged.clone_from(&attempted);
            }
        }
        for seed in 0..20 {
            for (peer, found) in setup.after_crash(seed).into_iter().enumerate() {
                assert!(
                    found == acknowledged[peer] || found == attempted[peer],
                    "operation {n}, seed {seed}: {found:?} after {acknowledged:?}"
                );
            }
        }
        if !setup.disk.lost_power() {
            assert!(n > 25, "the program has more operations than {n}");
            break;
        }
    }
}

#[test]
fn a_cursor_that_can_not_be_stored_is_the_old_one_or_the_new_one_and_can_be_stored_again() {
    for fault in [Fault::Io, Fault::Full] {
        for n in 0.. {
            let setup = Setup::new();
            setup.disk.plan(n, fault);
            let cursors = setup.open().or_else(|_| setup.open()).unwrap();
            let mut expected = [None, None];
            for (peer, value) in STEPS {
                let old = expected[index(peer)].replace(value.to_vec());
                if let Err(error) = cursors.store(peer, &stock(), value) {
                    assert_eq!(error.kind() == io::ErrorKind::StorageFull, fault == Fault::Full);
                    let found = cursors.load(peer, &stock()).unwrap();
                    assert!(found == old || found.as_deref() == Some(value), "{found:?}");
                    cursors.store(peer, &stock(), value).unwrap();
                }
                let loaded =
                    cursors.load(peer, &stock()).or_else(|_| cursors.load(peer, &stock())).unwrap();
                assert_eq!(loaded.as_deref(), Some(value), "an error is no damage");
            }
            for seed in 0..3 {
                assert_eq!(setup.after_crash(seed), expected, "{fault:?} at {n}, seed {seed}");
            }
            if !setup.disk.happened() {
                assert!(n > 25, "the program has more operations than {n}");
                break;
            }
        }
    }
}

#[test]
fn a_damaged_cursor_that_is_set_aside_harms_no_other_whenever_power_is_lost() {
    for n in 0.. {
        let setup = Setup::new();
        let cursors = setup.open().unwrap();
        cursors.store("a", &stock(), b"old").unwrap();
        cursors.store("b", &stock(), b"kept").unwrap();
        setup.disk.damage(&setup.db.join("sync/a.cursor"), 1);
        setup.disk.plan(n, Fault::PowerLoss);
        let loaded = cursors.load("a", &stock());
        let stored = loaded.is_ok() && cursors.store("a", &stock(), b"new").is_ok();
        for seed in 0..10 {
            let to = setup.dir.path().join(format!("crashed-{seed}"));
            setup.disk.crash(seed, &to);
            let after = CursorFiles::open(&to.join("db")).unwrap();
            let found = after.load("a", &stock()).unwrap();
            assert!(found.is_none() && !stored || found.as_deref() == Some(b"new"));
            assert_eq!(after.load("b", &stock()).unwrap().as_deref(), Some(&b"kept"[..]));
        }
        if !setup.disk.lost_power() {
            break;
        }
    }
}
