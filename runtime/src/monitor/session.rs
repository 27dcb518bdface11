//! Clients of the monitor's socket: one request each, and for an executed process everything that goes in and out.
//! Buffers are bounded: a client that does not read stops only its own process's output, one that sends too fast waits.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::PollFlags;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{pipe2, read, write};
use oci_spec::runtime::Process;

use super::SIGNALLED;
use super::protocol::{Exited, Failure, Kind, Request, Signal, Window, decode, encode};
use super::serve::{CHUNK, nonblocking};
use crate::cli::report::chain;
use crate::container::exec::{Exec, ExecError, ExecTarget, exec};
use crate::init::failure::{Context as _, Step};
use crate::init::stdio::Stdio;
use crate::sys::{pidfd, terminal};

/// More wait, unseen, until one goes.
const MAX_CLIENTS: usize = 64;
/// Bytes held for a client, or for a process, before its source is no longer read.
const HIGH_WATER: usize = 64 * 1024;

/// Bytes that are read of an output once its process has ended. More than a pipe holds, so that more is of a child that
/// was left behind and goes on writing.
const MOST_AFTER_EXIT: usize = 1 << 20;

/// Which descriptor of which client is ready.
#[derive(Debug, Clone, Copy)]
pub(super) enum Interest {
    Socket(usize),
    Output(usize, usize),
    Stdin(usize),
    Exit(usize),
}

/// All clients.
pub(super) struct Clients<'a> {
    target: &'a ExecTarget,
    clients: Vec<Client>,
    /// Processes whose clients are gone, killed but not waited for yet.
    orphans: Vec<OwnedFd>,
}

struct Client {
    stream: UnixStream,
    received: Vec<u8>,
    to_send: Vec<u8>,
    process: Option<Executed>,
    /// Nothing more comes after what is to be sent.
    finished: bool,
    gone: bool,
}

/// A process executed for a client.
struct Executed {
    exec: Exec,
    outputs: Vec<(Kind, Option<OwnedFd>)>,
    stdin: Option<OwnedFd>,
    to_stdin: Vec<u8>,
    stdin_ends: bool,
    exit_code: Option<i32>,
    /// Bytes read of its output since it ended.
    after_exit: usize,
}

impl<'a> Clients<'a> {
    pub(super) fn new(target: &'a ExecTarget) -> Clients<'a> {
        Clients { target, clients: Vec::new(), orphans: Vec::new() }
    }

    /// Whether there is room for one more.
    pub(super) fn has_room(&self) -> bool {
        self.clients.len() < MAX_CLIENTS
    }

    /// Takes a new client. One that cannot be taken is closed, which it sees.
    pub(super) fn accept(&mut self, listener: &UnixListener) {
        if let Ok((stream, _)) = listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            let (received, to_send) = (Vec::new(), Vec::new());
            self.clients.push(Client { stream, received, to_send, process: None, finished: false, gone: false });
        }
    }

    /// What to wait for.
    pub(super) fn interests(&self) -> Vec<(Interest, BorrowedFd<'_>, PollFlags)> {
        let mut interests = Vec::new();
        for (index, client) in self.clients.iter().enumerate() {
            let mut flags = PollFlags::empty();
            let stdin_full = client.process.as_ref().is_some_and(|process| process.to_stdin.len() > HIGH_WATER);
            flags.set(PollFlags::POLLIN, !stdin_full);
            flags.set(PollFlags::POLLOUT, !client.to_send.is_empty());
            interests.push((Interest::Socket(index), client.stream.as_fd(), flags));
            let Some(process) = &client.process else { continue };
            if client.to_send.len() < HIGH_WATER {
                for (number, (_, output)) in process.outputs.iter().enumerate() {
                    if let Some(output) = output {
                        interests.push((Interest::Output(index, number), output.as_fd(), PollFlags::POLLIN));
                    }
                }
            }
            if let Some(stdin) = process.stdin.as_ref().filter(|_| !process.to_stdin.is_empty()) {
                interests.push((Interest::Stdin(index), stdin.as_fd(), PollFlags::POLLOUT));
            }
            if process.exit_code.is_none() {
                interests.push((Interest::Exit(index), process.exec.pidfd.as_fd(), PollFlags::POLLIN));
            }
        }
        interests
    }

    /// Does what is possible now.
    pub(super) fn handle(&mut self, interest: Interest) {
        match interest {
            Interest::Socket(index) => {
                self.clients[index].send();
                self.receive(index);
            }
            Interest::Output(index, number) => self.clients[index].read_output(number),
            Interest::Stdin(index) => {
                if let Some(process) = &mut self.clients[index].process {
                    process.feed();
                }
            }
            Interest::Exit(index) => {
                if let Some(process) = &mut self.clients[index].process {
                    process.exit_code = waited(&process.exec.pidfd);
                }
            }
        }
    }

    /// Ends what is over.
    pub(super) fn tidy(&mut self) {
        for client in &mut self.clients {
            client.conclude();
            client.send();
        }
        let mut index = 0;
        while index < self.clients.len() {
            let client = &self.clients[index];
            if client.gone || (client.finished && client.to_send.is_empty()) {
                let client = self.clients.swap_remove(index);
                if let Some(process) = client.process.filter(|process| process.exit_code.is_none()) {
                    // ESRCH: it has just ended.
                    let _ = pidfd::send_signal(&process.exec.pidfd, libc::SIGKILL);
                    self.orphans.push(process.exec.pidfd);
                }
            } else {
                index += 1;
            }
        }
        self.orphans.retain(|orphan| waited(orphan).is_none());
    }

    fn receive(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let mut chunk = [0; CHUNK];
        match client.stream.read(&mut chunk) {
            Ok(0) => client.gone = true,
            Ok(length) => client.received.extend(&chunk[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => client.gone = true,
        }
        loop {
            match decode(&mut self.clients[index].received) {
                Ok(Some((kind, payload))) => self.take(index, kind, &payload),
                Ok(None) => return,
                Err(_) => {
                    self.clients[index].gone = true;
                    return;
                }
            }
        }
    }

    fn take(&mut self, index: usize, kind: Kind, payload: &[u8]) {
        let target = self.target;
        let client = &mut self.clients[index];
        match (&mut client.process, kind) {
            (None, Kind::Request) if !client.finished => match serde_json::from_slice(payload) {
                Ok(request) => client.answer(request, target),
                Err(error) => client.refuse("InvalidRequest", &error),
            },
            (Some(process), Kind::Stdin) if process.stdin.is_some() && !process.stdin_ends => {
                process.to_stdin.extend(payload);
                process.feed();
            }
            // Sent before the client could know that nobody reads any more.
            (Some(_), Kind::Stdin) => {}
            (Some(process), Kind::StdinClosed) => {
                process.stdin_ends = true;
                process.feed();
            }
            (Some(process), Kind::Resize) => {
                if let (Ok(window), Some(console)) = (serde_json::from_slice::<Window>(payload), &process.exec.console)
                {
                    // A terminal whose process has just ended has no size to set.
                    let _ = terminal::set_size(console, window.rows, window.columns);
                }
            }
            (Some(process), Kind::Signal) => {
                if let Ok(Signal { signal }) = serde_json::from_slice(payload) {
                    // ESRCH: it has just ended. EINVAL: the client's mistake, and only its own process.
                    let _ = pidfd::send_signal(&process.exec.pidfd, signal);
                }
            }
            _ => client.gone = true,
        }
    }
}

impl Client {
    fn answer(&mut self, request: Request, target: &ExecTarget) {
        match request {
            Request::Exec { process, stdin } => match Executed::start(target, &process, stdin) {
                Ok(executed) => {
                    self.process = Some(executed);
                    self.queue(Kind::Done, &[]);
                }
                Err(error) => self.refuse_exec(&error),
            },
        }
    }

    /// A program that is not there ends like one that a shell looked for; everything else is a failure.
    fn refuse_exec(&mut self, error: &ExecError) {
        let Some(errno) = error.execute_errno() else { return self.refuse("CannotStartContainerError", error) };
        self.queue(Kind::Done, &[]);
        self.queue(Kind::Stderr, format!("{}\n", chain(error)).as_bytes());
        self.exited(super::not_executed(errno));
    }

    fn exited(&mut self, exit_code: i32) {
        self.queue(Kind::Exit, &serde_json::to_vec(&Exited { exit_code }).unwrap_or_default());
        self.finished = true;
    }

    fn refuse(&mut self, kind: &str, error: &(dyn std::error::Error + 'static)) {
        let failure = Failure::new(kind, &chain(error));
        self.queue(Kind::Failed, &serde_json::to_vec(&failure).unwrap_or_default());
        self.finished = true;
    }

    fn queue(&mut self, kind: Kind, payload: &[u8]) {
        self.to_send.extend(encode(kind, payload));
    }

    fn send(&mut self) {
        while !self.to_send.is_empty() {
            match self.stream.write(&self.to_send) {
                Ok(sent) => drop(self.to_send.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }

    fn read_output(&mut self, number: usize) {
        let mut chunk = [0; CHUNK];
        let Some(process) = &mut self.process else { return };
        let (kind, output) = &mut process.outputs[number];
        let Some(descriptor) = output else { return };
        match read(&*descriptor, &mut chunk) {
            Ok(0) | Err(Errno::EIO) => *output = None,
            Ok(length) => {
                let kind = *kind;
                if process.exit_code.is_some() {
                    process.after_exit += length;
                }
                self.queue(kind, &chunk[..length]);
            }
            Err(_) => {}
        }
    }

    /// Tells the exit once the process has ended and all its output was read.
    fn conclude(&mut self) {
        let Some(process) = &self.process else { return };
        let Some(exit_code) = process.exit_code.filter(|_| !self.finished) else { return };
        // A child that it left behind may hold its output open for ever: what is there now is read, no more.
        if process.after_exit > MOST_AFTER_EXIT {
            self.exited(exit_code);
            return;
        }
        for number in 0..process.outputs.len() {
            while self.has_output(number) && self.to_send.len() < HIGH_WATER {
                self.read_output(number);
            }
            if self.has_output(number) {
                return;
            }
        }
        self.exited(exit_code);
    }

    fn has_output(&self, number: usize) -> bool {
        let Some((_, Some(output))) = self.process.as_ref().and_then(|process| process.outputs.get(number)) else {
            return false;
        };
        let mut watched = [nix::poll::PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut watched, nix::poll::PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

impl Executed {
    fn start(target: &ExecTarget, process: &Process, stdin: bool) -> Result<Executed, ExecError> {
        if process.terminal().unwrap_or(false) {
            let exec = exec(target, process, Stdio::Terminal)?;
            let (output, input) = both_ways(&exec).at(Step::Console).map_err(|failure| {
                // It runs, and nobody else would wait for it.
                let _ = pidfd::send_signal(&exec.pidfd, libc::SIGKILL);
                let _ = waitid(Id::PIDFd(exec.pidfd.as_fd()), WaitPidFlag::WEXITED);
                ExecError::Prepare(failure)
            })?;
            return Ok(Executed::new(exec, vec![(Kind::Stdout, Some(output))], stdin.then_some(input)));
        }
        let pipe = || pipe2(OFlag::O_CLOEXEC).at(Step::Streams).map_err(ExecError::Prepare);
        let ((stdin_read, stdin_write), (out_read, stdout), (err_read, stderr)) = (pipe()?, pipe()?, pipe()?);
        for ours in [&stdin_write, &out_read, &err_read] {
            nonblocking(ours).at(Step::Streams).map_err(ExecError::Prepare)?;
        }
        let exec = exec(target, process, Stdio::Fds { stdin: stdin_read, stdout, stderr })?;
        let outputs = vec![(Kind::Stdout, Some(out_read)), (Kind::Stderr, Some(err_read))];
        Ok(Executed::new(exec, outputs, stdin.then_some(stdin_write)))
    }

    fn new(exec: Exec, outputs: Vec<(Kind, Option<OwnedFd>)>, stdin: Option<OwnedFd>) -> Executed {
        Executed { exec, outputs, stdin, to_stdin: Vec::new(), stdin_ends: false, exit_code: None, after_exit: 0 }
    }

    /// Writes what the process takes now.
    fn feed(&mut self) {
        while let Some(stdin) = self.stdin.as_ref().filter(|_| !self.to_stdin.is_empty()) {
            match write(stdin, &self.to_stdin) {
                Ok(written) => drop(self.to_stdin.drain(..written)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                // It has closed its stdin.
                Err(_) => {
                    self.stdin = None;
                    self.to_stdin.clear();
                }
            }
        }
        if self.stdin_ends && self.to_stdin.is_empty() {
            self.stdin = None;
        }
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
