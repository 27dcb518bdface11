//! OCI hooks (config, "POSIX-platform hooks"): programs run at points of the life cycle with the state on stdin. Owns no
//! rule of what a failure does to the container.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{Hook, State};

use crate::cli::report::chain;
use crate::sys::pidfd;

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum HookError {
    #[error("cannot write the state for hooks")]
    State(#[source] serde_json::Error),
    #[error("cannot run hook {path}")]
    Run { path: PathBuf, source: io::Error },
    #[error("hook {path} ended with {status}")]
    Failed { path: PathBuf, status: std::process::ExitStatus },
    #[error("hook {path} took longer than {seconds} s")]
    TimedOut { path: PathBuf, seconds: i64 },
}

/// Runs `hooks` in order and stops at the first that fails.
pub fn run(hooks: &[Hook], state: &State) -> Result<(), HookError> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = serde_json::to_vec(state).map_err(HookError::State)?;
    hooks.iter().try_for_each(|hook| run_one(hook, &state))
}

/// Runs all of `hooks`, whichever of them fail: those are told on stderr, as the specification wants it of `stage`.
#[expect(clippy::print_stderr, reason = "stderr is the log of the runtime")]
pub fn run_all(stage: &str, hooks: &[Hook], state: &State) {
    for hook in hooks {
        if let Err(error) = run(std::slice::from_ref(hook), state) {
            eprintln!("neargate-runtime: warning: {stage}: {}", chain(&error));
        }
    }
}

/// The state in memory, not in a pipe: a hook that reads none of it must not hold us up.
fn input(state: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"state", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(state)?;
    file.rewind()?;
    Ok(file)
}

fn run_one(hook: &Hook, state: &[u8]) -> Result<(), HookError> {
    let path = hook.path();
    let failed = |source| HookError::Run { path: path.clone(), source };
    let mut command = Command::new(path);
    if let Some((name, args)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        std::os::unix::process::CommandExt::arg0(&mut command, name);
        command.args(args);
    }
    command.env_clear().stdin(input(state).map_err(failed)?);
    for entry in hook.env().iter().flatten() {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        command.env(key, value);
    }
    let mut child = command.spawn().map_err(failed)?;
    if let Some(seconds) = hook.timeout().filter(|seconds| *seconds > 0)
        && !ends_within(&child, seconds).map_err(failed)?
    {
        // ESRCH cannot happen: nobody has waited for it yet.
        child.kill().map_err(failed)?;
        child.wait().map_err(failed)?;
        return Err(HookError::TimedOut { path: path.clone(), seconds });
    }
    let status = child.wait().map_err(failed)?;
    if status.success() { Ok(()) } else { Err(HookError::Failed { path: path.clone(), status }) }
}

fn ends_within(child: &Child, seconds: i64) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).map_err(|_| Errno::EOVERFLOW)?;
    let pidfd = pidfd::open(pid)?;
    let milliseconds = i32::try_from(seconds.saturating_mul(1000)).unwrap_or(i32::MAX);
    let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
    Ok(poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout)? > 0)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{HookBuilder, StateBuilder};

    use super::*;

    fn state() -> State {
        StateBuilder::default().version("1.2.0").id("x").build().unwrap()
    }

    fn shell(script: &str, timeout: i64) -> Hook {
        let args = ["sh", "-c", script].map(String::from).to_vec();
        HookBuilder::default().path("/bin/sh").args(args).timeout(timeout).build().unwrap()
    }

    #[test]
    fn state_arrives_on_stdin() {
        run(&[shell("grep -q '\"id\":\"x\"'", 5)], &state()).unwrap();
    }

    #[test]
    fn a_state_that_nobody_reads_holds_nobody_up() {
        let mut state = state();
        state.set_annotations(Some([("long".to_owned(), "x".repeat(1 << 20))].into()));
        run(&[shell("true", 20)], &state).unwrap();
        run(&[shell("test $(wc -c) -gt 1048576", 20)], &state).unwrap();
    }

    #[test]
    fn codes_and_timeouts_are_told_apart() {
        assert!(matches!(run(&[shell("exit 3", 5)], &state()), Err(HookError::Failed { .. })));
        assert!(matches!(run(&[shell("exec sleep 60", 1)], &state()), Err(HookError::TimedOut { .. })));
    }
}
