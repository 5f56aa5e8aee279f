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

/// Empty folders and files beneath a folder.
fn empty(dir: &Path) -> Vec<std::path::PathBuf> {
    let (mut found, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        let entries: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap()).collect();
        if entries.is_empty() {
            found.push(dir);
        }
        for entry in entries {
            match entry.metadata().unwrap() {
                meta if meta.is_dir() => dirs.push(entry.path()),
                meta if meta.len() == 0 => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

fn remove(path: &Path) {
    if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) }.unwrap();
}

#[test]
fn a_backup_that_leaves_out_what_is_empty_opens() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let engine = open(&whole);
    engine.put(b"ns", b"k", b"v").unwrap();
    let expected = dump(&engine);
    drop(engine);
    let image = crate::disk::Image::read(&whole).unwrap();
    let names: Vec<_> = empty(&whole)
        .into_iter()
        .map(|path| path.strip_prefix(&whole).unwrap().to_owned())
        .collect();
    for name in ["LOCK", "staging", "segments", "records/lock"] {
        assert!(names.iter().any(|found| found == Path::new(name)), "{name}: {names:?}");
    }
    let each = names.iter().map(|name| vec![name]);
    for (n, left_out) in each.chain([names.iter().collect()]).enumerate() {
        let path = dir.path().join(n.to_string());
        image.write(&path).unwrap();
        left_out.iter().for_each(|name| remove(&path.join(name)));
        let reader = Engine::open_to_read(&path, fast()).unwrap();
        assert_eq!(dump(&reader), expected, "{left_out:?}");
        assert_sound(&reader);
        drop(reader);
        assert!(left_out.iter().all(|name| !path.join(name).exists()), "{left_out:?}");
        let engine = open(&path);
        assert_eq!(dump(&engine), expected, "{left_out:?}");
        engine.flush().unwrap().unwrap();
        assert_sound(&engine);
        assert_eq!(fs::read_dir(path.join("staging")).unwrap().count(), 0, "{left_out:?}");
    }
}

#[test]
fn segments_whose_folder_is_missing_are_absent() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.put(b"ns", b"k", b"v").unwrap();
    let segment = engine.flush().unwrap().unwrap();
    let expected = dump(&engine);
    drop(engine);
    fs::remove_dir_all(dir.path().join("segments")).unwrap();
    let reader = Engine::open_to_read(dir.path(), fast()).unwrap();
    assert_eq!(reader.unreadable(), [segment.hash]);
    let found = reader.verify(false, |_, _| {}).unwrap();
    assert!(found.problems.contains(&Problem::Missing(segment.hash)), "{found:?}");
    drop(reader);
    let (engine, _) = Engine::open_to_repair(dir.path(), fast()).unwrap();
    engine.verify(true, |_, _| {}).unwrap();
    assert_sound(&engine);
    engine.flush().unwrap().unwrap();
    assert_eq!(dump(&engine), expected);
    assert_sound(&engine);
}

#[test]
fn a_database_without_its_format_says_which_file_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.put(b"ns", b"k", b"v").unwrap();
    drop(engine);
    let format = dir.path().join("FORMAT");
    fs::remove_file(&format).unwrap();
    let says = |error: EngineError| {
        let text = error.to_string();
        assert!(text.contains("FORMAT is missing"), "{text}");
        assert!(text.contains("Write \"edgestore-host 2\" into"), "{text}");
    };
    says(Engine::open_to_read(dir.path(), fast()).unwrap_err());
    fs::write(&format, "edgestore-host 2").unwrap();
    let engine = open(dir.path());
    engine.flush().unwrap().unwrap();
    drop(engine);
    fs::remove_file(&format).unwrap();
    says(Engine::open_to_read(dir.path(), fast()).unwrap_err());
    says(Engine::open_with(dir.path(), fast()).unwrap_err());
    says(Engine::open_to_repair(dir.path(), fast()).unwrap_err());
    assert!(!format.exists(), "it was touched");
}
