//! Which namespaces a container gets: new ones, joined ones, the host's. Owns the order of joining and the reading of
//! the configuration; user namespaces and their mappings are in [`user`], pinned namespaces in [`pin`].

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};

use crate::init::failure::{Context, Failure, Step};
use crate::process::procfs::Procfs;

mod pause;
pub mod pin;
pub mod user;

/// CLONE_NEWTIME, which nix's flags do not know.
const NEW_TIME: u64 = 0x80;
const TIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// The namespaces of a container, its paths opened.
#[derive(Debug)]
pub struct Namespaces {
    /// `CLONE_NEW*` bits of those to be made by clone.
    pub new: u64,
    /// The cgroup namespace is made by init itself: its root is the group that init has joined by then.
    pub new_cgroup: bool,
    /// To be joined before the init is cloned, in this order.
    join: Vec<Joined>,
    /// Who the container's root is.
    pub user: User,
    /// Lines for /proc/self/timens_offsets of a new time namespace, which nobody may have entered yet.
    time_offsets: Option<String>,
}

/// The user namespace of a container.
#[derive(Debug)]
pub enum User {
    /// The runtime's own.
    Host,
    /// One with these mappings.
    New {
        /// `linux.uidMappings`.
        uid: Vec<LinuxIdMapping>,
        /// `linux.gidMappings`.
        gid: Vec<LinuxIdMapping>,
    },
    /// One that is there already; it is joined last, as its root may not join what the host owns.
    Joined,
}

#[derive(Debug)]
struct Joined {
    kind: CloneFlags,
    path: PathBuf,
    namespace: OwnedFd,
}

impl Namespaces {
    /// Reads `linux.namespaces` and opens every path in it.
    pub fn open(linux: &Linux) -> Result<Namespaces, Failure> {
        let mut namespaces =
            Namespaces { new: 0, new_cgroup: false, join: Vec::new(), user: User::Host, time_offsets: None };
        let mut seen = 0;
        for namespace in linux.namespaces().iter().flatten() {
            let kind = namespace.typ();
            let bit = clone_bit(kind);
            if seen & bit != 0 {
                return Err(Errno::EINVAL).on(Step::NewNamespace, format!("{kind} twice"));
            }
            seen |= bit;
            match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
                Some(path) => namespaces.add_joined(kind, bit, path)?,
                None => namespaces.add_new(kind, bit, linux)?,
            }
        }
        if seen & clone_bit(LinuxNamespaceType::Mount) == 0 {
            // Without one the container's mounts would be the host's.
            return Err(Errno::ENOTSUP).on(Step::NewNamespace, "mnt, which every container needs");
        }
        namespaces.time_offsets = time_offsets(linux, namespaces.new)?;
        if namespaces.time_offsets.is_some() {
            namespaces.new &= !NEW_TIME;
        }
        // The user namespace last; all others while we are host root.
        namespaces.join.sort_by_key(|joined| joined.kind == CloneFlags::CLONE_NEWUSER);
        Ok(namespaces)
    }

    fn add_joined(&mut self, kind: LinuxNamespaceType, bit: u64, path: &PathBuf) -> Result<(), Failure> {
        if kind == LinuxNamespaceType::Mount {
            return Err(Errno::ENOTSUP).on(Step::JoinNamespace, format!("mnt {}", path.display()));
        }
        if kind == LinuxNamespaceType::User {
            self.user = User::Joined;
        }
        let namespace = open(path, OFlag::O_CLOEXEC, Mode::empty()).on(Step::OpenNamespace, path.display())?;
        let kind = CloneFlags::from_bits_retain(i32::try_from(bit).map_err(|_| Errno::EINVAL).at(Step::OpenNamespace)?);
        self.join.push(Joined { kind, path: path.clone(), namespace });
        Ok(())
    }

    fn add_new(&mut self, kind: LinuxNamespaceType, bit: u64, linux: &Linux) -> Result<(), Failure> {
        match kind {
            LinuxNamespaceType::Cgroup => self.new_cgroup = true,
            LinuxNamespaceType::User => {
                self.new |= bit;
                let mappings = |list: &Option<Vec<LinuxIdMapping>>| {
                    let list = list.clone().unwrap_or_default();
                    if list.is_empty() { Err(Errno::EINVAL).on(Step::MapIds, "without mappings") } else { Ok(list) }
                };
                self.user = User::New { uid: mappings(linux.uid_mappings())?, gid: mappings(linux.gid_mappings())? };
            }
            _ => self.new |= bit,
        }
        Ok(())
    }

    /// Whether a helper process has to join namespaces before it can clone the init in them.
    pub fn needs_helper(&self) -> bool {
        !self.join.is_empty() || self.time_offsets.is_some()
    }

    /// Joins everything that has a path, and makes the time namespace whose clocks are to be set: it becomes that of
    /// the next process. For the helper process only.
    pub fn join(&self) -> Result<(), Failure> {
        if let Some(offsets) = &self.time_offsets {
            // First, while we may: the namespace is the host root's.
            unshare(TIME).on(Step::NewNamespace, "time")?;
            let procfs = Procfs::private().on(Step::TimeOffsets, "through procfs")?;
            procfs.write("self/timens_offsets", offsets).on(Step::TimeOffsets, offsets.trim_end())?;
        }
        for Joined { kind, path, namespace } in &self.join {
            setns(namespace, *kind).on(Step::JoinNamespace, path.display())?;
        }
        Ok(())
    }

    /// Whether a namespace of this kind is made for the container.
    pub fn makes(&self, kind: CloneFlags) -> bool {
        self.new & u64::from(kind.bits().unsigned_abs()) != 0
    }

    /// Whether the container has a namespace of this kind that is not the host's.
    pub fn owns(&self, kind: CloneFlags) -> bool {
        self.makes(kind) || self.join.iter().any(|joined| joined.kind == kind)
    }

    /// Whether host names set in the container would be the container's own.
    pub fn owns_uts(&self) -> bool {
        self.owns(CloneFlags::CLONE_NEWUTS)
    }

    /// Whether the container's root is another user than the host's.
    pub fn has_user(&self) -> bool {
        !matches!(self.user, User::Host)
    }
}

/// `linux.timeOffsets` in the kernel's form (time_namespaces(7)).
fn time_offsets(linux: &Linux, new: u64) -> Result<Option<String>, Failure> {
    let Some(offsets) = linux.time_offsets().as_ref().filter(|offsets| !offsets.is_empty()) else { return Ok(None) };
    if new & NEW_TIME == 0 {
        return Err(Errno::EINVAL).on(Step::TimeOffsets, "without a new one");
    }
    let mut lines = String::new();
    for (clock, offset) in offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(Errno::EINVAL).on(Step::TimeOffsets, format!("{clock}, which has none"));
        }
        lines += &format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
    }
    Ok(Some(lines))
}

fn clone_bit(kind: LinuxNamespaceType) -> u64 {
    let flags = match kind {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Time => return NEW_TIME,
    };
    u64::from(flags.bits().unsigned_abs())
}

/// Every kind by its name below /proc/PID/ns and its clone flag, as setns(2) with a pidfd takes it.
pub const KINDS: [(&str, CloneFlags); 8] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("net", CloneFlags::CLONE_NEWNET),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("time", TIME),
];

#[cfg(test)]
mod tests;
