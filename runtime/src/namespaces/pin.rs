//! Namespaces that outlive their processes: those that the containers of a task share, pinned by bind mounts of their
//! nsfs files below a directory. All containers of a task join them.
//!
//! ```text
//! DIR/user   user namespace, where asked for; it owns the others
//! DIR/net    network namespace, with lo up
//! DIR/ipc    ipc namespace
//! DIR/shm    a tmpfs, the /dev/shm that goes with it
//! DIR/pid    pid namespace, whose pid 1 is `pause`
//! DIR/whole  made last: without it, what is there was left half-made
//! ```

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;
use nix::unistd::pipe2;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, LinuxResources};

use super::pause;
use super::user::{self, Holder};
use crate::cgroup::{Cgroup, CgroupError};
use crate::init::failure::{Failure, IntoErrno};
use crate::sys::loopback;
use crate::sys::title::Arguments;

/// Name of the tmpfs.
const SHM: &str = "shm";
/// Name of the file that says that all else is there.
pub const WHOLE: &str = "whole";

/// What to pin.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Where.
    pub directory: &'a Path,
    /// Host id of the new user namespace's root and the number of ids; without it no user namespace is made.
    pub user: Option<(u32, u32)>,
    /// Make a network namespace.
    pub network: bool,
    /// Make an ipc namespace, and a tmpfs of this many bytes beside it.
    pub ipc: Option<u64>,
    /// Make a pid namespace, whose pid 1 goes into this cgroup, to be killed with it.
    pub pid: Option<&'a str>,
}

/// Why namespaces could not be pinned or released.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PinError {
    #[error("no namespace was asked for")]
    Nothing,
    #[error("the range of {size} ids from {base} is not possible")]
    Range { base: u32, size: u32 },
    #[error("cannot make namespaces")]
    Make(#[source] Failure),
    #[error("cannot bring lo up, or start the process of the pid namespace")]
    Work(#[source] Errno),
    #[error("cannot put the process of the pid namespace into its cgroup")]
    Cgroup(#[source] CgroupError),
    #[error("cannot mount {path}")]
    Shm { path: PathBuf, source: Errno },
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
    if request.ipc.is_some() {
        flags |= CloneFlags::CLONE_NEWIPC;
        names.push("ipc");
    }
    if request.pid.is_some() {
        // A mount namespace too: its root must not be the host's, which others in the pid namespace could see.
        flags |= CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
        names.push("pid");
    }
    if names.is_empty() {
        return Err(PinError::Nothing);
    }
    let mapping = request.user.map(|(base, size)| mapping(base, size)).transpose()?;
    if let Err(error) = make(request, flags, mapping, &names) {
        // The first error is the one to tell; what could not be released is found by the next delete.
        let _ = delete(request.directory);
        return Err(error);
    }
    Ok(())
}

fn make(
    request: &Request<'_>,
    flags: CloneFlags,
    mapping: Option<LinuxIdMapping>,
    names: &[&str],
) -> Result<(), PinError> {
    let (told, tell) = pipe2(OFlag::O_CLOEXEC).map_err(PinError::Work)?;
    let arguments = Arguments::find();
    let mut tell = Some(tell);
    // Exit code 0, or the errno.
    let work = || {
        let up = if request.network { loopback::up() } else { Ok(()) };
        match (up, request.pid, tell.take()) {
            (Ok(()), Some(_), Some(tell)) => pause::run(arguments.as_ref(), request.user.is_some(), tell),
            (up, ..) => up.map_or_else(|errno| errno as i32, |()| 0),
        }
    };
    let holder = Holder::spawn(flags, work).map_err(PinError::Make)?;
    if let Some(mapping) = mapping {
        let mapping = [mapping];
        user::write_maps(holder.pid(), &mapping, &mapping).map_err(PinError::Make)?;
    }
    if let Some(cgroup) = request.pid {
        enter_cgroup(cgroup, holder.pid()).map_err(PinError::Cgroup)?;
    }
    pin_all(request.directory, holder.pid(), names)?;
    if let Some(bytes) = request.ipc {
        mount_shm(request, bytes)?;
    }
    drop(tell);
    if request.pid.is_some() { holder.stay(&told) } else { holder.finish() }.map_err(PinError::Work)?;
    let path = request.directory.join(WHOLE);
    File::create(&path).map(drop).map_err(|source| PinError::File { path, source })
}

fn enter_cgroup(path: &str, pid: i32) -> Result<(), CgroupError> {
    let cgroup = Cgroup::ensure(path, &LinuxResources::default())?;
    for procs in cgroup.procs_files()? {
        nix::unistd::write(&procs, pid.to_string().as_bytes())
            .map_err(|errno| CgroupError::File { path: cgroup.path().into(), source: errno.into() })?;
    }
    Ok(())
}

/// Not id-mapped, which old kernels cannot do with a tmpfs: every container of the task has the same ids.
fn mount_shm(request: &Request<'_>, bytes: u64) -> Result<(), PinError> {
    let path = request.directory.join(SHM);
    std::fs::create_dir(&path).map_err(|source| PinError::File { path: path.clone(), source })?;
    let owner = request.user.map_or(0, |(base, _)| base);
    let options = format!("size={bytes},mode=1777,uid={owner},gid={owner}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    mount(Some("shm"), &path, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(|source| PinError::Shm { path, source })
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
    for name in [WHOLE, "pid", SHM, "ipc", "net", "user"] {
        let path = directory.join(name);
        match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // EINVAL: the file is there, but nothing is mounted on it.
            Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
            Err(source) => return Err(PinError::Release { path, source }),
        }
        let remove = if name == SHM { std::fs::remove_dir(&path) } else { std::fs::remove_file(&path) };
        match remove {
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
        create(&Request { directory: &target, user: Some((700_000, 65536)), network: true, ipc: None, pid: None })
            .unwrap();
        assert_eq!(statfs(&target.join("user")).unwrap().filesystem_type(), NSFS_MAGIC);
        assert_eq!(statfs(&target.join("net")).unwrap().filesystem_type(), NSFS_MAGIC);
        assert!(target.join(WHOLE).exists());
        delete(&target).unwrap();
        delete(&target).unwrap();
        assert!(!target.exists());
    }

    #[test]
    fn a_pid_namespace_lives_until_its_cgroup_goes() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("ns");
        let path = format!("/neargate-unit-{}-pause", std::process::id());
        create(&Request {
            directory: &target,
            user: Some((700_000, 65536)),
            network: true,
            ipc: Some(1 << 20),
            pid: Some(&path),
        })
        .unwrap();
        let cgroup = Cgroup::open(&path).unwrap();
        let pids = cgroup.pids().unwrap();
        assert_eq!(pids.len(), 1);
        let told = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", pids[0])).unwrap();
        assert_eq!(told("cmdline").trim_end_matches('\0'), "pause");
        // It closes the last one right after it has told us.
        let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", pids[0])).unwrap().count();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while descriptors() > 0 {
            assert!(std::time::Instant::now() < deadline, "{} descriptors", descriptors());
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(std::fs::read_dir(format!("/proc/{}/root", pids[0])).unwrap().count(), 0);
        let status = told("status");
        for (line, value) in [("CapPrm:", "0000000000000000"), ("NSpid:", "1"), ("Uid:", "700000")] {
            let line = status.lines().find(|given| given.starts_with(line)).unwrap();
            assert!(line.split_whitespace().any(|word| word == value), "{line}");
        }
        assert_eq!(statfs(&target.join("pid")).unwrap().filesystem_type(), NSFS_MAGIC);
        cgroup.delete().unwrap();
        delete(&target).unwrap();
        assert!(!target.exists());
    }

    #[test]
    fn impossible_ranges_leave_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("ns");
        assert!(
            create(&Request {
                directory: &target,
                user: Some((u32::MAX, 65536)),
                network: false,
                ipc: None,
                pid: None
            })
            .is_err()
        );
        assert!(!target.exists());
    }
}
