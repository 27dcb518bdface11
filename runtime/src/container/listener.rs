//! Who answers seccomp notifications: the descriptor of a process's filter, taken from it and sent to the socket of
//! `linux.seccomp.listenerPath`. Source: OCI config-linux, "The Container Process State".

use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use oci_spec::runtime::{ContainerProcessState, LinuxSeccomp, State};

use super::state::OCI_VERSION;
use crate::init::failure::{Context, Failure, Step};
use crate::process::ProcessRef;
use crate::sys::{pidfd, unix_socket};

/// The specification's name of the descriptor.
const NAME: &str = "seccompFd";

/// Takes `descriptor` from `process` and sends it on, with the state of its container.
pub(super) fn pass_on(
    process: ProcessRef,
    descriptor: RawFd,
    seccomp: Option<&LinuxSeccomp>,
    state: State,
) -> Result<(), Failure> {
    let path = seccomp.and_then(|seccomp| seccomp.listener_path().clone()).ok_or(Errno::EINVAL).at(Step::Listener)?;
    let on = |result: Result<(), Errno>| result.on(Step::Listener, path.display());
    let pidfd = pidfd::open(process.pid).at(Step::Listener)?;
    if !process.is_alive() {
        return Err(Errno::ESRCH).at(Step::Listener);
    }
    let listener = pidfd::take_descriptor(&pidfd, descriptor).at(Step::Listener)?;
    let mut told = ContainerProcessState::default();
    told.set_version(OCI_VERSION.to_owned())
        .set_fds(vec![NAME.to_owned()])
        .set_pid(process.pid)
        .set_metadata(seccomp.and_then(|seccomp| seccomp.listener_metadata().clone()))
        .set_state(state);
    let payload = serde_json::to_vec(&told).map_err(|_| Errno::EINVAL).at(Step::Listener)?;
    let stream = UnixStream::connect(&path).on(Step::Listener, path.display())?;
    on(unix_socket::send(&stream, &payload, &[listener.as_raw_fd()]))
}
