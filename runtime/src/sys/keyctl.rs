//! [keyctl(2)](https://man7.org/linux/man-pages/man2/keyctl.2.html): a session keyring of its own, so that a container
//! cannot read the keys of whoever started it.

use nix::errno::Errno;

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Joins a new anonymous session keyring. ENOSYS where the kernel has no keyrings.
pub fn join_new_session_keyring() -> Result<(), Errno> {
    let anonymous: *const libc::c_char = std::ptr::null();
    // SAFETY: a null name asks for an anonymous keyring; nothing is read through it.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
    Errno::result(result).map(drop)
}
