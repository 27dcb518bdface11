//! [fork(2)](https://man7.org/linux/man-pages/man2/fork.2.html) where clone3 may not be: docker's seccomp profile
//! answers ENOSYS to it, and glibc's fork uses clone.

use nix::errno::Errno;
use nix::unistd::Pid;

/// Forks; `child` runs in the new process, which ends with the code it returns.
///
/// Only for single-threaded processes: in the child no other thread exists to release a lock.
pub fn spawn(child: impl FnOnce() -> i32) -> Result<Pid, Errno> {
    #[expect(clippy::disallowed_methods, reason = "this is the place that clippy.toml means")]
    // SAFETY: the caller is single-threaded, so the child's copy of memory is consistent and no lock is held.
    let forked = unsafe { nix::unistd::fork() }?;
    match forked {
        nix::unistd::ForkResult::Child => super::clone3::exit(child()),
        nix::unistd::ForkResult::Parent { child } => Ok(child),
    }
}
