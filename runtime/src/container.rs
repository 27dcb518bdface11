//! A container's life: [`create`](create::create) makes everything and parks its init before execve, `start` releases
//! it, [`exec`](exec::exec) adds processes, and the functions here look at it, signal it and remove it. What is known
//! about a container between two commands is in [`state`].

use std::io;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::{Spec, State};

use crate::cgroup::{Cgroup, CgroupError};
use crate::hooks::{self, HookError};
use crate::process::ProcessRef;
use crate::sys::pidfd;
use state::{Directory, Record, StateError, Status};

pub mod create;
pub mod exec;
pub mod start;
pub mod state;

pub use crate::init::stdio::Stdio;

/// How long a container may take to die of SIGKILL: it can be in the middle of slow I/O.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a container could not be signalled or removed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ContainerError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("container {id} is {is}, which does not allow to {wanted}")]
    WrongStatus { id: String, is: &'static str, wanted: &'static str },
    #[error("cannot send signal {signal} to container {id}")]
    Signal { id: String, signal: i32, source: Errno },
    #[error("container {id} did not end within {} s of SIGKILL", KILL_TIMEOUT.as_secs())]
    Unkillable { id: String },
    #[error("cannot handle the cgroup of container {id}")]
    Cgroup { id: String, source: CgroupError },
    #[error("poststop hook of container {id}")]
    Hook { id: String, source: HookError },
}

/// The OCI state of a container.
pub fn state(state_root: &Path, id: &str) -> Result<State, ContainerError> {
    Ok(Directory::open(state_root, id)?.load()?.to_oci())
}

/// Records of all containers below `state_root`, by id. One that is just being made or removed is left out.
pub fn list(state_root: &Path) -> Result<Vec<Record>, ContainerError> {
    Ok(state::list(state_root)?)
}

/// Sends `signal` to the container's init, or to every process in its cgroup when `all`.
pub fn kill(state_root: &Path, id: &str, signal: i32, all: bool) -> Result<(), ContainerError> {
    let record = Directory::open(state_root, id)?.load()?;
    if all {
        return kill_all(&record, signal);
    }
    let Some(init) = record.status.init() else {
        return Err(ContainerError::WrongStatus { id: id.to_owned(), is: record.status.name(), wanted: "kill" });
    };
    match signal_process(init, signal) {
        Err(Errno::ESRCH) => Err(ContainerError::WrongStatus { id: id.to_owned(), is: "stopped", wanted: "kill" }),
        other => other.map_err(|source| ContainerError::Signal { id: id.to_owned(), signal, source }),
    }
}

fn kill_all(record: &Record, signal: i32) -> Result<(), ContainerError> {
    let cgroup = |source| ContainerError::Cgroup { id: record.id.clone(), source };
    let group = Cgroup::open(&record.cgroup).map_err(cgroup)?;
    for pid in group.pids().map_err(cgroup)? {
        let sent = ProcessRef::of(pid).map_err(|_| Errno::ESRCH).and_then(|process| signal_process(process, signal));
        match sent {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(source) => return Err(ContainerError::Signal { id: record.id.clone(), signal, source }),
        }
    }
    Ok(())
}

/// Signals exactly `process`. ESRCH when it has ended.
pub fn signal_process(process: ProcessRef, signal: i32) -> Result<(), Errno> {
    let pidfd = pidfd::open(process.pid)?;
    // The descriptor is of whoever has the pid now; only the start time says that it is the right one.
    if !process.is_alive() {
        return Err(Errno::ESRCH);
    }
    pidfd::send_signal(&pidfd, signal)
}

/// Removes a stopped container: cgroup, state, poststop hooks. With `force` it is killed first, and a container that
/// does not exist is success.
pub fn delete(state_root: &Path, id: &str, force: bool) -> Result<(), ContainerError> {
    let directory = match Directory::open(state_root, id) {
        Err(StateError::NotFound { .. }) if force => return Ok(()),
        other => other?,
    };
    let record = match directory.load() {
        // Its creator died before anything but the directory was there.
        Err(StateError::Read { source, .. }) if force && source.kind() == io::ErrorKind::NotFound => {
            return Ok(directory.remove()?);
        }
        other => other?,
    };
    if let Some(init) = record.status.init() {
        // A created container has run nothing yet, so it may go without force, as with runc.
        if !force && !matches!(record.status, Status::Created { .. }) {
            let is = record.status.name();
            return Err(ContainerError::WrongStatus { id: id.to_owned(), is, wanted: "delete" });
        }
        end(id, init)?;
    }
    let cgroup = |source| ContainerError::Cgroup { id: id.to_owned(), source };
    Cgroup::open(&record.cgroup).and_then(|group| group.delete()).map_err(cgroup)?;
    directory.remove()?;
    let mut state = record.to_oci();
    state.set_status(oci_spec::runtime::ContainerState::Stopped).set_pid(None);
    run_poststop(&record, &state)
}

fn end(id: &str, init: ProcessRef) -> Result<(), ContainerError> {
    let failed = |source| ContainerError::Signal { id: id.to_owned(), signal: libc::SIGKILL, source };
    let pidfd = match pidfd::open(init.pid) {
        Err(Errno::ESRCH) => return Ok(()),
        other => other.map_err(failed)?,
    };
    match signal_process(init, libc::SIGKILL) {
        Err(Errno::ESRCH) => return Ok(()),
        other => other.map_err(failed)?,
    }
    let timeout = PollTimeout::try_from(KILL_TIMEOUT).unwrap_or(PollTimeout::MAX);
    let descriptor = std::os::fd::AsFd::as_fd(&pidfd);
    match poll(&mut [PollFd::new(descriptor, PollFlags::POLLIN)], timeout) {
        Ok(0) => Err(ContainerError::Unkillable { id: id.to_owned() }),
        Ok(_) => Ok(()),
        Err(source) => Err(failed(source)),
    }
}

fn run_poststop(record: &Record, state: &State) -> Result<(), ContainerError> {
    // Without the configuration there are no hooks to be known; the container is gone all the same.
    let Ok(config) = Spec::load(record.bundle.join("config.json")) else { return Ok(()) };
    let poststop = config.hooks().as_ref().and_then(|hooks| hooks.poststop().as_deref()).unwrap_or_default();
    hooks::run(poststop, state).map_err(|source| ContainerError::Hook { id: record.id.clone(), source })
}
