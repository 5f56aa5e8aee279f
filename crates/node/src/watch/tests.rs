//! What becomes of a file, and what is delivered of it.

use std::fs::File;
use std::io::Write as _;
use std::sync::mpsc::{TryRecvError, channel};

use edgestore_engine::testing::LONG;

use super::*;

const DEBOUNCE: Duration = Duration::from_millis(60);

struct Test {
    folder: tempfile::TempDir,
    path: PathBuf,
    delivered: Receiver<Vec<u8>>,
    watch: FileWatch,
}

impl Test {
    /// A watched file with the word `first`. No look goes without a notice for an hour.
    fn notices() -> Self {
        Self::new(Pace { debounce: DEBOUNCE, poll: Duration::from_secs(3600), notices: true })
    }

    fn polls() -> Self {
        Self::new(Pace { debounce: DEBOUNCE, poll: DEBOUNCE / 2, notices: false })
    }

    fn both() -> Self {
        Self::new(Pace { debounce: DEBOUNCE, poll: DEBOUNCE / 2, notices: true })
    }

    fn new(pace: Pace) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "first").unwrap();
        let (sender, delivered) = channel();
        let deliver = move |bytes| sender.send(bytes).unwrap();
        let watch = FileWatch::with(&path, b"first", pace, deliver).unwrap();
        Self { folder, path, delivered, watch }
    }

    /// Moves a file with this text over the watched one.
    fn replace(&self, text: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.path).unwrap();
    }

    #[track_caller]
    fn delivers(&self, text: &str) {
        let bytes = self.delivered.recv_timeout(LONG).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
    }

    #[track_caller]
    fn delivers_nothing(&self) {
        thread::sleep(DEBOUNCE * 4);
        assert_eq!(self.delivered.try_recv(), Err(TryRecvError::Empty));
    }
}

#[test]
fn a_file_that_is_written_or_renamed_over_is_delivered() {
    for test in [Test::notices(), Test::polls(), Test::both()] {
        fs::write(&test.path, "second").unwrap();
        test.delivers("second");
        test.replace("third!");
        test.delivers("third!");
        // Of the same length.
        fs::write(&test.path, "fourth").unwrap();
        test.delivers("fourth");
        test.delivers_nothing();
    }
}

#[test]
fn what_the_caller_has_already_is_not_delivered() {
    let test = Test::both();
    test.delivers_nothing();
    fs::write(&test.path, "first").unwrap();
    test.replace("first");
    test.delivers_nothing();
}

#[test]
fn a_change_before_the_watch_began_is_delivered() {
    let Test { folder, path, watch, .. } = Test::notices();
    drop(watch);
    fs::write(&path, "second").unwrap();
    let (sender, delivered) = channel();
    let deliver = move |bytes| sender.send(bytes).unwrap();
    let _watch = FileWatch::start(&path, b"first", deliver).unwrap();
    assert_eq!(delivered.recv_timeout(LONG).unwrap(), b"second");
    drop(folder);
}

#[test]
fn of_many_writes_in_a_row_the_last_is_delivered() {
    let test = Test::both();
    for i in 0..200 {
        fs::write(&test.path, format!("write {i}")).unwrap();
        thread::sleep(DEBOUNCE / 30);
    }
    let mut last = Vec::new();
    while last != b"write 199" {
        last = test.delivered.recv_timeout(LONG).unwrap();
    }
    test.delivers_nothing();
}

#[test]
fn a_file_that_is_half_written_is_waited_for() {
    let test = Test::both();
    let mut file = File::create(&test.path).unwrap();
    test.delivers_nothing();
    for part in ["half ", "and ", "half"] {
        file.write_all(part.as_bytes()).unwrap();
        thread::sleep(DEBOUNCE / 10);
    }
    let mut last = Vec::new();
    while last != b"half and half" {
        last = test.delivered.recv_timeout(LONG).unwrap();
    }
}

#[test]
fn a_file_that_goes_and_comes_back_is_delivered_if_it_is_another() {
    for test in [Test::notices(), Test::polls()] {
        fs::remove_file(&test.path).unwrap();
        test.delivers_nothing();
        fs::write(&test.path, "first").unwrap();
        test.delivers_nothing();
        fs::remove_file(&test.path).unwrap();
        test.delivers_nothing();
        fs::write(&test.path, "back").unwrap();
        test.delivers("back");
    }
}

#[test]
fn a_folder_that_goes_and_comes_back_is_found_again() {
    let test = Test::both();
    let away = test.folder.path().with_extension("away");
    fs::rename(test.folder.path(), &away).unwrap();
    test.delivers_nothing();
    fs::create_dir(test.folder.path()).unwrap();
    fs::write(&test.path, "second").unwrap();
    test.delivers("second");
    fs::remove_dir_all(away).unwrap();
}

#[test]
fn a_link_is_followed_to_where_it_leads_now() {
    use std::os::unix::fs::symlink;
    let test = Test::both();
    let at = |name: &str| test.folder.path().join(name);
    for version in ["v1", "v2"] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("file"), version).unwrap();
    }
    // As a mounted ConfigMap: the name is a link through a link that is swapped.
    symlink("v1", at("data")).unwrap();
    symlink("data/file", at("link")).unwrap();
    fs::rename(at("link"), &test.path).unwrap();
    test.delivers("v1");
    symlink("v2", at("next")).unwrap();
    fs::rename(at("next"), at("data")).unwrap();
    test.delivers("v2");
    // No folder of the path has a notice of this.
    fs::write(at("v2").join("file"), "v3").unwrap();
    test.delivers("v3");
}

#[test]
fn a_watch_that_is_dropped_delivers_no_more() {
    let Test { folder, path, delivered, watch } = Test::both();
    drop(watch);
    fs::write(&path, "second").unwrap();
    assert_eq!(delivered.recv_timeout(DEBOUNCE), Err(RecvTimeoutError::Disconnected));
    drop(folder);
}
