//! Record stores that are older than the rest of their database, and what is noted of a loss.

use super::damage::{Damage, copy, database, put_folder, store_damages};
use super::*;

/// As with a backup of `records/` and `segments/` put back: the mark comes with it.
#[test]
fn record_store_of_a_backup_opens_beside_newer_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (db, backup) = (dir.path().join("db"), dir.path().join("backup"));
    database(&db);
    copy(&db, &backup);
    let engine = open(&db);
    for n in 0..4_u8 {
        engine.put(b"ns", &[n], b"newer").unwrap();
        engine.flush().unwrap();
    }
    let expected = dump(&engine);
    drop(engine);
    fs::remove_dir_all(db.join("records")).unwrap();
    copy(&backup.join("records"), &db.join("records"));
    let opened = dir.path().join("opened");
    copy(&db, &opened);
    let engine = open(&opened);
    assert_eq!(dump(&engine), expected, "newer segments are adopted");
    let (engine, report) = Engine::open_to_repair(&db, fast()).unwrap();
    assert_eq!(dump(&engine), expected);
    assert!(says_older(&report.lost), "{report:?}");
    engine.end_repair().unwrap();
    drop(engine);
    let (_, report) = Engine::open_to_repair(&db, fast()).unwrap();
    assert!(report.lost.is_empty(), "{report:?}");
}

fn says_older(lost: &[String]) -> bool {
    lost.iter().any(|line| line.contains("record store is older"))
}

/// A database whose `records/` are of an earlier clean stop than its `segments/`: the write to `k3`
/// is nowhere.
fn with_older_records(dir: &Path) -> std::path::PathBuf {
    let (db, old) = (dir.join("db"), dir.join("old"));
    let engine = open(&db);
    for n in 0..50_u8 {
        engine.put(b"ns", &[n], b"value").unwrap();
    }
    drop(engine);
    copy(&db, &old);
    let engine = open(&db);
    engine.flush().unwrap();
    engine.put(b"ns", b"k2", b"in a segment").unwrap();
    engine.flush().unwrap();
    engine.put(b"ns", b"k3", b"precious").unwrap();
    drop(engine);
    fs::remove_dir_all(db.join("records")).unwrap();
    copy(&old.join("records"), &db.join("records"));
    db
}

#[test]
fn older_records_are_reported_as_a_loss_whatever_else_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let db = with_older_records(dir.path());
    for (n, damage) in store_damages().iter().enumerate() {
        let broken = dir.path().join("broken");
        copy(&db, &broken);
        damage(&broken);
        let (engine, report) = Engine::open_to_repair(&broken, fast()).unwrap();
        engine.verify(true, |_, _| {}).unwrap();
        assert_eq!(engine.get(b"ns", b"k2").unwrap().unwrap(), b"in a segment", "{n}");
        assert_eq!(engine.get(b"ns", b"k3").unwrap(), None, "{n}");
        assert!(!report.lost.is_empty(), "{n}: {report:?}");
        drop(engine);
        fs::remove_dir_all(&broken).unwrap();
    }
}

#[test]
fn older_records_are_a_loss_until_a_repair_reports_it_whoever_found_it_and_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let db = with_older_records(dir.path());
    let reader = Engine::open_to_read(&db, fast()).unwrap();
    assert!(says_older(reader.losses()));
    drop(reader);
    let engine = open(&db);
    assert!(says_older(engine.losses()));
    // As `kill -9` leaves it.
    let killed = dir.path().join("killed");
    copy(&db, &killed);
    drop(engine);
    for db in [&db, &killed] {
        for _ in 0..2 {
            assert!(says_older(open(db).losses()));
            assert!(says_older(Engine::open_to_read(db, fast()).unwrap().losses()));
            let (_, report) = Engine::open_to_repair(db, fast()).unwrap();
            assert!(says_older(&report.lost), "{report:?}");
        }
        let (engine, _) = Engine::open_to_repair(db, fast()).unwrap();
        engine.end_repair().unwrap();
        drop(engine);
        assert!(open(db).losses().is_empty());
        let (_, report) = Engine::open_to_repair(db, fast()).unwrap();
        assert!(report.lost.is_empty(), "{report:?}");
    }
}

/// What it held can't be merged, and nothing says that it is elsewhere.
#[test]
fn older_records_beside_a_damaged_newer_segment_are_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let (db, old) = (dir.path().join("db"), dir.path().join("old"));
    database(&db);
    copy(&db, &old);
    let engine = open(&db);
    engine.put(b"ns", b"new", b"value").unwrap();
    let newest = engine.flush().unwrap().unwrap();
    drop(engine);
    fs::remove_dir_all(db.join("records")).unwrap();
    copy(&old.join("records"), &db.join("records"));
    let file = db.join(format!("segments/{}.dat", newest.hash));
    let mut bytes = fs::read(&file).unwrap();
    bytes[20] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert!(says_older(Engine::open_to_read(&db, fast()).unwrap().losses()));
    assert!(says_older(open(&db).losses()));
    let (engine, report) = Engine::open_to_repair(&db, fast()).unwrap();
    assert!(says_older(&report.lost), "{report:?}");
    assert_eq!(engine.get(b"ns", b"new").unwrap(), None);
}

#[test]
fn older_records_are_a_loss_where_the_mark_is_damaged_or_folders_stand_for_newer_segments() {
    let dir = tempfile::tempdir().unwrap();
    let db = with_older_records(dir.path());
    fn mark(db: &Path) -> std::path::PathBuf {
        db.join("records/clean-stop")
    }
    fn segments(db: &Path) -> Vec<std::path::PathBuf> {
        let files = fs::read_dir(db.join("segments")).unwrap();
        files.map(|file| file.unwrap().path()).collect()
    }
    let damage: [Damage; 4] = [
        Box::new(|db| {
            let mut bytes = fs::read(mark(db)).unwrap();
            bytes[40] ^= 1;
            fs::write(mark(db), bytes).unwrap();
        }),
        Box::new(|db| fs::write(mark(db), "").unwrap()),
        Box::new(|db| segments(db).iter().for_each(|file| put_folder(file))),
        Box::new(|db| {
            fs::remove_dir_all(db.join("segments")).unwrap();
            fs::write(db.join("segments"), "").unwrap();
        }),
    ];
    for (n, damage) in damage.iter().enumerate() {
        let broken = dir.path().join("broken");
        copy(&db, &broken);
        damage(&broken);
        let (engine, report) = Engine::open_to_repair(&broken, fast()).unwrap();
        assert!(!report.lost.is_empty(), "{n}: {report:?}");
        drop(engine);
        fs::remove_dir_all(&broken).unwrap();
    }
}

#[test]
fn newer_segments_beside_older_records_of_a_node_without_writes_are_no_loss() {
    let dir = tempfile::tempdir().unwrap();
    let (source, db) = (dir.path().join("source"), dir.path().join("db"));
    let source = open(&source);
    drop(open(&db));
    source.put(b"ns", b"k", b"v").unwrap();
    let segment = source.flush().unwrap().unwrap();
    let file = format!("segments/{}.dat", segment.hash);
    fs::copy(source.path().join(&file), db.join(&file)).unwrap();
    let engine = open(&db);
    assert!(engine.losses().is_empty());
    assert_eq!(engine.get(b"ns", b"k").unwrap().unwrap(), b"v");
}

#[test]
fn clean_stop_beside_sound_segments_is_no_loss() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    database(&db);
    for _ in 0..2 {
        let engine = open(&db);
        assert!(engine.losses().is_empty());
        engine.put(b"ns", b"new", b"value").unwrap();
        engine.flush().unwrap();
        engine.compact(&RateLimiter::unbounded()).unwrap();
    }
    assert!(Engine::open_to_read(&db, fast()).unwrap().losses().is_empty());
}

/// `old`, in the place of the record store of `db`, as one was copied from a host that runs.
fn put_records(old: &Path, db: &Path) {
    fs::remove_dir_all(db.join("records")).unwrap();
    copy(&old.join("records"), &db.join("records"));
}

/// As a copy of a database that is open, or was killed: without a mark.
#[test]
fn older_records_without_a_mark_are_a_loss_however_few_segments_are_newer() {
    for flushes in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let (db, old) = (dir.path().join("db"), dir.path().join("old"));
        database(&db);
        let engine = open(&db);
        engine.put(b"ns", b"before", b"1").unwrap();
        copy(&db, &old);
        for n in 0..flushes {
            engine.put(b"ns", &[n], b"flushed").unwrap();
            engine.flush().unwrap();
        }
        engine.put(b"ns", b"lost", b"1").unwrap();
        // As `kill -9` leaves it.
        let killed = dir.path().join("killed");
        copy(&db, &killed);
        drop(engine);
        for db in [&db, &killed] {
            put_records(&old, db);
            let told = match Engine::open_to_read(db, fast()) {
                Ok(reader) => says_older(reader.losses()),
                Err(error) => error.is_damage(),
            };
            assert!(told, "{flushes}");
            let told = match Engine::open_with(db, fast()) {
                Ok(engine) => says_older(engine.losses()),
                Err(error) => error.is_damage(),
            };
            assert!(told, "{flushes}");
            let (engine, report) = Engine::open_to_repair(db, fast()).unwrap();
            assert!(!report.lost.is_empty(), "{flushes}");
            assert_eq!(engine.get(b"ns", b"lost").unwrap(), None);
            engine.end_repair().unwrap();
            drop(engine);
            assert!(open(db).losses().is_empty(), "{flushes}");
        }
    }
}

#[test]
fn older_records_of_before_the_first_write_of_a_node_are_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let (db, old) = (dir.path().join("db"), dir.path().join("old"));
    drop(open(&db));
    copy(&db, &old);
    open(&db).put(b"ns", b"mine", b"1").unwrap();
    put_records(&old, &db);
    assert!(says_older(Engine::open_to_read(&db, fast()).unwrap().losses()));
    assert!(says_older(open(&db).losses()));
    let (_, report) = Engine::open_to_repair(&db, fast()).unwrap();
    assert!(says_older(&report.lost), "{report:?}");
}

/// A whole backup is no older than itself, and one into an empty folder has nothing beside it.
#[test]
fn backup_that_is_put_back_whole_is_no_loss() {
    let dir = tempfile::tempdir().unwrap();
    let (db, old) = (dir.path().join("db"), dir.path().join("old"));
    database(&db);
    copy(&db, &old);
    open(&db).put(b"ns", b"later", b"1").unwrap();
    assert!(open(&old).losses().is_empty());
    let parts = dir.path().join("parts");
    for name in ["records", "segments"] {
        copy(&db.join(name), &parts.join(name));
    }
    fs::copy(db.join("FORMAT"), parts.join("FORMAT")).unwrap();
    let engine = open(&parts);
    assert!(engine.losses().is_empty());
    assert_eq!(engine.get(b"ns", b"later").unwrap().unwrap(), b"1");
}

/// As somebody does who writes an old journal into the same file.
#[test]
fn journal_that_is_cut_under_an_open_database_takes_no_write() {
    for (flushed, to) in [(false, 0), (true, 0), (false, 70), (true, 200)] {
        let dir = tempfile::tempdir().unwrap();
        let (db, killed) = (dir.path().join("db"), dir.path().join("killed"));
        let engine = open(&db);
        for key in [b"a", b"b", b"c"] {
            engine.put(b"ns", key, b"1").unwrap();
            if flushed && key == b"a" {
                engine.flush().unwrap();
            }
        }
        let journal = inspect::journals(&db.join("records")).unwrap().pop().unwrap();
        File::options().write(true).open(&journal).unwrap().set_len(to).unwrap();
        let refused = engine.put(b"ns", b"d", b"1").unwrap_err();
        assert!(matches!(refused, EngineError::Replaced), "{refused}");
        copy(&db, &killed);
        drop(engine);
        for db in [&db, &killed] {
            assert!(
                Engine::open_to_read(db, fast()).map(drop).unwrap_err().is_damage(),
                "{flushed} {to}"
            );
            assert!(
                Engine::open_with(db, fast()).map(drop).unwrap_err().is_damage(),
                "{flushed} {to}"
            );
            let (_, report) = Engine::open_to_repair(db, fast()).unwrap();
            assert!(!report.lost.is_empty(), "{flushed} {to}");
        }
    }
}

/// The next batch is longer than what was cut, and the journal of a second start is as long as what is
/// in it.
#[test]
fn journal_that_is_cut_a_little_under_an_open_database_takes_no_write() {
    for cut in [1, 50, 150] {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = open(dir.path());
        engine.put(b"ns", b"a", b"1").unwrap();
        drop(engine);
        engine = open(dir.path());
        engine.put(b"ns", b"b", b"1").unwrap();
        let journal = inspect::journals(&dir.path().join("records")).unwrap().pop().unwrap();
        let file = File::options().write(true).open(&journal).unwrap();
        let len = file.metadata().unwrap().len();
        assert!(len < 10_000, "{len}");
        file.set_len(len - cut).unwrap();
        let refused = engine.put(b"ns", b"c", &[7; 6000]).unwrap_err();
        assert!(matches!(refused, EngineError::Replaced), "{refused}");
        assert_eq!(file.metadata().unwrap().len(), len - cut, "nothing was written");
        assert!(engine.flush().is_err());
        for _ in 0..2 {
            assert!(
                matches!(engine.check_files().unwrap_err(), EngineError::Replaced),
                "it is not forgotten"
            );
        }
    }
}

/// The journal begins with what came after it was cut, and the numbers agree.
#[test]
fn pending_writes_are_counted_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (db, other) = (dir.path().join("db"), dir.path().join("other"));
    let engine = open(&db);
    for key in [b"a", b"b", b"c"] {
        engine.put(b"ns", key, b"1").unwrap();
    }
    copy(&db, &other);
    drop(engine);
    // Another history with the same numbers, and fewer keys.
    let same = dir.path().join("same");
    let engine = open(&same);
    for _ in 0..3 {
        engine.put(b"ns", b"a", b"1").unwrap();
    }
    let journal = inspect::journals(&same.join("records")).unwrap().pop().unwrap();
    let name = journal.strip_prefix(&same).unwrap();
    fs::copy(&journal, other.join(name)).unwrap();
    drop(engine);
    let error = Engine::open_to_read(&other, fast()).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("of 3 local writes"), "{error}");
    let (_, report) = Engine::open_to_repair(&other, fast()).unwrap();
    assert!(!report.lost.is_empty(), "{report:?}");
}

/// What was noted of a loss is a loss as well when it can't be read any more.
#[test]
fn note_of_a_loss_that_is_emptied_or_replaced_is_still_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let db = with_older_records(dir.path());
    assert!(says_older(open(&db).losses()));
    let damages: [Damage; 6] = [
        Box::new(|note| fs::write(note, "").unwrap()),
        Box::new(|note| fs::write(note, [0xFF; 9]).unwrap()),
        Box::new(|note| {
            fs::remove_file(note).unwrap();
            std::os::unix::fs::symlink("/nonexistent", note).unwrap();
        }),
        Box::new(|note| {
            fs::remove_file(note).unwrap();
            std::os::unix::fs::symlink("/dev/null", note).unwrap();
        }),
        Box::new(|note| {
            fs::remove_file(note).unwrap();
            fs::create_dir(note).unwrap();
        }),
        Box::new(|note| {
            fs::remove_file(note).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(note).status().unwrap().success());
        }),
    ];
    for (n, damage) in damages.iter().enumerate() {
        for name in ["LOSSES", "REPAIR"] {
            let broken = dir.path().join(format!("broken-{n}-{name}"));
            copy(&db, &broken);
            if name == "REPAIR" {
                fs::rename(broken.join("LOSSES"), broken.join(name)).unwrap();
                let refused = Engine::open_to_read(&broken, fast()).unwrap_err();
                assert!(refused.is_damage(), "{n}: {refused}");
            }
            damage(&broken.join(name));
            if name == "LOSSES" {
                assert!(!Engine::open_to_read(&broken, fast()).unwrap().losses().is_empty(), "{n}");
                assert!(!open(&broken).losses().is_empty(), "{n}");
            } else {
                assert!(Engine::open_to_read(&broken, fast()).unwrap_err().is_damage(), "{n}");
            }
            let (engine, report) = Engine::open_to_repair(&broken, fast()).unwrap();
            assert!(!report.lost.is_empty(), "{n} {name}");
            engine.end_repair().unwrap();
            drop(engine);
            assert!(open(&broken).losses().is_empty(), "{n} {name}");
            let (_, report) = Engine::open_to_repair(&broken, fast()).unwrap();
            assert!(report.lost.is_empty(), "{n} {name}: {report:?}");
        }
    }
}

/// The store opens no journal that is a link, and follows one to a folder.
#[test]
fn links_in_the_record_store_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    let (journal, expected) = database(&db);
    let moved = dir.path().join("moved.jnl");
    fs::rename(&journal, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &journal).unwrap();
    for error in [
        Engine::open_to_read(&db, fast()).unwrap_err(),
        Engine::open_with(&db, fast()).unwrap_err(),
    ] {
        assert!(error.to_string().contains("is a link"), "{error}");
    }
    let (engine, report) = Engine::open_to_repair(&db, fast()).unwrap();
    assert!(report.lost.is_empty(), "{report:?}");
    assert_eq!(dump(&engine), expected);
    engine.end_repair().unwrap();
    drop(engine);
    assert!(!fs::symlink_metadata(&journal).unwrap().is_symlink());

    let (keyspace, moved) = (db.join("records/keyspaces/1"), dir.path().join("keyspace"));
    fs::rename(&keyspace, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &keyspace).unwrap();
    assert_eq!(dump(&Engine::open_to_read(&db, fast()).unwrap()), expected);
    assert_eq!(dump(&open(&db)), expected);

    // A link that leads nowhere is no record store.
    fs::remove_dir_all(db.join("records")).unwrap();
    std::os::unix::fs::symlink("/nonexistent", db.join("records")).unwrap();
    assert!(Engine::open_with(&db, fast()).unwrap_err().is_damage());
    let (engine, report) = Engine::open_to_repair(&db, fast()).unwrap();
    assert!(!report.lost.is_empty(), "{report:?}");
    engine.verify(true, |_, _| {}).unwrap();
    assert!(dump(&engine).len() >= 2);
}

/// A stop would make the damage what the next start believes, and the store cuts off what is behind.
#[test]
fn journal_that_is_damaged_while_it_is_open_is_no_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let engine = open(&whole);
    engine.put(b"ns", b"a", b"1").unwrap();
    let journal = inspect::journals(&whole.join("records")).unwrap().pop().unwrap();
    let at = usize::try_from(journal::end(&journal, 0).unwrap()).unwrap();
    for key in [b"b", b"c", b"d"] {
        engine.put(b"ns", key, b"1").unwrap();
    }
    drop(engine);
    for damage in [|bytes: &mut [u8]| bytes[0] ^= 0x80, |bytes: &mut [u8]| bytes[..40].fill(0)] {
        let db = dir.path().join("db");
        copy(&whole, &db);
        let journal = db.join(journal.strip_prefix(&whole).unwrap());
        let engine = open(&db);
        let mut bytes = fs::read(&journal).unwrap();
        damage(&mut bytes[at..]);
        // In place: it is the file that the store has open.
        let mut file = File::options().write(true).open(&journal).unwrap();
        file.write_all(&bytes).unwrap();
        drop(engine);
        assert!(!db.join("records/clean-stop").exists());
        for _ in 0..2 {
            let error = Engine::open_with(&db, fast()).map(drop).unwrap_err();
            assert!(error.is_damage(), "{error}");
            assert_eq!(fs::read(&journal).unwrap().len(), bytes.len(), "nothing is cut");
        }
        let (engine, report) = Engine::open_to_repair(&db, fast()).unwrap();
        assert!(!report.lost.is_empty(), "{report:?}");
        for key in [b"a", b"c", b"d"] {
            assert!(engine.get(b"ns", key).unwrap().is_some(), "what is behind is kept");
        }
        drop(engine);
        fs::remove_dir_all(&db).unwrap();
    }
}

#[test]
fn other_thing_in_the_place_of_what_was_acknowledged_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    let (_, expected) = database(&db);
    let outside = db.join("acknowledged");
    let places: [Damage; 4] = [
        Box::new(|place| {
            assert!(std::process::Command::new("mkfifo").arg(place).status().unwrap().success());
        }),
        Box::new(|place| std::os::unix::fs::symlink("/dev/null", place).unwrap()),
        Box::new(|place| std::os::unix::fs::symlink("/nonexistent/x", place).unwrap()),
        Box::new(|place| fs::create_dir(place).unwrap()),
    ];
    for (n, put) in places.iter().enumerate() {
        fs::remove_file(&outside).unwrap();
        put(&outside);
        assert_eq!(dump(&Engine::open_to_read(&db, fast()).unwrap()), expected, "{n}");
        let engine = open(&db);
        assert_eq!(dump(&engine), expected, "{n}");
        assert!(engine.losses().is_empty(), "{n}");
        drop(engine);
        assert_eq!(outside.is_file(), n < 3, "{n}");
    }
}

/// What looks like a write that a crash has cut short was acknowledged: its bytes stay.
#[test]
fn acknowledged_write_at_the_end_of_a_journal_is_cut_off_by_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let engine = open(&whole);
    for key in [b"a", b"b"] {
        engine.put(b"ns", key, b"1").unwrap();
    }
    engine.put(b"ns", b"c", b"precious").unwrap();
    let killed = dir.path().join("killed");
    copy(&whole, &killed);
    drop(engine);
    let journal = inspect::journals(&killed.join("records")).unwrap().pop().unwrap();
    let name = journal.strip_prefix(&killed).unwrap();
    let end = usize::try_from(journal::end(&journal, 0).unwrap()).unwrap();
    let damages: [fn(&mut Vec<u8>, usize); 2] =
        [|bytes, end| bytes[end - 30..end].fill(0), |bytes, end| bytes.truncate(end - 30)];
    for damage in damages {
        let db = dir.path().join("db");
        copy(&killed, &db);
        let mut bytes = fs::read(&journal).unwrap();
        damage(&mut bytes, end);
        fs::write(db.join(name), &bytes).unwrap();
        for _ in 0..2 {
            let error = Engine::open_with(&db, fast()).map(drop).unwrap_err();
            assert!(error.is_damage(), "{error}");
            assert_eq!(fs::read(db.join(name)).unwrap(), bytes, "nothing is changed");
        }
        let (engine, report) = Engine::open_to_repair(&db, fast()).unwrap();
        assert!(!report.lost.is_empty(), "{report:?}");
        assert_eq!(fs::read(db.join("quarantine/records/0.jnl")).unwrap(), bytes);
        drop(engine);
        fs::remove_dir_all(&db).unwrap();
    }
}

#[test]
fn stop_that_finds_damage_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    let engine = open(&db);
    engine.put(b"ns", b"a", b"1").unwrap();
    assert_eq!(engine.close(), Ok(()));
    let engine = open(&db);
    engine.put(b"ns", b"b", b"1").unwrap();
    let journal = inspect::journals(&db.join("records")).unwrap().pop().unwrap();
    let mut bytes = fs::read(&journal).unwrap();
    bytes[30] ^= 1;
    File::options().write(true).open(&journal).unwrap().write_all(&bytes).unwrap();
    assert!(engine.close().unwrap_err().contains("is damaged"));

    let db = dir.path().join("other");
    let engine = open(&db);
    engine.put(b"ns", b"a", b"1").unwrap();
    let journal = inspect::journals(&db.join("records")).unwrap().pop().unwrap();
    fs::rename(journal, dir.path().join("moved")).unwrap();
    assert!(engine.close().unwrap_err().contains("replaced"));
}
