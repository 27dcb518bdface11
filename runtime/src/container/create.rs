//! Parent side of create: everything is checked first, then made in an order in which each step has its undo: state
//! directory, cgroup with its limits, init. The child side is `init`.

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use oci_spec::runtime::{Hook, LinuxResources, LinuxSeccomp, Process, Spec, State};

use super::moments::{Moments, since_boot};
use super::start::{self, StartError};
use super::state::{Directory, Record, StateError, Status};
use crate::bundle::Bundle;
use crate::cgroup::{Cgroup, CgroupError};
use crate::devices;
use crate::hooks::{self, HookError};
use crate::init::channel::{Channel, Message};
use crate::init::cloning::{self, Birth, CgroupDoor, Cloned};
use crate::init::failure::{Failure, Step};
use crate::init::stdio::{ChildStdio, Stdio};
use crate::init::{self, Reaper, Release, Setup};
use crate::mounts::{self, overlay::IdMap, prepare};
use crate::namespaces::{Namespaces, User, user};
use crate::process::settings::{Confinement, Settings};
use crate::process::{ProcessRef, limits};
use crate::seccomp;
use crate::sys::pidfd;
use crate::sys::title::Arguments;

/// Who looks after the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supervision {
    /// The calling process, which starts it through [`Created::start`]; the container dies with it.
    Monitored,
    /// Nobody: it waits for a `start` of any process, as the OCI command line wants it.
    Detached,
}

/// What to create.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// Id, unique below `state_root`.
    pub id: &'a str,
    /// The bundle, read and checked.
    pub bundle: &'a Bundle,
    /// Where the state of containers is kept.
    pub state_root: &'a Path,
    /// Standard descriptors; `Terminal` goes with `process.terminal`.
    pub stdio: Stdio,
    /// Descriptors 3 to 3 + n that the user's process inherits.
    pub preserve_fds: u32,
    /// The first so many of them are sockets that it is told of as sd_listen_fds(3) has it.
    pub listen_fds: u32,
    /// Leave it the session keyring of the caller.
    pub keep_keyring: bool,
    /// Who looks after it.
    pub supervision: Supervision,
    /// Pid 1 is an init of ours, the user's process a child of it.
    pub reaper: bool,
    /// Compiled seccomp filters.
    pub filters: &'a seccomp::Cache,
}

/// Why a container could not be created. Nothing of it is left then.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CreateError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot prepare the container")]
    Prepare(#[source] Failure),
    #[error("cannot make the cgroup {path}")]
    Cgroup { path: String, source: CgroupError },
    #[error("cannot set the container up")]
    Init(#[source] Failure),
    #[error("the init of the container ended without a word")]
    Silent,
    #[error("hook before the container")]
    Hook(#[source] HookError),
}

/// A container whose init waits before execve.
#[derive(Debug)]
pub struct Created {
    id: String,
    directory: Directory,
    poststart: Vec<Hook>,
    /// The profile, where its notifications have to be passed on.
    seccomp: Option<LinuxSeccomp>,
    init: ProcessRef,
    pidfd: OwnedFd,
    cgroup: Cgroup,
    channel: Channel,
    console: Option<OwnedFd>,
    supervision: Supervision,
    moments: Moments,
}

/// A container whose program runs.
#[derive(Debug)]
pub struct Running {
    /// Its pid 1, a child of the calling process.
    pub init: ProcessRef,
    /// Descriptor of that process.
    pub pidfd: OwnedFd,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// How it came to run; `entered` is the caller's to know.
    pub moments: Moments,
}

/// Why a created container could not be undone completely.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum AbortError {
    #[error("cannot kill the init of the container")]
    Kill(#[source] Errno),
    #[error("cannot remove the cgroup of the container")]
    Cgroup(#[source] CgroupError),
    #[error(transparent)]
    State(#[from] StateError),
}

/// Creates a container. The caller must be single-threaded.
pub fn create(request: CreateRequest<'_>) -> Result<Created, CreateError> {
    let bundle = request.bundle;
    let cgroup_path = cgroup_path(&bundle.config, request.id);
    let mut record = Record::new(request.id, &bundle.directory, &cgroup_path, Status::Creating);
    record.annotations = bundle.config.annotations().clone();
    let (id, supervision, state_root) = (request.id, request.supervision, request.state_root);
    let mut setup = plan(bundle, request, record.to_oci()).map_err(CreateError::Prepare)?;
    let mut moments = Moments { planned: since_boot(), ..Moments::default() };

    let directory = Directory::make(state_root, id)?;
    let made = make_group(bundle, &cgroup_path).and_then(|cgroup| {
        moments.limited = since_boot();
        if supervision == Supervision::Detached {
            setup.release = Release::Listener(start::listen_in(&directory).map_err(CreateError::Prepare)?);
        }
        let launched = launch(bundle, &setup, &cgroup, &record, &mut moments).and_then(|launched| {
            record.status = Status::Created { init: launched.cloned.process };
            match directory.save(&record) {
                Ok(()) => Ok(launched),
                Err(error) => {
                    reap(&launched.cloned);
                    Err(error.into())
                }
            }
        });
        match launched {
            Ok(launched) => Ok((cgroup, launched)),
            Err(error) => {
                // The first error is the one to tell; `delete --force` finds what is left.
                let _ = cgroup.delete();
                Err(error)
            }
        }
    });
    match made {
        Ok((cgroup, Launched { cloned: Cloned { process, pidfd, channel }, console })) => {
            let poststart = bundle.config.hooks().as_ref().and_then(|hooks| hooks.poststart().clone());
            let profile = bundle.config.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
            Ok(Created {
                id: id.to_owned(),
                directory,
                poststart: poststart.unwrap_or_default(),
                seccomp: profile.filter(|profile| seccomp::notifies(profile)).cloned(),
                init: process,
                pidfd,
                cgroup,
                channel,
                console,
                supervision,
                moments,
            })
        }
        Err(error) => {
            let _ = directory.remove();
            Err(error)
        }
    }
}

/// Path of the container's cgroup below each hierarchy: `linux.cgroupsPath`, or one of our own.
pub fn cgroup_path(config: &Spec, id: &str) -> String {
    let given = config.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    match given.map(PathBuf::as_path).filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => Path::new("/").join(path).to_string_lossy().into_owned(),
        None => format!("/neargate-runtime-{id}"),
    }
}

fn make_group(bundle: &Bundle, path: &str) -> Result<Cgroup, CreateError> {
    let none = LinuxResources::default();
    let linux = bundle.config.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref()).unwrap_or(&none);
    Cgroup::create(path, &with_default_devices(resources))
        .map_err(|source| CreateError::Cgroup { path: path.to_owned(), source })
}

/// Rules that were given, and those of the default nodes that are not among them.
fn with_default_devices(resources: &LinuxResources) -> Cow<'_, LinuxResources> {
    let given = resources.devices().as_deref().unwrap_or_default();
    let missing: Vec<_> = devices::default_rules().into_iter().filter(|rule| !given.contains(rule)).collect();
    if given.is_empty() || missing.is_empty() {
        return Cow::Borrowed(resources);
    }
    let mut resources = resources.clone();
    resources.set_devices(Some(given.iter().cloned().chain(missing).collect()));
    Cow::Owned(resources)
}

/// Everything that can be checked and opened before the first side effect.
fn plan(bundle: &Bundle, request: CreateRequest<'_>, state: State) -> Result<Setup, Failure> {
    let config = &bundle.config;
    let missing = |field| Failure { step: Step::Execute, subject: Some(field), errno: Errno::EINVAL };
    let mut process = config.process().clone().ok_or_else(|| missing("nothing: there is no process".to_owned()))?;
    if request.listen_fds > 0 {
        let told = [format!("LISTEN_FDS={}", request.listen_fds), "LISTEN_PID=1".to_owned()];
        let env = process.env().iter().flatten().cloned().chain(told).collect();
        process.set_env(Some(env));
    }
    let linux = config.linux().as_ref().ok_or_else(|| missing("nothing: there is no linux".to_owned()))?;
    let hooks = config.hooks().as_ref();
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let sysctl = linux.sysctl().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    Ok(Setup {
        namespaces: Namespaces::open(linux)?,
        mounts: mounts::Plan::from_bundle(bundle)?,
        devices: devices::plan(linux.devices().as_deref().unwrap_or_default())?,
        settings: Settings::new(&process, &Confinement::of(config)?, request.filters)?,
        stdio: ChildStdio::new(request.stdio, terminal_size(&process)),
        hostname: text(config.hostname()),
        domainname: text(config.domainname()),
        sysctl,
        create_container: hooks.and_then(|hooks| hooks.create_container().clone()).unwrap_or_default(),
        start_container: hooks.and_then(|hooks| hooks.start_container().clone()).unwrap_or_default(),
        state,
        preserve_fds: request.preserve_fds,
        keep_keyring: request.keep_keyring,
        release: Release::Channel,
        reaper: request.reaper.then(|| Reaper { arguments: Arguments::find() }),
    })
}

/// Rows and columns of `process.consoleSize`.
pub(super) fn terminal_size(process: &Process) -> Option<(u16, u16)> {
    let size = process.console_size()?;
    Some((u16::try_from(size.height()).ok()?, u16::try_from(size.width()).ok()?))
}

struct Launched {
    cloned: Cloned,
    console: Option<OwnedFd>,
}

fn launch(
    bundle: &Bundle,
    setup: &Setup,
    cgroup: &Cgroup,
    record: &Record,
    moments: &mut Moments,
) -> Result<Launched, CreateError> {
    let door =
        CgroupDoor::open(cgroup).map_err(|source| CreateError::Cgroup { path: record.cgroup.clone(), source })?;
    let join = || setup.namespaces.join();
    let birth = Birth {
        door: &door,
        new: setup.namespaces.new,
        join: setup.namespaces.needs_helper().then_some(&join as &dyn Fn() -> Result<(), Failure>),
        keep: setup.descriptors(),
    };
    let cloned = cloning::spawn(&birth, |channel| init::run(setup, channel)).map_err(CreateError::Init)?;
    moments.cloned = since_boot();
    match bring_up(bundle, setup, &cloned, record, moments) {
        Ok(console) => Ok(Launched { cloned, console }),
        Err(error) => {
            reap(&cloned);
            Err(error)
        }
    }
}

/// What only host root can do for the child, in protocol order; ends when the child is ready.
fn bring_up(
    bundle: &Bundle,
    setup: &Setup,
    cloned: &Cloned,
    record: &Record,
    moments: &mut Moments,
) -> Result<Option<OwnedFd>, CreateError> {
    let pid = cloned.process.pid;
    let mounts = prepare_child(bundle, setup, pid).map_err(CreateError::Prepare)?;
    run_runtime_hooks(bundle, pid, record)?;
    // A child that has failed meanwhile has left its reason in the channel.
    let sent = cloned.channel.send_mounts(&mounts);
    drop(mounts);
    moments.mounted = since_boot();
    let mut console = None;
    loop {
        match cloned.channel.receive().map_err(CreateError::Init)? {
            Some((Message::Console, mut descriptors)) if console.is_none() && descriptors.len() == 1 => {
                console = descriptors.pop();
            }
            Some((Message::Ready, _)) => {
                moments.ready = since_boot();
                return Ok(console);
            }
            Some(_) => {
                return Err(CreateError::Init(Failure { step: Step::Channel, subject: None, errno: Errno::EPROTO }));
            }
            None => return Err(sent.err().map_or(CreateError::Silent, CreateError::Init)),
        }
    }
}

fn prepare_child(bundle: &Bundle, setup: &Setup, pid: i32) -> Result<Vec<OwnedFd>, Failure> {
    if let User::New { uid, gid } = &setup.namespaces.user {
        user::write_maps(pid, uid, gid)?;
    }
    if let Some(process) = bundle.config.process() {
        limits::apply(pid, process)?;
    }
    if !setup.namespaces.has_user() {
        return prepare::prepare(&setup.mounts, None);
    }
    let namespace = user::of(pid)?;
    let (uid, gid) = user::host_root(pid)?;
    setup.stdio.give_to_root(uid, gid)?;
    prepare::prepare(&setup.mounts, Some(IdMap { namespace: namespace.as_fd(), uid, gid }))
}

fn run_runtime_hooks(bundle: &Bundle, pid: i32, record: &Record) -> Result<(), CreateError> {
    let Some(configured) = bundle.config.hooks() else { return Ok(()) };
    let mut state = record.to_oci();
    state.set_pid(Some(pid));
    let prestart = configured.prestart();
    for list in [prestart, configured.create_runtime()] {
        hooks::run(list.as_deref().unwrap_or_default(), &state).map_err(CreateError::Hook)?;
    }
    Ok(())
}

/// Ends a child that nobody will ever hear of. It may have ended by itself.
fn reap(cloned: &Cloned) {
    let _ = pidfd::send_signal(&cloned.pidfd, libc::SIGKILL);
    let _ = waitid(Id::PIDFd(cloned.pidfd.as_fd()), WaitPidFlag::WEXITED);
}

impl Created {
    /// The container's pid 1, a child of the calling process.
    pub fn init(&self) -> ProcessRef {
        self.init
    }

    /// Descriptor of that process.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The container's cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The master of the container's pty, once.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// Lets the init execute the user's program; returns when execve has succeeded. After an error the init has ended
    /// (it still has to be waited for) and the container can be deleted.
    pub fn start(self) -> Result<Running, StartError> {
        let executed = match self.supervision {
            Supervision::Monitored => start::release(&self.channel, &self.directory, &self.id, self.seccomp.as_ref())?,
            Supervision::Detached => start::connect_and_release(&self.directory, &self.id, self.seccomp.as_ref())?,
        };
        start::run_poststart(&self.poststart, &self.directory)?;
        let moments = Moments { executed, ..self.moments };
        Ok(Running { init: self.init, pidfd: self.pidfd, cgroup: self.cgroup, moments })
    }

    /// Undoes the creation.
    pub fn abort(self) -> Result<(), AbortError> {
        pidfd::send_signal(&self.pidfd, libc::SIGKILL)
            .or_else(|errno| if errno == Errno::ESRCH { Ok(()) } else { Err(errno) })
            .map_err(AbortError::Kill)?;
        waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED).map_err(AbortError::Kill)?;
        self.cgroup.delete().map_err(AbortError::Cgroup)?;
        self.directory.remove()?;
        Ok(())
    }
}
