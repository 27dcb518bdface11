//! cgroup v1: one hierarchy per controller. Some are only used where a limit of theirs is asked for: each costs every
//! start a group, and cpuset takes no process before its values are copied from the parent.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;

use super::{Cgroup, CgroupError, MOUNT_POINT};

/// The hierarchies a container is put into.
pub(super) const CONTROLLERS: [&str; 7] = ["cpu", "cpuacct", "memory", "pids", "devices", "freezer", "blkio"];

/// Those that a container is put into for a limit of theirs.
pub(super) const EXTRA: [&str; 5] = ["cpuset", "hugetlb", "net_cls", "net_prio", "rdma"];

/// What a group of cpuset has to know before a process may join.
const INHERITED: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// Those of them that this host has.
pub(super) fn mounted() -> impl Iterator<Item = &'static str> {
    CONTROLLERS.into_iter().filter(|controller| Path::new(MOUNT_POINT).join(controller).is_dir())
}

/// Makes the group in the hierarchy of `controller` too, with all processes that it has elsewhere. False where the host
/// has no such hierarchy.
pub(super) fn make_extra(cgroup: &Cgroup, controller: &str) -> Result<bool, CgroupError> {
    let mut directory = Path::new(MOUNT_POINT).join(controller);
    if !directory.is_dir() {
        return Ok(false);
    }
    if !EXTRA.contains(&controller) || cgroup.directory(Some(controller)).is_dir() {
        return Ok(true);
    }
    for part in cgroup.path.split('/') {
        let parent = directory.clone();
        directory.push(part);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(CgroupError::file(&directory)(error));
            }
            _ => {}
        }
        for file in INHERITED.iter().filter(|_| controller == "cpuset") {
            let (ours, theirs) = (directory.join(file), parent.join(file));
            if super::text_or_empty(&ours)?.trim().is_empty() {
                super::limits::write(&ours, super::text_or_empty(&theirs)?.trim())?;
            }
        }
    }
    gather(cgroup, &directory)?;
    Ok(true)
}

/// Until no new one has been forked meanwhile.
fn gather(cgroup: &Cgroup, directory: &Path) -> Result<(), CgroupError> {
    let procs = directory.join("cgroup.procs");
    loop {
        let there = super::text_or_empty(&procs)?;
        let there: Vec<&str> = there.lines().collect();
        let missing: Vec<String> = cgroup.pids()?.iter().map(ToString::to_string).collect();
        let missing: Vec<&String> = missing.iter().filter(|pid| !there.contains(&pid.as_str())).collect();
        let mut moved = false;
        for pid in missing {
            match super::limits::write(&procs, pid) {
                Ok(()) => moved = true,
                // Ended meanwhile.
                Err(CgroupError::File { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => return Err(error),
            }
        }
        if !moved {
            return Ok(());
        }
    }
}

/// `oom_kill` of memory.oom_control counts the group's own dead, also where a limit above it was the reason.
pub(super) fn oom_kills(cgroup: &Cgroup) -> Result<u64, CgroupError> {
    let file = cgroup.directory(Some("memory")).join("memory.oom_control");
    let text = fs::read_to_string(&file).map_err(CgroupError::file(&file))?;
    Ok(super::stats::field(&text, "oom_kill").unwrap_or(0))
}

pub(super) fn set_frozen(cgroup: &Cgroup, frozen: bool) -> Result<(), CgroupError> {
    let file = cgroup.directory(Some("freezer")).join("freezer.state");
    super::limits::write(&file, if frozen { "FROZEN" } else { "THAWED" })
}

/// FREEZING while the last ones have not stopped yet.
pub(super) fn is_frozen(cgroup: &Cgroup) -> Result<bool, CgroupError> {
    let file = cgroup.directory(Some("freezer")).join("freezer.state");
    Ok(super::text_or_empty(&file)?.trim() == "FROZEN")
}

/// Freezes, signals, thaws: a frozen group cannot fork away from the signal, which takes effect as it thaws.
pub(super) fn kill(cgroup: &Cgroup) -> Result<(), CgroupError> {
    let can_freeze = cgroup.directory(Some("freezer")).is_dir();
    if can_freeze {
        set_frozen(cgroup, true)?;
    }
    let signalled = cgroup.pids().map(|pids| {
        for pid in pids {
            // Gone meanwhile is what was wanted.
            let _best_effort = send(Pid::from_raw(pid), Signal::SIGKILL);
        }
    });
    thaw_all(cgroup)?;
    signalled
}

/// Those below too: the kernel keeps frozen what is frozen by itself.
pub(super) fn thaw_all(cgroup: &Cgroup) -> Result<(), CgroupError> {
    for group in super::tree(&cgroup.directory(Some("freezer")))? {
        match super::limits::write(&group.join("freezer.state"), "THAWED") {
            Err(CgroupError::File { source, .. }) if super::is_gone(&source) => {}
            other => other?,
        }
    }
    Ok(())
}
