//! [setdomainname(2)](https://man7.org/linux/man-pages/man2/setdomainname.2.html).

use nix::errno::Errno;

/// Sets the NIS domain name of the caller's UTS namespace.
pub fn set_domain_name(name: &str) -> Result<(), Errno> {
    // SAFETY: the kernel reads exactly name.len() bytes of a live str.
    let result = unsafe { libc::syscall(libc::SYS_setdomainname, name.as_ptr(), name.len()) };
    Errno::result(result).map(drop)
}
