//! The clone itself, parent and helper side: how a process gets into its cgroup and namespaces as a child of the
//! caller. One clone3 where nothing has to be joined; otherwise a helper joins first and clones the real child as its
//! own sibling (CLONE_PARENT), so that the caller can wait for it.

use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::channel::{Channel, Message};
use super::failure::{Context, Failure, Step};
use crate::cgroup::Cgroup;
use crate::process::ProcessRef;
use crate::sys::clone3::{Child, Clone3};
use crate::sys::{close_range, pidfd};

/// The cgroup's doors, opened by host root: what a file of a v1 hierarchy checks are the rights of who opened it.
#[derive(Debug)]
pub struct CgroupDoor {
    /// On v2 the child is born inside.
    v2: Option<OwnedFd>,
    /// On v1 it writes itself into each.
    procs: Vec<OwnedFd>,
}

impl CgroupDoor {
    /// Opens the doors of `cgroup`.
    pub fn open(cgroup: &Cgroup) -> Result<CgroupDoor, crate::cgroup::CgroupError> {
        match cgroup.v2_dir()? {
            Some(v2) => Ok(CgroupDoor { v2: Some(v2), procs: Vec::new() }),
            None => Ok(CgroupDoor { v2: None, procs: cgroup.procs_files()? }),
        }
    }

    /// Child side, before anything else.
    fn join(&self) -> Result<(), Failure> {
        for procs in &self.procs {
            nix::unistd::write(procs, b"0").at(Step::JoinCgroup)?;
        }
        Ok(())
    }
}

/// A cloned process with the parent's end of its channel.
#[derive(Debug)]
pub struct Cloned {
    /// The process.
    pub process: ProcessRef,
    /// Its descriptor.
    pub pidfd: OwnedFd,
    /// To it.
    pub channel: Channel,
}

/// What the process is born into.
pub struct Birth<'a> {
    /// First of all.
    pub door: &'a CgroupDoor,
    /// `CLONE_NEW*` bits.
    pub new: u64,
    /// What a helper must do before it clones the real child; `None` for no helper.
    pub join: Option<&'a dyn Fn() -> Result<(), Failure>>,
    /// Descriptors of the real child beside its standard ones and its channel: whoever is in the namespaces that were
    /// joined may look into it from its first moment on.
    pub keep: Vec<RawFd>,
}

/// Clones; `child` runs in the new process with its end of the channel.
pub fn spawn(birth: &Birth<'_>, child: impl FnOnce(Channel) -> i32) -> Result<Cloned, Failure> {
    let (ours, theirs) = Channel::pair()?;
    let first = Clone3 {
        flags: if birth.join.is_some() { 0 } else { birth.new },
        cgroup: birth.door.v2.as_ref().map(AsFd::as_fd),
    };
    let parents_end = ours.raw();
    let Child { pid, pidfd } = first
        .spawn(|| {
            let entered = enter_cgroup(birth, parents_end);
            match (entered, birth.join) {
                (Err(failure), _) => tell(&theirs, failure),
                (Ok(()), None) => child(theirs),
                (Ok(()), Some(join)) => help(birth, join, theirs, child),
            }
        })
        .at(Step::Clone)?;
    if birth.join.is_none() {
        return cloned(pid, pidfd, ours);
    }
    let answer = ours.receive();
    // The helper ends right after its message.
    waitpid(Pid::from_raw(pid), None).at(Step::Clone)?;
    match answer? {
        Some((Message::Cloned { pid }, _)) => {
            // Ours, and not waited for: the pid cannot be another's.
            let pidfd = pidfd::open(pid).at(Step::Clone)?;
            cloned(pid, pidfd, ours)
        }
        Some(_) => Err(Errno::EPROTO).at(Step::Channel),
        None => Err(Errno::ECHILD).at(Step::Clone),
    }
}

fn cloned(pid: i32, pidfd: OwnedFd, channel: Channel) -> Result<Cloned, Failure> {
    let process = ProcessRef::of(pid).at(Step::Clone)?;
    Ok(Cloned { process, pidfd, channel })
}

fn enter_cgroup(birth: &Birth<'_>, parents_end: i32) -> Result<(), Failure> {
    // The child's copy of the parent's end would hide the parent's death from it.
    close_range::close_one(parents_end).at(Step::Channel)?;
    prctl::set_dumpable(false).at(Step::Descriptors)?;
    birth.door.join()
}

fn help(
    birth: &Birth<'_>,
    join: &dyn Fn() -> Result<(), Failure>,
    channel: Channel,
    child: impl FnOnce(Channel) -> i32,
) -> i32 {
    let keep: Vec<RawFd> = birth.keep.iter().copied().chain([channel.raw()]).collect();
    let joined = join().and_then(|()| close_range::close_all_but(&keep).at(Step::Descriptors));
    if let Err(failure) = joined {
        return tell(&channel, failure);
    }
    let sibling = match channel.duplicate() {
        Ok(channel) => channel,
        Err(failure) => return tell(&channel, failure),
    };
    let clone = Clone3 { flags: birth.new | libc::CLONE_PARENT as u64, cgroup: None };
    let told = match clone.spawn(|| child(sibling)).at(Step::Clone) {
        Ok(Child { pid, .. }) => channel.send(&Message::Cloned { pid }, &[]),
        Err(failure) => Err(failure),
    };
    told.map_or_else(|failure| tell(&channel, failure), |()| 0)
}

/// The parent may be gone, and then there is nobody else to tell.
fn tell(channel: &Channel, failure: Failure) -> i32 {
    let _ = channel.send(&Message::Failed(failure), &[]);
    1
}
