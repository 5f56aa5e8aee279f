//! What the faulty disk itself promises to the tests that use it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::*;

struct Setup {
    _dir: tempfile::TempDir,
    root: PathBuf,
    crashed: PathBuf,
    disk: FaultyDisk,
    shared: Arc<dyn Disk>,
}

impl Setup {
    fn new() -> Self {
        let dir = test_folder();
        let (root, crashed) = (dir.path().join("root"), dir.path().join("crashed"));
        fs::create_dir_all(root.join("old")).unwrap();
        fs::write(root.join("old/a"), b"old").unwrap();
        let disk = FaultyDisk::new(&root);
        let shared = disk.shared();
        Self { _dir: dir, root, crashed, disk, shared }
    }

    /// What all of 50 power losses make of a file.
    fn outcomes(&self, path: &str) -> Vec<Option<Vec<u8>>> {
        let mut outcomes: Vec<_> = (0..50).map(|seed| self.crash(seed, path)).collect();
        outcomes.sort();
        outcomes.dedup();
        outcomes
    }

    fn crash(&self, seed: u64, path: &str) -> Option<Vec<u8>> {
        let _ = fs::remove_dir_all(&self.crashed);
        self.disk.crash(seed, &self.crashed);
        fs::read(self.crashed.join(path)).ok()
    }

    fn create(&self, bytes: &[u8]) -> (Box<dyn DiskFile>, TemporaryName) {
        let (mut file, name) = temporary(&self.shared, &self.root.join("old"), "t", "").unwrap();
        file.write_all(bytes).unwrap();
        (file, name)
    }
}

#[test]
fn a_sync_that_is_skipped_makes_nothing_durable() {
    let setup = Setup::new();
    setup.disk.skip_syncs(Path::new("old"));
    let (file, name) = setup.create(b"new");
    file.sync().unwrap();
    name.persist(&setup.root.join("old/b")).unwrap();
    setup.shared.sync_dir(&setup.root.join("old")).unwrap();
    let outcomes = setup.outcomes("old/b");
    assert!(outcomes.contains(&None), "the name may be lost");
    assert!(outcomes.contains(&Some(Vec::new())), "and the bytes without it");
}

#[test]
fn what_was_there_and_what_is_synced_survives() {
    let setup = Setup::new();
    let (file, name) = setup.create(b"new");
    file.sync().unwrap();
    name.persist(&setup.root.join("old/b")).unwrap();
    setup.shared.sync_dir(&setup.root.join("old")).unwrap();
    assert_eq!(setup.outcomes("old/a"), [Some(b"old".to_vec())]);
    assert_eq!(setup.outcomes("old/b"), [Some(b"new".to_vec())]);
}

#[test]
fn bytes_that_are_not_synced_are_lost_or_torn_or_there() {
    let setup = Setup::new();
    let bytes = vec![7; 10_000];
    let (mut file, name) = setup.create(&bytes[..3000]);
    file.sync().unwrap();
    file.write_all(&bytes[3000..]).unwrap();
    name.persist(&setup.root.join("old/b")).unwrap();
    setup.shared.sync_dir(&setup.root.join("old")).unwrap();
    let outcomes = setup.outcomes("old/b");
    assert!(outcomes.iter().flatten().all(|found| found.starts_with(&bytes[..3000])));
    let lens: Vec<_> = outcomes.iter().flatten().map(Vec::len).collect();
    assert!(lens.contains(&3000) && lens.iter().any(|len| (3001..10_000).contains(len)));
    let torn = |found: &&Vec<u8>| found.len() == 10_000 && **found != bytes;
    assert!(outcomes.iter().flatten().any(|found| *found == bytes));
    assert!(outcomes.iter().flatten().filter(torn).count() > 1);
}

#[test]
fn names_that_are_not_synced_are_old_or_new_each_by_itself() {
    let setup = Setup::new();
    let (file, name) = setup.create(b"new");
    file.sync().unwrap();
    setup.shared.hard_link(&setup.root.join("old/a"), &setup.root.join("old/link")).unwrap();
    name.persist(&setup.root.join("old/a")).unwrap();
    setup.shared.make_dir(&setup.root.join("x/y")).unwrap();
    let (old, new) = (Some(b"old".to_vec()), Some(b"new".to_vec()));
    assert_eq!(setup.outcomes("old/a"), [new, old.clone()]);
    assert_eq!(setup.outcomes("old/link"), [None, old]);
    let mut kinds = std::collections::HashSet::new();
    for seed in 0..50 {
        setup.crash(seed, "");
        let there = |path: &str| setup.crashed.join(path).exists();
        kinds.insert((there("old/link"), there("x"), there("x/y")));
    }
    assert_eq!(kinds.len(), 6, "{kinds:?}");
    setup.shared.sync_dir(&setup.root.join("x")).unwrap();
    setup.crash(0, "");
    assert!(!setup.crashed.join("x").exists(), "its own name is not synced");
}

#[test]
fn a_sync_after_a_failed_one_succeeds_and_saves_nothing() {
    let setup = Setup::new();
    let (mut file, name) = setup.create(b"new");
    name.persist(&setup.root.join("old/b")).unwrap();
    setup.shared.sync_dir(&setup.root.join("old")).unwrap();
    setup.disk.plan(0, Fault::Io);
    file.sync().unwrap_err();
    file.sync().unwrap();
    assert_eq!(setup.outcomes("old/b"), [Some(vec![0; 3])]);
    assert_eq!(fs::read(setup.root.join("old/b")).unwrap(), b"new", "in memory it is there");
    file.write_all(b"er").unwrap();
    file.sync().unwrap();
    assert_eq!(setup.outcomes("old/b"), [Some(b"\0\0\0er".to_vec())]);
}

#[test]
fn a_full_disk_writes_a_part_and_then_fails_once_or_until_there_is_room() {
    let setup = Setup::new();
    let (mut file, _name) = setup.create(b"");
    setup.disk.plan(0, Fault::Full);
    assert_eq!(file.write(b"1234").unwrap(), 2);
    assert_eq!(file.write(b"34").unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.write(b"34").unwrap(), 2);
    setup.disk.set_room(Some(3));
    assert_eq!(file.write(b"5678").unwrap(), 3);
    assert_eq!(file.write(b"8").unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert!(setup.shared.create(&setup.root, "t", "").is_err());
    setup.shared.list(&setup.root).unwrap();
    setup.disk.set_room(None);
    file.write_all(b"8").unwrap();
}

#[test]
fn without_power_nothing_changes_any_more() {
    let setup = Setup::new();
    let (mut file, name) = setup.create(b"new");
    fs::create_dir(setup.root.join("records")).unwrap();
    fs::write(setup.root.join("records/0"), b"before").unwrap();
    setup.disk.plan(1, Fault::PowerLoss);
    setup.shared.list(&setup.root).unwrap();
    file.sync().unwrap();
    setup.shared.sync_dir(&setup.root.join("old")).unwrap_err();
    assert!(setup.disk.lost_power());
    fs::write(setup.root.join("records/0"), b"after").unwrap();
    file.sync().unwrap_err();
    file.write(b"x").unwrap_err();
    setup.shared.sync_dir(&setup.root.join("old")).unwrap_err();
    setup.shared.list(Path::new("/")).unwrap_err();
    name.persist(&setup.root.join("old/b")).unwrap_err();
    assert_eq!(setup.outcomes("records/0"), [Some(b"before".to_vec())]);
    assert_eq!(setup.outcomes("old/b"), [None]);
    assert_eq!(setup.outcomes("old/a"), [Some(b"old".to_vec())]);
}

#[test]
fn an_image_is_the_folder_with_holes_and_all() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(from.join("empty")).unwrap();
    let file = File::create(from.join("sparse")).unwrap();
    file.set_len(10 << 20).unwrap();
    drop(file);
    let mut bytes = vec![0; 20_000];
    bytes[19_990] = 1;
    fs::write(from.join("bytes"), &bytes).unwrap();
    Image::read(&from).unwrap().write(&to).unwrap();
    assert!(to.join("empty").is_dir());
    assert_eq!(fs::metadata(to.join("sparse")).unwrap().len(), 10 << 20);
    assert_eq!(fs::read(to.join("bytes")).unwrap(), bytes);
}
