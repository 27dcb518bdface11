//! [seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html): installing a compiled filter.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// SECCOMP_FILTER_FLAG_NEW_LISTENER.
pub const NEW_LISTENER: u64 = 8;

/// SECCOMP_SET_MODE_FILTER with `flags` on the calling thread, for good. `program` is an array of `struct sock_filter`.
/// With [`NEW_LISTENER`] gives the descriptor of whoever is to answer notifications, close-on-exec.
///
/// Errors: EACCES without CAP_SYS_ADMIN and no_new_privs, EINVAL for a program the kernel rejects or that is no whole
/// number of instructions.
pub fn set_filter(program: &[u8], flags: u64) -> Result<Option<OwnedFd>, Errno> {
    const INSTRUCTION: usize = size_of::<libc::sock_filter>();
    if program.is_empty() || !program.len().is_multiple_of(INSTRUCTION) {
        return Err(Errno::EINVAL);
    }
    let mut instructions: Vec<libc::sock_filter> = program
        .chunks_exact(INSTRUCTION)
        .map(|bytes| libc::sock_filter {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
        .collect();
    let len = u16::try_from(instructions.len()).map_err(|_| Errno::EINVAL)?;
    let program = libc::sock_fprog { len, filter: instructions.as_mut_ptr() };
    // SAFETY: `program` points at `len` instructions of `instructions`, which outlives the call; the kernel copies them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    let result = RawFd::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: with this flag a result that is no error is a descriptor that the kernel has just made for us.
    let listener = (flags & NEW_LISTENER != 0).then(|| unsafe { OwnedFd::from_raw_fd(result) });
    Ok(listener)
}
