//! [bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html) for programs of type BPF_PROG_TYPE_CGROUP_DEVICE: which
//! devices a cgroup of version 2 may use. What a program says belongs to `cgroup`.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE_ATTACHMENT: u32 = 6;
const ALLOW_MULTI: u32 = 2;
/// More than anybody attaches to one group: the kernel takes 64.
const MAX_PROGRAMS: u32 = 64;

/// `struct bpf_insn` of linux/bpf.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register, and the source register shifted by 4.
    pub registers: u8,
    /// For jumps and memory.
    pub offset: i16,
    /// Immediate value.
    pub value: i32,
}

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// The beginning of `union bpf_attr` for BPF_PROG_ATTACH and BPF_PROG_DETACH.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for BPF_PROG_QUERY.
#[repr(C)]
struct Query {
    target: u32,
    kind: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// Loads a program over the devices of a cgroup. EINVAL or EACCES where the kernel's verifier does not take it, EPERM
/// without CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN.
pub fn load(program: &[Instruction]) -> Result<OwnedFd, Errno> {
    let attributes = Load {
        kind: CGROUP_DEVICE_PROGRAM,
        count: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
    };
    owned(call(PROG_LOAD, &attributes)?)
}

/// Attaches `program` to the group whose directory `group` is, beside those that are attached.
pub fn attach(group: impl AsFd, program: impl AsFd) -> Result<(), Errno> {
    let flags = ALLOW_MULTI;
    call(PROG_ATTACH, &attachment(group, program, flags)).map(drop)
}

/// Detaches `program`.
pub fn detach(group: impl AsFd, program: impl AsFd) -> Result<(), Errno> {
    call(PROG_DETACH, &attachment(group, program, 0)).map(drop)
}

fn attachment(group: impl AsFd, program: impl AsFd, flags: u32) -> Attach {
    let number = |fd: RawFd| fd.unsigned_abs();
    let (target, program) = (number(group.as_fd().as_raw_fd()), number(program.as_fd().as_raw_fd()));
    Attach { target, program, kind: CGROUP_DEVICE_ATTACHMENT, flags }
}

/// The programs over devices that are attached to the group itself.
pub fn attached(group: impl AsFd) -> Result<Vec<OwnedFd>, Errno> {
    let mut ids = [0u32; MAX_PROGRAMS as usize];
    let mut query = Query {
        target: group.as_fd().as_raw_fd().unsigned_abs(),
        kind: CGROUP_DEVICE_ATTACHMENT,
        flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: MAX_PROGRAMS,
        padding: 0,
    };
    call_mut(PROG_QUERY, &mut query)?;
    ids.iter().take(query.count as usize).map(|id| owned(call(PROG_GET_FD_BY_ID, &[*id, 0, 0])?)).collect()
}

fn call<T>(command: libc::c_int, attributes: &T) -> Result<libc::c_long, Errno> {
    // SAFETY: the kernel reads as many bytes of a live struct as are said; pointers in it are to what outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    Errno::result(result)
}

fn call_mut<T>(command: libc::c_int, attributes: &mut T) -> Result<libc::c_long, Errno> {
    // SAFETY: as above, and the kernel writes back within the same bytes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    Errno::result(result)
}

fn owned(fd: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the callers pass the result of a call that makes a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
