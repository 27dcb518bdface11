//! Waiting for a process in the foreground: signals are passed on to it, its terminal is copied, its exit code becomes
//! ours.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{read, write};

use crate::sys::pidfd;

/// Shells add this to the number of the signal that ended a process.
const SIGNALLED: i32 = 128;

/// Why waiting went wrong.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum WaitError {
    #[error("cannot watch for signals")]
    Signals(#[source] Errno),
    #[error("cannot wait for the process")]
    Wait(#[source] Errno),
    #[error("cannot set the terminal to raw mode")]
    Terminal(#[source] Errno),
    #[error("cannot copy the terminal")]
    Copy(#[source] Errno),
}

/// Blocks the signals that are to be passed on. Before the start, so that none is lost.
pub fn prepare() -> Result<SignalFd, WaitError> {
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGCONT,
        Signal::SIGWINCH,
    ] {
        signals.add(signal);
    }
    signals.thread_block().map_err(WaitError::Signals)?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(WaitError::Signals)
}

/// Waits for the child behind `pidfd`; gives the exit code that a shell would.
pub fn wait(pidfd: &OwnedFd, signals: &SignalFd, console: Option<&OwnedFd>) -> Result<u8, WaitError> {
    let _raw = console.is_some().then(RawMode::enter).transpose()?.flatten();
    let mut input_open = console.is_some();
    loop {
        let stdin = io::stdin();
        let mut watched =
            vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if let Some(console) = console {
            watched.push(PollFd::new(console.as_fd(), PollFlags::POLLIN));
            if input_open {
                watched.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
        }
        match poll(&mut watched, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other.map_err(WaitError::Wait)?,
        };
        let ready: Vec<bool> = watched.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready[1] {
            forward(signals, pidfd)?;
        }
        if let Some(console) = console {
            if ready[2] {
                copy(console.as_fd(), io::stdout().as_fd())?;
            }
            if ready.get(3) == Some(&true) {
                input_open = copy(stdin.as_fd(), console.as_fd())?;
            }
        }
        // Last, so that the output of a process that has ended is not lost.
        if ready[0] && !ready.get(2).copied().unwrap_or(false) {
            return code(pidfd);
        }
        if ready[0] {
            // The slave is closed: what the terminal still holds, then its end.
            while let Some(console) = console
                && copy(console.as_fd(), io::stdout().as_fd())?
            {}
            return code(pidfd);
        }
    }
}

fn forward(signals: &SignalFd, pidfd: &OwnedFd) -> Result<(), WaitError> {
    while let Some(signal) = signals.read_signal().map_err(WaitError::Signals)? {
        let Ok(number) = i32::try_from(signal.ssi_signo) else { continue };
        match pidfd::send_signal(pidfd, number) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(WaitError::Signals(errno)),
        }
    }
    Ok(())
}

/// One piece; false at the end. A pty whose slave is closed answers EIO.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<bool, WaitError> {
    let mut buffer = [0; 8192];
    let length = match read(from, &mut buffer) {
        Err(Errno::EIO) => 0,
        Err(Errno::EINTR) => return Ok(true),
        other => other.map_err(WaitError::Copy)?,
    };
    let mut rest = &buffer[..length];
    while !rest.is_empty() {
        match write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::EINTR) => {}
            Err(Errno::EIO) => return Ok(false),
            Err(errno) => return Err(WaitError::Copy(errno)),
        }
    }
    Ok(length > 0)
}

fn code(pidfd: &OwnedFd) -> Result<u8, WaitError> {
    let status = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED).map_err(WaitError::Wait)?;
    let code = match status {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => SIGNALLED + signal as i32,
        _ => return Err(WaitError::Wait(Errno::EINVAL)),
    };
    Ok(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
}

/// The caller's terminal in raw mode, restored at the end.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> Result<Option<RawMode>, WaitError> {
        let before = match tcgetattr(io::stdin()) {
            Err(Errno::ENOTTY) => return Ok(None),
            other => other.map_err(WaitError::Terminal)?,
        };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).map_err(WaitError::Terminal)?;
        Ok(Some(RawMode(before)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
