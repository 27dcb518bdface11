//! Writes to procfs that decide about security (sysctls, security labels): through a descriptor that is known to be
//! procfs, so that nothing an image or a mount puts over /proc can swallow or redirect them.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use crate::sys::mount_api::FsContext;

/// A verified procfs.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl Procfs {
    /// A fresh instance of the caller's pid namespace, attached nowhere. EPERM where the user namespace cannot see all
    /// of another procfs: inside a finished container.
    pub fn private() -> Result<Procfs, Errno> {
        FsContext::open(c"proc")?.mount(0).map(Procfs)
    }

    /// What is mounted on /proc of the caller's root.
    pub fn mounted() -> Result<Procfs, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open("/proc", flags, Mode::empty())?;
        if fstatfs(&directory)?.filesystem_type() != PROC_SUPER_MAGIC {
            return Err(Errno::EXDEV);
        }
        Ok(Procfs(directory))
    }

    /// Writes `value` in one write to `path` below procfs. EXDEV when another mount covers it.
    pub fn write(&self, path: &str, value: &str) -> Result<(), Errno> {
        let how = OpenHow::new().flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC).resolve(
            // Not RESOLVE_NO_SYMLINKS: /proc/self is one.
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        let mut file = File::from(openat2(&self.0, path, how)?);
        file.write_all(value.as_bytes()).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_procfs_is_writable_and_beneath() {
        let procfs = Procfs::private().unwrap();
        procfs.write("self/comm", "renamed").unwrap();
        assert_eq!(std::fs::read_to_string("/proc/self/comm").unwrap().trim(), "renamed");
        assert_eq!(procfs.write("../tmp/x", "").unwrap_err(), Errno::EXDEV);
    }
}
