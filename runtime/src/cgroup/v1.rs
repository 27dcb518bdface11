//! cgroup v1: one hierarchy per controller. cpuset and the others stay untouched, so that nothing has to be
//! copied from the parent before a process can join.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;

use super::{Cgroup, CgroupError, MOUNT_POINT};

/// The hierarchies a container is put into.
pub(super) const CONTROLLERS: [&str; 7] = ["cpu", "cpuacct", "memory", "pids", "devices", "freezer", "blkio"];

/// Those of them that this host has.
pub(super) fn mounted() -> impl Iterator<Item = &'static str> {
    CONTROLLERS.into_iter().filter(|controller| Path::new(MOUNT_POINT).join(controller).is_dir())
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
    if can_freeze {
        set_frozen(cgroup, false)?;
    }
    signalled
}
