//! One connection to the monitor's socket: frames in and out of buffers, never waiting. Knows no session.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use serde::Serialize;

use crate::cli::report::chain;
use crate::monitor::protocol::{Failure, Kind, decode, encode};
use crate::monitor::serve::CHUNK;

/// What has become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Open,
    /// Nothing more comes after what is to be sent.
    Finished,
    /// The other end closed it, or died.
    Closed,
    /// The other end sent what is no frame, or none that may come now.
    Broken,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    to_send: Vec<u8>,
    pub(super) state: State,
}

impl Connection {
    /// Takes a new one. One that cannot be taken is closed, which the other end sees.
    pub(super) fn accept(listener: &UnixListener) -> Option<Connection> {
        let (stream, _) = listener.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(Connection { stream, received: Vec::new(), to_send: Vec::new(), state: State::Open })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Bytes that wait to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.to_send.len()
    }

    /// Whether it can be dropped.
    pub(super) fn is_over(&self) -> bool {
        match self.state {
            State::Open => false,
            State::Finished => self.to_send.is_empty(),
            State::Closed | State::Broken => true,
        }
    }

    /// Reads what there is, at most one piece of it.
    pub(super) fn receive(&mut self) {
        let mut chunk = [0; CHUNK];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.state = State::Closed,
            Ok(length) => self.received.extend(&chunk[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.state = State::Closed,
        }
    }

    /// The next whole frame of what was received.
    pub(super) fn frame(&mut self) -> Option<(Kind, Vec<u8>)> {
        match decode(&mut self.received) {
            Ok(Some(frame)) => return Some(frame),
            Ok(None) if self.received.is_empty() => self.received = Vec::new(),
            Ok(None) => {}
            Err(_) => self.state = State::Broken,
        }
        None
    }

    pub(super) fn queue(&mut self, frame: &[u8]) {
        self.to_send.extend(frame);
    }

    pub(super) fn tell(&mut self, kind: Kind, content: &impl Serialize) {
        self.queue(&encode(kind, &serde_json::to_vec(content).unwrap_or_default()));
    }

    /// Answers what failed; nothing comes after it.
    pub(super) fn refuse(&mut self, kind: &str, error: &(dyn std::error::Error + 'static)) {
        self.tell(Kind::Failed, &Failure::new(kind, &chain(error)));
        self.state = State::Finished;
    }

    /// Answers that it is done; nothing comes after it.
    pub(super) fn done(&mut self) {
        self.queue(&encode(Kind::Done, &[]));
        self.state = State::Finished;
    }

    /// Sends what the socket takes.
    pub(super) fn send(&mut self) {
        while !self.to_send.is_empty() {
            match self.stream.write(&self.to_send) {
                Ok(sent) => drop(self.to_send.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.state = State::Closed;
                    return;
                }
            }
        }
        self.to_send = Vec::new();
    }
}
