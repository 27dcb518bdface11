//! Layers on disk, and the seam for other forms of them: begin, commit, path, discard. Here a layer is a directory.
//! What goes into the directory is the unpacker's business.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde::{Deserialize, Serialize};

use crate::content::{FORMAT, LAYER_RECORDS, LAYERS, Record, Store, StoreError, best_effort_remove, sync_dir};
use crate::digest::Digest;

/// A layer in the making; dropped without commit it is removed.
#[derive(Debug)]
pub(crate) struct HalfMade {
    path: PathBuf,
    armed: bool,
}

impl HalfMade {
    /// The directory to unpack into.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for HalfMade {
    fn drop(&mut self) {
        if self.armed {
            best_effort_remove(&self.path);
        }
    }
}

/// What is known of a layer without walking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) format: u32,
    /// Bytes of file content, uncompressed.
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

impl LayerRecord {
    pub(crate) fn new(bytes: u64, entries: u64) -> Self {
        Self { format: FORMAT, bytes, entries }
    }
}

impl Record for LayerRecord {
    fn format(&self) -> u32 {
        self.format
    }
}

impl Store {
    /// Where the overlay finds the layer.
    pub(crate) fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.path(LAYERS, diff_id.hex())
    }

    /// The layer's record if the layer is here, whole.
    pub(crate) fn layer(&self, diff_id: &Digest) -> Result<Option<LayerRecord>, StoreError> {
        let path = self.layer_path(diff_id);
        match fs::symlink_metadata(&path) {
            Ok(_) => self.read_record(LAYER_RECORDS, diff_id.hex()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::Read(path, e)),
        }
    }

    /// An empty directory to make a layer in.
    pub(crate) fn begin_layer(&self) -> Result<HalfMade, StoreError> {
        let path = self.ingest_path("layer");
        DirBuilder::new()
            .mode(0o755)
            .create(&path)
            // The umask must not decide what the container's / looks like.
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .map_err(|e| StoreError::MakeDirectory(path.clone(), e))?;
        Ok(HalfMade { path, armed: true })
    }

    /// Brings a verified layer to disk and makes it visible. The same layer made meanwhile by somebody else is as good.
    pub(crate) fn commit_layer(
        &self,
        mut half: HalfMade,
        diff_id: &Digest,
        record: &LayerRecord,
    ) -> Result<(), StoreError> {
        let root = File::open(&half.path).map_err(|e| StoreError::Read(half.path.clone(), e))?;
        nix::unistd::syncfs(&root).map_err(|e| StoreError::Sync(half.path.clone(), e.into()))?;
        self.save_record(LAYER_RECORDS, diff_id.hex(), record)?;
        let path = self.layer_path(diff_id);
        match renameat2(AT_FDCWD, &half.path, AT_FDCWD, &path, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => half.armed = false,
            Err(Errno::EEXIST) => return Ok(()),
            Err(errno) => return Err(StoreError::Rename(path, errno.into())),
        }
        sync_dir(&self.path(LAYERS, ""))
    }

    /// Takes a layer out of sight. Answers what is left to delete and how many bytes that will free.
    pub(crate) fn retire_layer(&self, diff_id: &Digest) -> Result<Option<(PathBuf, u64)>, StoreError> {
        let bytes = self.layer(diff_id)?.map_or(0, |record| record.bytes);
        let trash = self.retire(&self.layer_path(diff_id))?;
        self.forget(LAYER_RECORDS, diff_id.hex())?;
        Ok(trash.map(|path| (path, bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_visible_after_commit_only_and_gone_after_retire() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::take(dir.path()).unwrap();
        let id = Digest::of(b"layer");
        let half = store.begin_layer().unwrap();
        let at = half.path().to_owned();
        assert_eq!(store.layer(&id).unwrap(), None);
        drop(half);
        assert!(!at.exists());

        let record = LayerRecord::new(7, 1);
        store.commit_layer(store.begin_layer().unwrap(), &id, &record).unwrap();
        store.commit_layer(store.begin_layer().unwrap(), &id, &record).unwrap();
        assert_eq!(store.layer(&id).unwrap(), Some(record));
        assert_eq!(fs::metadata(store.layer_path(&id)).unwrap().permissions().mode() & 0o7777, 0o755);

        let (trash, bytes) = store.retire_layer(&id).unwrap().unwrap();
        assert_eq!((store.layer(&id).unwrap(), bytes), (None, 7));
        store.delete(&trash).unwrap();
        assert!(store.retire_layer(&id).unwrap().is_none());
    }
}
