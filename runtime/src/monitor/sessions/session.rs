//! One session: what goes between a connection, which may be lost and replaced, and a command or the container's own
//! streams. Bounded: a slow client makes a command wait, and misses output of the container.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::unistd::write;

use super::command::Command;
use super::connection::{Connection, State};
use super::replay::Replay;
use crate::monitor::protocol::{Bytes, Exited, Kind, Opened, STDIN_WINDOW, SessionKey, Signal, Window};
use crate::sys::{pidfd, terminal};

/// Bytes held for a connection, or of a stdin, before their source is no longer read.
const HIGH_WATER: usize = 64 * 1024;

/// The container's own streams, as far as its clients reach them.
#[derive(Debug)]
pub(in crate::monitor) struct Container<'a> {
    /// Its pid 1.
    pub(in crate::monitor) init: BorrowedFd<'a>,
    /// Where it reads from, if it stays open.
    pub(in crate::monitor) stdin: Option<OwnedFd>,
    /// Master of its terminal.
    pub(in crate::monitor) console: Option<OwnedFd>,
}

/// What a session is with.
pub(super) enum Body {
    Command(Box<Command>),
    /// A command that could not be executed.
    Nothing,
    Container {
        stdin: bool,
    },
}

/// A session.
pub(super) struct Session {
    pub(super) key: Option<SessionKey>,
    pub(super) connection: Option<Connection>,
    /// When it ends unless a client comes back to it.
    pub(super) deadline: Option<Instant>,
    pub(super) output: Replay,
    pub(super) body: Body,
    /// Stdin that was taken and not written yet.
    input: Vec<u8>,
    /// Bytes of stdin taken, and how many its client knows to be written.
    taken: u64,
    told_written: u64,
    input_ends: bool,
    /// Once it has ended and all output is in `output`.
    pub(super) exit_code: Option<i32>,
    told_exit: bool,
    /// Its client has gone for good.
    pub(super) is_over: bool,
}

impl Session {
    pub(super) fn new(key: Option<SessionKey>, body: Body) -> Session {
        Session {
            key,
            connection: None,
            deadline: None,
            output: Replay::default(),
            body,
            input: Vec::new(),
            taken: 0,
            told_written: 0,
            input_ends: false,
            exit_code: None,
            told_exit: false,
            is_over: false,
        }
    }

    pub(super) fn is_resumable(&self) -> bool {
        self.key.as_ref().is_some_and(|key| key.resumable)
    }

    /// Whether frames are taken now. Where output is acknowledged they always are: the acknowledgement may come behind
    /// stdin that the command will read only when it can write again.
    pub(super) fn has_room(&self) -> bool {
        self.is_resumable() || self.input.len() <= HIGH_WATER
    }

    /// Where its stdin is to be written, when there is some.
    pub(super) fn pending_stdin<'a>(&'a self, container: &'a Container<'_>) -> Option<BorrowedFd<'a>> {
        let stdin = match &self.body {
            Body::Command(command) => command.stdin.as_ref(),
            Body::Container { .. } => container.stdin.as_ref(),
            Body::Nothing => None,
        };
        stdin.filter(|_| !self.input.is_empty()).map(|stdin| stdin.as_fd())
    }

    /// Goes on over `connection`, from the byte of output at which it stands.
    pub(super) fn connect(&mut self, mut connection: Connection, container: &Container<'_>) {
        let (stdin, terminal) = match &self.body {
            Body::Command(command) => (command.stdin.is_some(), command.console().is_some()),
            Body::Container { stdin } => (*stdin && container.stdin.is_some(), container.console.is_some()),
            Body::Nothing => (false, false),
        };
        let (stdin_offset, output_offset) = (self.taken, self.output.position());
        connection.tell(Kind::Done, &Opened { stdin, terminal, stdin_offset, output_offset });
        self.connection = Some(connection);
        self.told_written = 0;
        (self.deadline, self.told_exit) = (None, false);
    }

    /// Takes the frames that its connection has received.
    pub(super) fn receive(&mut self, container: &mut Container<'_>) {
        while let Some((kind, payload)) = self.connection.as_mut().and_then(Connection::frame) {
            self.take(kind, &payload, container);
        }
        self.feed(container);
    }

    fn take(&mut self, kind: Kind, payload: &[u8], container: &Container<'_>) {
        match kind {
            Kind::Stdin => {
                self.taken += payload.len() as u64;
                let wanted = match &self.body {
                    Body::Command(command) => command.stdin.is_some() && !self.input_ends,
                    Body::Container { stdin } => *stdin && container.stdin.is_some(),
                    // Sent before the client could know that nobody reads.
                    Body::Nothing => false,
                };
                if wanted {
                    self.input.extend(payload);
                }
                if self.is_resumable() && self.input.len() > STDIN_WINDOW {
                    self.break_off();
                }
            }
            // The container's stdin is there for whoever attaches next.
            Kind::StdinClosed => self.input_ends = matches!(self.body, Body::Command(_)),
            Kind::Resize => {
                let console = match &self.body {
                    Body::Command(command) => command.console(),
                    Body::Container { .. } => container.console.as_ref(),
                    Body::Nothing => None,
                };
                if let (Ok(window), Some(console)) = (serde_json::from_slice::<Window>(payload), console) {
                    // A terminal whose process has just ended has no size to set.
                    let _ = terminal::set_size(console, window.rows, window.columns);
                }
            }
            Kind::Signal => {
                let Ok(Signal { signal }) = serde_json::from_slice(payload) else { return };
                match &self.body {
                    Body::Command(command) => command.signal(signal),
                    Body::Container { .. } => {
                        // As for a command.
                        let _ = pidfd::send_signal(container.init, signal);
                    }
                    Body::Nothing => {}
                }
            }
            Kind::Acknowledge => {
                if let Ok(Bytes { bytes }) = serde_json::from_slice(payload) {
                    self.output.acknowledge(bytes);
                }
            }
            Kind::Detach if matches!(self.body, Body::Container { .. }) => {
                if let Some(connection) = &mut self.connection {
                    connection.done();
                }
                self.is_over = true;
            }
            _ => self.break_off(),
        }
    }

    /// The client does what it may not: its session ends.
    fn break_off(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.state = State::Broken;
        }
    }

    /// Writes what is taken of its stdin now.
    pub(super) fn feed(&mut self, container: &mut Container<'_>) {
        let stdin = match &mut self.body {
            Body::Command(command) => &mut command.stdin,
            Body::Container { .. } => &mut container.stdin,
            Body::Nothing => return,
        };
        let mut written = 0;
        while let Some(open) = stdin.as_ref().filter(|_| written < self.input.len()) {
            match write(open, &self.input[written..]) {
                Ok(length) => written += length,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                // It has closed its stdin.
                Err(_) => *stdin = None,
            }
        }
        self.input.drain(..written);
        if stdin.is_none() || self.input.is_empty() {
            self.input = Vec::new();
        }
        if self.input_ends && self.input.is_empty() {
            *stdin = None;
        }
    }

    /// Notices the end of its command, and passes on what its connection takes.
    pub(super) fn progress(&mut self) {
        let is_resumable = self.is_resumable();
        if let (Body::Command(command), None) = (&mut self.body, self.exit_code) {
            self.exit_code = command.conclude(&mut self.output);
        }
        let Some(connection) = &mut self.connection else { return };
        if connection.state == State::Open {
            let written = self.taken - self.input.len() as u64;
            // The latest number is enough for a client that reads late.
            if self.told_written < written && connection.waiting() < HIGH_WATER {
                connection.tell(Kind::Taken, &Bytes { bytes: written });
                self.told_written = written;
            }
            while connection.waiting() < HIGH_WATER
                && let Some(frame) = self.output.frame()
            {
                connection.queue(&frame);
                if !is_resumable {
                    self.output.acknowledge(self.output.position());
                }
            }
            if let Some(exit_code) = self.exit_code.filter(|_| self.output.is_sent() && !self.told_exit) {
                connection.tell(Kind::Exit, &Exited { exit_code });
                self.told_exit = true;
                if !is_resumable {
                    connection.state = State::Finished;
                }
            }
        }
        connection.send();
    }

    /// Whether its client, if there is one, has been sent all there will ever be.
    pub(super) fn is_told(&self) -> bool {
        self.connection.as_ref().is_none_or(|connection| self.told_exit && connection.waiting() == 0)
    }
}
