//! What a start makes of a record store that has lost something, and of files nobody registered.

use super::*;

/// A database with two segments and two pending writes, the last journal of its record store, and
/// all its records.
pub(super) fn database(path: &Path) -> (std::path::PathBuf, Dump) {
    let engine = open(path);
    for (n, key) in [b"a", b"b", b"c", b"d"].into_iter().enumerate() {
        engine.put(b"ns", key, &[n as u8; 300]).unwrap();
        if n < 2 {
            engine.flush().unwrap();
        }
    }
    let expected = dump(&engine);
    drop(engine);
    let journal = inspect::journals(&path.join("records")).unwrap().pop().unwrap();
    (journal, expected)
}

pub(super) fn copy(from: &Path, to: &Path) {
    crate::disk::Image::read(from).unwrap().write(to).unwrap();
}

fn segment_files(path: &Path) -> usize {
    fs::read_dir(path.join("segments")).unwrap().count()
}

#[test]
fn journal_cut_short_after_a_clean_stop_is_refused_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let (journal, expected) = database(&whole);
    let journal = journal.strip_prefix(&whole).unwrap();
    let end = journal::end(&whole.join(journal), 0).unwrap();
    for n in 0..12 {
        // At the ends of batches as well as within them.
        let cut = if n == 0 { 0 } else { end * n / 12 };
        let db = dir.path().join(format!("cut-{n}"));
        copy(&whole, &db);
        File::options().write(true).open(db.join(journal)).unwrap().set_len(cut).unwrap();
        for error in [
            Engine::open_with(&db, fast()).unwrap_err(),
            Engine::open_to_read(&db, fast()).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(matches!(error, EngineError::Damaged { .. }), "{text}");
            assert!(text.contains("verify --repair") && text.contains("clean stop"), "{text}");
        }
        assert_eq!(segment_files(&db), 2, "nothing is removed");
        let (engine, report) = Engine::open_to_repair(&db, fast()).unwrap();
        assert!(report.done.iter().any(|line| line.contains("kept in")), "{report:?}");
        assert_eq!(segment_files(&db), 2);
        let found = dump(&engine);
        // What is in segments is there again.
        assert!(
            found.len() >= 2
                && found.iter().all(|(key, record)| {
                    expected.get(key).is_some_and(|known| known.value == record.value)
                })
        );
        assert!(
            found.len() == 4
                || report.done.iter().chain(&report.lost).any(|line| line.contains("left")),
            "{report:?}"
        );
        engine.verify(true, |_, _| {}).unwrap();
        assert_eq!(engine.verify(false, |_, _| {}).unwrap().count, 0);
        engine.end_repair().unwrap();
        drop(engine);
        drop(open(&db));
    }
}

#[test]
fn journal_damaged_in_the_middle_after_a_kill_is_refused_and_the_rest_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let engine = open(&live);
    for n in 0..50_u8 {
        engine.put(b"ns", &[n], &[n; 100]).unwrap();
    }
    let (killed, sound) = (dir.path().join("killed"), dir.path().join("sound"));
    copy(&live, &killed);
    copy(&live, &sound);
    drop(engine);
    assert_eq!(dump(&open(&sound)).len(), 50);

    let journal = inspect::journals(&killed.join("records")).unwrap().pop().unwrap();
    let end = journal::end(&journal, 0).unwrap() as usize;
    let mut bytes = fs::read(&journal).unwrap();
    bytes[end / 2] ^= 0x10;
    fs::write(&journal, bytes).unwrap();
    let error = Engine::open_with(&killed, fast()).unwrap_err();
    assert!(matches!(error, EngineError::Damaged { .. }), "{error}");
    let (engine, report) = Engine::open_to_repair(&killed, fast()).unwrap();
    assert_eq!(dump(&engine).len(), 49, "one write is lost, and none after it: {report:?}");
}

#[test]
fn segment_file_that_is_registered_nowhere_is_adopted_when_it_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let sound = stamped(Duration::ZERO);
    let (hash, damaged) = (Hash::of(&sound), Hash::of(b"another"));
    let file = |hash: &Hash| dir.path().join(format!("segments/{hash}.dat"));
    fs::write(file(&hash), &sound).unwrap();
    fs::write(file(&damaged), b"is not what its name says").unwrap();
    {
        let reader = Engine::open_to_read(dir.path(), fast()).unwrap();
        assert_eq!(reader.get(b"ns", b"k").unwrap(), None);
        assert_eq!(reader.verify(false, |_, _| {}).unwrap().count, 2);
        assert!(matches!(reader.put(b"ns", b"x", b"y"), Err(EngineError::ReadOnly)));
        assert!(file(&hash).exists() && file(&damaged).exists());
    }
    let engine = open(dir.path());
    assert_eq!(engine.get(b"ns", b"k").unwrap().unwrap(), b"theirs");
    assert_eq!(engine.manifest().len(), 1);
    assert!(file(&hash).exists() && !file(&damaged).exists());
    assert!(dir.path().join(format!("quarantine/{damaged}.dat")).exists());
    assert_eq!(engine.verify(false, |_, _| {}).unwrap().count, 0);
    drop(engine);
    assert_eq!(open(dir.path()).manifest().len(), 1);
}

/// Between the rename of its file and its batch.
#[test]
fn flush_that_a_crash_cut_short_is_finished_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    let engine = open(&before);
    engine.put(b"ns", b"a", b"1").unwrap();
    engine.put(b"ns", b"b", b"2").unwrap();
    copy(&before, &after);
    let segment = engine.flush().unwrap().unwrap();
    let name = format!("segments/{}.dat", segment.hash);
    fs::copy(before.join(&name), after.join(&name)).unwrap();
    let engine = open(&after);
    assert_eq!(engine.manifest().iter().map(|one| one.hash).collect::<Vec<_>>(), [segment.hash]);
    assert_eq!(engine.stats().pending_records, 0);
    assert_eq!(engine.flush().unwrap(), None);
    // It owns what is in it: a compaction does not retire it.
    engine.compact(&RateLimiter::unbounded()).unwrap();
    assert_eq!(engine.manifest().len(), 1);
    assert_eq!(engine.verify(false, |_, _| {}).unwrap().count, 0);
}

#[test]
fn segment_files_of_a_store_that_forgot_them_are_proof_of_loss() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    let live = dir.path().join("live");
    let engine = open(&live);
    copy(&live, &db);
    for n in 0..5_u8 {
        engine.put(b"ns", &[n], b"v").unwrap();
        engine.flush().unwrap();
    }
    for entry in fs::read_dir(live.join("segments")).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, db.join("segments").join(from.file_name().unwrap())).unwrap();
    }
    let error = Engine::open_with(&db, fast()).unwrap_err().to_string();
    assert!(error.contains("5 sound segment files"), "{error}");
    assert_eq!(segment_files(&db), 5);
    let (repaired, _) = Engine::open_to_repair(&db, fast()).unwrap();
    assert_eq!(dump(&repaired).len(), 5);
    assert_eq!(repaired.verify(false, |_, _| {}).unwrap().count, 0);
}

#[test]
fn file_of_a_retired_segment_goes_and_that_of_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    for n in 0..2_u8 {
        engine.put(b"ns", b"k", &[n]).unwrap();
        engine.flush().unwrap();
    }
    engine.compact(&RateLimiter::unbounded()).unwrap();
    assert_eq!((engine.manifest().len(), segment_files(dir.path())), (1, 2));
    drop(engine);
    let engine = open(dir.path());
    assert_eq!((engine.manifest().len(), segment_files(dir.path())), (1, 1));
    assert!(!dir.path().join("quarantine").exists());
}

/// Changes a bit of a table of records.
fn flip_a_table(path: &Path) {
    let keyspaces = fs::read_dir(path.join("records/keyspaces")).unwrap();
    let tables = keyspaces.flat_map(|dir| {
        let dir = dir.unwrap().path();
        let own = dir.file_name().unwrap() != "0";
        fs::read_dir(dir.join("tables")).unwrap().filter(move |_| own)
    });
    let table = tables.map(|entry| entry.unwrap().path()).next().expect("a table");
    let mut bytes = fs::read(&table).unwrap();
    bytes[40] ^= 1;
    fs::write(&table, bytes).unwrap();
}

/// As `verify --repair` does, where a table is damaged.
fn repair_store(path: &Path) -> (Engine, StoreRepair) {
    let (mut engine, mut report) = Engine::open_to_repair(path, fast()).unwrap();
    if report.done.is_empty() {
        // The start did not read that block.
        let found = engine.verify(true, |_, _| {}).unwrap();
        assert!(found.unreadable && found.count == 1, "{found:?}");
        (engine, report) = engine.rebuild().unwrap();
    }
    (engine, report)
}

#[test]
fn damaged_table_is_reported_and_a_new_store_is_made_of_the_segments() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    for n in 0..100_u8 {
        engine.put(b"ns", &[n], &[n; 50]).unwrap();
    }
    engine.flush().unwrap();
    apply(&engine, &stamped(Duration::ZERO)).unwrap();
    engine.drain(&mut engine.writer()).unwrap();
    engine.put(b"ns", b"late", b"pending").unwrap();
    let expected = dump(&engine);
    drop(engine);
    flip_a_table(dir.path());
    let (engine, report) = repair_store(dir.path());
    assert_eq!(dump(&engine), expected, "{report:?}");
    assert_eq!(engine.stats().pending_records, 1);
    assert_eq!(engine.verify(false, |_, _| {}).unwrap().count, 0);
    assert!(dir.path().join("quarantine/records/keyspaces").is_dir());
}

/// As a backup tool or a disk leaves them.
#[test]
fn files_of_a_store_that_hold_nothing_are_made_again_and_no_write_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let (_, expected) = database(&whole);
    let flip = |file: &Path| {
        let mut bytes = fs::read(file).unwrap();
        bytes[0] ^= 1;
        fs::write(file, bytes).unwrap();
    };
    let cut = |file: &Path| File::options().write(true).open(file).unwrap().set_len(3).unwrap();
    let remove = |file: &Path| fs::remove_file(file).unwrap();
    let damage: [&dyn Fn(&Path); 3] = [&flip, &cut, &remove];
    for (n, damage) in damage.into_iter().enumerate() {
        let db = dir.path().join(format!("db-{n}"));
        copy(&whole, &db);
        for name in ["version", "keyspaces/1/current", "keyspaces/2/v0", "keyspaces/9/v0"] {
            damage(&db.join("records").join(name));
        }
        let error = Engine::open_with(&db, fast()).unwrap_err().to_string();
        assert!(error.contains("verify --repair"), "{error}");
        let (engine, report) = Engine::open_to_repair(&db, fast()).unwrap();
        assert_eq!(dump(&engine), expected, "{report:?}");
        assert_eq!((engine.stats().pending_records, report.lost.len()), (2, 0), "{report:?}");
        assert_eq!(engine.verify(false, |_, _| {}).unwrap().count, 0);
        engine.end_repair().unwrap();
        drop(engine);
        open(&db);
    }
}

/// Without the journal, those that were pending are gone.
#[test]
fn repair_says_how_many_writes_are_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, expected) = database(dir.path());
    fs::remove_file(&journal).unwrap();
    let (engine, report) = Engine::open_to_repair(dir.path(), fast()).unwrap();
    assert_eq!((dump(&engine).len(), expected.len()), (2, 4));
    assert!(report.lost.iter().any(|line| line.contains("of 2 local writes")), "{report:?}");
    assert_eq!(engine.verify(false, |_, _| {}).unwrap().count, 0);
}

/// Its file was the only copy of its records: nobody had drained them.
#[test]
fn lost_records_are_told_until_they_are_here_again_or_their_loss_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let (live, db) = (dir.path().join("live"), dir.path().join("db"));
    let engine = open(&live);
    let bytes = stamped(Duration::ZERO);
    apply(&engine, &bytes).unwrap();
    let lost = Hash::of(&bytes);
    copy(&live, &db);
    fs::remove_file(db.join(format!("segments/{lost}.dat"))).unwrap();
    let read = Engine::open_to_read(&db, fast()).unwrap();
    assert_eq!((read.lost().unwrap(), read.unreadable()), (vec![lost], vec![lost]));
    drop(read);
    let engine = open(&db);
    assert!(engine.verify(true, |_, _| {}).unwrap().count > 0);
    drop(engine);
    let engine = open(&db);
    assert_eq!((engine.lost().unwrap(), engine.unreadable()), (vec![lost], vec![]));
    let found = engine.verify(false, |_, _| {}).unwrap();
    assert_eq!(found.problems, [Problem::Lost(lost)]);

    copy(&db, &dir.path().join("again"));
    let again = open(&dir.path().join("again"));
    apply(&again, &bytes).unwrap();
    assert!(again.lost().unwrap().is_empty() && again.get(b"ns", b"k").unwrap().is_some());

    assert_eq!(engine.accept_loss().unwrap(), 1);
    assert!(engine.lost().unwrap().is_empty());
    assert_eq!(engine.verify(false, |_, _| {}).unwrap().count, 0);
}

/// As files of a newer backup beside the records of an older one.
#[test]
fn sound_files_that_are_not_registered_are_told_by_who_only_reads() {
    let dir = tempfile::tempdir().unwrap();
    let (live, db) = (dir.path().join("live"), dir.path().join("db"));
    let engine = open(&live);
    engine.put(b"ns", b"old", b"v").unwrap();
    drop(engine);
    copy(&live, &db);
    let engine = open(&live);
    engine.put(b"ns", b"new", b"v").unwrap();
    let segment = engine.flush().unwrap().unwrap();
    let name = format!("segments/{}.dat", segment.hash);
    fs::copy(live.join(&name), db.join(&name)).unwrap();
    let read = Engine::open_to_read(&db, fast()).unwrap();
    assert_eq!(read.get(b"ns", b"new").unwrap(), None);
    assert_eq!(read.unregistered().unwrap(), [segment.hash]);
    drop(read);
    drop(open(&db));
    let read = Engine::open_to_read(&db, fast()).unwrap();
    assert!(read.unregistered().unwrap().is_empty() && read.get(b"ns", b"new").unwrap().is_some());
}

/// A crash leaves no mark of a stop, and yet what was acknowledged is known.
#[test]
fn journal_that_lost_its_end_after_a_crash_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (live, crashed) = (dir.path().join("live"), dir.path().join("crashed"));
    let engine = open(&live);
    for n in 0..40_u8 {
        engine.put(b"ns", &[n], &[n; 300]).unwrap();
        if n == 20 {
            engine.flush().unwrap();
        }
    }
    let expected = dump(&engine);
    copy(&live, &crashed);
    drop(engine);
    assert_eq!(dump(&open(&crashed)), expected);
    let journals = || inspect::journals(&crashed.join("records")).unwrap().pop().unwrap();
    let end = journal::end(&journals(), 0).unwrap();
    let len = fs::metadata(journals()).unwrap().len();
    for keep in [0, end / 3, end / 2, end - 300] {
        fs::remove_dir_all(&crashed).unwrap();
        let engine = open(&live);
        copy(&live, &crashed);
        drop(engine);
        let file = File::options().write(true).open(journals()).unwrap();
        file.set_len(keep).unwrap();
        // Zeros take the place of the rest, as where power failed.
        file.set_len(len).unwrap();
        for error in [
            Engine::open_to_read(&crashed, fast()).unwrap_err(),
            Engine::open_with(&crashed, fast()).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(matches!(error, EngineError::Damaged { .. }), "{keep}: {text}");
        }
        let (engine, report) = Engine::open_to_repair(&crashed, fast()).unwrap();
        assert!(dump(&engine).len() < 40 && !report.lost.is_empty(), "{keep}: {report:?}");
    }
}

/// What they held was in the merged one, and is not in the new store.
#[test]
fn retired_segments_are_wanted_again_where_the_one_that_took_over_is_lost_with_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let engine = open(&whole);
    for n in 0..100_u8 {
        engine.put(b"ns", &[n], &[n; 50]).unwrap();
        if n % 10 == 9 {
            engine.flush().unwrap();
        }
    }
    let hashes: Vec<_> = engine.manifest().iter().map(|one| one.hash).collect();
    // What is pulled makes a table.
    apply(&engine, &stamped(Duration::ZERO)).unwrap();
    engine.drain(&mut engine.writer()).unwrap();
    let all = dump(&engine).len();
    engine.compact(&RateLimiter::unbounded()).unwrap();
    let merged = engine.manifest()[1].hash;
    assert!(engine.manifest().len() == 2 && hashes.iter().all(|hash| engine.has(hash)));
    drop(engine);
    // The files of those that are retired go at the next start.
    drop(open(&whole));
    assert_eq!(segment_files(&whole), 2);
    for lose in [false, true] {
        let db = dir.path().join(format!("lost-{lose}"));
        copy(&whole, &db);
        if lose {
            fs::remove_file(db.join(format!("segments/{merged}.dat"))).unwrap();
        }
        flip_a_table(&db);
        let (engine, report) = repair_store(&db);
        let missing = engine.missing(&hashes);
        assert_eq!(missing, if lose { hashes.clone() } else { vec![] }, "{report:?}");
        let found = engine.verify(false, |_, _| {}).unwrap();
        assert_eq!(
            (dump(&engine).len(), found.count),
            if lose { (all - 100, 1) } else { (all, 0) }
        );
        // It is remembered, however often the store is made anew.
        let (engine, report) = engine.rebuild().unwrap();
        let found = engine.verify(false, |_, _| {}).unwrap();
        assert_eq!(found.problems, if lose { vec![Problem::Lost(merged)] } else { vec![] });
        assert!(report.lost.is_empty(), "{report:?}");
    }
}

/// Things in the place of the folders of a database.
#[test]
fn file_in_the_place_of_a_folder_is_damage_that_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    let (_, expected) = database(&db);
    for name in ["segments", "staging"] {
        let broken = dir.path().join(name);
        copy(&db, &broken);
        fs::remove_dir_all(broken.join(name)).unwrap();
        fs::write(broken.join(name), "x").unwrap();
        for opened in [
            Engine::open_to_read(&broken, fast()).map(drop),
            Engine::open_with(&broken, fast()).map(drop),
        ] {
            let text = opened.unwrap_err().to_string();
            assert!(text.contains(&format!("{name} is no folder")), "{text}");
        }
        let (engine, report) = Engine::open_to_repair(&broken, fast()).unwrap();
        assert!(report.done[0].contains("in the place of a folder"), "{report:?}");
        engine.verify(true, |_, _| {}).unwrap();
        assert_eq!(dump(&engine), expected, "{name}");
        engine.put(b"ns", b"new", b"value").unwrap();
        engine.flush().unwrap().unwrap();
    }
}

/// The store (fjall) ends the process where one of its folders has no number for a name.
#[test]
fn folder_or_link_among_the_keyspaces_is_damage_that_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    let (_, expected) = database(&db);
    for is_link in [false, true] {
        let broken = dir.path().join(if is_link { "link" } else { "folder" });
        copy(&db, &broken);
        let odd = broken.join("records/keyspaces/of\nsomebody");
        match is_link {
            true => std::os::unix::fs::symlink(broken.join("FORMAT"), odd).unwrap(),
            false => fs::create_dir(odd).unwrap(),
        }
        for opened in [
            Engine::open_to_read(&broken, fast()).map(drop),
            Engine::open_with(&broken, fast()).map(drop),
        ] {
            let error = opened.unwrap_err();
            assert!(error.is_damage() && error.to_string().contains("of\\nsomebody"), "{error}");
        }
        let (engine, _) = Engine::open_to_repair(&broken, fast()).unwrap();
        engine.verify(true, |_, _| {}).unwrap();
        assert_eq!(dump(&engine), expected);
    }
}

#[test]
fn verify_says_repaired_only_of_what_reads_again() {
    let dir = tempfile::tempdir().unwrap();
    let (live, db) = (dir.path().join("live"), dir.path().join("db"));
    let engine = open(&live);
    let bytes = stamped(Duration::ZERO);
    apply(&engine, &bytes).unwrap();
    copy(&live, &db);
    // Until a drain, the file is the only copy.
    let file = db.join(format!("segments/{}.dat", Hash::of(&bytes)));
    fs::remove_file(file).unwrap();
    let engine = open(&db);
    engine.verify(true, |_, _| {}).unwrap();
    let left = engine.verify(false, |_, _| {}).unwrap();
    assert_eq!(left.problems, [Problem::Lost(Hash::of(&bytes))]);
    drop(engine);
    let engine = open(&db);
    assert_eq!(engine.verify(false, |_, _| {}).unwrap().count, 1, "it is remembered");
    apply(&engine, &bytes).unwrap();
    assert_eq!(engine.verify(false, |_, _| {}).unwrap().count, 0);
}

#[test]
fn verify_repairs_a_segment_whose_file_vanishes_while_it_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.put(b"ns", b"k", b"v").unwrap();
    let segment = engine.flush().unwrap().unwrap();
    fs::remove_file(engine.folder.segment(&segment.hash)).unwrap();
    let found = engine.verify(true, |_, _| {}).unwrap();
    assert_eq!(found.count, 2, "{found:?}");
    assert_eq!(engine.verify(false, |_, _| {}).unwrap().count, 0);
    assert_eq!(engine.flush().unwrap().unwrap().records, 1);
}

#[test]
fn keyspace_without_its_list_of_tables_is_refused_and_a_new_store_made() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let engine = open(&live);
    for n in 0..3_u8 {
        engine.put(b"ns", b"k", &[n]).unwrap();
        engine.flush().unwrap();
    }
    compact(&engine);
    engine.put(b"ns", b"late", b"v").unwrap();
    let expected = dump(&engine);
    let retired = engine.stats().retired_segments;
    assert!(retired > 0);
    let killed = dir.path().join("killed");
    copy(&live, &killed);
    drop(engine);
    assert_eq!(inspect::keyspaces(&live.join("records")).unwrap(), Vec::from_iter(0..10));
    // Of these, "5" is the retired segments, and "6" was never used.
    let cases = [(&live, "0156789"), (&killed, "0569")]
        .into_iter()
        .flat_map(|(base, numbers)| numbers.chars().map(move |number| (base, number, "current")));
    for (base, number, lost) in
        cases.chain([(&live, '5', ""), (&live, '9', ""), (&killed, '5', "")])
    {
        let db = dir.path().join("copy");
        copy(base, &db);
        let path = db.join(format!("records/keyspaces/{number}/{lost}"));
        if lost.is_empty() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.unwrap();
        let context = format!("{}", path.display());
        // After a crash, one that was never used may be one that was being made.
        let read = Engine::open_to_read(&db, fast()).map(drop);
        let unused = read.is_ok();
        assert_eq!(unused, base == &killed && number == '6', "{context}");
        let written = Engine::open_with(&db, fast()).map(|engine| {
            assert_eq!(dump(&engine), expected, "{context}");
            assert_eq!(engine.stats().retired_segments, retired, "{context}");
        });
        assert_eq!(written.is_ok(), unused, "{context}");
        for error in [read, written].into_iter().filter_map(Result::err) {
            let text = error.to_string();
            for words in ["verify --repair", "missing", &format!("keyspaces/{number}")] {
                assert!(text.contains(words), "{context}: {text}");
            }
        }
        let (engine, report) = Engine::open_to_repair(&db, fast()).unwrap();
        // The journal has what is in no segment.
        assert_eq!(dump(&engine), expected, "{context}: {report:?}");
        assert_eq!(engine.stats().pending_records, 1, "{context}: {report:?}");
        engine.verify(true, |_, _| {}).unwrap();
        assert_sound(&engine);
        assert!(unused || !report.done.is_empty(), "{context}");
        drop(engine);
        fs::remove_dir_all(&db).unwrap();
    }
}

/// A kill while the store makes a keyspace, as after an update of the host, leaves some of this.
#[test]
fn keyspace_whose_making_was_cut_short_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let engine = open(&live);
    engine.put(b"ns", b"k", b"v").unwrap();
    let killed = dir.path().join("killed");
    copy(&live, &killed);
    drop(engine);
    for (n, base) in [&live, &killed].into_iter().enumerate() {
        for (m, files) in [&[][..], &["v0"], &["v0", ".tmpAbC"]].into_iter().enumerate() {
            let db = dir.path().join(format!("{n}-{m}"));
            copy(base, &db);
            let half = db.join("records/keyspaces/10");
            fs::create_dir_all(half.join("tables")).unwrap();
            for file in files {
                fs::write(half.join(file), b"hal").unwrap();
            }
            assert_eq!(dump(&Engine::open_to_read(&db, fast()).unwrap()).len(), 1);
            assert_eq!(dump(&open(&db)).len(), 1);
            assert!(!half.exists());
        }
    }
}

#[test]
fn folder_with_the_name_of_a_segment_is_reported_and_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.put(b"ns", b"k", b"v").unwrap();
    let segment = engine.flush().unwrap().unwrap();
    let expected = dump(&engine);
    let registered = engine.folder.segment(&segment.hash);
    let unknown = engine.folder.segment(&Hash::of(b"unknown"));
    drop(engine);
    let bytes = fs::read(&registered).unwrap();
    fs::remove_file(&registered).unwrap();
    for path in [&registered, &unknown] {
        fs::create_dir(path).unwrap();
        fs::write(path.join("precious"), "").unwrap();
    }
    let reader = Engine::open_to_read(dir.path(), fast()).unwrap();
    let found = reader.verify(false, |_, _| {}).unwrap().problems;
    let texts: Vec<_> = found.iter().map(ToString::to_string).collect();
    let says = |words: &str| texts.iter().filter(|text| text.contains(words)).count();
    assert_eq!((says("is missing or damaged"), says("and is a folder")), (1, 1), "{texts:?}");
    drop(reader);
    let (engine, _) = Engine::open_to_repair(dir.path(), fast()).unwrap();
    for path in [&registered, &unknown] {
        let kept = dir.path().join("quarantine").join(path.file_name().unwrap());
        assert!(!path.exists() && kept.join("precious").exists());
    }
    assert!(!apply(&engine, &bytes).unwrap().duplicate, "a peer brings it again");
    assert_eq!(dump(&engine), expected);
    assert_sound(&engine);
}

/// As by `rm -r db/*; cp -a backup/. db/` beside a host that runs, or with the files written over.
#[test]
fn files_that_are_replaced_under_an_open_database_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (live, backup) = (dir.path().join("live"), dir.path().join("backup"));
    let (_, expected) = database(&backup);
    let remove_all = |db: &Path| {
        for entry in fs::read_dir(db).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() { fs::remove_dir_all(entry) } else { fs::remove_file(entry) }
                .unwrap();
        }
    };
    let remove_records = |db: &Path| fs::remove_dir_all(db.join("records")).unwrap();
    let remove_lock = |db: &Path| fs::remove_file(db.join("LOCK")).unwrap();
    let keep = |_: &Path| {};
    let removals: [&dyn Fn(&Path); 4] = [&remove_all, &remove_records, &remove_lock, &keep];
    for (n, removal) in removals.into_iter().enumerate() {
        let db = live.join(n.to_string());
        copy(&backup, &db);
        let engine = open(&db);
        // Retires the segments of the backup.
        engine.put(b"ns", b"e", b"later").unwrap();
        engine.flush().unwrap();
        compact(&engine);
        engine.check_files().unwrap();
        removal(&db);
        // Over what is there, where it is.
        copy(&backup, &db);
        let before = crate::disk::Image::read(&db).unwrap();

        if n < 2 {
            let error = engine.put(b"ns", b"f", b"v").unwrap_err();
            assert!(matches!(error, EngineError::Replaced), "{n}: {error}");
        }
        let error = engine.check_files().unwrap_err();
        assert!(matches!(error, EngineError::Replaced), "{n}: {error}");
        assert!(engine.put(b"ns", b"f", b"v").is_err(), "{n}");
        assert!(engine.poisoned().unwrap().contains("replaced"), "{n}");
        engine.remove_leaving();
        drop(engine);
        assert!(crate::disk::Image::read(&db).unwrap() == before, "{n}: nothing is touched");
        if n == 0 {
            let engine = open(&db);
            assert_eq!(dump(&engine), expected);
            assert_sound(&engine);
        }
    }
}

/// Whoever opens a pipe waits for ever.
#[test]
fn pipe_or_folder_in_the_place_of_a_file_of_the_store_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let (_, expected) = database(&whole);
    for name in ["clean-stop", "acknowledged", "version", "keyspaces/1/current", "keyspaces/2/v0"] {
        for pipe in [true, false] {
            let db = dir.path().join("db");
            copy(&whole, &db);
            let path = db.join("records").join(name);
            fs::remove_file(&path).unwrap();
            if pipe {
                let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
                assert!(made.success());
            } else {
                fs::create_dir(&path).unwrap();
            }
            for error in [
                Engine::open_with(&db, fast()).unwrap_err(),
                Engine::open_to_read(&db, fast()).unwrap_err(),
            ] {
                let text = error.to_string();
                assert!(text.contains("verify --repair") && text.contains(name), "{text}");
            }
            let (engine, report) = Engine::open_to_repair(&db, fast()).unwrap();
            assert_eq!(dump(&engine), expected, "{name}: {report:?}");
            assert_eq!(engine.stats().pending_records, 2, "{name}: {report:?}");
            assert_eq!(engine.verify(false, |_, _| {}).unwrap().count, 0);
            drop(engine);
            fs::remove_dir_all(&db).unwrap();
        }
    }
}

/// As where a backup tool puts back some of the files.
/// A database with two pending writes, and what it was a while before. Also returns the numbers of
/// the keyspaces that have changed since.
fn with_older(dir: &Path) -> (std::path::PathBuf, std::path::PathBuf, Vec<u64>, Dump) {
    let (db, old) = (dir.join("db"), dir.join("old"));
    database(&db);
    copy(&db, &old);
    let engine = open(&db);
    for n in 0..3_u8 {
        engine.put(b"ns", b"later", &[n]).unwrap();
        engine.flush().unwrap();
    }
    apply(&engine, &stamped(Duration::ZERO)).unwrap();
    engine.drain(&mut engine.writer()).unwrap();
    engine.put(b"ns", b"later", b"pending").unwrap();
    let expected = dump(&engine);
    drop(engine);
    let version = |db: &Path, n: u64| inspect::version_number(&db.join("records"), n).unwrap();
    let changed: Vec<_> = (0..10).filter(|&n| version(&old, n) < version(&db, n)).collect();
    assert!(changed.contains(&1), "{changed:?}");
    (db, old, changed, expected)
}

/// Puts the folder of a keyspace into the place of that of another database.
fn put_keyspace(from: &Path, to: &Path, number: u64) {
    let folder = |db: &Path| db.join(format!("records/keyspaces/{number}"));
    fs::remove_dir_all(folder(to)).unwrap();
    copy(&folder(from), &folder(to));
}

#[test]
fn files_of_a_store_that_are_older_than_its_last_stop_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (db, old, changed, expected) = with_older(dir.path());
    for case in 0..=changed.len() {
        let broken = dir.path().join("broken");
        copy(&db, &broken);
        match changed.get(case) {
            Some(&n) => put_keyspace(&old, &broken, n),
            // The journal and the mark of an earlier stop.
            None => {
                for name in ["records/0.jnl", "records/clean-stop"] {
                    fs::copy(old.join(name), broken.join(name)).unwrap();
                }
            }
        }
        for error in [
            Engine::open_with(&broken, fast()).unwrap_err(),
            Engine::open_to_read(&broken, fast()).unwrap_err(),
        ] {
            assert!(matches!(error, EngineError::Damaged { .. }), "{case}: {error}");
        }
        let (engine, report) = Engine::open_to_repair(&broken, fast()).unwrap();
        let found = dump(&engine);
        let lost = expected.iter().filter(|(key, record)| found.get(*key) != Some(*record)).count();
        // The write that is in no segment is gone with its journal.
        let gone = usize::from(case == changed.len());
        assert_eq!((found.len(), lost), (expected.len(), gone), "{case}: {report:?}");
        assert!(gone == 0 || !report.lost.is_empty(), "{report:?}");
        assert_sound(&engine);
        drop(engine);
        fs::remove_dir_all(&broken).unwrap();
    }
}

/// Nothing has noted which lists of tables there were.
#[test]
fn keyspaces_that_are_older_than_the_rest_after_a_kill_cost_no_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (db, old, changed, expected) = with_older(dir.path());
    for n in changed {
        let broken = dir.path().join("broken");
        copy(&db, &broken);
        fs::remove_file(broken.join("records/clean-stop")).unwrap();
        put_keyspace(&old, &broken, n);
        let files = segment_files(&broken);
        let compacted = Engine::open_with(&broken, fast()).and_then(|engine| {
            engine.compact(&RateLimiter::unbounded())?;
            let found = dump(&engine);
            assert!(found == expected, "{n}: it says that all is well");
            Ok(())
        });
        if let Err(error) = compacted {
            assert!(error.is_damage() && error.to_string().contains("verify --repair"), "{error}");
            assert_eq!(segment_files(&broken), files, "{n}: {error}");
            let (engine, report) = Engine::open_to_repair(&broken, fast()).unwrap();
            engine.verify(true, |_, _| {}).unwrap();
            assert_eq!(dump(&engine), expected, "{n}: {report:?}");
            assert_sound(&engine);
        }
        fs::remove_dir_all(&broken).unwrap();
    }
}

/// The record store of a node that was killed has lost a local write that is in no segment.
#[test]
fn pending_write_that_the_store_has_lost_is_told() {
    for older in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        for key in [b"a", b"b"] {
            engine.put(b"ns", key, b"first").unwrap();
        }
        let key = record::store_key(b"ns", b"a").unwrap();
        let first = engine.store.records.get(&key).unwrap().unwrap();
        engine.flush().unwrap();
        engine.put(b"ns", b"a", b"second").unwrap();
        let mut batch = engine.store.batch(PersistMode::SyncAll);
        match older {
            true => batch.insert(&engine.store.records, key.as_slice(), &*first),
            false => batch.remove(&engine.store.records, key.as_slice()),
        }
        engine.store.commit(batch).unwrap();
        assert!(matches!(engine.flush().unwrap_err(), EngineError::Corrupt(_)));
        drop(engine);
        for mark in [true, false] {
            let text = Engine::open_with(dir.path(), fast()).unwrap_err().to_string();
            assert!(
                text.contains("of 1 local writes") && text.contains("lost 1"),
                "{mark}: {text}"
            );
            let _ = fs::remove_file(dir.path().join("records/clean-stop"));
        }
        let (engine, report) = Engine::open_to_repair(dir.path(), fast()).unwrap();
        assert!(report.lost.iter().any(|line| line.contains("1 local writes")), "{report:?}");
        engine.verify(true, |_, _| {}).unwrap();
        assert_sound(&engine);
        assert_eq!(engine.get(b"ns", b"a").unwrap().unwrap(), b"first");
    }
}

#[test]
fn repair_that_is_stopped_says_what_it_lost_when_it_is_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let (db, killed) = (dir.path().join("db"), dir.path().join("killed"));
    let (journal, _) = database(&db);
    let end = journal::end(&journal, 0).unwrap();
    let mut bytes = fs::read(&journal).unwrap();
    bytes[usize::try_from(end).unwrap() - 20] ^= 1;
    fs::write(&journal, bytes).unwrap();

    let (engine, first) = Engine::open_to_repair(&db, fast()).unwrap();
    assert!(!first.lost.is_empty());
    copy(&db, &killed);
    for open in [Engine::open_with(&killed, fast()), Engine::open_to_read(&killed, fast())] {
        let text = open.unwrap_err().to_string();
        assert!(text.contains("a repair of it was stopped"), "{text}");
    }
    for _ in 0..2 {
        let (_, again) = Engine::open_to_repair(&killed, fast()).unwrap();
        let known = |line: &String| again.lost.contains(line);
        assert!(first.lost.iter().any(known) && !again.done.is_empty(), "{first:?} {again:?}");
    }
    engine.end_repair().unwrap();
    drop(engine);
    let (_, after) = Engine::open_to_repair(&db, fast()).unwrap();
    assert!(after.lost.is_empty() && after.done.is_empty(), "{after:?}");
    open(&db);
}

#[test]
fn repair_that_is_stopped_between_two_record_stores_loses_neither() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    let (_, expected) = database(&db);
    fs::remove_dir_all(db.join("records/keyspaces/3")).unwrap();
    let (engine, report) = Engine::open_to_repair(&db, fast()).unwrap();
    assert_eq!(dump(&engine), expected, "{report:?}");
    drop(engine);
    fs::rename(db.join("records"), db.join("records.new")).unwrap();
    let (engine, report) = Engine::open_to_repair(&db, fast()).unwrap();
    assert_eq!(dump(&engine), expected, "{report:?}");
    assert_eq!(engine.stats().pending_records, 2);
    assert!(!report.lost.is_empty(), "{report:?}");
}

#[test]
fn journal_of_another_database_is_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let (db, other) = (dir.path().join("db"), dir.path().join("other"));
    let (journal, _) = database(&db);
    let (theirs, _) = database(&other);
    fs::copy(theirs, journal).unwrap();
    Engine::open_with(&db, fast()).unwrap_err();
    let (_, report) = Engine::open_to_repair(&db, fast()).unwrap();
    assert!(report.lost.iter().any(|line| line.contains("is whole")), "{report:?}");
}

#[test]
fn segment_file_of_another_size_is_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    let cut = |file: &Path| File::options().write(true).open(file).unwrap().set_len(7).unwrap();
    let empty = |file: &Path| drop(File::create(file).unwrap());
    let append = |file: &Path| {
        File::options().append(true).open(file).unwrap().write_all(b"more").unwrap();
    };
    let damage: [&dyn Fn(&Path); 3] = [&cut, &empty, &append];
    for (n, damage) in damage.into_iter().enumerate() {
        for repair in [true, false] {
            let db = dir.path().join(format!("{n}-{repair}"));
            let (_, expected) = database(&db);
            let name = fs::read_dir(db.join("segments")).unwrap().next().unwrap().unwrap();
            damage(&name.path());
            let engine = match repair {
                true => Engine::open_to_repair(&db, fast()).unwrap().0,
                false => open(&db),
            };
            assert!(!name.path().exists() && db.join("quarantine").join(name.file_name()).exists());
            engine.verify(true, |_, _| {}).unwrap();
            drop(engine);
            let reader = Engine::open_to_read(&db, fast()).unwrap();
            assert_sound(&reader);
            assert_eq!(dump(&reader), expected);
        }
    }
}

/// No number shows it: the later writes are there.
#[test]
fn repair_says_that_a_write_in_the_middle_of_a_journal_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let engine = open(&live);
    for value in ["old", "damaged", "later"] {
        let key: &[u8] = if value == "later" { b"other" } else { b"key" };
        engine.put(b"ns", key, value.as_bytes()).unwrap();
    }
    let killed = dir.path().join("killed");
    copy(&live, &killed);
    drop(engine);
    for db in [live, killed] {
        let journal = inspect::journals(&db.join("records")).unwrap().pop().unwrap();
        let mut bytes = fs::read(&journal).unwrap();
        let at = bytes.windows(7).position(|bytes| bytes == b"damaged").unwrap();
        bytes[at] ^= 1;
        fs::write(&journal, bytes).unwrap();
        let (engine, report) = Engine::open_to_repair(&db, fast()).unwrap();
        assert_eq!(dump(&engine).len(), 2);
        assert!(report.lost.iter().any(|line| line.contains("bytes of the journal")), "{report:?}");
    }
}

/// It is too short to have an end, and the store can't be opened.
#[test]
fn table_that_is_cut_or_gone_costs_no_write_that_is_in_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    let engine = open(&db);
    apply(&engine, &stamped(Duration::ZERO)).unwrap();
    engine.drain(&mut engine.writer()).unwrap();
    engine.put(b"ns", b"late", b"pending").unwrap();
    let expected = dump(&engine);
    drop(engine);
    for len in [Some(0), Some(30), None] {
        let broken = dir.path().join("broken");
        copy(&db, &broken);
        // Somebody's, beside them.
        fs::write(broken.join("records/keyspaces/2/tables/1~"), "").unwrap();
        let tables = fs::read_dir(broken.join("records/keyspaces/1/tables")).unwrap();
        for table in tables.map(|entry| entry.unwrap().path()) {
            match len {
                Some(len) => File::options().write(true).open(table).unwrap().set_len(len),
                None => fs::remove_file(table),
            }
            .unwrap();
        }
        let (engine, report) = repair_store(&broken);
        assert_eq!(dump(&engine), expected, "{report:?}");
        assert_eq!(engine.stats().pending_records, 1, "{report:?}");
        drop(engine);
        fs::remove_dir_all(&broken).unwrap();
    }
}

#[test]
fn journal_that_is_removed_under_an_open_database_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = database(dir.path());
    let engine = open(dir.path());
    engine.check_files().unwrap();
    fs::remove_file(journal).unwrap();
    assert!(matches!(engine.check_files().unwrap_err(), EngineError::Replaced));
    assert!(engine.put(b"ns", b"k", b"v").is_err());
}

/// What is acknowledged goes to the one that has lost its name.
#[test]
fn other_file_in_the_place_of_the_journal_takes_no_write() {
    let dir = tempfile::tempdir().unwrap();
    for other in ["copy", "folder"] {
        let db = dir.path().join(other);
        let engine = open(&db);
        engine.put(b"ns", b"k", b"v").unwrap();
        let journal = db.join("records/0.jnl");
        let bytes = fs::read(&journal).unwrap();
        fs::remove_file(&journal).unwrap();
        match other {
            "copy" => fs::write(&journal, bytes).unwrap(),
            _ => fs::create_dir(&journal).unwrap(),
        }
        let error = engine.put(b"ns", b"k2", b"v").unwrap_err();
        assert!(matches!(error, EngineError::Replaced), "{error:?}");
        assert!(engine.check_files().is_err());
        drop(engine);
        if other == "copy" {
            // What was refused is not missed.
            assert_eq!(open(&db).get(b"ns", b"k").unwrap().unwrap(), b"v");
        }
    }
}

/// A start leaves it where it is, and the segment is missing.
#[test]
fn damaged_file_of_a_segment_that_is_not_drained_goes_to_quarantine_in_a_repair() {
    let dir = tempfile::tempdir().unwrap();
    let (db, killed) = (dir.path().join("db"), dir.path().join("killed"));
    let engine = open(&db);
    engine.put(b"ns", b"own", b"1").unwrap();
    let bytes = stamped(Duration::ZERO);
    apply(&engine, &bytes).unwrap();
    copy(&db, &killed);
    let file = killed.join(format!("segments/{}.dat", Hash::of(&bytes)));
    let mut damaged = bytes.clone();
    damaged[30] ^= 1;
    fs::write(&file, damaged).unwrap();
    let engine = open(&killed);
    assert!(file.exists(), "a start moves nothing");
    let report = engine.verify(true, |_, _| {}).unwrap();
    assert!(report.count > 0);
    assert!(!file.exists());
    assert_eq!(fs::read_dir(killed.join("quarantine")).unwrap().count(), 1);
    drop(engine);
    let engine = open(&killed);
    assert!(engine.losses().is_empty(), "{:?}", engine.losses());
    apply(&engine, &bytes).unwrap();
    assert_eq!(dump(&engine).len(), 2);
    assert_sound(&engine);
}

/// It could not be read when the database was opened.
#[test]
fn segment_that_can_be_read_again_is_missing_no_more_after_a_repair() {
    let dir = tempfile::tempdir().unwrap();
    let (db, killed) = (dir.path().join("db"), dir.path().join("killed"));
    let engine = open(&db);
    let bytes = stamped(Duration::ZERO);
    apply(&engine, &bytes).unwrap();
    copy(&db, &killed);
    let file = killed.join(format!("segments/{}.dat", Hash::of(&bytes)));
    fs::write(&file, "").unwrap();
    let engine = open(&killed);
    assert_eq!((engine.manifest().len(), dump(&engine).len()), (0, 0));
    fs::write(&file, &bytes).unwrap();
    engine.verify(true, |_, _| {}).unwrap();
    assert_eq!((engine.manifest().len(), dump(&engine).len()), (1, 1));
    drop(engine);
    let engine = open(&killed);
    assert_eq!((engine.manifest().len(), dump(&engine).len()), (1, 1));
    assert_sound(&engine);
}

fn remove_any(path: &Path) {
    match path.is_dir() {
        true => fs::remove_dir_all(path).unwrap(),
        false => fs::remove_file(path).unwrap(),
    }
}

pub(super) fn put_folder(path: &Path) {
    remove_any(path);
    fs::create_dir(path).unwrap();
}

/// Damages the database in a folder.
pub(super) type Damage = Box<dyn Fn(&Path)>;

/// Ways in which the files of a record store can be damaged, and none.
pub(super) fn store_damages() -> Vec<Damage> {
    fn list(db: &Path) -> std::path::PathBuf {
        let number = inspect::version_number(&db.join("records"), 0).unwrap();
        db.join(format!("records/keyspaces/0/v{number}"))
    }
    fn tables(db: &Path) -> Vec<std::path::PathBuf> {
        let tables = fs::read_dir(db.join("records/keyspaces/0/tables")).unwrap();
        tables.map(|table| table.unwrap().path()).collect()
    }
    vec![
        Box::new(|db| fs::write(list(db), "").unwrap()),
        Box::new(|db| remove_any(&db.join("records/keyspaces/0/current"))),
        Box::new(|db| remove_any(&db.join("records/keyspaces/5"))),
        Box::new(|db| put_folder(&db.join("records/version"))),
        Box::new(|db| remove_any(&db.join("records/version"))),
        Box::new(|db| put_folder(&db.join("records/keyspaces/1/current"))),
        Box::new(|db| tables(db).iter().for_each(|table| fs::write(table, "").unwrap())),
        Box::new(|db| {
            let file = File::options().write(true).open(list(db)).unwrap();
            file.set_len(10).unwrap();
        }),
        Box::new(|_| {}),
    ]
}

/// An older write, which is in a segment, comes back as one that is pending.
#[test]
fn new_store_of_an_older_journal_does_not_hide_what_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (db, old) = (dir.path().join("db"), dir.path().join("old"));
    let mut engine = open(&db);
    engine.put(b"ns", b"k1", b"v1").unwrap();
    engine.flush().unwrap();
    engine.put(b"ns", b"k2", b"v2").unwrap();
    drop(engine);
    copy(&db, &old);
    engine = open(&db);
    engine.flush().unwrap();
    engine.put(b"ns", b"k3", b"precious").unwrap();
    drop(engine);
    let journal = "records/0.jnl";
    for (n, damage) in store_damages().iter().enumerate() {
        for case in ["cut", "zeroed", "older", "gone", "folder"] {
            let broken = dir.path().join(format!("{n}-{case}"));
            copy(&db, &broken);
            let file = broken.join(journal);
            let len = journal::end(&old.join(journal), 0).unwrap();
            match case {
                "cut" => File::options().write(true).open(&file).unwrap().set_len(len).unwrap(),
                "zeroed" => {
                    let mut bytes = fs::read(&file).unwrap();
                    bytes[usize::try_from(len).unwrap()..].fill(0);
                    fs::write(&file, bytes).unwrap();
                }
                "older" => drop(fs::copy(old.join(journal), &file).unwrap()),
                "gone" => remove_any(&file),
                _ => put_folder(&file),
            }
            damage(&broken);
            let (engine, report) = Engine::open_to_repair(&broken, fast()).unwrap();
            engine.verify(true, |_, _| {}).unwrap();
            assert_eq!(engine.get(b"ns", b"k3").unwrap(), None, "{n} {case}");
            assert_eq!(engine.get(b"ns", b"k1").unwrap().unwrap(), b"v1");
            assert!(!report.lost.is_empty(), "{n} {case}: {report:?}");
            drop(engine);
            fs::remove_dir_all(&broken).unwrap();
        }
    }
}

/// Whatever is in the place of a file, a repair gets by it.
#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_are_damage_that_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    let (_, expected) = database(&db);
    let list = format!("keyspaces/1/v{}", inspect::version_number(&db.join("records"), 1).unwrap());
    let segment = fs::read_dir(db.join("segments")).unwrap().next().unwrap().unwrap().file_name();
    let tables = "keyspaces/1/tables";
    let store =
        ["keyspaces/1/current", &list, tables, "keyspaces/1", "keyspaces", "version", "0.jnl"];
    let all = store.map(|name| Path::new("records").join(name));
    for name in all.into_iter().chain([Path::new("segments").join(&segment)]) {
        for target in ["nowhere", "itself", "file"] {
            let broken = dir.path().join("broken");
            copy(&db, &broken);
            let path = broken.join(&name);
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.unwrap();
            let to = if target == "itself" { path.as_path() } else { Path::new(target) };
            match target {
                "file" => fs::write(&path, "").unwrap(),
                _ => std::os::unix::fs::symlink(to, &path).unwrap(),
            }
            if name.starts_with("segments") {
                // With a new record store.
                fs::write(broken.join("records/keyspaces/1/current"), "").unwrap();
                fs::write(broken.join("records/keyspaces/0/current"), "").unwrap();
            }
            let context = format!("{} to {target}", name.display());
            assert!(Engine::open_to_read(&broken, fast()).is_err(), "{context}");
            let (engine, report) = Engine::open_to_repair(&broken, fast())
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            engine.verify(true, |_, _| {}).unwrap();
            let whole = dump(&engine) == expected;
            assert!(whole || !report.lost.is_empty() || !engine.lost().unwrap().is_empty());
            engine.end_repair().unwrap();
            drop(engine);
            let reader = Engine::open_to_read(&broken, fast()).unwrap();
            let left = reader.verify(false, |_, _| {}).unwrap().problems;
            let lost = |problem: &Problem| matches!(problem, Problem::Lost(_));
            assert!(left.iter().all(lost), "{context}: {left:?}");
            drop(reader);
            fs::remove_dir_all(&broken).unwrap();
        }
    }
}

#[test]
fn folder_in_the_place_of_a_segment_is_noticed_by_who_has_it_open() {
    let dir = tempfile::tempdir().unwrap();
    database(dir.path());
    let engine = open(dir.path());
    let hash = engine.manifest()[0].hash;
    let path = dir.path().join(format!("segments/{hash}.dat"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    engine.look_for_lost_files().unwrap();
    assert_eq!(engine.unreadable(), [hash]);
    assert!(!path.exists(), "it is kept in quarantine/");
}
