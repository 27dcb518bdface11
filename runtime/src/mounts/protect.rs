//! What the container may see but not write, and what it may not see at all: `maskedPaths`, `readonlyPaths`,
//! `root.readonly`. A path that does not exist needs no protection.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::Plan;
use super::root::{Root, is_directory};
use crate::devices;
use crate::init::failure::{Context, Failure, Step};
use crate::sys::mount_api::{self, ATTR_RDONLY, Attributes, FsContext, clone_tree, set_attributes};

/// Paths of /proc and /sys that tell of the host; docker hides them.
pub const DEFAULT_MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Paths of /proc that act on the host.
pub const DEFAULT_READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Applies all three, the root last.
pub fn protect(root: &Root, plan: &Plan) -> Result<(), Failure> {
    for path in &plan.read_only_paths {
        let Some(target) = existing(root, path)? else { continue };
        let copy = clone_tree(&target, "", true).on(Step::ReadOnly, path.display())?;
        let read_only = Attributes { set: ATTR_RDONLY, ..Attributes::default() };
        set_attributes(&copy, true, read_only).on(Step::ReadOnly, path.display())?;
        mount_api::attach(&copy, &target).on(Step::ReadOnly, path.display())?;
    }
    for path in &plan.masked {
        let Some(target) = existing(root, path)? else { continue };
        let cover = if is_directory(&target).on(Step::Mask, path.display())? {
            let empty = FsContext::open(c"tmpfs").on(Step::Mask, path.display())?;
            empty.mount(ATTR_RDONLY).on(Step::Mask, path.display())?
        } else {
            // The node is verified to be the null device: a planted one would be bound over what is to be hidden.
            clone_tree(devices::host_null()?, "", false).on(Step::Mask, path.display())?
        };
        mount_api::attach(&cover, &target).on(Step::Mask, path.display())?;
    }
    Ok(())
}

/// `root.readonly`: after everything that is made in the root file system.
pub fn protect_root(root: &Root, plan: &Plan) -> Result<(), Failure> {
    if plan.read_only {
        let read_only = Attributes { set: ATTR_RDONLY, ..Attributes::default() };
        set_attributes(root.as_fd(), false, read_only).on(Step::ReadOnly, "/")?;
    }
    Ok(())
}

/// What is found here is what the container will find: procfs is mounted on a plain /proc only.
fn existing(root: &Root, path: &Path) -> Result<Option<OwnedFd>, Failure> {
    match root.find(path) {
        Err(Failure { errno: Errno::ENOENT | Errno::ENOTDIR, .. }) => Ok(None),
        other => other.map(Some),
    }
}
