//! What a task needs before its containers can start: directories, volumes, namespaces, cgroup, images. Images are
//! pulled while the rest is made. Every step finds its own leftovers harmless, so that a restarted agent begins again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use definition::task::{ContainerSpec, IpcMode, NetworkMode, PidMode, TaskSpec, VolumeSource};
use futures_util::future::try_join_all;
use nix::sys::statfs::{self, FsType};
use oci_spec::runtime::LinuxResources;
use rootfs::{Image, ImageId, PullError, Reference};
use runtime::cli::report::chain;

use super::bundle::SHM_BYTES;
use runtime::sys::prlimit::{self, Limits};

use crate::config::PullBehavior;
use crate::identity::{TaskId, shortened};
use crate::pulls::Pulls;
use crate::sandbox::host::{make_directory, remove_tree};
use crate::sandbox::{Sandbox, SandboxError, Shared};
use crate::timing::Timing;
use crate::trace;

/// Ids of one task's user namespace: docker's and the kernel's customary 16 bits.
pub const USER_IDS: u32 = 65_536;
/// First and last of the host ids that are given to tasks.
const USER_FIRST: u32 = 0x2000_0000;
const USER_LAST: u32 = 0x6fff_0000;
/// ECS's period of the quota, microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// 1024 CPU units are one processor.
const UNITS_PER_CPU: u64 = 1024;

/// Number of ranges.
pub const USER_SLOTS: u32 = (USER_LAST - USER_FIRST) / USER_IDS;

/// First host id of a range. Where an instance's ranges begin follows from its id, so that two agents rarely share one.
pub fn user_base(instance: &str, slot: u32) -> u32 {
    let offset = u32::from_str_radix(instance, 16).unwrap_or_default() % USER_SLOTS;
    USER_FIRST + (offset + slot) % USER_SLOTS * USER_IDS
}

/// docker's default.
const OPEN_FILES: u64 = 1_048_576;

/// Why a task could not be given what it needs, in ECS's words.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// An image could not be pulled and none is here.
    #[error("CannotPullContainerError: {advice}{}", chain(&**cause))]
    Pull {
        /// Index of the container.
        container: usize,
        /// ECS's advice, which comes before the cause.
        advice: &'static str,
        /// The registry's or the store's answer.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Directories or volumes.
    #[error("CannotCreateVolumeError: cannot use {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A shared volume is not there and not to be made.
    #[error(
        "CannotInspectVolumeError: no volume '{name}': set autoprovision in its dockerVolumeConfiguration or make the \
         directory {}",
        path.display()
    )]
    NoVolume {
        /// The volume.
        name: String,
        /// Where it would be.
        path: PathBuf,
    },
    /// Namespaces or cgroup.
    #[error("ResourceInitializationError")]
    Sandbox(#[from] SandboxError),
    /// The task's limits are none that OCI knows.
    #[error("ResourceInitializationError: the task's limits")]
    Limits(#[source] serde_json::Error),
}

/// The places of one task below the agent's root.
#[derive(Debug, Clone)]
pub struct Places {
    /// `tasks/<id>`: what outlives the containers.
    pub task: PathBuf,
    /// `run/<id>`: bundles and namespaces.
    pub run: PathBuf,
    /// `volumes`: shared by all tasks.
    pub shared_volumes: PathBuf,
}

impl Places {
    /// The places of `task`.
    pub fn of(root: &Path, task: &TaskId) -> Places {
        Places {
            task: root.join("tasks").join(task.as_str()),
            run: root.join("run").join(task.as_str()),
            shared_volumes: root.join("volumes"),
        }
    }

    /// A container's bundle.
    pub fn bundle(&self, container: &str) -> PathBuf {
        self.run.join(container)
    }

    /// A container's log.
    pub fn log(&self, container: &str) -> PathBuf {
        // A file name has 255 bytes; rotation appends some.
        self.task.join("logs").join(shortened(container, 240) + ".log")
    }

    /// What the task's containers write to: a directory, or with `ephemeralStorage` a file system of that size.
    pub fn disk(&self) -> PathBuf {
        self.task.join("disk")
    }

    /// Upper and work directory of a container's writable layer.
    pub fn layer(&self, container: &str) -> (PathBuf, PathBuf) {
        let layer = self.disk().join("rw").join(container);
        (layer.join("upper"), layer.join("work"))
    }

    /// hosts, hostname and resolv.conf of a container.
    pub fn etc(&self, container: &str) -> PathBuf {
        self.task.join("etc").join(container)
    }

    /// Task-scoped volumes.
    pub fn volumes(&self) -> PathBuf {
        self.disk().join("volumes")
    }
}

/// Why the task gets no user namespace; None where it gets one.
pub fn user_namespace_off(root: &Path, task: &TaskSpec) -> Option<&'static str> {
    if task.containers.iter().any(|container| container.privileged) {
        return Some("privileged");
    }
    if task.pid_mode == PidMode::Host {
        return Some("host-pid");
    }
    if task.ipc_mode == IpcMode::Host {
        return Some("host-ipc");
    }
    if task.containers.iter().any(|container| !container.devices.is_empty()) {
        // Nodes of the host's /dev cannot be id-mapped: root inside would be nobody to them.
        return Some("devices");
    }
    if task.network_mode == NetworkMode::Host {
        return Some("host-network");
    }
    let hosts = task.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::Host(path) => Some(Path::new(path)),
        VolumeSource::Task | VolumeSource::Shared { .. } => None,
    });
    if !can_be_id_mapped(root) {
        return Some("root-file-system");
    }
    hosts.into_iter().any(|path| !can_be_id_mapped(path)).then_some("volume-file-system")
}

/// By file system: these are known not to (environment: overlay, NFS, and the kernel's own).
fn can_be_id_mapped(path: &Path) -> bool {
    const NEVER: [FsType; 8] = [
        statfs::OVERLAYFS_SUPER_MAGIC,
        statfs::NFS_SUPER_MAGIC,
        statfs::PROC_SUPER_MAGIC,
        statfs::SYSFS_MAGIC,
        statfs::CGROUP_SUPER_MAGIC,
        statfs::CGROUP2_SUPER_MAGIC,
        statfs::FUSE_SUPER_MAGIC,
        statfs::SMB_SUPER_MAGIC,
    ];
    // A volume that does not exist yet will be made on its parent's file system.
    let there = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    statfs::statfs(there).is_ok_and(|found| !NEVER.contains(&found.filesystem_type()))
}

/// The task's hard limits: quota and memory where the definition gives them, else the sum of weights.
pub fn limits(task: &TaskSpec, pids: u32) -> Result<LinuxResources, serde_json::Error> {
    let cpu = match task.cpu_units {
        Some(units) => serde_json::json!({
            "quota": u64::from(units) * CPU_PERIOD_US / UNITS_PER_CPU, "period": CPU_PERIOD_US,
        }),
        None => {
            let shares: u64 = task.containers.iter().map(|container| u64::from(container.cpu_shares)).sum();
            serde_json::json!({ "shares": shares.min(262_144) })
        }
    };
    let memory = task.memory_mib.map(|mib| {
        let swap: u64 = task.containers.iter().filter_map(|container| container.max_swap_mib).map(u64::from).sum();
        let bytes = u64::from(mib) << 20;
        serde_json::json!({ "limit": bytes, "swap": bytes + (swap << 20) })
    });
    let mut resources = serde_json::json!({ "cpu": cpu, "pids": { "limit": pids } });
    if let Some(memory) = memory {
        resources["memory"] = memory;
    }
    serde_json::from_value(resources)
}

/// What a task is made of besides its definition.
pub struct Parts<'a, S> {
    /// Processes and threads that it may have.
    pub pids_limit: u32,
    /// Its id.
    pub id: &'a TaskId,
    /// What is to run.
    pub spec: &'a TaskSpec,
    /// Where.
    pub places: &'a Places,
    /// First host id of its user namespace, where it has one.
    pub user_base: Option<u32>,
    /// Its isolation.
    pub sandbox: &'a S,
    /// The way to the host's images.
    pub(crate) pulls: &'a Pulls,
    /// When a registry is asked.
    pub pull_behavior: PullBehavior,
    /// By container, what an earlier agent has pulled for this task.
    pub image_ids: &'a [Option<ImageId>],
    /// Where it is told what that takes.
    pub timing: &'a Timing,
}

/// Gives the task all it needs; answers each container's image, in the definition's order.
pub async fn provision<S: Sandbox>(parts: Parts<'_, S>) -> Result<Vec<Image>, ProvisionError> {
    trace::step(parts.id, None, "provision");
    let making = parts.timing.phase("directories", None);
    directories(parts.spec, parts.places)?;
    drop(making);
    let sandbox = async {
        let shared = shared(parts.spec, parts.user_base);
        let limits = limits(parts.spec, parts.pids_limit).map_err(ProvisionError::Limits)?;
        let took = parts.sandbox.prepare(shared, &limits).await?;
        took.phases.into_iter().for_each(|phase| parts.timing.note(phase));
        disk_directories(parts.spec, parts.places)
    };
    let pulls =
        try_join_all(parts.spec.containers.iter().enumerate().map(|(index, container)| pull(&parts, index, container)));
    let (images, ()) = tokio::try_join!(pulls, sandbox)?;
    Ok(images)
}

/// What the task's containers share.
pub fn shared(task: &TaskSpec, user_base: Option<u32>) -> Shared {
    Shared {
        user_base,
        network: matches!(task.network_mode, NetworkMode::Bridge | NetworkMode::Awsvpc),
        ipc: (task.ipc_mode == IpcMode::Task).then(|| shared_memory_bytes(task)),
        pid: task.pid_mode == PidMode::Task,
        disk_gib: task.ephemeral_storage_gib,
    }
}

/// The one /dev/shm of a task whose containers share it: as large as the largest that one of them asks for.
fn shared_memory_bytes(task: &TaskSpec) -> u64 {
    let asked = task.containers.iter().filter_map(|container| container.shared_memory_mib).max();
    asked.map_or(SHM_BYTES, |mib| u64::from(mib) << 20)
}

/// As the configuration's `pull_behavior` says; by default the registry is asked, and what is here used where that fails.
async fn pull<S>(parts: &Parts<'_, S>, index: usize, container: &ContainerSpec) -> Result<Image, ProvisionError> {
    trace::step(parts.id, Some(&container.name), "pull");
    let _pulling = parts.timing.phase("pull", Some(&container.name));
    let failed = |advice, cause| ProvisionError::Pull { container: index, advice, cause };
    let reference: Reference = container.image.parse().map_err(|error| failed("", Box::new(error)))?;
    let owner = parts.id.as_str();
    if let Some(id) = parts.image_ids.get(index).cloned().flatten() {
        // Leased since, and what its neighbours run: whatever the tag means by now, and whether or not anybody answers.
        let (images, reference) = (parts.pulls.images.clone(), reference.clone());
        let held = tokio::task::spawn_blocking(move || images.get_by_id(&id, &reference)).await;
        if let Ok(Ok(Some(image))) = held {
            return Ok(image);
        }
    }
    let behavior = parts.pull_behavior;
    if matches!(behavior, PullBehavior::Once | PullBehavior::PreferCached)
        && let Ok(Some(image)) = parts.pulls.images.held(&reference, owner).await
    {
        return Ok(image);
    }
    let error = match parts.pulls.pull(&reference, Some(owner), |_| {}).await {
        Ok(image) => return Ok(image),
        Err(error) => error,
    };
    // What else is wrong with the store is not told: the pull's own failure is what has to be mended.
    let held =
        if behavior == PullBehavior::Always { Ok(None) } else { parts.pulls.images.held(&reference, owner).await };
    let Ok(Some(image)) = held else { return Err(failed(advice(&error), Box::new(error))) };
    tracing::warn!(task = %parts.id, container = container.name, error = chain(&*error), "pull failed; using the image that is here");
    Ok(image)
}

/// What ECS tells people to look at first (ecs-semantics 1.14), with the blank behind it.
fn advice(error: &PullError) -> &'static str {
    match error {
        PullError::NotFound { .. } => "The task can’t pull the image. Check whether the image exists. ",
        PullError::Unauthorized { .. } => {
            "The task can’t pull the image. Check that the role has the permissions to pull images from the registry. "
        }
        PullError::Network { .. } => "The task can’t pull the image. Check your network configuration. ",
        _ => "",
    }
}

fn directories(spec: &TaskSpec, places: &Places) -> Result<(), ProvisionError> {
    let make = |path: &Path, mode| make_directory(path, mode).map_err(directory);
    make(&places.task, 0o700)?;
    make(&places.run, 0o700)?;
    make(&places.task.join("logs"), 0o700)?;
    for volume in &spec.volumes {
        match &volume.source {
            VolumeSource::Task => {}
            VolumeSource::Host(path) => make(Path::new(path), 0o755)?,
            VolumeSource::Shared { autoprovision } => {
                let path = places.shared_volumes.join(&volume.name);
                if *autoprovision {
                    make(&path, 0o755)?;
                } else if !path.is_dir() {
                    return Err(ProvisionError::NoVolume { name: volume.name.clone(), path });
                }
            }
        }
    }
    spec.containers.iter().try_for_each(|container| etc(spec, places, container))
}

/// What is on the task's disk: layers and volumes.
fn disk_directories(spec: &TaskSpec, places: &Places) -> Result<(), ProvisionError> {
    let make = |path: &Path, mode| make_directory(path, mode).map_err(directory);
    make(&places.volumes(), 0o700)?;
    for volume in spec.volumes.iter().filter(|volume| volume.source == VolumeSource::Task) {
        make(&places.volumes().join(&volume.name), 0o755)?;
    }
    for container in &spec.containers {
        let (upper, work) = places.layer(&container.name);
        make(&upper, 0o755)?;
        make(&work, 0o755)?;
    }
    Ok(())
}

fn etc(spec: &TaskSpec, places: &Places, container: &ContainerSpec) -> Result<(), ProvisionError> {
    let directory_of = places.etc(&container.name);
    make_directory(&directory_of, 0o755).map_err(directory)?;
    let hostname = hostname(spec.network_mode, places, container);
    let host = spec.network_mode == NetworkMode::Host;
    let read = |path: &str| if host { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() };
    let mut hosts = read("/etc/hosts");
    if hosts.is_empty() {
        let loopback = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
        hosts = format!("{loopback}127.0.0.1\t{hostname}\n");
    } else if !hosts.ends_with('\n') {
        hosts.push('\n');
    }
    hosts.extend(container.extra_hosts.iter().map(|(address, name)| format!("{address}\t{name}\n")));
    for (name, text) in
        [("hosts", hosts), ("hostname", format!("{hostname}\n")), ("resolv.conf", read("/etc/resolv.conf"))]
    {
        let path = directory_of.join(name);
        let new = directory_of.join(format!("{name}.new"));
        // By rename: after a restart of the agent the container may run, and what it made of its file is its own.
        let made = std::fs::File::create(&new)
            .and_then(|mut open| io::Write::write_all(&mut open, text.as_bytes()))
            .and_then(|()| std::fs::rename(&new, &path));
        made.map_err(|source| ProvisionError::Directory { path, source })?;
    }
    Ok(())
}

/// docker's default of open files, or what this host lets us have: the host's doing, which nobody asked for otherwise.
pub fn open_files() -> u64 {
    let now = prlimit::get(0, nix::libc::RLIMIT_NOFILE);
    let Ok(Limits { soft, hard }) = now else { return OPEN_FILES };
    let raised =
        hard < OPEN_FILES && prlimit::set(0, nix::libc::RLIMIT_NOFILE, Limits { soft, hard: OPEN_FILES }).is_ok();
    if raised { OPEN_FILES } else { OPEN_FILES.min(hard) }
}

/// The definition's, or docker's: the host's own in its network, else the first twelve digits of the id.
pub fn hostname(mode: NetworkMode, places: &Places, container: &ContainerSpec) -> String {
    if let Some(hostname) = &container.hostname {
        return hostname.clone();
    }
    if mode == NetworkMode::Host
        && let Ok(hostname) = nix::unistd::gethostname()
    {
        return hostname.to_string_lossy().into_owned();
    }
    places.run.file_name().unwrap_or_default().to_string_lossy().chars().take(12).collect()
}

fn directory(error: SandboxError) -> ProvisionError {
    match error {
        SandboxError::File { path, source } => ProvisionError::Directory { path, source },
        other => ProvisionError::Sandbox(other),
    }
}

/// Removes what outlives the containers: writable layers, volumes, logs.
pub fn remove_disks(places: &Places) -> Result<(), SandboxError> {
    remove_tree(&places.task)
}

/// The host's directory of each volume.
pub fn volumes(spec: &TaskSpec, places: &Places) -> BTreeMap<String, PathBuf> {
    super::bundle::volume_directories(spec, &places.volumes(), &places.shared_volumes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap_and_stay_within_bounds() {
        let instance = "ffffffff";
        let mut bases: Vec<u32> = (0..USER_SLOTS).map(|slot| user_base(instance, slot)).collect();
        bases.sort_unstable();
        assert!(bases.windows(2).all(|pair| pair[1] - pair[0] >= USER_IDS));
        assert!(bases[0] >= USER_FIRST && bases[bases.len() - 1] < USER_LAST);
    }

    #[test]
    fn quota_is_processors_times_period() {
        let spec = |cpu: Option<&str>| {
            let json = serde_json::json!({
                "family": "f", "cpu": cpu,
                "containerDefinitions": [{ "name": "c", "image": "i", "memory": 6, "cpu": 100 }],
            });
            definition::check(&serde_json::from_value(json).unwrap()).unwrap()
        };
        let quota = |cpu| limits(&spec(cpu), 16).unwrap().cpu().as_ref().and_then(|cpu| cpu.quota());
        assert_eq!((quota(Some("256")), quota(None)), (Some(25_000), None));
    }
}
