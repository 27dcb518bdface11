//! One container definition to a [`ContainerSpec`].

use std::collections::{BTreeMap, HashMap};

use proto::v1::{ContainerDefinition, KeyValuePair};

use super::{name, size, volumes};
use crate::problem::Problems;
use crate::task::{ContainerSpec, MountPoint, NetworkMode};

mod image;
mod linux;
mod log;
mod names;
pub(crate) mod order;
pub(super) mod ports;

pub(super) fn check(
    problems: &mut Problems,
    path: &str,
    definition: &ContainerDefinition,
    network_mode: NetworkMode,
) -> ContainerSpec {
    let container_name = definition.name.clone().unwrap_or_default();
    name(problems, &format!("{path}.name"), "Container.name", &container_name);
    let image = image::check(problems, path, definition.image.as_deref());
    let linux = definition.linux_parameters.clone().unwrap_or_default();
    let (capabilities_add, capabilities_drop) =
        linux::capabilities(problems, path, &linux.capabilities.clone().unwrap_or_default());
    let (max_swap_mib, swappiness) = linux::swap(problems, path, &linux);
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
        depends_on: order::depends_on(problems, path, definition),
        stop_timeout_secs: non_negative(problems, &format!("{path}.stopTimeout"), definition.stop_timeout),
        port_mappings: ports::check(problems, path, &definition.port_mappings, network_mode),
        privileged: definition.privileged.unwrap_or(false),
        readonly_root_filesystem: definition.readonly_root_filesystem.unwrap_or(false),
        capabilities_add,
        capabilities_drop,
        ulimits: linux::ulimits(problems, path, &definition.ulimits),
        log: log::check(problems, path, definition.log_configuration.as_ref()),
        hostname: names::hostname(problems, path, definition.hostname.as_deref(), network_mode),
        extra_hosts: names::extra_hosts(problems, path, &definition.extra_hosts, network_mode),
        devices: linux::devices(problems, path, &linux.devices),
        init_process: linux.init_process_enabled.unwrap_or(false),
        shared_memory_mib: linux::shared_memory(problems, path, linux.shared_memory_size),
        tmpfs: linux::tmpfs(problems, path, &linux.tmpfs),
        max_swap_mib,
        swappiness,
        system_controls: linux::system_controls(problems, path, &definition.system_controls, network_mode),
        labels: labels(problems, path, &definition.docker_labels),
        no_new_privileges: linux::security_options(problems, path, &definition.docker_security_options),
        interactive: definition.interactive.unwrap_or(false),
        pseudo_terminal: definition.pseudo_terminal.unwrap_or(false),
        volumes_from: volumes::from(definition),
        health_check: order::health_check(problems, path, definition.health_check.as_ref()),
        start_timeout_secs: non_negative(problems, &format!("{path}.startTimeout"), definition.start_timeout),
        restart_policy: order::restart_policy(problems, path, definition.restart_policy.as_ref()),
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

fn labels(problems: &mut Problems, path: &str, labels: &HashMap<String, String>) -> BTreeMap<String, String> {
    let path = format!("{path}.dockerLabels");
    let labels: BTreeMap<String, String> = labels.clone().into_iter().collect();
    for (name, value) in &labels {
        if name.is_empty() {
            problems.client(&path, format!("{path}: a label has no name."));
        }
        problems.no_nul(&path, name);
        problems.no_nul(&format!("{path}.{name}"), value);
    }
    labels
}

fn mount_points(problems: &mut Problems, path: &str, definition: &ContainerDefinition) -> Vec<MountPoint> {
    let mut points = Vec::new();
    for (index, point) in definition.mount_points.iter().enumerate() {
        let container_path = point.container_path.clone().unwrap_or_default();
        let path = format!("{path}.mountPoints[{index}].containerPath");
        volumes::below_root(problems, &path, &container_path);
        points.push(MountPoint {
            source_volume: point.source_volume.clone().unwrap_or_default(),
            container_path,
            read_only: point.read_only.unwrap_or(false),
        });
    }
    points
}
