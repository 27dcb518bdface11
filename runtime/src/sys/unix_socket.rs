//! Descriptors over [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html) sockets, and accept4(2), as owned
//! values. Owns no protocol.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, accept4, recvmsg, sendmsg};

/// Most descriptors of one message: the kernel's SCM_MAX_FD is 253.
pub const MAX_DESCRIPTORS: usize = 250;

/// Sends one message with descriptors. EPIPE instead of SIGPIPE when the peer is gone.
pub fn send(socket: impl AsFd, payload: &[u8], descriptors: &[RawFd]) -> Result<(), Errno> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    let fd = socket.as_fd().as_raw_fd();
    loop {
        match sendmsg::<()>(fd, &[IoSlice::new(payload)], control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Receives one message and its descriptors (close-on-exec); `None` at the end of the stream.
/// EMSGSIZE when the message did not fit into `buffer`.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Option<(usize, Vec<OwnedFd>)>, Errno> {
    let fd = socket.as_fd().as_raw_fd();
    let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    loop {
        let mut parts = [IoSliceMut::new(buffer)];
        let message = match recvmsg::<()>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let mut descriptors = Vec::new();
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = part {
                // SAFETY: the kernel has just installed these descriptors for this message, nobody else owns them.
                descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        if message.flags.contains(MsgFlags::MSG_TRUNC) {
            return Err(Errno::EMSGSIZE);
        }
        return Ok((message.bytes > 0).then_some((message.bytes, descriptors)));
    }
}

/// Accepts a connection, close-on-exec.
pub fn accept(listener: impl AsFd) -> Result<OwnedFd, Errno> {
    loop {
        match accept4(listener.as_fd().as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Err(Errno::EINTR) => {}
            // SAFETY: a fresh descriptor that nobody else knows of.
            other => return other.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
        }
    }
}
