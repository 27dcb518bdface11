//! A small init for containers that ask for one (ECS `initProcessEnabled`, docker `--init`): pid 1 stays the runtime,
//! forwards signals to the program, reaps what is left to it, and ends with the program's exit code.
//!
//! Nothing of it can be reached from inside: it holds no descriptor but stdio, is not dumpable, and has the program's own
//! user, capabilities and seccomp filter.

use std::convert::Infallible;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, setpgid, tcsetpgrp};

use super::channel::{Channel, Message};
use super::failure::{Context, Failure, Step};
use crate::monitor::SIGNALLED;
use crate::sys::title::Arguments;
use crate::sys::{clone3, close_range, fork};

/// Becomes the init of a process that executes the program; returns only when it cannot.
pub(super) fn run(
    arguments: Option<&Arguments>,
    channel: &Channel,
    terminal: bool,
    execute: impl FnOnce() -> Result<Infallible, Failure>,
) -> Result<Infallible, Failure> {
    // Before the fork: a program that ends at once must not be missed.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).at(Step::Execute)?;
    let program = fork::spawn(|| {
        let failure = match lead(terminal).and_then(|()| execute()) {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        // The parent may be gone; there is nobody else to tell.
        let _ = channel.send(&Message::Failed(failure), &[]);
        1
    })
    .at(Step::Clone)?;
    // The program's execve is told by the end of the channel: no copy of it may stay open.
    close_range::close_all_but(&[]).at(Step::Descriptors)?;
    if let Some(arguments) = arguments {
        arguments.replace("init");
    }
    clone3::exit(look_after(program))
}

/// A process group of its own: what the terminal sends goes to the program once, not by way of pid 1 again.
fn lead(terminal: bool) -> Result<(), Failure> {
    setpgid(Pid::from_raw(0), Pid::from_raw(0)).at(Step::Session)?;
    if terminal {
        // All signals are blocked: SIGTTOU cannot stop us here.
        tcsetpgrp(std::io::stdin(), getpgrp()).at(Step::Session)?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).at(Step::Execute)
}

fn look_after(program: Pid) -> i32 {
    loop {
        match SigSet::all().wait() {
            Ok(Signal::SIGCHLD) | Err(Errno::EINTR) => {}
            // The program's own affair with its terminal.
            Ok(Signal::SIGTTIN | Signal::SIGTTOU) => continue,
            Ok(signal) => {
                // ESRCH: it has just ended, which SIGCHLD tells next.
                let _ = kill(program, signal);
                continue;
            }
            Err(_) => {}
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == program => return code,
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => return SIGNALLED + signal as i32,
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => {}
            }
        }
    }
}
