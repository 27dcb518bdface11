//! [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html): no descriptor of the runtime outlives
//! an execve or enters a container.

use std::os::fd::RawFd;

use nix::errno::Errno;

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    call(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// Closes every descriptor but 0, 1, 2 and those of `keep`.
///
/// For a freshly cloned child only, which never drops the owners of what is closed here.
pub fn close_all_but(keep: &[RawFd]) -> Result<(), Errno> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            call(first, fd - 1, 0)?;
        }
        first = fd + 1;
    }
    call(first, u32::MAX, 0)
}

fn call(first: u32, last: u32, flags: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: takes integers only; the callers say which descriptors may go.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    Errno::result(result).map(drop)
}

/// EBADF where no descriptor is open at this number.
pub fn is_open(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: F_GETFD takes an integer and changes nothing, whoever owns the descriptor.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_GETFD) }).map(drop)
}

/// Closes the child's copy of one descriptor, whose owner is in the parent and is never dropped here.
pub fn close_one(fd: RawFd) -> Result<(), Errno> {
    let fd = u32::try_from(fd).map_err(|_| Errno::EBADF)?;
    call(fd, fd, 0)
}
