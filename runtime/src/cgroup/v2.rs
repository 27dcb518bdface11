//! cgroup v2: one hierarchy, `cgroup.kill`, `memory.events`.

use std::fs;

use super::{Cgroup, CgroupError};

/// The controllers enabled down the path.
pub(super) const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// `oom_kill` of memory.events counts the group's own dead, also where a limit above it was the reason.
pub(super) fn oom_kills(cgroup: &Cgroup) -> Result<u64, CgroupError> {
    let file = cgroup.directory(None).join("memory.events");
    let text = fs::read_to_string(&file).map_err(CgroupError::file(&file))?;
    Ok(super::stats::field(&text, "oom_kill").unwrap_or(0))
}

pub(super) fn set_frozen(cgroup: &Cgroup, frozen: bool) -> Result<(), CgroupError> {
    super::limits::write(&cgroup.directory(None).join("cgroup.freeze"), if frozen { "1" } else { "0" })
}

pub(super) fn is_frozen(cgroup: &Cgroup) -> Result<bool, CgroupError> {
    let events = super::text_or_empty(&cgroup.directory(None).join("cgroup.events"))?;
    Ok(super::stats::field(&events, "frozen") == Some(1))
}

pub(super) fn kill(cgroup: &Cgroup) -> Result<(), CgroupError> {
    super::limits::write(&cgroup.directory(None).join("cgroup.kill"), "1")
}
