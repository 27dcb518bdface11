//! The mount API on descriptors: open_tree(2), mount_setattr(2), move_mount(2), fsopen(2), fsconfig(2), fsmount(2)
//! ([overview](https://man7.org/linux/man-pages/man2/fsopen.2.html)). One function per call and use; the numbers are
//! those of linux/mount.h.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::NixPath;
use nix::errno::Errno;

/// MOUNT_ATTR_RDONLY.
pub const ATTR_RDONLY: u64 = 0x1;
/// MOUNT_ATTR_NOSUID.
pub const ATTR_NOSUID: u64 = 0x2;
/// MOUNT_ATTR_NODEV.
pub const ATTR_NODEV: u64 = 0x4;
/// MOUNT_ATTR_NOEXEC.
pub const ATTR_NOEXEC: u64 = 0x8;
/// MOUNT_ATTR__ATIME, the mask of the three exclusive atime values (RELATIME is 0).
pub const ATTR_ATIME_MASK: u64 = 0x70;
/// MOUNT_ATTR_NOATIME.
pub const ATTR_NOATIME: u64 = 0x10;
/// MOUNT_ATTR_STRICTATIME.
pub const ATTR_STRICTATIME: u64 = 0x20;
/// MOUNT_ATTR_NODIRATIME.
pub const ATTR_NODIRATIME: u64 = 0x80;
/// MOUNT_ATTR_NOSYMFOLLOW.
pub const ATTR_NOSYMFOLLOW: u64 = 0x20_0000;
const ATTR_IDMAP: u64 = 0x10_0000;

const OPEN_TREE_CLONE: libc::c_uint = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_SET_FD: libc::c_uint = 5;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

/// Arguments of mount_setattr(2).
#[derive(Debug, Default, Clone, Copy)]
pub struct Attributes<'a> {
    /// `ATTR_*` bits to set.
    pub set: u64,
    /// `ATTR_*` bits to clear.
    pub clear: u64,
    /// One of MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE, or 0 for no change.
    pub propagation: u64,
    /// User namespace whose mappings the mount gets.
    pub id_map: Option<BorrowedFd<'a>>,
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// open_tree with OPEN_TREE_CLONE: a detached copy of the mount at `path`, with what is mounted below when `recursive`.
pub fn clone_tree<P: ?Sized + NixPath>(dir: impl AsFd, path: &P, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.unsigned_abs() | libc::AT_EMPTY_PATH.unsigned_abs();
    if recursive {
        flags |= AT_RECURSIVE;
    }
    let dir = dir.as_fd().as_raw_fd();
    // SAFETY: with_nix_path gives a NUL-terminated path that outlives the call.
    let result = path.with_nix_path(|path| unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })?;
    owned(result)
}

/// mount_setattr on the mount of `mount`, and on all below it when `recursive`.
pub fn set_attributes(mount: impl AsFd, recursive: bool, attributes: Attributes<'_>) -> Result<(), Errno> {
    let mut raw = MountAttr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    if let Some(user) = attributes.id_map {
        raw.attr_set |= ATTR_IDMAP;
        raw.userns_fd = u64::from(user.as_raw_fd().unsigned_abs());
    }
    let flags = libc::AT_EMPTY_PATH.unsigned_abs() | if recursive { AT_RECURSIVE } else { 0 };
    let fd = mount.as_fd().as_raw_fd();
    let size = size_of::<MountAttr>();
    // SAFETY: the path is an empty C string, the attributes a live struct of the stated size.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, &raw mut raw, size) };
    Errno::result(result).map(drop)
}

/// move_mount of a detached mount onto the file or directory that `target` refers to.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let (from, to) = (mount.as_fd().as_raw_fd(), target.as_fd().as_raw_fd());
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty C strings; the descriptors are borrowed for the call.
    let result = unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, c"".as_ptr(), flags) };
    Errno::result(result).map(drop)
}

/// A file system being configured: fsopen(2).
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// ENODEV when the kernel does not know `kind`.
    pub fn open(kind: &CStr) -> Result<FsContext, Errno> {
        const FSOPEN_CLOEXEC: libc::c_uint = 1;
        // SAFETY: the name is a C string.
        owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) }).map(FsContext)
    }

    /// A parameter without value.
    pub fn set_flag(&self, key: &CStr) -> Result<(), Errno> {
        self.configure(FSCONFIG_SET_FLAG, Some(key), None, 0)
    }

    /// A parameter with a string.
    pub fn set_string(&self, key: &CStr, value: &CStr) -> Result<(), Errno> {
        self.configure(FSCONFIG_SET_STRING, Some(key), Some(value), 0)
    }

    /// A parameter whose value is an open file. EINVAL from kernels that do not know `key` with descriptors.
    pub fn set_descriptor(&self, key: &CStr, value: impl AsFd) -> Result<(), Errno> {
        self.configure(FSCONFIG_SET_FD, Some(key), None, value.as_fd().as_raw_fd())
    }

    /// Creates the superblock and gives it as a detached mount with `ATTR_*` bits.
    pub fn mount(self, attributes: u64) -> Result<OwnedFd, Errno> {
        const FSMOUNT_CLOEXEC: libc::c_uint = 1;
        self.configure(FSCONFIG_CMD_CREATE, None, None, 0)?;
        let attributes = u32::try_from(attributes).map_err(|_| Errno::EINVAL)?;
        // SAFETY: takes integers only.
        owned(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
    }

    fn configure(&self, command: u32, key: Option<&CStr>, value: Option<&CStr>, aux: RawFd) -> Result<(), Errno> {
        let key = key.map_or(std::ptr::null(), CStr::as_ptr);
        let value = value.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: key and value are null or C strings that outlive the call, as the command wants them.
        let result = unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, aux) };
        Errno::result(result).map(drop)
    }
}

fn owned(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = Errno::result(result)?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the caller passes the result of a call that makes a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
