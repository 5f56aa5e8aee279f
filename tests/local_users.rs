//! Other users of the machine neither read a database nor lock it nor take its host's place.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod program;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use program::{Folder, Ran, Running, ran, run};

/// The program, run under a umask.
fn under(umask: &str, args: &[&str]) -> Ran {
    let script = format!("umask {umask}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, program::PROGRAM]).args(args).stdin(Stdio::null());
    ran(command.output().unwrap())
}

/// What other users may do something with, below and with this folder.
fn open_to_others(path: &Path) -> Vec<String> {
    let meta = fs::symlink_metadata(path).unwrap();
    let mut found = Vec::new();
    if !meta.is_symlink() && meta.permissions().mode() & 0o077 != 0 {
        found.push(format!("{} {:o}", path.display(), meta.permissions().mode()));
    }
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            found.extend(open_to_others(&entry.unwrap().path()));
        }
    }
    found
}

#[test]
fn database_is_its_users_alone_whatever_the_umask() {
    for umask in ["0", "022", "077"] {
        let dir = Folder::new();
        let db = dir.path("db");
        under(umask, &["put", "ns", "key", "value", "--create", "--db", &db]).ok();
        under(umask, &["flush", "--db", &db]).ok();
        assert_eq!(open_to_others(Path::new(&db)), Vec::<String>::new(), "umask {umask}");
    }
}

#[test]
fn running_host_keeps_its_files_and_its_socket_to_its_user() {
    let dir = Folder::new();
    let db = dir.path("db");
    let host = Running::start(&db, &["--listen", "none"]);
    run(&["put", "ns", "key", "value", "--db", &db]).ok();
    run(&["flush", "--db", &db]).ok();
    assert_eq!(open_to_others(Path::new(&db)), Vec::<String>::new());
    drop(host);
}

#[test]
fn database_that_others_could_read_is_closed_by_the_next_start_that_writes() {
    let dir = Folder::new();
    let db = dir.path("db");
    run(&["put", "ns", "key", "value", "--create", "--db", &db]).ok();
    let open = Command::new("chmod").args(["-R", "a+rwX", &db]).status().unwrap();
    assert!(open.success());
    run(&["get", "ns", "key", "--db", &db]).ok();
    assert!(!open_to_others(Path::new(&db)).is_empty(), "who only reads changes nothing");
    let written = run(&["put", "ns", "key", "other", "--db", &db]);
    assert!(written.err.contains("other users could read"), "{written:?}");
    written.ok();
    assert_eq!(open_to_others(Path::new(&db)), Vec::<String>::new());
    let again = run(&["put", "ns", "key", "third", "--db", &db]);
    assert!(!again.err.contains("other users"), "{again:?}");
}

/// Gives a file, a folder or a link to another user, which takes root.
fn give_away(path: &str) -> bool {
    let given = Command::new("chown").args(["-h", "12345", path]).stderr(Stdio::null()).status();
    given.unwrap().success() && fs::symlink_metadata(path).unwrap().uid() == 12345
}

#[test]
fn folder_or_link_of_another_user_is_refused() {
    let dir = Folder::new();
    let (db, link) = (dir.path("db"), dir.path("link"));
    run(&["put", "ns", "key", "value", "--create", "--db", &db]).ok();
    symlink(&db, &link).unwrap();
    run(&["put", "ns", "key", "value", "--db", &link]).ok();
    if !give_away(&link) {
        return;
    }
    let words = ["the link belongs to user 12345", "run it as user 12345"];
    run(&["put", "ns", "key", "value", "--db", &link]).fails(&words);
    assert!(give_away(&db));
    run(&["put", "ns", "key", "value", "--db", &db]).fails(&["the folder belongs to user 12345"]);
    run(&["verify", "--repair", "--db", &db]).fails(&["the folder belongs to user 12345"]);
    assert!(run(&["run", "--once", "--db", &db]).code != Some(0));
}

#[test]
fn socket_of_another_user_is_told_nothing() {
    let dir = Folder::new();
    let db = dir.path("db");
    let _host = Running::start(&db, &["--listen", "none"]);
    let socket = format!("{db}/admin.sock");
    let moved = format!("{db}/moved.sock");
    fs::rename(&socket, &moved).unwrap();
    symlink(&moved, &socket).unwrap();
    run(&["put", "ns", "key", "value", "--db", &db]).fails(&["belongs to another user"]);
    fs::remove_file(&socket).unwrap();
    fs::rename(&moved, &socket).unwrap();
    if give_away(&socket) {
        run(&["put", "ns", "key", "value", "--db", &db]).fails(&["belongs to another user"]);
    }
}
