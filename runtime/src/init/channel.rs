//! What runtime and init tell each other, in protocol order. One SOCK_SEQPACKET message each, close-on-exec at both
//! ends: the end of the stream after `Start` means that execve succeeded.
//!
//! ```text
//! runtime                              init
//!         <── Cloned ──                only where a helper had to join namespaces first
//!         ── Prepared (mounts) ──>     ids mapped, limits set, mounts ready, createRuntime hooks done
//!         <── Console (pty master) ──  only with a terminal
//!         <── Ready ──                 init waits
//!         ── Start ──>
//!         <── Listener ──              only with seccomp notifications; at an exec without Start
//!         ── Taken ──>
//!         <── end of stream ──         or Failed, which may come at any point
//! ```

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use super::failure::{Context, Failure, Step};
use crate::sys::unix_socket;

/// A message is a few names and numbers; paths are at most 4 KiB each.
const MAX_MESSAGE: usize = 32 * 1024;

/// Messages in the order of the protocol.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Message {
    /// The helper cloned the real init as its sibling; pid as the runtime sees it.
    Cloned {
        /// Pid in the runtime's pid namespace.
        pid: i32,
    },
    /// Part of the detached mounts that init is to attach; `more` follow.
    Prepared {
        /// Another such message follows.
        more: bool,
    },
    /// Carries the master of the container's pty.
    Console,
    /// Everything is done but the execve.
    Ready,
    /// Go on to execve.
    Start,
    /// The child has this descriptor of seccomp notifications, to be taken from it.
    Listener {
        /// Its number in the child.
        descriptor: RawFd,
    },
    /// The descriptor is with whoever answers.
    Taken,
    /// The child gave up and ends.
    Failed(Failure),
}

/// One end of the channel.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    pub fn pair() -> Result<(Channel, Channel), Failure> {
        let (one, other) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).at(Step::Channel)?;
        Ok((Channel(one), Channel(other)))
    }

    /// Over a connected SOCK_SEQPACKET socket.
    pub fn over(socket: OwnedFd) -> Channel {
        Channel(socket)
    }

    /// The same end once more.
    pub fn duplicate(&self) -> Result<Channel, Failure> {
        self.0.try_clone().map(Channel).at(Step::Channel)
    }

    /// From now on [`Channel::receive`] fails with EAGAIN where nothing comes for so long.
    pub fn limit_waiting(&self, patience: Duration) -> Result<(), Failure> {
        let patience = TimeVal::new(patience.as_secs().cast_signed(), 0);
        setsockopt(&self.0, sockopt::ReceiveTimeout, &patience).at(Step::Channel)
    }

    /// EPIPE when the other end is gone.
    pub fn send(&self, message: &Message, descriptors: &[RawFd]) -> Result<(), Failure> {
        let payload = serde_json::to_vec(message).map_err(|_| Errno::EINVAL).at(Step::Channel)?;
        unix_socket::send(&self.0, &payload, descriptors).at(Step::Channel)
    }

    /// Tells the other end of `listener` and waits until it has been taken. From its making on, calls that are to be
    /// answered wait for whoever listens: only write(2) is sure not to be one of them.
    pub fn hand_over(&self, listener: &OwnedFd) -> Result<(), Failure> {
        let message = Message::Listener { descriptor: listener.as_raw_fd() };
        let payload = serde_json::to_vec(&message).map_err(|_| Errno::EINVAL).at(Step::Channel)?;
        nix::unistd::write(&self.0, &payload).at(Step::Channel)?;
        match self.receive()? {
            Some((Message::Taken, _)) => Ok(()),
            Some(_) => Err(Errno::EPROTO).at(Step::Channel),
            None => Err(Errno::EPIPE).at(Step::Channel),
        }
    }

    /// The next message, `None` at the end of the stream. A `Failed` message is returned as the error that it is.
    pub fn receive(&self) -> Result<Option<(Message, Vec<OwnedFd>)>, Failure> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let received = match unix_socket::receive(&self.0, &mut buffer) {
            // The peer ended with messages of ours unread.
            Err(Errno::ECONNRESET) => None,
            other => other.at(Step::Channel)?,
        };
        let Some((length, descriptors)) = received else { return Ok(None) };
        match serde_json::from_slice(&buffer[..length]).map_err(|_| Errno::EBADMSG).at(Step::Channel)? {
            Message::Failed(failure) => Err(failure),
            message => Ok(Some((message, descriptors))),
        }
    }

    /// Sends detached mounts in as many messages as they need.
    pub fn send_mounts(&self, mounts: &[OwnedFd]) -> Result<(), Failure> {
        let raw: Vec<RawFd> = mounts.iter().map(AsRawFd::as_raw_fd).collect();
        let mut parts: Vec<&[RawFd]> = raw.chunks(unix_socket::MAX_DESCRIPTORS).collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            self.send(&Message::Prepared { more: true }, part)?;
        }
        self.send(&Message::Prepared { more: false }, last)
    }

    /// Counterpart of [`Channel::send_mounts`]; fails when the runtime is gone.
    pub fn receive_mounts(&self) -> Result<Vec<OwnedFd>, Failure> {
        let mut mounts = Vec::new();
        loop {
            match self.receive()? {
                Some((Message::Prepared { more }, part)) => {
                    mounts.extend(part);
                    if !more {
                        return Ok(mounts);
                    }
                }
                Some(_) => return Err(Errno::EPROTO).at(Step::Channel),
                None => return Err(Errno::EPIPE).at(Step::Channel),
            }
        }
    }

    /// For the descriptors that a child keeps open.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hundreds_of_mounts_arrive() {
        let (one, other) = Channel::pair().unwrap();
        let mounts: Vec<OwnedFd> = (0..300).map(|_| nix::unistd::dup(std::io::stderr()).unwrap()).collect();
        one.send_mounts(&mounts).unwrap();
        assert_eq!(other.receive_mounts().unwrap().len(), 300);
    }

    #[test]
    fn failure_arrives_as_error_and_end_as_none() {
        let (one, other) = Channel::pair().unwrap();
        let failure = Err::<(), _>(Errno::ENOENT).on(Step::Execute, "/x").unwrap_err();
        one.send(&Message::Failed(failure.clone()), &[]).unwrap();
        assert_eq!(other.receive().unwrap_err(), failure);
        drop(one);
        assert!(other.receive().unwrap().is_none());
    }
}
