//! A container's life: [`create`](create::create) makes everything and parks its init before execve, `start` releases
//! it, [`exec`](exec::exec) adds processes, and the functions here look at it, signal it and remove it. What is known
//! about a container between two commands is in [`state`].

use std::io;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::{LinuxResources, Spec, State};

use crate::cgroup::{Cgroup, CgroupError};
use crate::hooks;
use crate::process::ProcessRef;
use crate::sys::pidfd;
use state::{Directory, Listed, Record, StateError, Status};

pub mod create;
pub mod exec;
mod listener;
pub mod moments;
pub mod start;
pub mod state;

pub use crate::init::stdio::Stdio;

/// How long a container may take to die of SIGKILL: it can be in the middle of slow I/O.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A running container whose cgroup is frozen, in runc's word.
pub const PAUSED: &str = "paused";

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
}

/// What is known of a container, as it is now.
pub fn load(state_root: &Path, id: &str) -> Result<Record, ContainerError> {
    Ok(Directory::open(state_root, id)?.load()?)
}

/// The word for where a container is: OCI's, or `paused` for a running one whose cgroup is frozen.
pub fn status(record: &Record) -> Result<&'static str, ContainerError> {
    let frozen = match record.status {
        Status::Running { .. } => cgroup(record).and_then(|group| group.is_frozen()),
        _ => Ok(false),
    };
    let frozen = frozen.map_err(|source| ContainerError::Cgroup { id: record.id.clone(), source })?;
    Ok(if frozen { PAUSED } else { record.status.name() })
}

/// Freezes a running container; returns when none of its processes runs.
pub fn pause(state_root: &Path, id: &str) -> Result<(), ContainerError> {
    let record = in_status(state_root, id, &["running"], "pause")?;
    cgroup(&record).and_then(|group| group.freeze()).map_err(|source| ContainerError::Cgroup { id: record.id, source })
}

/// Lets a paused container go on.
pub fn resume(state_root: &Path, id: &str) -> Result<(), ContainerError> {
    let record = in_status(state_root, id, &[PAUSED], "resume")?;
    cgroup(&record).and_then(|group| group.thaw()).map_err(|source| ContainerError::Cgroup { id: record.id, source })
}

/// Changes the limits that `resources` names and leaves the others.
pub fn update(state_root: &Path, id: &str, resources: &LinuxResources) -> Result<(), ContainerError> {
    let record = in_status(state_root, id, &["created", "running", PAUSED], "update")?;
    let updated = cgroup(&record).and_then(|group| group.update(resources));
    updated.map_err(|source| ContainerError::Cgroup { id: record.id, source })
}

/// The pids of a container's processes, as the caller sees them.
pub fn pids(state_root: &Path, id: &str) -> Result<Vec<i32>, ContainerError> {
    let record = load(state_root, id)?;
    cgroup(&record).and_then(|group| group.pids()).map_err(|source| ContainerError::Cgroup { id: record.id, source })
}

/// The container's cgroup.
pub fn cgroup(record: &Record) -> Result<Cgroup, CgroupError> {
    Cgroup::open(&record.cgroup)
}

fn in_status(state_root: &Path, id: &str, allowed: &[&str], wanted: &'static str) -> Result<Record, ContainerError> {
    let record = load(state_root, id)?;
    let is = status(&record)?;
    if !allowed.contains(&is) {
        return Err(ContainerError::WrongStatus { id: id.to_owned(), is, wanted });
    }
    Ok(record)
}

/// All containers below `state_root`, those whose records are damaged apart. One that is just being made or removed is
/// left out.
pub fn list(state_root: &Path) -> Result<Listed, ContainerError> {
    Ok(state::list(state_root)?)
}

/// Sends `signal` to the container's init, or to every process in its cgroup when `all`. SIGKILL ends paused ones too;
/// other signals wait until they are resumed.
pub fn kill(state_root: &Path, id: &str, signal: i32, all: bool) -> Result<(), ContainerError> {
    let record = load(state_root, id)?;
    if all {
        kill_all(&record, signal)?;
    } else {
        let wrong = |is| ContainerError::WrongStatus { id: id.to_owned(), is, wanted: "kill" };
        let init = record.status.init().ok_or_else(|| wrong(record.status.name()))?;
        match signal_process(init, signal) {
            Err(Errno::ESRCH) => return Err(wrong("stopped")),
            other => other.map_err(|source| ContainerError::Signal { id: id.to_owned(), signal, source })?,
        }
    }
    if signal == libc::SIGKILL { wake(&record) } else { Ok(()) }
}

fn wake(record: &Record) -> Result<(), ContainerError> {
    let thawed = cgroup(record).and_then(|group| group.thaw_all());
    thawed.map_err(|source| ContainerError::Cgroup { id: record.id.clone(), source })
}

fn kill_all(record: &Record, signal: i32) -> Result<(), ContainerError> {
    let failed = |source| ContainerError::Cgroup { id: record.id.clone(), source };
    let group = cgroup(record).map_err(failed)?;
    for pid in group.pids().map_err(failed)? {
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

/// Removes a stopped container: cgroup, state, poststop hooks. With `force` it is killed first, one whose record is
/// damaged is removed as far as the record still tells of it, and a container that does not exist is success.
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
        Err(StateError::Parse { .. }) if force => return delete_damaged(directory, id),
        other => other?,
    };
    if let Some(init) = record.status.init() {
        // A created container has run nothing yet, so it may go without force, as with runc.
        if !force && !matches!(record.status, Status::Created { .. }) {
            let is = record.status.name();
            return Err(ContainerError::WrongStatus { id: id.to_owned(), is, wanted: "delete" });
        }
        end(&record, init)?;
    }
    let failed = |source| ContainerError::Cgroup { id: id.to_owned(), source };
    cgroup(&record).and_then(|group| group.delete()).map_err(failed)?;
    directory.remove()?;
    let mut state = record.to_oci();
    state.set_status(oci_spec::runtime::ContainerState::Stopped).set_pid(None);
    run_poststop(&record, &state);
    Ok(())
}

/// What is in its cgroup ends with it. A record that does not even tell of a cgroup is removed alone.
fn delete_damaged(directory: Directory, id: &str) -> Result<(), ContainerError> {
    if let Some(group) = directory.salvage_cgroup().and_then(|path| Cgroup::open(&path).ok()) {
        group.delete().map_err(|source| ContainerError::Cgroup { id: id.to_owned(), source })?;
    }
    Ok(directory.remove()?)
}

fn end(record: &Record, init: ProcessRef) -> Result<(), ContainerError> {
    let id = &record.id;
    let failed = |source| ContainerError::Signal { id: id.clone(), signal: libc::SIGKILL, source };
    let pidfd = match pidfd::open(init.pid) {
        Err(Errno::ESRCH) => return Ok(()),
        other => other.map_err(failed)?,
    };
    match signal_process(init, libc::SIGKILL) {
        Err(Errno::ESRCH) => return Ok(()),
        other => other.map_err(failed)?,
    }
    wake(record)?;
    let timeout = PollTimeout::try_from(KILL_TIMEOUT).unwrap_or(PollTimeout::MAX);
    let descriptor = std::os::fd::AsFd::as_fd(&pidfd);
    match poll(&mut [PollFd::new(descriptor, PollFlags::POLLIN)], timeout) {
        Ok(0) => Err(ContainerError::Unkillable { id: id.clone() }),
        Ok(_) => Ok(()),
        Err(source) => Err(failed(source)),
    }
}

fn run_poststop(record: &Record, state: &State) {
    // Without the configuration there are no hooks to be known; the container is gone all the same.
    let Ok(config) = Spec::load(record.bundle.join("config.json")) else { return };
    let poststop = config.hooks().as_ref().and_then(|hooks| hooks.poststop().as_deref()).unwrap_or_default();
    hooks::run_all("poststop", poststop, state);
}
