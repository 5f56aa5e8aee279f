//! The program and what it says, for tests that run it. Each uses some of this.
#![allow(dead_code)]

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use edgestore_host_tests::{wait_showing, wait_until};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_edgestore-host-under-test");

/// Where it is: another build of it, where `EDGESTORE_PROGRAM` says so.
fn program() -> OsString {
    std::env::var_os("EDGESTORE_PROGRAM").unwrap_or_else(|| PROGRAM.into())
}

pub fn edgestore(args: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(args);
    command
}

#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// The answer, whether it is yes or no.
    #[track_caller]
    #[allow(dead_code)]
    pub fn answers(self) -> String {
        assert!(matches!(self.code, Some(0 | 1)), "{self:?}");
        self.out
    }

    /// Failed with a message that has all these words.
    #[track_caller]
    pub fn fails(self, words: &[&str]) {
        assert!(matches!(self.code, Some(1..=3)), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "the error does not say {word:?}: {self:?}");
        }
    }
}

pub fn ran(output: Output) -> Ran {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

pub fn run(args: &[&str]) -> Ran {
    ran(edgestore(args).stdin(Stdio::null()).output().unwrap())
}

/// A running host. Killed when dropped.
pub struct Running {
    child: Child,
    db: String,
    log: Arc<Mutex<String>>,
}

impl Running {
    pub fn start(db: &str, args: &[&str]) -> Self {
        let mut command = edgestore(&["run", "--db", db]);
        let child = command.args(args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut child = child.unwrap();
        // Whoever writes to a pipe that nobody reads stops.
        let lines = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let said = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                eprintln!("{line}");
                said.lock().unwrap().extend([&line, "\n"]);
            }
        });
        let socket = Path::new(db).join("admin.sock");
        wait_until("the host runs", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", log.lock().unwrap());
            socket.exists()
        });
        Self { child, db: db.to_owned(), log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Its status, as JSON.
    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&run(&["status", "--json", "--db", &self.db]).answers()).unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        // `kill` is built into the shell, and not every system has it as a program.
        let kill = Command::new("sh").args(["-c", "kill $0 $1", signal, &pid]).status();
        assert!(kill.unwrap().success());
    }

    /// Sends a signal and waits for the end.
    pub fn stop(&mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        let mut status = None;
        let stopped = || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        };
        wait_showing("the host stops", stopped, || self.log.lock().unwrap().clone());
        status.and_then(|status| status.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder for a test, with paths in it as arguments.
pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.0.path().join(name), bytes).unwrap();
        self.path(name)
    }
}
