//! The process that keeps a shared pid namespace alive (ECS `pidMode` task): its pid 1 must outlive each container that
//! joins. It reaps what is left to it and does nothing else.
//!
//! Containers of the task see it, so it has nothing to be had: an empty root, no capability, no descriptor, and it is not
//! dumpable, which keeps /proc/1/root, /proc/1/exe and ptrace(2) from everybody inside.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::setsid;

use super::user;
use crate::init::failure::{Context, Failure, Step};
use crate::mounts;
use crate::sys::close_range;
use crate::sys::mount_api::FsContext;
use crate::sys::title::Arguments;

/// Becomes the pid 1 that its namespaces were cloned for. Writes 0 or an errno to `ready`, and returns only after an
/// errno.
pub(super) fn run(arguments: Option<&Arguments>, has_user: bool, ready: OwnedFd) -> i32 {
    let prepared = prepare(has_user, &ready).map_or_else(|failure| failure.errno as i32, |()| 0);
    if let Some(arguments) = arguments {
        arguments.replace("pause");
    }
    // A parent that is gone has taken the task's cgroup, and so this process, with it or will.
    let _ = nix::unistd::write(&ready, &prepared.to_ne_bytes());
    drop(ready);
    if prepared != 0 {
        return prepared;
    }
    loop {
        if matches!(SigSet::all().wait(), Ok(Signal::SIGCHLD)) {
            while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
        }
    }
}

fn prepare(has_user: bool, ready: &OwnedFd) -> Result<(), Failure> {
    if has_user {
        user::become_root()?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).at(Step::Session)?;
    setsid().at(Step::Session)?;
    mounts::isolate()?;
    let empty = FsContext::open(c"tmpfs").and_then(|context| context.mount(0)).on(Step::FileSystem, "tmpfs")?;
    let root = mounts::attach_root(empty)?;
    mounts::enter(&root, None)?;
    drop(root);
    // The standard descriptors are the caller's.
    close_range::close_one(0).and_then(|()| close_range::close_one(1)).at(Step::Descriptors)?;
    close_range::close_one(2).at(Step::Descriptors)?;
    close_range::close_all_but(&[ready.as_raw_fd()]).at(Step::Descriptors)?;
    for set in [caps::CapSet::Effective, caps::CapSet::Permitted, caps::CapSet::Inheritable] {
        caps::clear(None, set).map_err(|_| Errno::EPERM).at(Step::Capabilities)?;
    }
    prctl::set_dumpable(false).at(Step::Descriptors)
}
