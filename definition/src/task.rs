//! A task as the engine runs it: every string that has a closed set of values is an enum here, every amount has its
//! unit in its name. Made only by [`crate::check`]; not stored, not sent.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// A checked task definition, overrides of RunTask applied.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSpec {
    /// Family, 1 to 255 of letters, digits, `_`, `-`.
    pub family: String,
    /// What network the task's containers see.
    pub network_mode: NetworkMode,
    /// Whose processes the containers see.
    pub pid_mode: PidMode,
    /// Whose System V and POSIX IPC objects the containers see.
    pub ipc_mode: IpcMode,
    /// Hard limit of the whole task in CPU units (1024 = one processor).
    pub cpu_units: Option<u32>,
    /// Hard limit of the whole task in MiB.
    pub memory_mib: Option<u32>,
    /// Hard limit of what its containers may write to their root file systems and to volumes of the task, GiB.
    pub ephemeral_storage_gib: Option<u32>,
    /// At least one, at least one essential, names unique, in the definition's order.
    pub containers: Vec<ContainerSpec>,
    /// Names unique.
    pub volumes: Vec<VolumeSpec>,
    /// Where the definition may run; empty means EC2.
    pub requires_compatibilities: Vec<LaunchType>,
    /// Processor the definition asks for, if it does.
    pub cpu_architecture: Option<CpuArchitecture>,
}

impl TaskSpec {
    /// Whether it runs nowhere but in a microVM of its own.
    pub fn is_fargate_only(&self) -> bool {
        self.requires_compatibilities == [LaunchType::Fargate]
    }
}

/// A checked container definition.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSpec {
    /// Unique within the task.
    pub name: String,
    /// Image reference as written.
    pub image: String,
    /// Relative CPU weight in units, 2 to 262144; never a cap.
    pub cpu_shares: u32,
    /// CPU units as registered, for accounting; 0 when absent.
    pub cpu_units: u32,
    /// Hard memory limit in MiB.
    pub memory_mib: Option<u32>,
    /// Soft memory limit in MiB.
    pub memory_reservation_mib: Option<u32>,
    /// Whether its exit stops the task.
    pub essential: bool,
    /// Replaces the image's ENTRYPOINT (and drops its CMD) when given.
    pub entry_point: Option<Vec<String>>,
    /// Replaces the image's CMD when given.
    pub command: Option<Vec<String>>,
    /// Replaces the image's working directory.
    pub working_directory: Option<String>,
    /// `user`, `user:group`, or ids; replaces the image's user.
    pub user: Option<String>,
    /// Added to the image's environment, the later of two equal names winning.
    pub environment: Vec<(String, String)>,
    /// Where volumes appear.
    pub mount_points: Vec<MountPoint>,
    /// What must have happened to other containers first; no cycles.
    pub depends_on: Vec<Dependency>,
    /// Seconds between the stop signal and SIGKILL; the agent's default when absent.
    pub stop_timeout_secs: Option<u32>,
    /// Fixed host ports, equal to the container's: only the host's network has any.
    pub port_mappings: Vec<PortMapping>,
    /// All capabilities and devices, no user namespace.
    pub privileged: bool,
    /// The root file system is mounted read-only.
    pub readonly_root_filesystem: bool,
    /// Capabilities added to the default set, with the `CAP_` prefix, or `ALL`.
    pub capabilities_add: Vec<String>,
    /// Capabilities dropped from the default set, with the `CAP_` prefix, or `ALL`.
    pub capabilities_drop: Vec<String>,
    /// Resource limits by docker's names (`nofile`): (soft, hard).
    pub ulimits: BTreeMap<String, (u64, u64)>,
    /// How its output is kept.
    pub log: LogSpec,
    /// Name inside; derived from the task's id when absent.
    pub hostname: Option<String>,
    /// Further lines of /etc/hosts: (address, name).
    pub extra_hosts: Vec<(IpAddr, String)>,
    /// Devices of the host.
    pub devices: Vec<DeviceSpec>,
    /// A small init as pid 1 that reaps and forwards signals.
    pub init_process: bool,
    /// Size of /dev/shm in MiB; docker's 64 when absent.
    pub shared_memory_mib: Option<u32>,
    /// File systems in memory.
    pub tmpfs: Vec<TmpfsSpec>,
    /// Swap in MiB beyond `memory_mib`; none when absent.
    pub max_swap_mib: Option<u32>,
    /// How readily its memory is swapped, 0 to 100; only with `max_swap_mib`.
    pub swappiness: Option<u8>,
    /// sysctl names, dotted, and values; only such as belong to a namespace.
    pub system_controls: BTreeMap<String, String>,
    /// Kept with the container, not interpreted.
    pub labels: BTreeMap<String, String>,
    /// no_new_privs is set.
    pub no_new_privileges: bool,
    /// stdin is a pipe that stays open, not /dev/null.
    pub interactive: bool,
    /// stdio is a terminal.
    pub pseudo_terminal: bool,
    /// How it is asked whether it is well.
    pub health_check: Option<HealthCheck>,
    /// Seconds after its start in which others wait for it to be healthy or over; for ever when absent.
    pub start_timeout_secs: Option<u32>,
    /// When it is started again after its end; never when absent.
    pub restart_policy: Option<RestartPolicy>,
    /// Mounts of these containers appear too; `mount_points` has them already.
    pub volumes_from: Vec<VolumesFrom>,
}

/// `healthCheck` with ECS's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Program and arguments, executed in the container; 0 is well.
    pub command: Vec<String>,
    /// Between two checks.
    pub interval_secs: u32,
    /// After which a check has failed.
    pub timeout_secs: u32,
    /// Failures in a row until the container is unhealthy.
    pub retries: u32,
    /// After the start in which failures do not count.
    pub start_period_secs: u32,
}

/// `restartPolicy` that is enabled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Ends with one of these are final.
    pub ignored_exit_codes: Vec<i32>,
    /// A container that ran for less is not started again.
    pub attempt_period_secs: u32,
}

/// A device of the host inside a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSpec {
    /// A device node of the host.
    pub host_path: String,
    /// Where it appears.
    pub container_path: String,
    /// Of `r`, `w`, `m`: what the container may do with it.
    pub access: String,
}

/// A tmpfs of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsSpec {
    /// Absolute path in the container.
    pub container_path: String,
    /// MiB.
    pub size_mib: u32,
    /// Options of mount(8), all known.
    pub options: Vec<String>,
}

/// `volumesFrom` of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumesFrom {
    /// Another container of the same task.
    pub container: String,
    /// Its mounts appear read-only here.
    pub read_only: bool,
}

impl ContainerSpec {
    /// The kernel's bounds of cpu.shares; ECS raises and lowers to them.
    const SHARES: (u32, u32) = (2, 262_144);

    /// Sets the weight and the amount that is accounted for.
    pub(crate) fn set_cpu(&mut self, units: u32) {
        self.cpu_units = units;
        self.cpu_shares = ContainerSpec::shares(units);
    }

    pub(crate) fn shares(units: u32) -> u32 {
        units.clamp(ContainerSpec::SHARES.0, ContainerSpec::SHARES.1)
    }
}

/// ECS `networkMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkMode {
    /// A namespace per task (a bridge and addresses come with the issue on networking).
    Bridge,
    /// The host's own network.
    Host,
    /// A namespace per task with an address of its own.
    Awsvpc,
    /// Loopback alone.
    None,
}

/// ECS `pidMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidMode {
    /// A namespace per container.
    Private,
    /// One for all containers of the task.
    Task,
    /// The host's.
    Host,
}

/// ECS `ipcMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpcMode {
    /// A namespace and a /dev/shm per container.
    Private,
    /// One of each for all containers of the task.
    Task,
    /// The host's.
    Host,
    /// A namespace per container, no /dev/shm.
    None,
}

/// ECS launch types that this host can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchType {
    /// Namespaces on this kernel.
    Ec2,
    /// A microVM of its own.
    Fargate,
    /// ECS Anywhere; runs as EC2 does.
    External,
    /// Not run here.
    ManagedInstances,
}

/// `runtimePlatform.cpuArchitecture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuArchitecture {
    /// amd64
    X86_64,
    /// arm64
    Arm64,
}

impl CpuArchitecture {
    /// The one that this program was built for.
    pub const HOST: CpuArchitecture =
        if cfg!(target_arch = "x86_64") { CpuArchitecture::X86_64 } else { CpuArchitecture::Arm64 };

    /// As definitions write it.
    pub fn as_str(self) -> &'static str {
        match self {
            CpuArchitecture::X86_64 => "X86_64",
            CpuArchitecture::Arm64 => "ARM64",
        }
    }
}

/// A volume of the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Unique within the task.
    pub name: String,
    /// Where its files live.
    pub source: VolumeSource,
}

/// Where a volume's files live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// An empty directory that ends with the task.
    Task,
    /// A directory of the host, made when missing.
    Host(String),
    /// A volume of this name that outlives tasks and is shared by those that name it.
    Shared {
        /// Made when missing.
        autoprovision: bool,
    },
}

/// A volume's place in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Name of a volume of the same task.
    pub source_volume: String,
    /// Absolute path in the container.
    pub container_path: String,
    /// Mounted read-only.
    pub read_only: bool,
}

/// `dependsOn` of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// Another container of the same task.
    pub container: String,
    /// What must hold for it.
    pub condition: Condition,
}

/// ECS `dependsOn[].condition`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Running, or stopped after running.
    Start,
    /// Stopped with a known exit code.
    Complete,
    /// Stopped with exit code 0.
    Success,
    /// Its health check passes.
    Healthy,
}

impl Condition {
    /// As definitions write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Condition::Start => "START",
            Condition::Complete => "COMPLETE",
            Condition::Success => "SUCCESS",
            Condition::Healthy => "HEALTHY",
        }
    }
}

/// A host port that the task takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortMapping {
    /// 1 to 65535; in host mode container and host port are one.
    pub host_port: u16,
    /// TCP unless said otherwise.
    pub protocol: Protocol,
}

/// Transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

impl Protocol {
    /// As definitions write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// `logConfiguration` of the driver json-file; `check` refuses the others by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogSpec {
    /// Bytes after which the file is rotated; the agent's default when absent.
    pub max_size_bytes: Option<u64>,
    /// Number of files kept, the current one included; the agent's default when absent.
    pub max_files: Option<u32>,
}
