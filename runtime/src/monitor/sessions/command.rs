//! A process executed for a session: its streams, its end, and its end when nobody wants it any more.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, pipe2, read};
use oci_spec::runtime::Process;

use super::replay::Replay;
use crate::container::exec::{Exec, ExecError, ExecTarget, exec};
use crate::init::failure::{Context as _, Step};
use crate::init::stdio::Stdio;
use crate::monitor::SIGNALLED;
use crate::monitor::protocol::Kind;
use crate::monitor::serve::{CHUNK, nonblocking};
use crate::sys::pidfd;

/// Bytes that are read of an output once its process has ended. More than a pipe holds, so that more is of a child that
/// was left behind and goes on writing.
const MOST_AFTER_EXIT: usize = 1 << 20;
/// Between SIGHUP and SIGKILL for a command whose client has gone.
const HANGUP_GRACE: Duration = Duration::from_secs(5);

/// A command of a session.
pub(super) struct Command {
    exec: Exec,
    outputs: Vec<(Kind, Option<OwnedFd>)>,
    pub(super) stdin: Option<OwnedFd>,
    exit_code: Option<i32>,
    /// Bytes read of its output since it ended.
    after_exit: usize,
}

impl Command {
    /// Runs `process` in the container.
    pub(super) fn start(target: &ExecTarget, process: &Process, stdin: bool) -> Result<Command, ExecError> {
        if process.terminal().unwrap_or(false) {
            let exec = exec(target, process, Stdio::Terminal)?;
            let (output, input) = both_ways(&exec).at(Step::Console).map_err(|failure| {
                // It runs, and nobody else would wait for it.
                let _ = pidfd::send_signal(&exec.pidfd, libc::SIGKILL);
                let _ = waitid(Id::PIDFd(exec.pidfd.as_fd()), WaitPidFlag::WEXITED);
                ExecError::Prepare(failure)
            })?;
            return Ok(Command::new(exec, vec![(Kind::Stdout, Some(output))], stdin.then_some(input)));
        }
        let pipe = || pipe2(OFlag::O_CLOEXEC).at(Step::Streams).map_err(ExecError::Prepare);
        let ((stdin_read, stdin_write), (out_read, stdout), (err_read, stderr)) = (pipe()?, pipe()?, pipe()?);
        for ours in [&stdin_write, &out_read, &err_read] {
            nonblocking(ours).at(Step::Streams).map_err(ExecError::Prepare)?;
        }
        let exec = exec(target, process, Stdio::Fds { stdin: stdin_read, stdout, stderr })?;
        let outputs = vec![(Kind::Stdout, Some(out_read)), (Kind::Stderr, Some(err_read))];
        Ok(Command::new(exec, outputs, stdin.then_some(stdin_write)))
    }

    fn new(exec: Exec, outputs: Vec<(Kind, Option<OwnedFd>)>, stdin: Option<OwnedFd>) -> Command {
        Command { exec, outputs, stdin, exit_code: None, after_exit: 0 }
    }

    /// The master of its terminal.
    pub(super) fn console(&self) -> Option<&OwnedFd> {
        self.exec.console.as_ref()
    }

    /// Outputs that are open, by number.
    pub(super) fn open_outputs(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.outputs
            .iter()
            .enumerate()
            .filter_map(|(number, (_, output))| output.as_ref().map(|output| (number, output.as_fd())))
    }

    /// Readable once it has ended; None when that is known.
    pub(super) fn end(&self) -> Option<BorrowedFd<'_>> {
        self.exit_code.is_none().then(|| self.exec.pidfd.as_fd())
    }

    pub(super) fn signal(&self, signal: i32) {
        if self.exit_code.is_none() {
            // ESRCH: it has just ended. EINVAL: the client's mistake, and only its own process.
            let _ = pidfd::send_signal(&self.exec.pidfd, signal);
        }
    }

    /// Looks whether it has ended.
    pub(super) fn reap(&mut self) {
        if self.exit_code.is_none() {
            self.exit_code = waited(&self.exec.pidfd);
        }
    }

    pub(super) fn read_output(&mut self, number: usize, replay: &mut Replay) {
        let mut chunk = [0; CHUNK];
        let (kind, output) = &mut self.outputs[number];
        let Some(descriptor) = output else { return };
        match read(&*descriptor, &mut chunk) {
            Ok(0) | Err(Errno::EIO) => *output = None,
            Ok(length) => {
                if self.exit_code.is_some() {
                    self.after_exit += length;
                }
                replay.push(*kind, &chunk[..length]);
            }
            Err(_) => {}
        }
    }

    /// Its exit code once it has ended and all its output was read.
    pub(super) fn conclude(&mut self, replay: &mut Replay) -> Option<i32> {
        let exit_code = self.exit_code?;
        // A child that it left behind may hold its output open for ever: what is there now is read, no more.
        if self.after_exit > MOST_AFTER_EXIT {
            self.outputs.clear();
            return Some(exit_code);
        }
        for number in 0..self.outputs.len() {
            while self.has_output(number) && !replay.is_full() {
                self.read_output(number, replay);
            }
            if self.has_output(number) {
                return None;
            }
        }
        self.outputs.clear();
        Some(exit_code)
    }

    fn has_output(&self, number: usize) -> bool {
        let Some((_, Some(output))) = self.outputs.get(number) else { return false };
        let mut watched = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Ends it because nobody wants it any more: closes its streams and its terminal, and tells it by SIGHUP. None when
    /// it has ended already.
    pub(super) fn hang_up(self, now: Instant) -> Option<Ending> {
        let Command { exec: Exec { process, pidfd, console }, outputs, stdin, exit_code, .. } = self;
        drop((outputs, stdin, console));
        if exit_code.is_some() {
            return None;
        }
        let ending = Ending { group: Pid::from_raw(process.pid), pidfd, kill_at: Some(now + HANGUP_GRACE) };
        ending.signal(Signal::SIGHUP);
        Some(ending)
    }
}

/// A command that was told to end and is not waited for yet.
pub(super) struct Ending {
    group: Pid,
    pidfd: OwnedFd,
    kill_at: Option<Instant>,
}

impl Ending {
    /// Its whole process group: it leads a session of its own, and its pid is nobody else's before it is waited for.
    fn signal(&self, signal: Signal) {
        // ESRCH: it has just ended.
        let _ = killpg(self.group, signal);
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// When it is to be killed.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.kill_at
    }

    /// Kills it when it is time; true once it has ended.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        if self.kill_at.is_some_and(|at| at <= now) {
            self.signal(Signal::SIGKILL);
            self.kill_at = None;
        }
        waited(&self.pidfd).is_some()
    }
}

/// The terminal's master, to read from and to write to.
fn both_ways(exec: &Exec) -> io::Result<(OwnedFd, OwnedFd)> {
    let master = exec.console.as_ref().ok_or(Errno::ENOTTY)?;
    let (output, input) = (master.try_clone()?, master.try_clone()?);
    nonblocking(&input)?;
    Ok((output, input))
}

/// The exit code of a process that has ended; None while it runs.
fn waited(pidfd: &OwnedFd) -> Option<i32> {
    match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
        Ok(WaitStatus::Exited(_, code)) => Some(code),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(SIGNALLED + signal as i32),
        Ok(_) | Err(Errno::EINTR) => None,
        // Somebody else has waited for it, which cannot be; it must not be waited for again.
        Err(_) => Some(SIGNALLED),
    }
}
