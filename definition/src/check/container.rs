//! One container definition to a [`ContainerSpec`].

use std::collections::{BTreeMap, BTreeSet};

use proto::v1::{
    ContainerDefinition, KernelCapabilities, KeyValuePair, LogConfiguration, PortMapping as WirePort, Ulimit,
};

use super::{name, size, volumes};
use crate::problem::Problems;
use crate::task::{Condition, ContainerSpec, Dependency, LogSpec, MountPoint, NetworkMode, PortMapping, Protocol};

/// ECS's list.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];
/// capabilities(7), without the prefix.
#[rustfmt::skip]
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "CHOWN", "DAC_OVERRIDE",
    "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE", "LINUX_IMMUTABLE", "MAC_ADMIN",
    "MAC_OVERRIDE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW", "PERFMON", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT", "SYS_MODULE", "SYS_NICE",
    "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "WAKE_ALARM",
];

pub(super) fn check(
    problems: &mut Problems,
    path: &str,
    definition: &ContainerDefinition,
    network_mode: NetworkMode,
) -> ContainerSpec {
    let container_name = definition.name.clone().unwrap_or_default();
    name(problems, &format!("{path}.name"), "Container.name", &container_name);
    let image = definition.image.clone().unwrap_or_default();
    if image.is_empty() {
        problems.client(format!("{path}.image"), "Container.image should not be null or empty.");
    }
    problems.no_nul(&format!("{path}.image"), &image);
    let linux = definition.linux_parameters.as_ref();
    let capabilities = linux.and_then(|linux| linux.capabilities.clone()).unwrap_or_default();
    let (capabilities_add, capabilities_drop) = check_capabilities(problems, path, &capabilities);
    let cpu_units = non_negative(problems, &format!("{path}.cpu"), definition.cpu).unwrap_or(0);
    ContainerSpec {
        name: container_name,
        image,
        cpu_shares: ContainerSpec::shares(cpu_units),
        cpu_units,
        memory_mib: memory(problems, &format!("{path}.memory"), definition.memory),
        memory_reservation_mib: memory(problems, &format!("{path}.memoryReservation"), definition.memory_reservation),
        essential: definition.essential.unwrap_or(true),
        entry_point: arguments(problems, &format!("{path}.entryPoint"), &definition.entry_point),
        command: arguments(problems, &format!("{path}.command"), &definition.command),
        working_directory: working_directory(problems, path, definition.working_directory.as_deref()),
        user: user(problems, path, definition.user.as_deref()),
        environment: environment(problems, path, &definition.environment),
        mount_points: mount_points(problems, path, definition),
        depends_on: depends_on(problems, path, definition),
        stop_timeout_secs: non_negative(problems, &format!("{path}.stopTimeout"), definition.stop_timeout),
        port_mappings: ports(problems, path, &definition.port_mappings, network_mode),
        privileged: definition.privileged.unwrap_or(false),
        readonly_root_filesystem: definition.readonly_root_filesystem.unwrap_or(false),
        capabilities_add,
        capabilities_drop,
        ulimits: ulimits(problems, path, &definition.ulimits),
        log: log(problems, path, definition.log_configuration.as_ref()),
    }
}

fn non_negative(problems: &mut Problems, path: &str, value: Option<i32>) -> Option<u32> {
    let value = value?;
    let checked = u32::try_from(value).ok();
    if checked.is_none() {
        problems.client(path, format!("{path} must not be negative."));
    }
    checked
}

/// MiB; absent and 0 are no limit.
pub(crate) fn memory(problems: &mut Problems, path: &str, value: Option<i32>) -> Option<u32> {
    let value = value.filter(|value| *value != 0)?;
    if value < size::MIN_MEMORY_MIB {
        problems.client(path, format!("{path} must be at least {} MiB.", size::MIN_MEMORY_MIB));
    }
    u32::try_from(value).ok()
}

pub(crate) fn arguments(problems: &mut Problems, path: &str, arguments: &[String]) -> Option<Vec<String>> {
    for (index, argument) in arguments.iter().enumerate() {
        problems.no_nul(&format!("{path}[{index}]"), argument);
    }
    // An empty list is absent, as everywhere in ECS.
    (!arguments.is_empty()).then(|| arguments.to_vec())
}

fn working_directory(problems: &mut Problems, path: &str, directory: Option<&str>) -> Option<String> {
    let directory = directory.filter(|directory| !directory.is_empty())?;
    let path = format!("{path}.workingDirectory");
    problems.no_nul(&path, directory);
    if !directory.starts_with('/') {
        problems.client(&path, format!("{path} must be an absolute path."));
    }
    Some(directory.to_owned())
}

fn user(problems: &mut Problems, path: &str, user: Option<&str>) -> Option<String> {
    let user = user.filter(|user| !user.is_empty())?;
    let path = format!("{path}.user");
    let parts: Vec<_> = user.split(':').collect();
    let sound = |part: &&str| !part.is_empty() && !part.chars().any(|c| c.is_whitespace() || c.is_control());
    if parts.len() > 2 || !parts.iter().all(sound) {
        problems.client(&path, format!("{path} must be user, user:group or their ids."));
    }
    Some(user.to_owned())
}

pub(crate) fn environment(problems: &mut Problems, path: &str, pairs: &[KeyValuePair]) -> Vec<(String, String)> {
    let mut checked: Vec<(String, String)> = Vec::new();
    for (index, pair) in pairs.iter().enumerate() {
        let path = format!("{path}.environment[{index}]");
        let (key, value) = (pair.name.clone().unwrap_or_default(), pair.value.clone().unwrap_or_default());
        if key.is_empty() || key.contains('=') {
            problems.client(format!("{path}.name"), format!("{path}.name must be a name without '='."));
        }
        problems.no_nul(&format!("{path}.name"), &key);
        problems.no_nul(&format!("{path}.value"), &value);
        checked.retain(|(known, _)| *known != key);
        checked.push((key, value));
    }
    checked
}

fn mount_points(problems: &mut Problems, path: &str, definition: &ContainerDefinition) -> Vec<MountPoint> {
    let mut points = Vec::new();
    for (index, point) in definition.mount_points.iter().enumerate() {
        let container_path = point.container_path.clone().unwrap_or_default();
        let path = format!("{path}.mountPoints[{index}].containerPath");
        volumes::absolute(problems, &path, &container_path);
        if container_path.split('/').all(|part| part.is_empty() || part == ".") {
            problems.client(&path, format!("{path} must not be the root directory."));
        }
        points.push(MountPoint {
            source_volume: point.source_volume.clone().unwrap_or_default(),
            container_path,
            read_only: point.read_only.unwrap_or(false),
        });
    }
    points
}

fn depends_on(problems: &mut Problems, path: &str, definition: &ContainerDefinition) -> Vec<Dependency> {
    let mut dependencies = Vec::new();
    for (index, dependency) in definition.depends_on.iter().enumerate() {
        let path = format!("{path}.dependsOn[{index}].condition");
        let condition = match dependency.condition.as_deref() {
            Some("START") => Condition::Start,
            Some("COMPLETE") => Condition::Complete,
            Some("SUCCESS") => Condition::Success,
            Some("HEALTHY") => {
                problems.client(&path, format!("{path} HEALTHY is not supported: health checks are not run yet."));
                continue;
            }
            other => {
                let given = other.unwrap_or("null");
                problems.client(&path, format!("Invalid condition '{given}': use START, COMPLETE or SUCCESS."));
                continue;
            }
        };
        dependencies.push(Dependency { container: dependency.container_name.clone().unwrap_or_default(), condition });
    }
    dependencies
}

fn ports(problems: &mut Problems, path: &str, ports: &[WirePort], mode: NetworkMode) -> Vec<PortMapping> {
    let path = format!("{path}.portMappings");
    if ports.is_empty() {
        return Vec::new();
    }
    if mode != NetworkMode::Host {
        problems.client(
            &path,
            format!("{path} is not supported outside networkMode host: addresses and ports come later."),
        );
        return Vec::new();
    }
    let mut checked = Vec::new();
    let mut taken = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let container_port = port.container_port.unwrap_or(0);
        let number = u16::try_from(container_port).ok().filter(|number| *number > 0);
        let Some(host_port) = number else {
            problems.client(format!("{path}.containerPort"), format!("{path}.containerPort must be 1 to 65535."));
            continue;
        };
        if port.host_port.is_some_and(|host| host != 0 && host != container_port) {
            problems.client(
                format!("{path}.hostPort"),
                "When networkMode=host, the host ports and container ports in port mappings must match.",
            );
        }
        let protocol = match port.protocol.as_deref() {
            None | Some("tcp") => Protocol::Tcp,
            Some("udp") => Protocol::Udp,
            Some(other) => {
                problems.client(format!("{path}.protocol"), format!("Invalid protocol '{other}': use tcp or udp."));
                continue;
            }
        };
        let mapping = PortMapping { host_port, protocol };
        if !taken.insert(mapping) {
            problems.client(&path, format!("{path} maps port {host_port} a second time."));
        }
        checked.push(mapping);
    }
    checked
}

fn check_capabilities(
    problems: &mut Problems,
    path: &str,
    capabilities: &KernelCapabilities,
) -> (Vec<String>, Vec<String>) {
    let mut checked = |member: &str, names: &[String]| -> Vec<String> {
        let path = format!("{path}.linuxParameters.capabilities.{member}");
        let mut checked = Vec::new();
        for (index, given) in names.iter().enumerate() {
            let upper = given.to_ascii_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if bare == "ALL" {
                checked.push("ALL".to_owned());
            } else if CAPABILITIES.contains(&bare) {
                checked.push(format!("CAP_{bare}"));
            } else {
                problems.client(format!("{path}[{index}]"), format!("'{given}' is not a Linux capability."));
            }
        }
        checked
    };
    (checked("add", &capabilities.add), checked("drop", &capabilities.drop))
}

fn ulimits(problems: &mut Problems, path: &str, limits: &[Ulimit]) -> BTreeMap<String, (u64, u64)> {
    let mut checked = BTreeMap::new();
    for (index, limit) in limits.iter().enumerate() {
        let path = format!("{path}.ulimits[{index}]");
        let limit_name = limit.name.clone().unwrap_or_default();
        if !ULIMITS.contains(&limit_name.as_str()) {
            problems.client(format!("{path}.name"), format!("'{limit_name}' is not a resource limit."));
        }
        // -1 is docker's and ECS's word for no limit.
        let amount = |value: Option<i32>| match value.unwrap_or(0) {
            -1 => Some(u64::MAX),
            value => u64::try_from(value).ok(),
        };
        let (Some(soft), Some(hard)) = (amount(limit.soft_limit), amount(limit.hard_limit)) else {
            problems.client(&path, format!("{path}: limits must be -1 or more."));
            continue;
        };
        if soft > hard {
            problems.client(format!("{path}.softLimit"), format!("{path}.softLimit is greater than its hardLimit."));
        }
        if checked.insert(limit_name.clone(), (soft, hard)).is_some() {
            problems.client(format!("{path}.name"), format!("The limit '{limit_name}' is given more than once."));
        }
    }
    checked
}

fn log(problems: &mut Problems, path: &str, configuration: Option<&LogConfiguration>) -> LogSpec {
    let mut log = LogSpec::default();
    let Some(configuration) = configuration else { return log };
    let path = format!("{path}.logConfiguration");
    match configuration.log_driver.as_deref() {
        Some("json-file") => {}
        Some(other) => problems.client(
            format!("{path}.logDriver"),
            format!("{path}.logDriver '{other}' is not supported: only json-file is, for the time being."),
        ),
        None => problems.client(format!("{path}.logDriver"), format!("{path}.logDriver should not be null or empty.")),
    }
    let mut options: Vec<_> = configuration.options.iter().collect();
    options.sort();
    for (option, value) in options {
        let path = format!("{path}.options.{option}");
        let sound = match option.as_str() {
            "max-size" => {
                log.max_size_bytes = bytes(value);
                log.max_size_bytes.is_some()
            }
            "max-file" => {
                log.max_files = value.parse().ok().filter(|files| (1..=1000).contains(files));
                log.max_files.is_some()
            }
            _ => {
                problems.client(&path, format!("{path} is not supported: json-file takes max-size and max-file."));
                continue;
            }
        };
        if !sound {
            problems.client(&path, format!("{path} has the invalid value '{value}'."));
        }
    }
    log
}

/// docker's sizes: a number of bytes, or of k, m, g (binary), at least 1 KiB so that a line fits.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (number, factor) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 1 << 10),
        b'm' => (&lower[..lower.len() - 1], 1 << 20),
        b'g' => (&lower[..lower.len() - 1], 1 << 30),
        _ => (lower, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(factor).filter(|bytes| *bytes >= 1024)
}
