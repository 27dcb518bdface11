//! A cgroup: made and limited before anything runs in it, read, frozen, emptied, removed. The only place that knows v1
//! from v2, and the only user of cgroups-rs.
//!
//! cgroups-rs makes groups and sets single values. Its builder and `apply` lose memory errors and its `destroy` moves
//! live processes to the root group, so neither is used; limits that are set here are read back.
//! Source: [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html), OCI config-linux `resources`.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgroups_rs::fs::hierarchies;
use oci_spec::runtime::LinuxResources;

mod limits;
mod stats;
mod v1;
mod v2;

pub use stats::{CpuStats, IoStats, MemoryStats, PidsStats, Stats};

/// Where controllers are mounted: cgroup2 itself on v2, one directory per controller on v1.
pub const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// How long killed processes may take to leave. Longer than any exit of a process that is not stuck in the kernel.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long processes may take to stop running: one in the middle of slow I/O stops when that is done.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a cgroup operation failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Not absolute, or with parts that are empty, `.` or `..`.
    #[error("cgroup path {path:?} is not an absolute path without . and ..")]
    Path {
        /// As given.
        path: String,
    },
    /// A group could not be made.
    #[error("cannot create cgroup {path}")]
    Create {
        /// Path below the mount point.
        path: String,
        /// The library's answer.
        #[source]
        source: Box<cgroups_rs::fs::error::Error>,
    },
    /// The group exists already and is not empty, so it is another container's.
    #[error("cgroup {path} is in use")]
    InUse {
        /// Path below the mount point.
        path: String,
    },
    /// The kernel refused a limit.
    #[error("cannot set {field} of cgroup {path} to {value}")]
    Set {
        /// Path below the mount point.
        path: String,
        /// OCI's name, such as memory.limit.
        field: &'static str,
        /// The value asked for.
        value: String,
        /// The library's answer.
        #[source]
        source: Box<cgroups_rs::fs::error::Error>,
    },
    /// The kernel took a limit and kept another value.
    #[error("{field} of cgroup {path} is {found} after setting it to {wanted}")]
    ReadBack {
        /// Path below the mount point.
        path: String,
        /// OCI's name, such as memory.limit.
        field: &'static str,
        /// The value asked for.
        wanted: String,
        /// The value found.
        found: String,
    },
    /// The host lacks the controller that a limit needs.
    #[error("{field} needs the cgroup controller {controller}, which this host does not have")]
    NoController {
        /// OCI's name, such as pids.limit.
        field: &'static str,
        /// The controller.
        controller: String,
    },
    /// The kernel refused a value.
    #[error("cannot set {field} of cgroup {path} to {value:?}")]
    Write {
        /// Path below the mount point.
        path: String,
        /// OCI's name, such as cpu.cpus.
        field: &'static str,
        /// As written.
        value: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The host's kernel has the controller, but not this part of it.
    #[error("linux.resources.{field} needs {file}, which this host's kernel does not have")]
    NoFile {
        /// OCI's name.
        field: &'static str,
        /// File of a cgroup.
        file: String,
    },
    /// `memory.checkBeforeUpdate` was asked for.
    #[error("memory.limit of cgroup {path} cannot be {limit}: {used} bytes are in use")]
    LessThanUsed {
        /// Path below the mount point.
        path: String,
        /// The limit asked for, bytes.
        limit: i64,
        /// Bytes.
        used: i64,
    },
    /// A limit that this version of cgroups, or this runtime, does not have.
    #[error("linux.resources.{field} is not supported on cgroup v{version}")]
    Unsupported {
        /// OCI's name.
        field: &'static str,
        /// 1 or 2.
        version: u8,
    },
    /// A cgroup file could not be read or written.
    #[error("cannot access {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Some of its processes run on.
    #[error("cgroup {path} is not frozen after {} s", FREEZE_TIMEOUT.as_secs())]
    NotFrozen {
        /// Path below the mount point.
        path: String,
    },
    /// Killed processes are still there.
    #[error("cgroup {path} still holds processes {} s after SIGKILL", EMPTY_TIMEOUT.as_secs())]
    NotEmpty {
        /// Path below the mount point.
        path: String,
    },
}

impl CgroupError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
        move |source| CgroupError::File { path: path.to_owned(), source }
    }
}

/// A group by its path below the mount point, on every hierarchy that this runtime uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// Without the leading slash.
    path: String,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// Whether the host has cgroup v2 alone.
pub fn is_v2() -> bool {
    hierarchies::is_cgroup2_unified_mode()
}

impl Cgroup {
    /// Makes the group, parents included, and limits it. On failure nothing of it is left.
    pub fn create(path: &str, resources: &LinuxResources) -> Result<Cgroup, CgroupError> {
        let cgroup = Cgroup::open(path)?;
        if cgroup.exists() && !cgroup.pids()?.is_empty() {
            return Err(CgroupError::InUse { path: cgroup.path });
        }
        let made = cgroup.make().and_then(|()| cgroup.update(resources));
        if let Err(error) = made {
            // The first error tells more than what its undoing might add.
            let _best_effort = cgroup.delete();
            return Err(error);
        }
        Ok(cgroup)
    }

    /// Makes what is missing of the group and limits it, whoever is in it: an earlier attempt may have been killed when
    /// only some hierarchies had it.
    pub fn ensure(path: &str, resources: &LinuxResources) -> Result<Cgroup, CgroupError> {
        let cgroup = Cgroup::open(path)?;
        cgroup.make()?;
        cgroup.update(resources)?;
        Ok(cgroup)
    }

    /// Names a group that may or may not exist.
    pub fn open(path: &str) -> Result<Cgroup, CgroupError> {
        let relative = path.strip_prefix('/').unwrap_or_default();
        if relative.is_empty() || relative.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(CgroupError::Path { path: path.to_owned() });
        }
        let version = if is_v2() { Version::V2 } else { Version::V1 };
        Ok(Cgroup { path: relative.to_owned(), version })
    }

    /// Sets the limits that `resources` names and leaves the others.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        limits::set(self, resources)
    }

    /// Path below the mount point, with its leading slash.
    pub fn path(&self) -> String {
        format!("/{}", self.path)
    }

    /// Whether the group is there on any hierarchy.
    pub fn exists(&self) -> bool {
        self.directories().iter().any(|directory| directory.is_dir())
    }

    /// `cgroup.procs` of every hierarchy, opened for writing and close-on-exec: a process that writes "0" to each is
    /// in. The rights are those of whoever opened them, so this works from inside a user namespace too.
    pub fn procs_files(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        self.directories()
            .iter()
            .map(|directory| {
                let file = directory.join("cgroup.procs");
                fs::OpenOptions::new().write(true).open(&file).map(OwnedFd::from).map_err(CgroupError::file(&file))
            })
            .collect()
    }

    /// The group's directory for clone3(2)'s CLONE_INTO_CGROUP; None on v1, which has no such thing.
    pub fn v2_dir(&self) -> Result<Option<OwnedFd>, CgroupError> {
        match self.version {
            Version::V1 => Ok(None),
            Version::V2 => {
                let directory = self.directory(None);
                fs::File::open(&directory).map(|file| Some(file.into())).map_err(CgroupError::file(&directory))
            }
        }
    }

    /// Pids of the processes in the group and in all groups below it, in this process's pid namespace.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        let mut pids = Vec::new();
        for directory in self.directories() {
            for group in tree(&directory)? {
                let file = group.join("cgroup.procs");
                match fs::read_to_string(&file) {
                    Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
                    // Removed meanwhile, which ENODEV tells where the file was already open.
                    Err(error) if is_gone(&error) => {}
                    Err(source) => return Err(CgroupError::File { path: file, source }),
                }
            }
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// How many processes of this group the kernel has killed for want of memory, whichever limit it was.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        match self.version {
            Version::V1 => v1::oom_kills(self),
            Version::V2 => v2::oom_kills(self),
        }
    }

    /// What the group has used so far.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        stats::read(self)
    }

    /// Stops all processes of the group from running until [`Cgroup::thaw`]; returns when the last one has stopped. On
    /// failure they run on.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        self.set_frozen(true)?;
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        let mut pause = Duration::from_micros(100);
        while !self.is_frozen()? {
            if Instant::now() > deadline {
                self.set_frozen(false)?;
                return Err(CgroupError::NotFrozen { path: self.path.clone() });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Lets frozen processes run again.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.set_frozen(false)
    }

    /// Lets a killed group die: on v1 a frozen process does not, and a container that may write to its cgroup can have
    /// frozen a group of its own below.
    pub fn thaw_all(&self) -> Result<(), CgroupError> {
        match self.version {
            Version::V1 => v1::thaw_all(self),
            // SIGKILL reaches the frozen there.
            Version::V2 => Ok(()),
        }
    }

    /// Whether all processes of the group are frozen. A group that is not there is not.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        match self.version {
            Version::V1 => v1::is_frozen(self),
            Version::V2 => v2::is_frozen(self),
        }
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        match self.version {
            Version::V1 => v1::set_frozen(self, frozen),
            Version::V2 => v2::set_frozen(self, frozen),
        }
    }

    /// Sends SIGKILL to every process of the group and of those below, those that fork meanwhile included, and returns
    /// when none is left.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + EMPTY_TIMEOUT;
        let mut pause = Duration::from_micros(200);
        while self.exists() && !self.pids()?.is_empty() {
            if Instant::now() > deadline {
                return Err(CgroupError::NotEmpty { path: self.path.clone() });
            }
            match self.version {
                Version::V1 => v1::kill(self)?,
                Version::V2 => v2::kill(self)?,
            }
            // The kernel tells of an empty v1 group by no descriptor that could be waited on.
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Kills what is in the group, waits until it is empty and removes it and all groups below. A group that does not
    /// exist is success.
    pub fn delete(&self) -> Result<(), CgroupError> {
        self.kill_all()?;
        let deadline = Instant::now() + EMPTY_TIMEOUT;
        for directory in self.directories() {
            for group in tree(&directory)?.into_iter().rev() {
                while let Err(source) = fs::remove_dir(&group) {
                    if is_gone(&source) {
                        break;
                    }
                    // A zombie that nobody has reaped yet keeps its group busy for a moment.
                    if source.kind() != io::ErrorKind::ResourceBusy || Instant::now() > deadline {
                        return Err(CgroupError::File { path: group, source });
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        Ok(())
    }

    /// Names of the groups directly below this one.
    pub fn children(&self) -> Result<Vec<String>, CgroupError> {
        let mut names = Vec::new();
        for directory in self.directories() {
            for group in tree(&directory)? {
                if group.parent() == Some(&directory) {
                    names.extend(group.file_name().map(|name| name.to_string_lossy().into_owned()));
                }
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Whether the group is under `controller`; one that is only used where a limit of it is asked for is made so here.
    fn has(&self, controller: &str) -> Result<bool, CgroupError> {
        match self.version {
            Version::V1 => v1::make_extra(self, controller),
            Version::V2 => v2::enable(self, controller),
        }
    }

    fn make(&self) -> Result<(), CgroupError> {
        let group = self.library();
        group.create().map_err(|source| CgroupError::Create { path: self.path.clone(), source: Box::new(source) })
    }

    /// The library's handle on the controllers in use.
    fn library(&self) -> cgroups_rs::fs::Cgroup {
        let controllers = match self.version {
            Version::V1 => v1::CONTROLLERS.as_slice(),
            Version::V2 => v2::CONTROLLERS.as_slice(),
        };
        let controllers = controllers.iter().map(ToString::to_string).collect();
        cgroups_rs::fs::Cgroup::load_with_specified_controllers(hierarchies::auto(), &self.path, controllers)
    }

    /// The group's directory: of one v1 controller, or the only one on v2.
    fn directory(&self, controller: Option<&str>) -> PathBuf {
        match self.version {
            Version::V1 => Path::new(MOUNT_POINT).join(controller.unwrap_or("memory")).join(&self.path),
            Version::V2 => Path::new(MOUNT_POINT).join(&self.path),
        }
    }

    /// The group's directories on the hierarchies in use that this host has.
    fn directories(&self) -> Vec<PathBuf> {
        match self.version {
            Version::V1 => {
                let always = v1::mounted().map(|controller| self.directory(Some(controller)));
                let extra = v1::EXTRA.iter().map(|controller| self.directory(Some(controller)));
                always.chain(extra.filter(|directory| directory.is_dir())).collect()
            }
            Version::V2 => vec![self.directory(None)],
        }
    }
}

/// What a file says, or nothing where it is not there.
fn text_or_empty(file: &Path) -> Result<String, CgroupError> {
    match fs::read_to_string(file) {
        Err(error) if is_gone(&error) => Ok(String::new()),
        other => other.map_err(CgroupError::file(file)),
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// `directory` and all groups below it, parents before children. Empty when there is none.
fn tree(directory: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let mut groups = Vec::new();
    if directory.is_dir() {
        groups.push(directory.to_owned());
    }
    let mut next = 0;
    while let Some(group) = groups.get(next).cloned() {
        next += 1;
        let entries = match fs::read_dir(&group) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => continue,
            Err(source) => return Err(CgroupError::File { path: group, source }),
        };
        for entry in entries {
            let entry = entry.map_err(CgroupError::file(&group))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                groups.push(entry.path());
            }
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests;
