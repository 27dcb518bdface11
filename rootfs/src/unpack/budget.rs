//! What one image may make this host do. Its layers, which are unpacked side by side, spend from one budget while they
//! stream: a bomb ends when it has cost that much, and not when the disk is full.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;

use crate::images::Limits;

/// Bytes of one layer between two looks at the disk.
const DISK_STRIDE: u64 = 4 << 20;

/// A limit of [`Limits`] that an image went beyond, by the name that the configuration has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// More bytes than an image may have.
    #[error("it is larger when unpacked than the {} MiB of max_image_mib", .0 >> 20)]
    Bytes(u64),
    /// More files than an image may have.
    #[error("it has more files than the {0} of max_image_files")]
    Files(u64),
    /// The disk is as full as images may make it.
    #[error("the disk has less free than the {} MiB of low_disk_mib", .0 >> 20)]
    LowDisk(u64),
    /// The disk does not say how full it is.
    #[error("cannot ask how full the disk is")]
    Disk(#[source] Errno),
}

/// What is left of it.
#[derive(Debug)]
pub(crate) struct Budget {
    max_bytes: u64,
    bytes: AtomicU64,
    max_files: u64,
    files: AtomicU64,
    low_disk_bytes: u64,
}

impl Budget {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            max_bytes: limits.max_image_bytes,
            bytes: AtomicU64::new(0),
            max_files: limits.max_image_files,
            files: AtomicU64::new(0),
            low_disk_bytes: limits.low_disk_bytes,
        }
    }

    /// Spends bytes of a tar stream.
    pub(crate) fn bytes(&self, amount: u64) -> Result<(), LimitError> {
        let spent = self.bytes.fetch_add(amount, Ordering::Relaxed).saturating_add(amount);
        if spent > self.max_bytes { Err(LimitError::Bytes(self.max_bytes)) } else { Ok(()) }
    }

    /// Spends files and directories.
    pub(crate) fn files(&self, amount: u64) -> Result<(), LimitError> {
        let spent = self.files.fetch_add(amount, Ordering::Relaxed).saturating_add(amount);
        if spent > self.max_files { Err(LimitError::Files(self.max_files)) } else { Ok(()) }
    }

    /// Whether the file system of `directory` has room left, looked at when a stream comes `from` one count of bytes
    /// `to` another: at its beginning and every few MiB.
    pub(crate) fn disk(&self, directory: impl AsFd, from: u64, to: u64) -> Result<(), LimitError> {
        if self.low_disk_bytes == 0 || (from != 0 && from / DISK_STRIDE == to / DISK_STRIDE) {
            return Ok(());
        }
        let disk = fstatvfs(directory).map_err(LimitError::Disk)?;
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        // A tmpfs without a size tells no blocks at all.
        if disk.blocks() > 0 && free < self.low_disk_bytes {
            Err(LimitError::LowDisk(self.low_disk_bytes))
        } else {
            Ok(())
        }
    }
}
