//! The isolation around a task's containers. One trait for all kinds; `host` is namespaces on this kernel.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::monitor::protocol::{ExitRecord, Failure};

use crate::timing::Phase;

pub mod connection;
pub mod host;

/// Why a sandbox operation failed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// neargate-runtime could not be executed or did not answer as agreed.
    #[error("cannot execute {}", path.display())]
    Execute {
        /// The executable.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// neargate-runtime failed and said why.
    #[error("{command} failed: {message}")]
    Runtime {
        /// Which of its commands.
        command: &'static str,
        /// Its words.
        message: String,
    },
    /// mkfs.ext4 could not be executed.
    #[error("cannot execute mkfs.ext4, which ephemeralStorage needs (Debian has it in e2fsprogs)")]
    Mkfs {
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The task's own disk could not be mounted or taken off.
    #[error("cannot use the disk {}", path.display())]
    Disk {
        /// Its file or its place.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file of the sandbox could not be used.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A container's monitor could not be spoken to.
    #[error("cannot speak to the container's monitor")]
    Monitor(#[from] connection::ConnectionError),
    /// A container's monitor refused to run a process.
    #[error("{message}")]
    Refused {
        /// Its words.
        message: String,
    },
    /// A monitor that was killed is still there.
    #[error("the monitor of {} does not end after SIGKILL", bundle.display())]
    Unkillable {
        /// Its bundle.
        bundle: PathBuf,
    },
    /// The cgroup could not be made or removed.
    #[error("cgroup of the task")]
    Cgroup(#[from] runtime::cgroup::CgroupError),
}

/// How a process that was run as a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Its exit code.
    pub exit_code: i32,
    /// The beginning of what it wrote to stdout and stderr, [`CHECK_OUTPUT`] bytes at most; the rest is thrown away.
    pub output: Vec<u8>,
}

/// Bytes of a check's output that are kept.
pub const CHECK_OUTPUT: usize = 1024;

/// What a task needs before its containers: namespaces that they share, and the disk that they write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// First host id of the task's user namespaces; there are none when absent.
    pub user_base: Option<u32>,
    /// Whether the containers share a network namespace of their own.
    pub network: bool,
    /// Whether they share an ipc namespace, and the bytes of the /dev/shm that goes with it.
    pub ipc: Option<u64>,
    /// Whether they share a pid namespace.
    pub pid: bool,
    /// GiB of a disk that holds their layers and volumes; these are on the host's when absent.
    pub disk_gib: Option<u32>,
}

impl Shared {
    /// Names of the namespaces, as they are pinned. A user namespace is shared where it has to own another that is: else each
    /// container makes its own of the same ids, which takes neither a helper nor a pin.
    pub fn names(self) -> Vec<&'static str> {
        let mut names = Vec::new();
        names.extend(self.network.then_some("net"));
        names.extend(self.ipc.map(|_| "ipc"));
        names.extend(self.pid.then_some("pid"));
        if !names.is_empty() && self.user_base.is_some() {
            names.push("user");
        }
        names
    }
}

/// What a sandbox needed for something, for [`crate::timing`]. No phase has a container: the caller knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Took {
    /// In order.
    pub phases: Vec<Phase>,
    /// When the program was executed, since boot, where one was.
    pub executed: Option<Duration>,
}

/// What a task and its containers use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskUse {
    /// All of it together.
    pub task: Option<Use>,
    /// By bundle, as asked.
    pub containers: Vec<Option<Use>>,
}

/// What a group of processes uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    /// When it was measured, since boot.
    pub at: Duration,
    /// Processor time since the start.
    pub cpu: Duration,
    /// Memory without the file cache that is given up first.
    pub memory_bytes: u64,
    /// Limit of memory, file cache included.
    pub memory_limit_bytes: Option<u64>,
    /// File cache.
    pub memory_cache_bytes: u64,
    /// Read from and written to block devices since the start; None where the host does not account for it.
    pub block_bytes: Option<(u64, u64)>,
    /// Processes and threads; None where the host does not count them.
    pub pids: Option<u64>,
    /// Limit of these.
    pub pids_limit: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
}

/// What a container's start came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// Its program runs.
    Running {
        /// Seconds since the epoch.
        started_at: f64,
        /// What that took; empty where an earlier agent has started it.
        took: Took,
    },
    /// It could not be created or started; an exit record says the same.
    Failed(Failure),
}

/// What a restarted agent finds of a container.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// Nothing was started, and nothing will be.
    Nothing,
    /// Its program runs.
    Running {
        /// Seconds since the epoch.
        started_at: f64,
    },
    /// It ended and left a record.
    Ended(ExitRecord),
    /// It ran and its monitor is gone without a record: how it ended is lost.
    Lost,
}

/// The isolation around one task. Containers are named by their bundle directories.
pub trait Sandbox: Send + Sync + 'static {
    /// Makes the shared namespaces, the task's disk and its cgroup; answers what each took.
    fn prepare(
        &self,
        shared: Shared,
        limits: &oci_spec::runtime::LinuxResources,
    ) -> impl Future<Output = Result<Took, SandboxError>> + Send;
    /// Starts a container whose bundle is written.
    fn start(&self, bundle: &Path, how: &Supervision) -> impl Future<Output = Result<Start, SandboxError>> + Send;
    /// Ends a start that is still under way, with all that it has made; one that is not is success.
    fn abandon(&self, bundle: &Path) -> impl Future<Output = Result<(), SandboxError>> + Send;
    /// Tells what is there of a container that an earlier agent may have started.
    fn find(&self, bundle: &Path) -> impl Future<Output = Result<Found, SandboxError>> + Send;
    /// Returns when a container that runs has ended; None when how is lost.
    fn wait(&self, bundle: &Path) -> impl Future<Output = Result<Option<ExitRecord>, SandboxError>> + Send;
    /// Runs a further process in a container that runs. Giving the answer up kills it.
    fn check(&self, bundle: &Path, command: &[String]) -> impl Future<Output = Result<Checked, SandboxError>> + Send;
    /// Measures what the task and those of its containers use; None for what is gone.
    fn stats(&self, bundles: Vec<PathBuf>) -> impl Future<Output = Result<TaskUse, SandboxError>> + Send;
    /// Removes the records of a container that has ended, so that its bundle can be started again.
    fn forget(&self, bundle: &Path) -> impl Future<Output = Result<(), SandboxError>> + Send;
    /// Sends a signal to a container's pid 1. One that has ended is success.
    fn signal(&self, bundle: &Path, signal: i32) -> impl Future<Output = Result<(), SandboxError>> + Send;
    /// Ends all that is left of the task and removes namespaces, cgroup and bundles, and takes its disk off. Repeating it is success.
    fn destroy(&self) -> impl Future<Output = Result<(), SandboxError>> + Send;
}

/// How a container's program is run and what becomes of its streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supervision {
    /// Where its output goes.
    pub log: Log,
    /// It runs below an init that reaps and forwards signals.
    pub init: bool,
    /// Its stdin stays open.
    pub interactive: bool,
}

/// Where a container's output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The current file; rotated ones are beside it.
    pub path: PathBuf,
    /// Bytes after which it is rotated.
    pub max_size_bytes: u64,
    /// Files kept in all.
    pub max_files: u32,
}
