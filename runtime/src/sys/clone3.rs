//! [clone3(2)](https://man7.org/linux/man-pages/man2/clone3.2.html) used as a fork: the child gets a copy of the
//! memory and goes on in Rust. Owns the call and the way the child ends; what the child does belongs to `init`.

use std::convert::Infallible;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// Exit code of a child whose Rust code panicked.
const PANICKED: i32 = 101;
/// `CLONE_INTO_CGROUP`, which is wider than the `c_int` constants of libc.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What to clone.
#[derive(Debug, Default)]
pub struct Clone3<'a> {
    /// `CLONE_NEW*` and `CLONE_PARENT` bits.
    pub flags: u64,
    /// cgroup v2 directory in which the child starts.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// The child as its parent sees it.
#[derive(Debug)]
pub struct Child {
    /// Pid in the caller's pid namespace.
    pub pid: i32,
    /// Descriptor of the process, close-on-exec.
    pub pidfd: OwnedFd,
}

impl Clone3<'_> {
    /// Clones; `child` runs in the new process, which ends with the code it returns (101 after a panic).
    ///
    /// Only for single-threaded processes: in the child no other thread exists to release a lock.
    /// Errors are those of clone3(2).
    pub fn spawn(&self, child: impl FnOnce() -> i32) -> Result<Child, Errno> {
        let mut pidfd: RawFd = -1;
        let mut flags = self.flags | libc::CLONE_PIDFD as u64;
        let mut cgroup = 0;
        if let Some(fd) = self.cgroup {
            flags |= CLONE_INTO_CGROUP;
            cgroup = u64::from(fd.as_raw_fd().unsigned_abs());
        }
        // With CLONE_PARENT the signal is inherited and must not be given.
        let exit_signal =
            if flags & libc::CLONE_PARENT as u64 == 0 { u64::from(libc::SIGCHLD.unsigned_abs()) } else { 0 };
        // SAFETY: clone_args consists of integers only, for which zero means "not used".
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = flags;
        args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
        args.exit_signal = exit_signal;
        args.cgroup = cgroup;
        // SAFETY: no CLONE_VM, so the child works on its own copy of memory and on its own copy of this stack;
        // args and the pidfd slot live until the call returns in both processes.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
        if pid == 0 {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(PANICKED);
            exit(code);
        }
        let pid = Errno::result(pid)?;
        // SAFETY: the kernel stored a fresh descriptor that nobody else knows of.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Child { pid: i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?, pidfd })
    }
}

/// [_exit(2)](https://man7.org/linux/man-pages/man2/_exit.2.html): ends a cloned child without running the exit
/// handlers and buffers that it shares with its parent by copy.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// Turns an endless result into a plain code for [`Clone3::spawn`].
pub fn never(value: Infallible) -> i32 {
    match value {}
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn child_code_is_its_exit_status() {
        let child = Clone3::default().spawn(|| 42).unwrap();
        assert_eq!(waitpid(Pid::from_raw(child.pid), None).unwrap(), WaitStatus::Exited(Pid::from_raw(child.pid), 42));
    }
}
