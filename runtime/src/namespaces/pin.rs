//! Namespaces that outlive their processes: a user and a network namespace per task, pinned by bind mounts of their
//! nsfs files below a directory. All containers of a task join them.
//!
//! ```text
//! DIR/user   user namespace, where asked for
//! DIR/net    network namespace owned by it, with lo up
//! ```

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use super::user::{self, Holder};
use crate::init::failure::{Failure, IntoErrno};
use crate::sys::loopback;

/// What to pin.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Where.
    pub directory: &'a Path,
    /// Host id of the new user namespace's root and the number of ids; without it no user namespace is made.
    pub user: Option<(u32, u32)>,
    /// Make a network namespace.
    pub network: bool,
}

/// Why namespaces could not be pinned or released.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PinError {
    #[error("neither a user nor a network namespace was asked for")]
    Nothing,
    #[error("the range of {size} ids from {base} is not possible")]
    Range { base: u32, size: u32 },
    #[error("cannot make namespaces")]
    Make(#[source] Failure),
    #[error("cannot bring lo up")]
    Loopback(#[source] Errno),
    #[error("cannot make {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("cannot pin a namespace at {path}")]
    Pin { path: PathBuf, source: Errno },
    #[error("cannot release the namespace at {path}")]
    Release { path: PathBuf, source: Errno },
}

/// Makes and pins namespaces. What a failed step leaves is removed again.
pub fn create(request: &Request<'_>) -> Result<(), PinError> {
    let mut flags = CloneFlags::empty();
    let mut names = Vec::new();
    if request.user.is_some() {
        flags |= CloneFlags::CLONE_NEWUSER;
        names.push("user");
    }
    if request.network {
        flags |= CloneFlags::CLONE_NEWNET;
        names.push("net");
    }
    if names.is_empty() {
        return Err(PinError::Nothing);
    }
    let mapping = request.user.map(|(base, size)| mapping(base, size)).transpose()?;
    let network = request.network;
    // Exit code 0, or the errno.
    let holder =
        Holder::spawn(flags, || if network { loopback::up().map_or_else(|errno| errno as i32, |()| 0) } else { 0 })
            .map_err(PinError::Make)?;
    if let Some(mapping) = mapping {
        let mapping = [mapping];
        user::write_maps(holder.pid(), &mapping, &mapping).map_err(PinError::Make)?;
    }
    let pinned =
        pin_all(request.directory, holder.pid(), &names).and_then(|()| holder.finish().map_err(PinError::Loopback));
    if let Err(error) = pinned {
        // The first error is the one to tell; what could not be released is found by the next delete.
        let _ = delete(request.directory);
        return Err(error);
    }
    Ok(())
}

fn mapping(base: u32, size: u32) -> Result<LinuxIdMapping, PinError> {
    let range = || PinError::Range { base, size };
    if size == 0 || base.checked_add(size).is_none() {
        return Err(range());
    }
    let mapping = LinuxIdMappingBuilder::default().container_id(0u32).host_id(base).size(size).build();
    mapping.map_err(|_| range())
}

fn pin_all(directory: &Path, pid: i32, names: &[&str]) -> Result<(), PinError> {
    std::fs::create_dir_all(directory).map_err(|source| PinError::File { path: directory.to_owned(), source })?;
    for name in names {
        let path = directory.join(name);
        File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|source| PinError::File { path: path.clone(), source })?;
        let namespace = format!("/proc/{pid}/ns/{name}");
        mount(Some(namespace.as_str()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|source| PinError::Pin { path, source })?;
    }
    Ok(())
}

/// Releases and removes what [`create`] made below `directory`, as far as it is there.
pub fn delete(directory: &Path) -> Result<(), PinError> {
    for name in ["net", "user"] {
        let path = directory.join(name);
        match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // EINVAL: the file is there, but nothing is mounted on it.
            Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
            Err(source) => return Err(PinError::Release { path, source }),
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(PinError::Release { path, source: error.into_errno() });
            }
            _ => {}
        }
    }
    match std::fs::remove_dir(directory) {
        // Others may keep files of their own there.
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err(PinError::Release { path: directory.to_owned(), source: error.into_errno() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::statfs::{NSFS_MAGIC, statfs};

    use super::*;

    #[test]
    fn pinned_and_released_twice() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("ns");
        create(&Request { directory: &target, user: Some((700_000, 65536)), network: true }).unwrap();
        assert_eq!(statfs(&target.join("user")).unwrap().filesystem_type(), NSFS_MAGIC);
        assert_eq!(statfs(&target.join("net")).unwrap().filesystem_type(), NSFS_MAGIC);
        delete(&target).unwrap();
        delete(&target).unwrap();
        assert!(!target.exists());
    }

    #[test]
    fn impossible_ranges_leave_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("ns");
        assert!(create(&Request { directory: &target, user: Some((u32::MAX, 65536)), network: false }).is_err());
        assert!(!target.exists());
    }
}
