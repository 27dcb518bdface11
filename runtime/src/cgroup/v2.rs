//! cgroup v2: one hierarchy, `cgroup.kill`, `memory.events`.

use std::fs;
use std::path::Path;

use super::{Cgroup, CgroupError, MOUNT_POINT};

/// The controllers always enabled down the path.
pub(super) const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Enables `controller` down to the group. False where the host does not have it, or gives it to nobody.
pub(super) fn enable(cgroup: &Cgroup, controller: &str) -> Result<bool, CgroupError> {
    let has = |file: &Path| Ok(super::text_or_empty(file)?.split_whitespace().any(|name| name == controller));
    let mut directory = Path::new(MOUNT_POINT).to_owned();
    for part in cgroup.path.split('/') {
        if !has(&directory.join("cgroup.controllers"))? {
            return Ok(false);
        }
        let enabled = directory.join("cgroup.subtree_control");
        if !has(&enabled)? {
            super::limits::write(&enabled, &format!("+{controller}"))?;
        }
        directory.push(part);
    }
    Ok(true)
}

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
