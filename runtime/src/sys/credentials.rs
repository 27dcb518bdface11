//! [setgroups(2)](https://man7.org/linux/man-pages/man2/setgroups.2.html),
//! [setresgid(2)](https://man7.org/linux/man-pages/man2/setresgid.2.html) and
//! [setresuid(2)](https://man7.org/linux/man-pages/man2/setresuid.2.html) of the calling thread alone. libc's functions
//! change all threads of the process, and wait in a clone's only one for those that it left in its parent.

use nix::errno::Errno;

/// Sets the supplementary groups.
pub fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the kernel reads exactly groups.len() ids of a live slice; gid_t is u32.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Sets the real, effective and saved group id.
pub fn set_gid(gid: u32) -> Result<(), Errno> {
    // SAFETY: the arguments are numbers; no memory is touched.
    let result = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
    Errno::result(result).map(drop)
}

/// Sets the real, effective and saved user id.
pub fn set_uid(uid: u32) -> Result<(), Errno> {
    // SAFETY: the arguments are numbers; no memory is touched.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    Errno::result(result).map(drop)
}
