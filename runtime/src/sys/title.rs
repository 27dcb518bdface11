//! The command line of the calling process as /proc/PID/cmdline shows it (proc_pid_cmdline(5)): it names paths of the
//! host, which a container has no business with.

use std::ops::Range;

/// Where the kernel keeps the arguments of the calling process (proc_pid_stat(5), fields 48 and 49).
#[derive(Debug, Clone)]
pub struct Arguments(Range<usize>);

impl Arguments {
    /// Asks the kernel; None where /proc does not tell. Only before a container's own /proc could answer.
    pub fn find() -> Option<Arguments> {
        let text = std::fs::read_to_string("/proc/self/stat").ok()?;
        let (_, rest) = text.rsplit_once(')')?;
        // Field 3 is the first after the command's name.
        let mut fields = rest.split_ascii_whitespace().skip(48 - 3);
        let (start, end) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (start != 0 && start < end).then_some(Arguments(start..end))
    }

    /// Replaces all of them by `name`, as far as there is room.
    pub fn replace(&self, name: &str) {
        for (offset, address) in self.0.clone().enumerate() {
            let byte = name.as_bytes().get(offset).copied().unwrap_or_default();
            // SAFETY: the kernel said that the arguments of this process lie there: writable, initialised memory of its
            // own stack, of which a forked process has the same copy. std only keeps pointers to it as C strings, and
            // the last byte, a NUL, stays one.
            unsafe { std::ptr::write_volatile(address as *mut u8, if address + 1 == self.0.end { 0 } else { byte }) };
        }
    }
}
