//! Children: this program again, with a job as its argument. They answer with one line of JSON on
//! stdout, and end with their parent, however that ends: at the end of their stdin.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::job::Job;
use crate::server;

/// The first argument of a child. The second one is the job.
const CHILD: &str = "child";

#[derive(Serialize, Deserialize)]
enum Answer {
    Done(Value),
    Failed(String),
}

/// A running child. Killed when dropped.
pub struct Child {
    process: std::process::Child,
    // Apart from the process, so that waiting for it does not close it.
    stdin: ChildStdin,
    answers: Receiver<io::Result<String>>,
    log: PathBuf,
}

impl Child {
    /// What it says on stderr goes to a file in `dir`, and is shown only when it fails.
    pub fn start(job: &Job, dir: &Path) -> Result<Self> {
        let log = dir.join(match job {
            Job::Serve(_) => "server.log",
            _ => "child.log",
        });
        let stderr = File::create(&log).context("can't make a log file")?;
        let mut process = Command::new(std::env::current_exe()?)
            .arg(CHILD)
            .arg(serde_json::to_string(job)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .context("can't start a child process")?;
        let stdin = process.stdin.take().context("a child has no stdin")?;
        let stdout = process.stdout.take().context("a child has no stdout")?;
        let (send, answers) = mpsc::channel();
        // Ends with the child.
        thread::spawn(move || BufReader::new(stdout).lines().try_for_each(|line| send.send(line)));
        Ok(Self { process, stdin, answers, log })
    }

    /// Waits for its next answer.
    pub fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = loop {
            ensure!(!interrupted().load(Ordering::Relaxed), "interrupted");
            match self.answers.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => break line.context("can't read a child's answer")?,
                Err(RecvTimeoutError::Timeout) => {}
                // It has ended.
                Err(RecvTimeoutError::Disconnected) => break String::new(),
            }
        };
        let answer = serde_json::from_str(&line);
        match answer.context("no answer").and_then(|answer| match answer {
            Answer::Done(value) => Ok(serde_json::from_value(value)?),
            Answer::Failed(error) => Err(anyhow!(error)),
        }) {
            Ok(answer) => Ok(answer),
            Err(error) => Err(error.context(self.last_words())),
        }
    }

    pub fn ask<T: DeserializeOwned>(&mut self, request: &impl Serialize) -> Result<T> {
        let request = serde_json::to_string(request)?;
        writeln!(self.stdin, "{request}").context("a child does not listen")?;
        self.answer()
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(10)..].join("\n");
        format!("a measurement failed; its last words:\n{last}")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Has a child do a job, and waits until it has ended: its database can be opened then.
pub fn run<T: DeserializeOwned>(job: &Job, dir: &Path) -> Result<T> {
    let mut child = Child::start(job, dir)?;
    let answer = child.answer()?;
    child.process.wait().context("can't wait for a child")?;
    Ok(answer)
}

/// A signal ends the running measurement, and then this process in order, so that its folder goes.
pub fn catch_signals() -> Result<()> {
    for signal in signal_hook::consts::TERM_SIGNALS {
        signal_hook::flag::register(*signal, Arc::clone(interrupted()))
            .context("can't catch signals")?;
    }
    Ok(())
}

fn interrupted() -> &'static Arc<AtomicBool> {
    static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    INTERRUPTED.get_or_init(Arc::default)
}

/// None in the parent.
pub fn job_of_child() -> Option<Result<String>> {
    let mut args = std::env::args().skip(1);
    (args.next()? == CHILD).then(|| args.next().context("a child needs a job"))
}

pub fn run_child(job: &str) -> Result<()> {
    let requests = requests()?;
    let job = serde_json::from_str(job).context("not a job")?;
    match job {
        Job::Serve(job) => server::run(&job, &requests),
        job => respond(job.measure()),
    }
}

/// Tells the parent.
pub fn respond(result: Result<impl Serialize>) -> Result<()> {
    let answer = match result.and_then(|value| Ok(serde_json::to_value(value)?)) {
        Ok(value) => Answer::Done(value),
        Err(error) => Answer::Failed(format!("{error:#}")),
    };
    println!("{}", serde_json::to_string(&answer)?);
    Ok(())
}

/// Lines of the parent. When there will be no more, this process ends.
fn requests() -> Result<Receiver<String>> {
    let (send, requests) = mpsc::channel();
    let read = move || {
        for line in io::stdin().lines() {
            // Only a server listens.
            let _ = line.map(|line| send.send(line));
        }
        std::process::exit(1);
    };
    thread::Builder::new().name("requests".to_owned()).spawn(read)?;
    Ok(requests)
}
