//! [sched_setattr(2)](https://man7.org/linux/man-pages/man2/sched_setattr.2.html),
//! [ioprio_set(2)](https://man7.org/linux/man-pages/man2/ioprio_set.2.html) and
//! [personality(2)](https://man7.org/linux/man-pages/man2/personality.2.html): how the kernel runs a process.

use nix::errno::Errno;

/// `struct sched_attr` of linux/sched/types.h, first version.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Of this struct; [`set`] fills it in.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*` bits.
    pub flags: u64,
    /// For SCHED_OTHER and SCHED_BATCH, -20 to 19.
    pub nice: i32,
    /// For SCHED_FIFO and SCHED_RR, 1 to 99.
    pub priority: u32,
    /// For SCHED_DEADLINE, nanoseconds.
    pub runtime: u64,
    /// For SCHED_DEADLINE, nanoseconds.
    pub deadline: u64,
    /// For SCHED_DEADLINE, nanoseconds.
    pub period: u64,
}

/// Sets policy and parameters of `pid`. EPERM without CAP_SYS_NICE for more than the process has.
pub fn set(pid: i32, attributes: Attributes) -> Result<(), Errno> {
    let size = u32::try_from(size_of::<Attributes>()).map_err(|_| Errno::EINVAL)?;
    let attributes = Attributes { size, ..attributes };
    // SAFETY: the kernel reads as many bytes of a live struct as its own size says.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const attributes, 0) };
    Errno::result(result).map(drop)
}

/// Sets the I/O class (1 real time, 2 best effort, 3 idle) and the level in it (0 to 7) of `pid`.
pub fn set_io(pid: i32, class: i32, level: i32) -> Result<(), Errno> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_CLASS_SHIFT: libc::c_int = 13;
    let value = class << IOPRIO_CLASS_SHIFT | level;
    // SAFETY: takes integers only.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, pid, value) };
    Errno::result(result).map(drop)
}

/// Sets the execution domain of the calling process, a `PER_*` number.
pub fn set_personality(domain: u32) -> Result<(), Errno> {
    // SAFETY: takes an integer only.
    let result = unsafe { libc::personality(libc::c_ulong::from(domain)) };
    Errno::result(result).map(drop)
}
