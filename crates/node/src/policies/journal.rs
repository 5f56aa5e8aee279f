//! What happened to the policies of a database: `{db}/policies/history.jsonl`, one JSON object a
//! line, oldest first.
//!
//! A line that a crash cut short is skipped by readers, and the next one begins on a line of its
//! own. When the file is too long its older half goes.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Of the file, in bytes, before its older half goes.
const MAX_BYTES: u64 = 1 << 20;

/// Characters of a reason. A list of 5,000 events fits a frame of the admin socket.
const MAX_WHY: usize = 1500;

/// What happened to a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyEventKind {
    /// The host started with it.
    Started,
    /// It took over.
    Swapped,
    /// It was not taken.
    Refused,
    /// A tick failed, and it is to blame.
    Failed,
    /// Its probation has ended well.
    Proven,
    /// It was given other settings, and takes them.
    Settings,
    /// The one before it took over again.
    RolledBack,
}

impl PolicyEventKind {
    /// In a word, for tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Swapped => "swapped",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Proven => "proven",
            Self::Settings => "took settings",
            Self::RolledBack => "rolled back",
        }
    }
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyEvent {
    /// When, in Unix seconds.
    pub at_secs: u64,
    /// What.
    pub event: PolicyEventKind,
    /// Name and version of the policy, where it has told them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// BLAKE3 of the component, 64 hex digits, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Why, or where it came from.
    pub why: String,
}

/// The journal of one database.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
}

impl Journal {
    /// In the folder of the policies, which is there.
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join("history.jsonl") }
    }

    /// Logs the event and notes it. What can't be noted is logged in any case.
    pub(super) fn note(&self, mut event: PolicyEvent) -> PolicyEvent {
        if let Some((end, _)) = event.why.char_indices().nth(MAX_WHY) {
            event.why.truncate(end);
        }
        event.at_secs = super::now_secs();
        let PolicyEvent { policy, hash, why, .. } = &event;
        let policy = policy.as_deref().unwrap_or("-");
        let hash = hash.as_deref().and_then(|hash| hash.get(..8)).unwrap_or("-");
        match event.event {
            PolicyEventKind::Started
            | PolicyEventKind::Swapped
            | PolicyEventKind::Proven
            | PolicyEventKind::Settings => {
                tracing::info!(policy, hash, why, "policy {}", event.event.as_str());
            }
            _ => tracing::warn!(policy, hash, why, "policy {}", event.event.as_str()),
        }
        if let Err(error) = self.append(&event) {
            tracing::warn!(%error, file = %self.path.display(), "can't note it in the history");
        }
        event
    }

    fn append(&self, event: &PolicyEvent) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let mut file = File::options().create(true).append(true).read(true).open(&self.path)?;
        let len = file.metadata()?.len();
        if len > MAX_BYTES {
            self.shorten()?;
            file = File::options().append(true).read(true).open(&self.path)?;
        } else if len > 0 {
            use std::os::unix::fs::FileExt as _;
            let mut last = [0];
            file.read_exact_at(&mut last, len - 1)?;
            if last != *b"\n" {
                line.insert(0, b'\n');
            }
        }
        file.write_all(&line)?;
        file.sync_data()
    }

    /// Drops the older half.
    fn shorten(&self) -> io::Result<()> {
        let bytes = fs::read(&self.path)?;
        let half = bytes.len() / 2;
        let start = bytes[half..].iter().position(|&b| b == b'\n').map_or(half, |at| half + at + 1);
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().prefix(".history-").tempfile_in(dir)?;
        file.write_all(&bytes[start..])?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// The last `limit` events of the database in `db`, oldest first; none where there is no journal.
///
/// # Errors
/// When the journal is there and can't be read.
pub fn policy_history(db: &Path, limit: usize) -> io::Result<Vec<PolicyEvent>> {
    let file = match File::open(db.join(super::FOLDER).join("history.jsonl")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(2 * MAX_BYTES).read_to_end(&mut bytes)?;
    let lines = bytes.split(|&byte| byte == b'\n');
    let mut events: Vec<PolicyEvent> =
        lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    events.drain(..events.len().saturating_sub(limit));
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(why: &str) -> PolicyEvent {
        PolicyEvent {
            at_secs: 0,
            event: PolicyEventKind::Swapped,
            policy: Some("sync 1".into()),
            hash: None,
            why: why.into(),
        }
    }

    fn whys(db: &Path, limit: usize) -> Vec<String> {
        policy_history(db, limit).unwrap().into_iter().map(|event| event.why).collect()
    }

    #[test]
    fn events_are_read_in_order_and_a_torn_line_costs_itself_alone() {
        let db = tempfile::tempdir().unwrap();
        assert!(whys(db.path(), 9).is_empty());
        let dir = db.path().join(super::super::FOLDER);
        fs::create_dir(&dir).unwrap();
        let journal = Journal::new(&dir);
        let noted = journal.note(event("first\nof \"all\""));
        assert!(noted.at_secs > 1_700_000_000);
        let mut file = File::options().append(true).open(&journal.path).unwrap();
        file.write_all(br#"{"at_secs":1,"event":"swap"#).unwrap();
        journal.note(event("last"));
        assert_eq!(whys(db.path(), 9), ["first\nof \"all\"", "last"]);
        assert_eq!(whys(db.path(), 1), ["last"]);
    }

    #[test]
    fn the_older_half_of_a_long_journal_goes() {
        let db = edgestore_engine::disk::test_folder();
        let dir = db.path().join(super::super::FOLDER);
        fs::create_dir(&dir).unwrap();
        let journal = Journal::new(&dir);
        let long = "x".repeat(100_000);
        for n in 0..1000 {
            journal.note(event(&format!("{n} {long}")));
            assert!(fs::metadata(&journal.path).unwrap().len() < MAX_BYTES + 5000);
        }
        let whys = whys(db.path(), 10_000);
        assert!((300..900).contains(&whys.len()), "{}", whys.len());
        assert!(whys.last().unwrap().starts_with("999 "));
        assert!(whys.iter().all(|why| why.len() == MAX_WHY), "a line was cut");
    }
}
