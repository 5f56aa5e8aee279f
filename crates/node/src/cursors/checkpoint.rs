//! What a peer's cursor was before a new policy took over, so that a rollback undoes what the new
//! one wrote into it.
//!
//! A wrong policy that shares its layout with the good one could leave a cursor that says more than
//! is true, and then the good one would believe it. An older cursor is harmless: it lags behind the
//! data. So the first tick of a policy on probation copies the cursor to
//! `{peer}.cursor.before-{hash of the policy}`, and the first tick of another one after it puts it
//! back. An empty copy stands for no cursor.

use super::*;

const BEFORE: &str = "before-";

impl CursorFiles {
    /// To be called before the first tick of a policy for this peer, while no tick of the peer runs:
    /// undoes what other policies did in their probation, unless they turned out to be good, and
    /// notes the cursor where this one is in its own. May be called again.
    ///
    /// # Errors
    /// When a file can't be read or written; then the policy must not be ticked.
    pub fn enter(
        &self,
        peer: &str,
        policy: &Hash,
        probation: bool,
        is_good: &dyn Fn(&Hash) -> bool,
    ) -> io::Result<()> {
        let path = self.path(peer)?;
        self.disk.make_dir(&self.dir)?;
        let own = self.checkpoint(&path, policy);
        for other in self.checkpoints(|name| name.starts_with(&prefix(peer)))? {
            let by = other.extension().unwrap_or_default().to_string_lossy();
            let by = by.strip_prefix(BEFORE).and_then(|hash| hash.parse().ok());
            if by.is_some_and(|by| is_good(&by)) && other != own {
                self.remove(&other)?;
            } else if other != own {
                self.put_back(&path, &other)?;
                self.owners().remove(peer);
                tracing::info!(peer, "the cursor is what it was before the last policy");
            }
        }
        let noted = self.disk.len(&own).is_ok();
        match (probation, noted) {
            (true, false) => self.note(&path, &own),
            (false, true) => self.remove(&own),
            _ => Ok(()),
        }
    }

    /// The policy is as good as its cursors: there is nothing to put back any more.
    ///
    /// # Errors
    /// When the folder can't be read or written.
    pub fn keep(&self, policy: &Hash) -> io::Result<()> {
        let suffix = format!(".{BEFORE}{policy}");
        for path in self.checkpoints(|name| name.ends_with(&suffix))? {
            self.remove(&path)?;
        }
        Ok(())
    }

    fn checkpoint(&self, path: &Path, policy: &Hash) -> PathBuf {
        PathBuf::from(format!("{}.{BEFORE}{policy}", path.display()))
    }

    fn checkpoints(&self, chosen: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
        let names = self.disk.list(&self.dir)?;
        let names = names
            .into_iter()
            .filter(|name| name.to_str().is_some_and(|name| name.contains(BEFORE) && chosen(name)));
        Ok(names.map(|name| self.dir.join(name)).collect())
    }

    fn note(&self, path: &Path, checkpoint: &Path) -> io::Result<()> {
        let bytes = match self.disk.open(path) {
            Ok(file) => read(file)?,
            // What is no file, the first load sets aside.
            Err(error) if is_no_file(&error) => Vec::new(),
            Err(error) => return Err(error),
        };
        replace(&self.disk, checkpoint, TEMPORARY, &[&bytes])
    }

    fn put_back(&self, path: &Path, checkpoint: &Path) -> io::Result<()> {
        if self.disk.len(checkpoint)? > 0 {
            self.disk.rename(checkpoint, path)?;
            return self.disk.sync_dir(&self.dir);
        }
        // In this order, so that a crash between the two leaves the one that says what to do.
        match self.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => self.disk.sync_dir(&self.dir)?,
        }
        self.remove(checkpoint)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)?;
        self.disk.sync_dir(&self.dir)
    }
}

fn prefix(peer: &str) -> String {
    format!("{peer}.cursor.{BEFORE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> CursorLayout {
        CursorLayout { policy: "mine".into(), schema: 1 }
    }

    fn none(_: &Hash) -> bool {
        false
    }

    #[test]
    fn a_rollback_finds_the_cursor_as_it_was_and_a_good_policy_keeps_its_own() {
        let db = tempfile::tempdir().unwrap();
        let cursors = CursorFiles::open(db.path()).unwrap();
        let (good, bad, better) = (Hash::of(b"good"), Hash::of(b"bad"), Hash::of(b"better"));
        let value = |cursors: &CursorFiles| cursors.load("a", &layout()).unwrap();

        cursors.enter("a", &good, false, &none).unwrap();
        cursors.store("a", &layout(), b"true").unwrap();
        cursors.enter("a", &bad, true, &none).unwrap();
        cursors.store("a", &layout(), b"a lie").unwrap();
        // As after a restart in the midst of its probation.
        CursorFiles::open(db.path()).unwrap().enter("a", &bad, true, &none).unwrap();
        assert_eq!(value(&cursors).unwrap(), b"a lie");
        cursors.enter("a", &good, false, &none).unwrap();
        assert_eq!(value(&cursors).unwrap(), b"true");

        cursors.enter("a", &better, true, &none).unwrap();
        cursors.store("a", &layout(), b"still true").unwrap();
        cursors.keep(&better).unwrap();
        cursors.enter("a", &good, false, &none).unwrap();
        assert_eq!(value(&cursors).unwrap(), b"still true");

        // It turned out to be good while the peer was on its way to note the cursor.
        cursors.enter("a", &better, true, &none).unwrap();
        cursors.store("a", &layout(), b"newer").unwrap();
        cursors.enter("a", &good, false, &|hash| *hash == better).unwrap();
        assert_eq!(value(&cursors).unwrap(), b"newer");
        assert_eq!(std::fs::read_dir(db.path().join("sync")).unwrap().count(), 1);
    }

    #[test]
    fn where_there_was_no_cursor_there_is_none_again() {
        let db = tempfile::tempdir().unwrap();
        let cursors = CursorFiles::open(db.path()).unwrap();
        let (good, bad) = (Hash::of(b"good"), Hash::of(b"bad"));
        cursors.enter("a", &bad, true, &none).unwrap();
        cursors.store("a", &layout(), b"a lie").unwrap();
        cursors.enter("b", &good, false, &none).unwrap();
        cursors.enter("a", &good, false, &none).unwrap();
        assert_eq!(cursors.load("a", &layout()).unwrap(), None);
    }

    #[test]
    fn one_new_policy_after_the_other_goes_back_to_what_the_last_good_one_had() {
        let db = tempfile::tempdir().unwrap();
        let cursors = CursorFiles::open(db.path()).unwrap();
        let policies = [b"good", b"bad1", b"bad2"].map(|name| Hash::of(name));
        cursors.enter("a", &policies[0], false, &none).unwrap();
        cursors.store("a", &layout(), b"true").unwrap();
        for bad in &policies[1..] {
            cursors.enter("a", bad, true, &none).unwrap();
            assert_eq!(cursors.load("a", &layout()).unwrap().unwrap(), b"true");
            cursors.store("a", &layout(), b"a lie").unwrap();
        }
        cursors.enter("a", &policies[0], false, &none).unwrap();
        assert_eq!(cursors.load("a", &layout()).unwrap().unwrap(), b"true");
    }
}
