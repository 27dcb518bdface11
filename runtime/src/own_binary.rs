//! Keeps the runtime's own binary out of a container's reach (the class of CVE-2019-5736): a process that gets hold of
//! /proc/PID/exe of a runtime inside a container must not be able to write the host's file through it.
//!
//! The program executes itself once more from a read-only detached mount of its file, or, where mounts are not allowed,
//! from a sealed copy in memory.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl;
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::execveat;

use crate::sys::mount_api::{ATTR_RDONLY, Attributes, clone_tree, set_attributes};

const OWN: &str = "/proc/self/exe";

/// Why the binary could not be protected.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ProtectError {
    #[error("cannot look at {OWN}")]
    Look(#[source] Errno),
    #[error("cannot copy {OWN}")]
    Copy(#[source] io::Error),
    #[error("cannot execute the protected copy of {OWN}")]
    Execute(#[source] Errno),
}

/// Returns when the running binary is protected: at once, or in the process that was executed anew.
pub fn protect() -> Result<(), ProtectError> {
    let own = open(OWN, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(ProtectError::Look)?;
    if is_protected(&own).map_err(ProtectError::Look)? {
        // The kernel named us after a descriptor; a name is for people only.
        let _ = prctl::set_name(c"neargate-runtim");
        return Ok(());
    }
    let protected = match read_only_mount(Path::new(OWN)) {
        Ok(mount) => mount,
        Err(Errno::EPERM | Errno::ENOSYS | Errno::EINVAL) => sealed_copy(own).map_err(ProtectError::Copy)?,
        Err(errno) => return Err(ProtectError::Execute(errno)),
    };
    match execute(&protected).map_err(ProtectError::Execute)? {}
}

fn is_protected(own: &OwnedFd) -> Result<bool, Errno> {
    if fstatvfs(own)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(true);
    }
    match fcntl(own, FcntlArg::F_GET_SEALS) {
        Ok(seals) => Ok(SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_WRITE)),
        // Not a file in memory.
        Err(Errno::EINVAL) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// A detached read-only mount of one file. Whoever executes that spares the program to execute itself once more.
pub fn read_only_mount(file: &Path) -> Result<OwnedFd, Errno> {
    let mount = clone_tree(AT_FDCWD, file, false)?;
    set_attributes(&mount, false, Attributes { set: ATTR_RDONLY, ..Attributes::default() })?;
    Ok(mount)
}

fn sealed_copy(own: OwnedFd) -> io::Result<OwnedFd> {
    let mut copy = File::from(memfd_create(c"neargate-runtime", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    io::copy(&mut File::from(own), &mut copy)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(copy.into())
}

fn execute(binary: &OwnedFd) -> Result<Infallible, Errno> {
    let text = |text: Vec<u8>| CString::new(text).map_err(|_| Errno::EINVAL);
    let args = std::env::args_os().map(|arg| text(arg.into_vec())).collect::<Result<Vec<_>, _>>()?;
    let env = std::env::vars_os()
        .map(|(key, value)| text([key.into_vec(), value.into_vec()].join(&b'=')))
        .collect::<Result<Vec<_>, _>>()?;
    execveat(binary.as_fd(), c"", &args, &env, AtFlags::AT_EMPTY_PATH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_count_as_protected() {
        let own = || open(OWN, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        assert!(!is_protected(&own()).unwrap());
        assert!(is_protected(&read_only_mount(Path::new(OWN)).unwrap()).unwrap());
        assert!(is_protected(&sealed_copy(own()).unwrap()).unwrap());
    }
}
