//! rlimits, the OOM score and the scheduling of an init, set by its parent: raising them may need CAP_SYS_RESOURCE of the host, which no
//! container's root has. On a host that is confined itself, as much as possible is set and the rest is told.

use std::io::Write;

use nix::errno::Errno;
use oci_spec::runtime::{PosixRlimit, PosixRlimitType, Process};

use crate::init::failure::{Context, Failure, IntoErrno, Step};
use crate::process::scheduling;
use crate::sys::prlimit::{self, Limits};

/// Applies `rlimits`, `oomScoreAdj`, `scheduler` and `ioPriority` to `pid`, a child that was not waited for. What the host does not allow is
/// lowered to what it does and told on stderr.
pub fn apply(pid: i32, process: &Process) -> Result<(), Failure> {
    for limit in process.rlimits().iter().flatten() {
        apply_limit(pid, limit)?;
    }
    if let Some(score) = process.oom_score_adj() {
        apply_oom_score(pid, score)?;
    }
    scheduling::apply(pid, process)
}

fn apply_limit(pid: i32, limit: &PosixRlimit) -> Result<(), Failure> {
    let name = format!("{:?}", limit.typ());
    let resource = number(limit.typ());
    let wanted = Limits { soft: limit.soft(), hard: limit.hard() };
    match prlimit::set(pid, resource, wanted) {
        Err(Errno::EPERM) => {
            let now = prlimit::get(pid, resource).on(Step::RaiseLimit, &name)?;
            let possible = lowered(wanted, now);
            prlimit::set(pid, resource, possible).on(Step::RaiseLimit, &name)?;
            warn(&format!("{name} is {}:{} instead of {}:{}", possible.soft, possible.hard, wanted.soft, wanted.hard));
            Ok(())
        }
        other => other.on(Step::RaiseLimit, name),
    }
}

fn lowered(wanted: Limits, now: Limits) -> Limits {
    let hard = wanted.hard.min(now.hard);
    Limits { soft: wanted.soft.min(hard), hard }
}

fn apply_oom_score(pid: i32, score: i32) -> Result<(), Failure> {
    let path = format!("/proc/{pid}/oom_score_adj");
    match write(&path, score) {
        Err(Errno::EACCES | Errno::EPERM) => {
            // The lowest that is possible is what the child inherited.
            let now = std::fs::read_to_string(&path).on(Step::OomScore, score)?;
            warn(&format!("oom_score_adj is {} instead of {score}", now.trim_end()));
            Ok(())
        }
        other => other.on(Step::OomScore, score),
    }
}

fn write(path: &str, score: i32) -> Result<(), Errno> {
    let file = std::fs::File::options().write(true).open(path);
    file.and_then(|mut file| file.write_all(score.to_string().as_bytes())).map_err(IntoErrno::into_errno)
}

#[expect(clippy::print_stderr, reason = "stderr is the log of the runtime; the limit is reported there and not fatal")]
fn warn(what: &str) {
    eprintln!("neargate-runtime: warning: {what}, as this host may not raise it");
}

fn number(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowered_keeps_soft_below_hard() {
        let possible = lowered(Limits { soft: 900, hard: 1000 }, Limits { soft: 10, hard: 500 });
        assert_eq!(possible, Limits { soft: 500, hard: 500 });
    }
}
