//! The store's directory: its lock, small files saved atomically, content named by digest, and the ingest area where
//! everything is made before it becomes visible. What the files mean is told by the modules that save them.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;

pub(crate) const LAYERS: &str = "layers";
pub(crate) const LAYER_RECORDS: &str = "layer-records";
pub(crate) const CONTENT: &str = "content";
pub(crate) const IMAGES: &str = "images";
pub(crate) const NAMES: &str = "names";
pub(crate) const LEASES: &str = "leases";
const INGEST: &str = "ingest";
const AREAS: [&str; 7] = [LAYERS, LAYER_RECORDS, CONTENT, IMAGES, NAMES, LEASES, INGEST];

/// Format of every record below the store; a newer one is refused rather than misread.
pub(crate) const FORMAT: u32 = 1;

/// A failure of the store on disk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A directory of the store could not be made.
    #[error("cannot make directory {}", .0.display())]
    MakeDirectory(PathBuf, #[source] io::Error),
    /// A directory of the store could not be listed.
    #[error("cannot list {}", .0.display())]
    List(PathBuf, #[source] io::Error),
    /// A file of the store could not be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// A file of the store could not be written.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// Something finished could not be moved into its place.
    #[error("cannot move into place {}", .0.display())]
    Rename(PathBuf, #[source] io::Error),
    /// Data could not be brought to the disk.
    #[error("cannot sync {}", .0.display())]
    Sync(PathBuf, #[source] io::Error),
    /// Something could not be removed.
    #[error("cannot remove {}", .0.display())]
    Remove(PathBuf, #[source] io::Error),
    /// A record is not what this crate writes.
    #[error("record {} is damaged", .0.display())]
    Record(PathBuf, #[source] serde_json::Error),
    /// A record was written by a newer version.
    #[error("record {} has format {found}, this version knows up to {FORMAT}", path.display())]
    Newer {
        /// The record's file.
        path: PathBuf,
        /// Its format number.
        found: u32,
    },
    /// Content does not have the digest it is named by.
    #[error("content {} does not match its digest", .0.display())]
    Corrupt(PathBuf),
    /// A record names content or a layer that is gone.
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
}

/// A record that tells its own format.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// The format number that was read.
    fn format(&self) -> u32;
}

/// The directory, locked against other processes for as long as this lives.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    next: AtomicU64,
    _lock: Flock<File>,
}

/// Why the directory cannot be taken.
#[derive(Debug)]
pub(crate) enum TakeError {
    Busy(PathBuf),
    Store(StoreError),
}

impl Store {
    /// Takes `dir`, makes what is missing in it and empties the ingest area of what a crash left.
    pub(crate) fn take(dir: &Path) -> Result<Self, TakeError> {
        make_private(dir).map_err(TakeError::Store)?;
        let dir = fs::canonicalize(dir).map_err(|e| TakeError::Store(StoreError::Read(dir.to_owned(), e)))?;
        let path = dir.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| TakeError::Store(StoreError::Write(path.clone(), e)))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => TakeError::Busy(dir.clone()),
            errno => TakeError::Store(StoreError::Write(path, errno.into())),
        })?;
        let store = Self { dir, next: AtomicU64::new(0), _lock: lock };
        store.prepare().map_err(TakeError::Store)?;
        Ok(store)
    }

    fn prepare(&self) -> Result<(), StoreError> {
        for area in AREAS {
            let path = self.dir.join(area);
            make_private(&path)?;
            // What a killed process renamed into place is visible, and here becomes durable too: whoever finds something
            // may rely on it without a sync of its own.
            sync_dir(&path)?;
        }
        sync_dir(&self.dir)?;
        for name in self.list(INGEST)? {
            self.delete(&self.dir.join(INGEST).join(name))?;
        }
        Ok(())
    }

    /// The path of `name` in `area`.
    pub(crate) fn path(&self, area: &str, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(area).join(name)
    }

    /// A path below `ingest/` that nothing has used since the start.
    pub(crate) fn ingest_path(&self, kind: &str) -> PathBuf {
        self.path(INGEST, format!("{kind}-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// Names of everything in `area`.
    pub(crate) fn list(&self, area: &str) -> Result<Vec<std::ffi::OsString>, StoreError> {
        let path = self.dir.join(area);
        fs::read_dir(&path)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.file_name())).collect())
            .map_err(|e| StoreError::List(path, e))
    }

    /// Saves a small file so that a crash leaves the old or the new one, whole and on disk.
    pub(crate) fn save(&self, area: &str, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let (temp, path) = (self.ingest_path("file"), self.path(area, name));
        let written = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&temp)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
        if let Err(error) = written {
            best_effort_remove(&temp);
            return Err(StoreError::Write(path, error));
        }
        fs::rename(&temp, &path).map_err(|e| StoreError::Rename(path, e))?;
        sync_dir(&self.dir.join(area))
    }

    /// Saves `record` as JSON, see [`Store::save`].
    pub(crate) fn save_record<R: Record>(&self, area: &str, name: &str, record: &R) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(record).map_err(|e| StoreError::Record(self.path(area, name), e))?;
        self.save(area, name, &bytes)
    }

    /// The record `name`, or `None` where there is none.
    pub(crate) fn read_record<R: Record>(&self, area: &str, name: impl AsRef<OsStr>) -> Result<Option<R>, StoreError> {
        let path = self.path(area, name.as_ref());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::Read(path, e)),
        };
        let record: R = serde_json::from_slice(&bytes).map_err(|e| StoreError::Record(path.clone(), e))?;
        match record.format() {
            found if found > FORMAT => Err(StoreError::Newer { path, found }),
            _ => Ok(Some(record)),
        }
    }

    /// Removes a small file durably; one that is not there is fine.
    pub(crate) fn forget(&self, area: &str, name: impl AsRef<OsStr>) -> Result<(), StoreError> {
        let path = self.path(area, name.as_ref());
        match fs::remove_file(&path) {
            Ok(()) => sync_dir(&self.dir.join(area)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(StoreError::Remove(path, e)),
        }
    }

    /// Keeps `bytes` under their digest. What is there whole is durable already and left as it is.
    pub(crate) fn save_content(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        if self.read_content(digest).is_ok() {
            return Ok(());
        }
        self.save(CONTENT, digest.hex(), bytes)
    }

    /// The content with that digest, verified again: a damaged disk is noticed before a container is made of it.
    pub(crate) fn read_content(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.path(CONTENT, digest.hex());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(StoreError::Missing(path)),
            Err(e) => return Err(StoreError::Read(path, e)),
        };
        if Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(StoreError::Corrupt(path)) }
    }

    /// Moves something visible to the ingest area, whence it can be deleted without haste. `None`: it was not there.
    pub(crate) fn retire(&self, path: &Path) -> Result<Option<PathBuf>, StoreError> {
        let trash = self.ingest_path("trash");
        match fs::rename(path, &trash) {
            Ok(()) => Ok(Some(trash)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::Rename(trash, e)),
        }
    }

    /// Deletes a file or tree of the ingest area. Symlinks are not followed.
    pub(crate) fn delete(&self, path: &Path) -> Result<(), StoreError> {
        let removed = match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(e) => Err(e),
        };
        match removed {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(StoreError::Remove(path.to_owned(), e)),
            _ => Ok(()),
        }
    }
}

/// Removes a leftover where an earlier error is what has to be told; the next start empties the area anyway.
pub(crate) fn best_effort_remove(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed {
        tracing::debug!(path = %path.display(), %error, "leftover stays until the next start");
    }
}

/// Syncs a directory, so that the names in it survive a power cut.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|e| StoreError::Sync(path.to_owned(), e))
}

/// Layers hold setuid programs of strangers: no other user of the host may reach them through a path.
fn make_private(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| StoreError::MakeDirectory(path.to_owned(), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_and_the_first_keeps_working() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::take(dir.path()).unwrap();
        assert!(matches!(Store::take(dir.path()), Err(TakeError::Busy(_))));
        first.save(NAMES, "a", b"1").unwrap();
        drop(first);
        Store::take(dir.path()).unwrap();
    }

    #[test]
    fn what_a_crash_left_in_ingest_is_gone_after_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::take(dir.path()).unwrap();
        let (tree, file) = (store.ingest_path("layer"), store.ingest_path("file"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        File::create(&file).unwrap();
        std::os::unix::fs::symlink("/", tree.join("root")).unwrap();
        drop(store);
        let store = Store::take(dir.path()).unwrap();
        assert!(store.list(INGEST).unwrap().is_empty());
        assert!(Path::new("/etc").exists());
    }

    #[test]
    fn content_that_rotted_is_not_handed_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::take(dir.path()).unwrap();
        let digest = Digest::of(b"text");
        assert!(matches!(store.read_content(&digest), Err(StoreError::Missing(_))));
        store.save_content(&digest, b"text").unwrap();
        assert_eq!(store.read_content(&digest).unwrap(), b"text");
        store.save(CONTENT, digest.hex(), b"tex!").unwrap();
        assert!(matches!(store.read_content(&digest), Err(StoreError::Corrupt(_))));
    }
}
