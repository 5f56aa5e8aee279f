//! What a start finds: its own folder, a foreign one, what a crash left.

use super::*;

#[test]
fn one_engine_at_a_time_and_no_foreign_folder() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let engine = open(&path);
    let error = Engine::open(&path).unwrap_err();
    assert!(matches!(&error, EngineError::Locked { path: locked } if *locked == path));
    drop(engine);
    drop(open(&path));

    fs::write(path.join("FORMAT"), "edgestore-host 3\n").unwrap();
    let error = Engine::open(&path).unwrap_err().to_string();
    assert!(error.contains("edgestore-host 3"), "{error}");

    let project = dir.path().join("project");
    fs::create_dir_all(project.join("staging")).unwrap();
    fs::write(project.join("staging/release-notes"), "precious").unwrap();
    let error = Engine::open(&project).unwrap_err().to_string();
    assert!(error.contains("staging") && error.contains("folder of its own"), "{error}");
    assert!(project.join("staging/release-notes").exists() && !project.join("LOCK").exists());

    let stock = dir.path().join("stock");
    fs::create_dir(&stock).unwrap();
    fs::write(stock.join("manifest.mf"), "").unwrap();
    let error = Engine::open(&stock).unwrap_err().to_string();
    assert!(error.contains("folder of its own"), "{error}");
    assert_eq!(fs::read_dir(&stock).unwrap().count(), 1, "it was touched");
}

/// A kill while a database is being made leaves one of these, and the next start goes on.
#[test]
fn a_half_made_database_is_made_whole() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    drop(open(&whole));
    for (n, left) in ["", "segments", "records.new", "records"].into_iter().enumerate() {
        let path = dir.path().join(n.to_string());
        fs::create_dir_all(path.join("staging")).unwrap();
        fs::write(path.join("LOCK"), "").unwrap();
        fs::write(path.join("staging/fetch-abc.part"), "edgesto").unwrap();
        match left {
            "" => {}
            // What the record store itself can't open.
            "records.new" => {
                fs::create_dir(path.join(left)).unwrap();
                fs::write(path.join("records.new/0.jnl"), "").unwrap();
            }
            "records" => fs::rename(whole.join(left), path.join(left)).unwrap(),
            _ => fs::create_dir(path.join(left)).unwrap(),
        }
        open(&path).put(b"ns", b"k", b"v").unwrap();
        assert_eq!(open(&path).get(b"ns", b"k").unwrap().unwrap(), b"v", "{left}");
        assert!(!path.join("records.new").exists());
    }
    // A whole one without its records is no new one: its segments may be all that is left.
    let error = Engine::open(&whole).unwrap_err().to_string();
    assert!(error.contains("records is missing"), "{error}");
}

#[test]
fn files_and_registrations_agree_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.put(b"ns", b"a", b"1").unwrap();
    let lost = engine.flush().unwrap().unwrap();
    engine.put(b"ns", b"b", b"1").unwrap();
    let cut = engine.flush().unwrap().unwrap();
    engine.put(b"ns", b"c", b"1").unwrap();
    let kept = engine.flush().unwrap().unwrap();
    let file = |hash: &Hash| dir.path().join(format!("segments/{hash}.dat"));
    let bytes = fs::read(file(&lost.hash)).unwrap();
    drop(engine);
    fs::remove_file(file(&lost.hash)).unwrap();
    File::options().write(true).open(file(&cut.hash)).unwrap().set_len(100).unwrap();
    let orphan = file(&Hash::of(b"orphan"));
    fs::write(&orphan, b"renamed, never registered").unwrap();
    fs::write(dir.path().join("staging/fetch-x.part"), b"half").unwrap();

    let engine = open(dir.path());
    assert_eq!(engine.manifest(), std::slice::from_ref(&kept));
    assert_eq!(engine.root(), Hash::root([kept.hash]));
    assert!(!orphan.exists());
    assert!(dir.path().join("quarantine").join(orphan.file_name().unwrap()).exists());
    assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
    assert_eq!(dump(&engine).len(), 3, "records don't depend on segment files");
    assert_eq!(engine.missing(&[lost.hash, kept.hash, cut.hash]), [lost.hash, cut.hash]);
    assert!(engine.open_segment(&lost.hash).unwrap().is_none());

    let applied = apply(&engine, &bytes).unwrap();
    assert_eq!((applied.written, applied.skipped, applied.duplicate), (0, 1, false));
    let hashes: Vec<Hash> = engine.manifest().iter().map(|segment| segment.hash).collect();
    assert_eq!(hashes, [kept.hash, lost.hash]);
}
