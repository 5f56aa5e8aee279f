//! A folder as a second home for segments.
//!
//! Files are named `{hash}.seg`, as `edgestore-repl`'s `FilesystemRemoteStore` names them, so
//! either can go on with the folder of the other.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use edgestore_engine::{Engine, Hash};
use edgestore_policy_host::{Archive, UploadOutcome};
use object_store::ObjectStoreExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Location;

/// Bytes of a segment held in memory at a time.
const PART: usize = 4 << 20;

/// Segments in a folder, through `object_store`.
#[derive(Debug)]
pub struct FolderArchive {
    dir: PathBuf,
    store: LocalFileSystem,
    runtime: tokio::runtime::Runtime,
}

impl FolderArchive {
    /// Uses `dir`, which it makes if it is missing.
    ///
    /// # Errors
    /// When the folder can't be made; the message names it.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let context = |error: io::Error| {
            io::Error::new(error.kind(), format!("can't use {} as archive: {error}", dir.display()))
        };
        fs::create_dir_all(dir).map_err(context)?;
        let store = LocalFileSystem::new_with_prefix(dir).map_err(|e| context(e.into()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        Ok(Self { dir: dir.to_owned(), store: store.with_fsync(true), runtime })
    }

    async fn copy(&self, mut file: fs::File, to: &Location) -> object_store::Result<()> {
        let mut upload = self.store.put_multipart(to).await?;
        loop {
            let mut part = Vec::with_capacity(PART);
            let read = (&mut file).take(PART as u64).read_to_end(&mut part);
            let step = match read {
                Ok(0) => return upload.complete().await.map(|_| ()),
                Ok(_) => upload.put_part(part.into()).await,
                Err(error) => Err(generic(error)),
            };
            if let Err(error) = step {
                // The error that matters is the first one.
                let _ = upload.abort().await;
                return Err(error);
            }
        }
    }
}

impl Archive for FolderArchive {
    fn upload(&self, engine: &Engine, hash: Hash) -> io::Result<UploadOutcome> {
        let context = |error: io::Error| {
            let dir = self.dir.display();
            io::Error::new(error.kind(), format!("can't archive segment {hash} to {dir}: {error}"))
        };
        let opened = engine.open_segment(&hash).map_err(io::Error::other).map_err(context)?;
        let Some((file, len)) = opened else {
            return Err(context(io::Error::new(
                io::ErrorKind::NotFound,
                "it is not in the engine",
            )));
        };
        let location = Location::from(format!("{hash}.seg"));
        let upload = async {
            match self.store.head(&location).await {
                // The stock store does not write atomically: a crash leaves a shorter file.
                Ok(meta) if meta.size == len => return Ok(UploadOutcome::AlreadyThere),
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            self.copy(file, &location).await?;
            Ok(UploadOutcome::Stored)
        };
        self.runtime.block_on(upload).map_err(|error| context(error.into()))
    }
}

fn generic(error: io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "segments", source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_stored_once_and_a_torn_copy_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path().join("db")).unwrap();
        engine.put(b"ns", b"key", b"value").unwrap();
        let hash = engine.flush().unwrap().unwrap().hash;
        let (_, len) = engine.open_segment(&hash).unwrap().unwrap();

        let folder = dir.path().join("deep/archive");
        let archive = FolderArchive::open(&folder).unwrap();
        assert_eq!(archive.upload(&engine, hash).unwrap(), UploadOutcome::Stored);
        assert_eq!(archive.upload(&engine, hash).unwrap(), UploadOutcome::AlreadyThere);
        let file = folder.join(format!("{hash}.seg"));
        assert_eq!(Hash::of(&fs::read(&file).unwrap()), hash);

        fs::File::options().write(true).open(&file).unwrap().set_len(len - 1).unwrap();
        assert_eq!(archive.upload(&engine, hash).unwrap(), UploadOutcome::Stored);
        assert_eq!(Hash::of(&fs::read(&file).unwrap()), hash);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "something was left behind");
    }

    #[test]
    fn errors_name_the_folder_and_the_segment() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path().join("db")).unwrap();
        let archive = FolderArchive::open(&dir.path().join("archive")).unwrap();
        let error = archive.upload(&engine, Hash::of(b"x")).unwrap_err().to_string();
        assert!(error.contains("not in the engine") && error.contains("archive"), "{error}");

        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = FolderArchive::open(&file).unwrap_err().to_string();
        assert!(error.contains(&file.display().to_string()), "{error}");
    }
}
