//! [prlimit(2)](https://man7.org/linux/man-pages/man2/prlimit.2.html) on another process: the parent sets the limits of
//! an init, as only it may hold CAP_SYS_RESOURCE of the host.

use nix::errno::Errno;

/// Soft and hard value of one resource, `u64::MAX` for unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The value in force.
    pub soft: u64,
    /// Up to which the soft value may be raised.
    pub hard: u64,
}

/// Reads a limit of `pid`; `resource` is an `RLIMIT_*` number.
pub fn get(pid: i32, resource: u32) -> Result<Limits, Errno> {
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no new value is given, the old one is written to a live rlimit64.
    Errno::result(unsafe { libc::prlimit64(pid, resource, std::ptr::null(), &raw mut old) })?;
    Ok(Limits { soft: old.rlim_cur, hard: old.rlim_max })
}

/// Sets a limit of `pid`. EPERM when the hard value is raised without CAP_SYS_RESOURCE.
pub fn set(pid: i32, resource: u32, limits: Limits) -> Result<(), Errno> {
    let new = libc::rlimit64 { rlim_cur: limits.soft, rlim_max: limits.hard };
    // SAFETY: the new value is read from a live rlimit64, the old one is not asked for.
    Errno::result(unsafe { libc::prlimit64(pid, resource, &raw const new, std::ptr::null_mut()) })?;
    Ok(())
}
