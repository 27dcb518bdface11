//! A further process in a running container: joins the namespaces of its init, its cgroup and its root, then becomes
//! what the `process` object says. A child of the caller, which can wait for it.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::setsid;
use oci_spec::runtime::{Process, Spec, State};

use super::create::{cgroup_path, terminal_size};
use super::listener;
use super::state::{Directory, Record, StateError, Status, now};
use crate::cgroup::{Cgroup, CgroupError};
use crate::init::channel::{Channel, Message};
use crate::init::cloning::{self, Birth, CgroupDoor, Cloned};
use crate::init::failure::{Context, Failure, Step};
use crate::init::stdio::{ChildStdio, Stdio};
use crate::init::{finish, join_keyring, preserved};
use crate::mounts::root::Root;
use crate::namespaces::{self, user};
use crate::process::procfs::Procfs;
use crate::process::scheduling;
use crate::process::settings::{Confinement, Settings};
use crate::process::user::Identity;
use crate::process::{ProcessRef, limits};
use crate::seccomp::Cache;
use crate::sys::{close_range, pidfd};

/// How long a process may take from one step into the container to the next.
const PATIENCE: Duration = Duration::from_secs(10);

/// The container to enter.
#[derive(Debug, Clone)]
pub struct ExecTarget {
    init: ProcessRef,
    cgroup: String,
    confined: Confinement,
    filters: Cache,
    /// For whoever answers seccomp notifications.
    state: State,
}

/// Why a process could not be added.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ExecError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("container {id} is {is}, which does not allow to exec")]
    WrongStatus { id: String, is: &'static str },
    #[error("cannot read the configuration of container {id}")]
    Config { id: String, source: Box<oci_spec::OciSpecError> },
    #[error("the container has ended")]
    Ended,
    #[error("cannot open the cgroup {path}")]
    Cgroup { path: String, source: CgroupError },
    #[error("cannot prepare the process")]
    Prepare(#[source] Failure),
    #[error("cannot enter the container")]
    Enter(#[source] Failure),
    #[error("exec: {program:?}: {}", not_executed(program, *errno))]
    Execute { program: String, errno: Errno },
    #[error("the process ended without a word")]
    Silent,
}

impl ExecError {
    /// The errno of execve, when that is what failed.
    pub fn execute_errno(&self) -> Option<Errno> {
        match self {
            ExecError::Execute { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// Why a program could not be executed, in docker's words where it has some.
fn not_executed(program: &str, errno: Errno) -> String {
    match errno {
        Errno::ENOENT if !program.contains('/') => "executable file not found in $PATH".to_owned(),
        Errno::ENOENT => "no such file or directory".to_owned(),
        Errno::EACCES => "permission denied".to_owned(),
        Errno::ENOEXEC => "exec format error".to_owned(),
        other => other.desc().to_owned(),
    }
}

/// A process whose execve has succeeded.
#[derive(Debug)]
pub struct Exec {
    /// A child of the calling process.
    pub process: ProcessRef,
    /// Its descriptor.
    pub pidfd: OwnedFd,
    /// Master of its pty.
    pub console: Option<OwnedFd>,
}

impl ExecTarget {
    /// A running container known by its init, bundle and configuration, whose seccomp filter `filters` may keep.
    pub fn new(
        init: ProcessRef,
        id: &str,
        bundle: &Path,
        config: &Spec,
        filters: Cache,
    ) -> Result<ExecTarget, ExecError> {
        let confined = Confinement::of(config).map_err(ExecError::Prepare)?;
        let cgroup = cgroup_path(config, id);
        let status = Status::Running { init, started_at: now() };
        let state = Record::new(id, bundle, &cgroup, status).to_oci();
        Ok(ExecTarget { init, cgroup, confined, filters, state })
    }

    /// A container with a state directory, which has to be running, and not paused unless that does not matter.
    pub fn from_state(state_root: &Path, id: &str, ignore_paused: bool) -> Result<ExecTarget, ExecError> {
        let record = Directory::open(state_root, id)?.load()?;
        let Status::Running { init, .. } = record.status else {
            return Err(ExecError::WrongStatus { id: id.to_owned(), is: record.status.name() });
        };
        // It would be frozen on its way in, and we would wait for it.
        let frozen = super::cgroup(&record).and_then(|group| group.is_frozen());
        if frozen.map_err(|source| ExecError::Cgroup { path: record.cgroup.clone(), source })? && !ignore_paused {
            return Err(ExecError::WrongStatus { id: id.to_owned(), is: super::PAUSED });
        }
        let config = Spec::load(record.bundle.join("config.json"))
            .map_err(|source| ExecError::Config { id: id.to_owned(), source: Box::new(source) })?;
        let target = ExecTarget::new(init, id, &record.bundle, &config, Cache::below(state_root))?;
        Ok(ExecTarget { cgroup: record.cgroup, ..target })
    }
}

/// Everything that the child needs.
struct Entry {
    init: OwnedFd,
    kinds: CloneFlags,
    settings: Settings,
    stdio: ChildStdio,
    preserve_fds: u32,
}

/// Runs `process` in the container; returns when its execve has succeeded. The caller must be single-threaded.
pub fn exec(target: &ExecTarget, process: &Process, stdio: Stdio) -> Result<Exec, ExecError> {
    exec_preserving(target, process, stdio, 0)
}

/// As [`exec`], with descriptors 3 to 3 + `preserve_fds` inherited.
pub fn exec_preserving(
    target: &ExecTarget,
    process: &Process,
    stdio: Stdio,
    preserve_fds: u32,
) -> Result<Exec, ExecError> {
    let settings = Settings::new(process, &target.confined, &target.filters).map_err(ExecError::Prepare)?;
    let init = pidfd::open(target.init.pid).map_err(|_| ExecError::Ended)?;
    let kinds = foreign_namespaces(target.init.pid).map_err(ExecError::Prepare)?;
    // Looked at after the pidfd and the namespaces were: both were the right process's then.
    if !target.init.is_alive() {
        return Err(ExecError::Ended);
    }
    let cgroup = |source| ExecError::Cgroup { path: target.cgroup.clone(), source };
    let door = Cgroup::open(&target.cgroup).and_then(|cgroup| CgroupDoor::open(&cgroup)).map_err(cgroup)?;
    let entry = Entry { init, kinds, settings, stdio: ChildStdio::new(stdio, terminal_size(process)), preserve_fds };
    let join = || entry.join();
    let birth = Birth { door: &door, new: 0, join: Some(&join), keep: entry.descriptors() };
    let initial = scheduling::Initial::enter(process).map_err(ExecError::Prepare)?;
    let cloned = cloning::spawn(&birth, |channel| entry.run(&channel)).map_err(ExecError::Enter)?;
    drop(initial);
    match bring_up(target, &entry, process, &cloned) {
        Ok(console) => Ok(Exec { process: cloned.process, pidfd: cloned.pidfd, console }),
        Err(error) => {
            // It may have ended by itself; in both cases nobody else will wait for it.
            let _ = pidfd::send_signal(&cloned.pidfd, libc::SIGKILL);
            let _ = waitid(Id::PIDFd(cloned.pidfd.as_fd()), WaitPidFlag::WEXITED);
            Err(error)
        }
    }
}

/// The kinds of namespaces in which the container differs from us: joining one's own user namespace is an error.
fn foreign_namespaces(pid: i32) -> Result<CloneFlags, Failure> {
    let mut kinds = CloneFlags::empty();
    for (name, kind) in namespaces::KINDS {
        let identity = |path: PathBuf| {
            let metadata = path.metadata().on(Step::OpenNamespace, path.display())?;
            Ok::<_, Failure>((metadata.dev(), metadata.ino()))
        };
        let theirs = identity(PathBuf::from(format!("/proc/{pid}/ns/{name}")))?;
        if theirs != identity(PathBuf::from(format!("/proc/self/ns/{name}")))? {
            kinds |= kind;
        }
    }
    Ok(kinds)
}

fn bring_up(
    target: &ExecTarget,
    entry: &Entry,
    process: &Process,
    cloned: &Cloned,
) -> Result<Option<OwnedFd>, ExecError> {
    let pid = cloned.process.pid;
    scheduling::finish_affinity(pid, process).map_err(ExecError::Prepare)?;
    limits::apply(pid, process).map_err(ExecError::Prepare)?;
    if entry.kinds.contains(CloneFlags::CLONE_NEWUSER) {
        let (uid, gid) = user::host_root(pid).map_err(ExecError::Prepare)?;
        entry.stdio.give_to_root(uid, gid).map_err(ExecError::Prepare)?;
    }
    let sent = cloned.channel.send_mounts(&[]);
    // The container sees the process and may stop it; its monitor must not wait for that.
    cloned.channel.limit_waiting(PATIENCE).map_err(ExecError::Prepare)?;
    let mut console = None;
    let mut ready = false;
    loop {
        match cloned.channel.receive().map_err(|failure| failed(failure, process))? {
            Some((Message::Console, mut descriptors)) if console.is_none() && descriptors.len() == 1 => {
                console = descriptors.pop();
            }
            Some((Message::Ready, _)) if !ready => ready = true,
            Some((Message::Listener { descriptor }, _)) if ready => {
                let seccomp = target.confined.seccomp.as_ref();
                listener::pass_on(cloned.process, descriptor, seccomp, target.state.clone())
                    .and_then(|()| cloned.channel.send(&Message::Taken, &[]))
                    .map_err(ExecError::Enter)?;
            }
            Some(_) => {
                return Err(ExecError::Enter(Failure { step: Step::Channel, subject: None, errno: Errno::EPROTO }));
            }
            // The end of the channel after Ready is the execve.
            None if ready => return Ok(console),
            None => return Err(sent.err().map_or(ExecError::Silent, ExecError::Enter)),
        }
    }
}

fn failed(failure: Failure, process: &Process) -> ExecError {
    match (failure.step, process.args().as_deref()) {
        (Step::Execute, Some([program, ..])) => ExecError::Execute { program: program.clone(), errno: failure.errno },
        _ => ExecError::Enter(failure),
    }
}

impl Entry {
    /// What the process needs of our descriptors.
    fn descriptors(&self) -> Vec<RawFd> {
        self.stdio.raw().into_iter().chain(preserved(self.preserve_fds)).collect()
    }

    fn join(&self) -> Result<(), Failure> {
        if self.kinds.is_empty() {
            return Ok(());
        }
        // All at once: the kernel changes either everything or nothing, the user namespace first.
        setns(&self.init, self.kinds).on(Step::JoinNamespace, "of the container")
    }

    fn run(&self, channel: &Channel) -> i32 {
        let failure = match self.steps(channel) {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        // The parent may be gone; there is nobody else to tell.
        let _ = channel.send(&Message::Failed(failure), &[]);
        1
    }

    fn steps(&self, channel: &Channel) -> Result<Infallible, Failure> {
        let mut keep = self.descriptors();
        keep.push(channel.raw());
        close_range::close_all_but(&keep).at(Step::Descriptors)?;
        channel.receive_mounts()?;
        self.stdio.install()?;
        if self.kinds.contains(CloneFlags::CLONE_NEWUSER) {
            user::become_root()?;
        }
        setsid().at(Step::Session)?;
        join_keyring()?;
        // setns to a mount namespace made its root ours.
        let directory = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).on(Step::FindTarget, "/")?;
        let root = Root::new(directory);
        self.stdio.connect_terminal(&root, channel)?;
        let identity = Identity::resolve(&root, &self.settings.user)?;
        drop(root);
        self.stdio.give_to(&identity)?;
        self.settings.set_labels(Procfs::mounted)?;
        self.settings.become_user(&identity)?;
        channel.send(&Message::Ready, &[])?;
        self.settings.seal(channel)?;
        finish(self.preserve_fds)?;
        self.settings.execute(&identity.home)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_executed_is_told_in_dockers_words() {
        let told = |program: &str, errno| ExecError::Execute { program: program.to_owned(), errno }.to_string();
        assert_eq!(told("foo", Errno::ENOENT), "exec: \"foo\": executable file not found in $PATH");
        assert_eq!(told("./foo", Errno::ENOENT), "exec: \"./foo\": no such file or directory");
        assert_eq!(told("/x\u{1b}", Errno::EACCES), "exec: \"/x\\u{1b}\": permission denied");
        assert_eq!(told("/x", Errno::ELOOP), "exec: \"/x\": Too many symbolic links encountered");
    }
}
