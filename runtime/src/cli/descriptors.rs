//! Descriptors that a container's process inherits: those of `--preserve-fds`, and sockets of systemd's activation
//! (sd_listen_fds(3)). Looked at before the runtime opens anything: a number that the caller left free would become one
//! of ours, and the container's.

use nix::errno::Errno;

use super::Command;
use crate::sys::close_range;

/// The first one after stderr.
const FIRST: u32 = 3;

/// A descriptor to be preserved that is not there.
#[derive(Debug, thiserror::Error)]
#[error("descriptor {number}, which is to be preserved, is not open")]
pub(super) struct NotOpen {
    number: u32,
    #[source]
    source: Errno,
}

/// Whether all that `command` is to hand on is there.
pub(super) fn check(command: &Command) -> Result<(), NotOpen> {
    let count = match command {
        Command::Create(create) => create.preserve_fds.saturating_add(listening()),
        Command::Run(run) => run.create.preserve_fds.saturating_add(listening()),
        Command::Exec(exec) => exec.preserve_fds,
        _ => 0,
    };
    for number in FIRST..FIRST.saturating_add(count) {
        let open = i32::try_from(number).map_err(|_| Errno::EBADF).and_then(close_range::is_open);
        open.map_err(|source| NotOpen { number, source })?;
    }
    Ok(())
}

/// Sockets that were handed to this very process.
pub(super) fn listening() -> u32 {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") == Some(std::process::id()) { number("LISTEN_FDS").unwrap_or(0) } else { 0 }
}
