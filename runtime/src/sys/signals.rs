//! Signal dispositions before an execve: Rust starts with SIGPIPE ignored, and ignored signals survive execve(2).

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// Gives every signal its default action and unblocks all.
pub fn reset() -> Result<(), Errno> {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL installs no code of ours; SIGKILL, SIGSTOP and glibc's own two are refused, which is fine.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
