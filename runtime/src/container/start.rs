//! Releasing a parked init, from the process that created it or from a later one.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use oci_spec::runtime::{Hook, LinuxSeccomp, Spec};

use super::listener;
use super::moments::since_boot;
use super::state::{Directory, StateError, Status, now};
use crate::hooks;
use crate::init::channel::{Channel, Message};
use crate::init::failure::{Context, Failure, Step};

/// Why a container did not start.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StartError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("container {id} is {is}, which does not allow to start")]
    WrongStatus { id: String, is: &'static str },
    #[error("cannot reach the init of container {id}")]
    Unreachable { id: String, source: Failure },
    #[error("container {id} did not start")]
    Init { id: String, source: Failure },
    #[error("cannot read the hooks of container {id}")]
    Config { id: String, source: Box<oci_spec::OciSpecError> },
}

impl StartError {
    /// The errno of execve, when that is what failed: ENOENT for a missing program, EACCES for one that may not be
    /// executed.
    pub fn execute_errno(&self) -> Option<Errno> {
        match self {
            StartError::Init { source, .. } if source.step == Step::Execute => Some(source.errno),
            _ => None,
        }
    }
}

/// Starts a container that an earlier process created.
pub fn start(state_root: &Path, id: &str) -> Result<(), StartError> {
    let directory = Directory::open(state_root, id)?;
    let record = directory.load()?;
    let Status::Created { .. } = record.status else {
        return Err(StartError::WrongStatus { id: id.to_owned(), is: record.status.name() });
    };
    let config = Spec::load(record.bundle.join("config.json"))
        .map_err(|source| StartError::Config { id: id.to_owned(), source: Box::new(source) })?;
    let seccomp = config.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    connect_and_release(&directory, id, seccomp)?;
    let poststart = config.hooks().as_ref().and_then(|hooks| hooks.poststart().as_deref()).unwrap_or_default();
    run_poststart(poststart, &directory)
}

/// Releases an init that waits at its socket; answers as [`release`] does.
pub(super) fn connect_and_release(
    directory: &Directory,
    id: &str,
    seccomp: Option<&LinuxSeccomp>,
) -> Result<u64, StartError> {
    let channel = connect_to(directory).map_err(|source| StartError::Unreachable { id: id.to_owned(), source })?;
    release(&channel, directory, id, seccomp)
}

/// Tells the init to go on, passes the notifications of its filter on, and waits until its execve has succeeded or
/// failed; answers when it had succeeded, in nanoseconds since boot.
pub(super) fn release(
    channel: &Channel,
    directory: &Directory,
    id: &str,
    seccomp: Option<&LinuxSeccomp>,
) -> Result<u64, StartError> {
    let failed = |source| StartError::Init { id: id.to_owned(), source };
    channel.send(&Message::Start, &[]).map_err(failed)?;
    loop {
        match channel.receive().map_err(failed)? {
            None => break,
            Some((Message::Listener { descriptor }, _)) => {
                let record = directory.load()?;
                let init = record.status.init().ok_or(Errno::ESRCH).at(Step::Listener).map_err(failed)?;
                listener::pass_on(init, descriptor, seccomp, record.to_oci()).map_err(failed)?;
                channel.send(&Message::Taken, &[]).map_err(failed)?;
            }
            Some(_) => return Err(Errno::EPROTO).at(Step::Channel).map_err(failed),
        }
    }
    let executed = since_boot();
    let mut record = directory.load()?;
    // A program that has ended already stays stopped.
    if let Status::Created { init } = record.status {
        record.status = Status::Running { init, started_at: now() };
        directory.save(&record)?;
    }
    Ok(executed)
}

pub(super) fn run_poststart(poststart: &[Hook], directory: &Directory) -> Result<(), StartError> {
    if poststart.is_empty() {
        return Ok(());
    }
    // The program runs: it goes on whatever they do.
    hooks::run_all("poststart", poststart, &directory.load()?.to_oci());
    Ok(())
}

/// The socket that a parked init listens on.
pub(super) fn listen_in(directory: &Directory) -> Result<OwnedFd, Failure> {
    let (socket, address, _directory) = start_socket(directory)?;
    bind(socket.as_raw_fd(), &address).at(Step::Started)?;
    listen(&socket, Backlog::new(1).at(Step::Started)?).at(Step::Started)?;
    Ok(socket)
}

fn connect_to(directory: &Directory) -> Result<Channel, Failure> {
    let (socket, address, _directory) = start_socket(directory)?;
    connect(socket.as_raw_fd(), &address).at(Step::Started)?;
    Ok(Channel::over(socket))
}

/// Through a descriptor of the directory, as a path in a socket address has 107 bytes at most.
fn start_socket(directory: &Directory) -> Result<(OwnedFd, UnixAddr, OwnedFd), Failure> {
    let opened = std::fs::File::open(directory.path()).on(Step::Started, directory.path().display())?;
    let path = format!("/proc/self/fd/{}/start.sock", opened.as_raw_fd());
    let address = UnixAddr::new(path.as_str()).at(Step::Started)?;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).at(Step::Started)?;
    Ok((socket, address, opened.into()))
}
