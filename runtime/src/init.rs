//! Child side of create: from clone to execve, one linear list of steps. The parent side is `container::create`; what
//! the two tell each other is in [`channel`].
//!
//! The process is single-threaded and not dumpable from its first step: no process of the container may look into it
//! while it still is the runtime.

use std::convert::Infallible;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{sethostname, setsid};
use oci_spec::runtime::{ContainerState, Hook, State};

use crate::devices::{self, Device};
use crate::hooks;
use crate::mounts::attach::attach_all;
use crate::mounts::root::Kind;
use crate::mounts::{self, protect};
use crate::namespaces::{Namespaces, User, user};
use crate::process::procfs::Procfs;
use crate::process::settings::Settings;
use crate::process::user::Identity;
use crate::sys::title::Arguments;
use crate::sys::{close_range, keyctl, loopback, signals, unix_socket, uts};
use channel::{Channel, Message};
use failure::{Context, Failure, Step};
use stdio::ChildStdio;

pub mod channel;
pub mod cloning;
pub mod failure;
mod reaper;
pub mod stdio;

/// Everything that init needs, made ready before the clone.
#[derive(Debug)]
pub struct Setup {
    /// Which namespaces to be in.
    pub namespaces: Namespaces,
    /// Mount table.
    pub mounts: mounts::Plan,
    /// Device nodes.
    pub devices: Vec<Device>,
    /// The user's process.
    pub settings: Settings,
    /// Standard descriptors.
    pub stdio: ChildStdio,
    /// `hostname`.
    pub hostname: Option<String>,
    /// `domainname`.
    pub domainname: Option<String>,
    /// `linux.sysctl`.
    pub sysctl: Vec<(String, String)>,
    /// `hooks.createContainer`.
    pub create_container: Vec<Hook>,
    /// `hooks.startContainer`.
    pub start_container: Vec<Hook>,
    /// For hooks; pid and status are filled in.
    pub state: State,
    /// Descriptors after stderr that the user's process inherits.
    pub preserve_fds: u32,
    /// Give the container no session keyring of its own.
    pub keep_keyring: bool,
    /// Who releases the init.
    pub release: Release,
    /// Stay pid 1 and look after the user's process.
    pub reaper: Option<Reaper>,
}

/// What the reaper has to know.
#[derive(Debug)]
pub struct Reaper {
    /// Where the command line is, which would tell the container of paths of the host.
    pub arguments: Option<Arguments>,
}

/// How a parked init is told to go on.
#[derive(Debug)]
pub enum Release {
    /// By its parent over the channel; it dies with that parent.
    Channel,
    /// By whoever connects to this socket; it outlives the creating process.
    Listener(OwnedFd),
}

/// Runs as init; returns an exit code only when a step failed, after telling the parent.
pub fn run(setup: &Setup, channel: Channel) -> i32 {
    let mut channel = channel;
    let failure = match steps(setup, &mut channel) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    // The parent may be gone; there is nobody else to tell.
    let _ = channel.send(&Message::Failed(failure), &[]);
    1
}

fn steps(setup: &Setup, channel: &mut Channel) -> Result<Infallible, Failure> {
    close_inherited(setup, channel)?;
    // Waits until the ids are mapped and the limits set: nothing before this may need an id.
    let mut prepared = channel.receive_mounts()?;
    setup.stdio.install()?;
    if setup.namespaces.has_user() {
        user::become_root()?;
    }
    if setup.namespaces.new_cgroup {
        // Now, as the root of the new namespace is the group that we are in by now.
        unshare(CloneFlags::CLONE_NEWCGROUP).on(Step::NewNamespace, "cgroup")?;
    }
    setsid().at(Step::Session)?;
    if !setup.keep_keyring {
        join_keyring()?;
    }
    if setup.namespaces.makes(CloneFlags::CLONE_NEWNET) {
        // Nobody else reaches a namespace that has no path; one that has is whoever made it to look after.
        loopback::up().at(Step::Loopback)?;
    }

    mounts::isolate()?;
    if prepared.is_empty() {
        return Err(Errno::EPROTO).at(Step::Channel);
    }
    let root = mounts::attach_root(prepared.remove(0))?;
    attach_all(&root, &setup.mounts, prepared)?;
    if !setup.mounts.binds_dev() {
        devices::make_all(&root, &setup.devices, setup.namespaces.has_user())?;
    }
    root.find_or_make(setup.settings.cwd(), Kind::Directory)?;
    setup.stdio.open_terminal(&root, channel)?;
    run_hooks(setup, &setup.create_container, ContainerState::Creating)?;
    set_names(setup)?;
    set_sysctls(setup)?;
    protect::protect(&root, &setup.mounts)?;
    mounts::enter(&root, setup.mounts.propagation)?;
    protect::protect_root(&root, &setup.mounts)?;

    let identity = Identity::resolve(&root, &setup.settings.user)?;
    drop(root);
    setup.stdio.give_to(&identity)?;
    setup.settings.set_labels(Procfs::mounted)?;
    setup.settings.become_user(&identity)?;
    park(setup, channel)?;

    run_hooks(setup, &setup.start_container, ContainerState::Created)?;
    setup.settings.seal(channel)?;
    finish(setup.preserve_fds)?;
    match &setup.reaper {
        None => setup.settings.execute(&identity.home),
        Some(reaper) => reaper::run(reaper.arguments.as_ref(), channel, setup.stdio.is_terminal(), || {
            setup.settings.execute(&identity.home)
        }),
    }
}

impl Setup {
    /// What init needs of its parent's descriptors, its channel apart.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let listener = match &self.release {
            Release::Listener(listener) => Some(listener.as_raw_fd()),
            Release::Channel => None,
        };
        self.stdio.raw().into_iter().chain(listener).chain(preserved(self.preserve_fds)).collect()
    }
}

/// The container must not even hold descriptors of the host while it is being set up.
fn close_inherited(setup: &Setup, channel: &Channel) -> Result<(), Failure> {
    let mut keep = setup.descriptors();
    keep.push(channel.raw());
    close_range::close_all_but(&keep).at(Step::Descriptors)
}

/// Descriptors 3 to 3 + `count`.
pub fn preserved(count: u32) -> impl Iterator<Item = RawFd> {
    (3..3 + count).filter_map(|fd| RawFd::try_from(fd).ok())
}

/// A session keyring of its own; a kernel or a confined host without keyrings has nothing to protect.
pub fn join_keyring() -> Result<(), Failure> {
    match keyctl::join_new_session_keyring() {
        Ok(()) | Err(Errno::ENOSYS | Errno::EPERM | Errno::EDQUOT) => Ok(()),
        Err(errno) => Err(errno).at(Step::Keyring),
    }
}

/// Last things before execve: default signals, no descriptor but the standard and the preserved ones.
pub fn finish(preserve_fds: u32) -> Result<(), Failure> {
    signals::reset().at(Step::Execute)?;
    close_range::close_on_exec_from(3 + preserve_fds).at(Step::Descriptors)
}

fn set_names(setup: &Setup) -> Result<(), Failure> {
    if let Some(name) = &setup.hostname {
        if !setup.namespaces.owns_uts() {
            return Err(Errno::EPERM).on(Step::Hostname, "without a UTS namespace");
        }
        sethostname(name).on(Step::Hostname, name)?;
    }
    if let Some(name) = &setup.domainname {
        if !setup.namespaces.owns_uts() {
            return Err(Errno::EPERM).on(Step::DomainName, "without a UTS namespace");
        }
        uts::set_domain_name(name).on(Step::DomainName, name)?;
    }
    Ok(())
}

fn set_sysctls(setup: &Setup) -> Result<(), Failure> {
    if setup.sysctl.is_empty() {
        return Ok(());
    }
    let procfs = Procfs::private().on(Step::Sysctl, "through procfs")?;
    for (key, value) in &setup.sysctl {
        if !setup.namespaces.owns_sysctl(key) {
            return Err(Errno::EPERM).on(Step::Sysctl, format!("{key}, which is the host's"));
        }
        let path = sysctl_path(key).ok_or(Errno::EINVAL).on(Step::Sysctl, key)?;
        procfs.write(&path, value).on(Step::Sysctl, key)?;
    }
    Ok(())
}

/// As sysctl(8): a dot separates, a slash stands for a dot within a name. None for a key that leads elsewhere than it
/// says: whose it is was judged by how it begins.
fn sysctl_path(key: &str) -> Option<String> {
    let path: String = key
        .chars()
        .map(|char| match char {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    let plain = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    plain.then(|| format!("sys/{path}"))
}

fn run_hooks(setup: &Setup, hooks: &[Hook], status: ContainerState) -> Result<(), Failure> {
    if hooks.is_empty() {
        return Ok(());
    }
    let mut state = setup.state.clone();
    state.set_pid(Some(nix::unistd::getpid().as_raw())).set_status(status);
    hooks::run(hooks, &state).map_err(|error| Failure {
        step: Step::Hook,
        subject: Some(error.to_string()),
        errno: Errno::ECANCELED,
    })
}

/// Waits to be released. On return the channel leads to whoever did it, and is told of what fails from now on.
fn park(setup: &Setup, channel: &mut Channel) -> Result<(), Failure> {
    match &setup.release {
        Release::Channel => {
            // Here, as a change of user would have cleared it; a parent that died before is seen by the receive below.
            prctl::set_pdeathsig(Signal::SIGKILL).at(Step::ParentDeath)?;
            channel.send(&Message::Ready, &[])?;
            expect_start(channel)?.then_some(()).ok_or(Errno::EPIPE).at(Step::Started)
        }
        Release::Listener(listener) => {
            channel.send(&Message::Ready, &[])?;
            loop {
                *channel = Channel::over(unix_socket::accept(listener).at(Step::Started)?);
                // Whoever connects and goes away has changed nothing.
                if expect_start(channel)? {
                    return Ok(());
                }
            }
        }
    }
}

fn expect_start(channel: &Channel) -> Result<bool, Failure> {
    match channel.receive()? {
        Some((Message::Start, _)) => Ok(true),
        Some(_) => Err(Errno::EPROTO).at(Step::Started),
        None => Ok(false),
    }
}

/// Namespaces whose sysctls are the container's own (sysctl(8), namespaces(7)).
impl Namespaces {
    fn owns_sysctl(&self, key: &str) -> bool {
        let key = key.replace('/', ".");
        let ipc = ["kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue."];
        if ipc.iter().any(|prefix| key.starts_with(prefix)) {
            return self.owns(CloneFlags::CLONE_NEWIPC);
        }
        match key.as_str() {
            "kernel.hostname" | "kernel.domainname" => self.owns(CloneFlags::CLONE_NEWUTS),
            _ if key.starts_with("net.") => self.owns(CloneFlags::CLONE_NEWNET),
            _ if key.starts_with("user.") => !matches!(self.user, User::Host),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysctl_stays_where_its_name_begins() {
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.forwarding").unwrap(), "sys/net/ipv4/conf/eth0.1/forwarding");
        for key in ["net.a.//.//.kernel.panic", "net..a", "net./.a", "", ".net.a"] {
            assert_eq!(sysctl_path(key), None, "{key}");
        }
    }
}
