//! A wire definition to a [`TaskSpec`], all problems at once. The rules and texts are ECS's (RegisterTaskDefinition).

use std::collections::BTreeSet;

use proto::v1::{EphemeralStorage, RegisterTaskDefinitionRequest};

use crate::length;
use crate::problem::{Problem, Problems};
use crate::support;
use crate::tags;
use crate::task::{CpuArchitecture, IpcMode, LaunchType, NetworkMode, PidMode, TaskSpec};

pub(crate) mod container;
mod dependencies;
mod fargate;
pub(crate) mod size;
mod volumes;

const MAX_CONTAINERS: usize = 10;
/// Of a definition as JSON, bytes.
const MAX_BYTES: usize = 64 << 10;
/// GiB.
const EPHEMERAL_STORAGE: std::ops::RangeInclusive<i32> = 21..=200;

/// Checks a definition. Every problem is told, each with the path of the member at fault.
pub fn check(request: &RegisterTaskDefinitionRequest) -> Result<TaskSpec, Vec<Problem>> {
    let mut problems = Problems::default();
    let task = read(&mut problems, request);
    if problems.0.is_empty() { Ok(task) } else { Err(problems.0) }
}

/// What a definition says, with all that is wrong in it told to `problems`.
pub(crate) fn read(problems: &mut Problems, request: &RegisterTaskDefinitionRequest) -> TaskSpec {
    // Wire messages have string keys and finite numbers only, so they always have a JSON form.
    let json = serde_json::to_value(request).unwrap_or_default();
    let length = length::written(&json).len();
    if length > MAX_BYTES {
        let text = format!("Actual length: '{length}'. Max allowed length is '{MAX_BYTES}' bytes.");
        problems.client("containerDefinitions", text);
    }
    support::refuse(support::TASK_DEFINITION, &json, "", problems);

    tags::check(problems, &request.tags);
    let family = request.family.clone().unwrap_or_default();
    name(problems, "family", "Family", &family);
    let network_mode = network_mode(problems, request.network_mode.as_deref());
    let pid_mode = pid_mode(problems, request.pid_mode.as_deref());
    let ipc_mode = ipc_mode(problems, request.ipc_mode.as_deref());
    let requires_compatibilities = compatibilities(problems, &request.requires_compatibilities);
    let cpu_units = size::task_cpu(problems, "cpu", request.cpu.as_deref());
    let memory_mib = size::task_memory(problems, "memory", request.memory.as_deref());
    let ephemeral_storage_gib = ephemeral_storage(problems, "ephemeralStorage", request.ephemeral_storage.as_ref());
    let cpu_architecture = platform(problems, request);
    let volumes = volumes::check(problems, &request.volumes);

    let mut containers = Vec::new();
    let definitions = &request.container_definitions;
    if definitions.is_empty() {
        problems.client("containerDefinitions", "Container definitions should not be null or empty.");
    }
    if definitions.len() > MAX_CONTAINERS {
        problems.client(
            "containerDefinitions",
            format!("A task definition has at most {MAX_CONTAINERS} containers, not {}.", definitions.len()),
        );
    }
    for (index, definition) in definitions.iter().enumerate() {
        let path = format!("containerDefinitions[{index}]");
        containers.push(container::check(problems, &path, definition, network_mode));
    }
    volumes::inherit(problems, &mut containers);
    let task = TaskSpec {
        family,
        network_mode,
        pid_mode,
        ipc_mode,
        cpu_units,
        memory_mib,
        ephemeral_storage_gib,
        containers,
        volumes,
        requires_compatibilities,
        cpu_architecture,
    };
    across(problems, &task);
    fargate::check(problems, request, &task);
    task
}

/// What concerns several members at once; also the check of a definition with overrides.
pub(crate) fn across(problems: &mut Problems, task: &TaskSpec) {
    let mut names = BTreeSet::new();
    for (index, container) in task.containers.iter().enumerate() {
        if !container.name.is_empty() && !names.insert(&container.name) {
            problems.client(
                format!("containerDefinitions[{index}].name"),
                format!("Container name '{}' is used more than once.", container.name),
            );
        }
    }
    if !task.containers.is_empty() && !task.containers.iter().any(|container| container.essential) {
        problems.client("containerDefinitions", "At least one container must be marked as essential.");
    }
    modes(problems, task);
    container::ports::across(problems, task);
    size::across(problems, task);
    volumes::across(problems, task);
    dependencies::across(problems, task);
}

/// What the host's ipc namespace forbids.
fn modes(problems: &mut Problems, task: &TaskSpec) {
    if task.ipc_mode != IpcMode::Host {
        return;
    }
    for (index, container) in task.containers.iter().enumerate() {
        for name in container.system_controls.keys().filter(|name| !name.starts_with("net.")) {
            problems.client(
                format!("containerDefinitions[{index}].systemControls"),
                format!("'{name}' cannot be set with ipcMode host: it would be the host's."),
            );
        }
    }
}

/// Family, container and volume names: 1 to 255 of letters, digits, `_` and `-`.
fn name(problems: &mut Problems, path: &str, noun: &str, name: &str) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() {
        problems.client(path, format!("{noun} should not be null or empty."));
    } else if name.len() > 255 || !name.chars().all(allowed) {
        problems.client(path, format!("{noun} contains invalid characters: use 1 to 255 letters, digits, _ and -."));
    }
}

fn network_mode(problems: &mut Problems, mode: Option<&str>) -> NetworkMode {
    match mode {
        None | Some("bridge") => NetworkMode::Bridge,
        Some("host") => NetworkMode::Host,
        Some("awsvpc") => NetworkMode::Awsvpc,
        Some("none") => NetworkMode::None,
        Some(other) => {
            problems.client("networkMode", format!("Invalid networkMode '{other}': use bridge, host, awsvpc or none."));
            NetworkMode::Bridge
        }
    }
}

fn pid_mode(problems: &mut Problems, mode: Option<&str>) -> PidMode {
    match mode {
        None | Some("") => PidMode::Private,
        Some("task") => PidMode::Task,
        Some("host") => PidMode::Host,
        Some(other) => {
            problems.client("pidMode", format!("Invalid pidMode '{other}': use host or task."));
            PidMode::Private
        }
    }
}

fn ipc_mode(problems: &mut Problems, mode: Option<&str>) -> IpcMode {
    match mode {
        None | Some("") => IpcMode::Private,
        Some("task") => IpcMode::Task,
        Some("host") => IpcMode::Host,
        Some("none") => IpcMode::None,
        Some(other) => {
            problems.client("ipcMode", format!("Invalid ipcMode '{other}': use host, task or none."));
            IpcMode::Private
        }
    }
}

/// GiB.
pub(crate) fn ephemeral_storage(problems: &mut Problems, path: &str, given: Option<&EphemeralStorage>) -> Option<u32> {
    let size = given.filter(|given| **given != EphemeralStorage::default())?.size_in_gi_b();
    if !EPHEMERAL_STORAGE.contains(&size) {
        let (first, last) = EPHEMERAL_STORAGE.into_inner();
        problems.client(format!("{path}.sizeInGiB"), format!("{path}.sizeInGiB must be {first} to {last}."));
    }
    u32::try_from(size).ok()
}

fn compatibilities(problems: &mut Problems, names: &[String]) -> Vec<LaunchType> {
    let mut types = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let path = format!("requiresCompatibilities[{index}]");
        match name.as_str() {
            "EC2" => types.push(LaunchType::Ec2),
            "FARGATE" => types.push(LaunchType::Fargate),
            "EXTERNAL" => types.push(LaunchType::External),
            "MANAGED_INSTANCES" => problems.client(&path, format!("{path}: MANAGED_INSTANCES is not supported.")),
            other => problems.client(&path, format!("Invalid compatibility '{other}': use EC2, EXTERNAL or FARGATE.")),
        }
    }
    types
}

fn platform(problems: &mut Problems, request: &RegisterTaskDefinitionRequest) -> Option<CpuArchitecture> {
    let platform = request.runtime_platform.as_ref()?;
    match platform.operating_system_family.as_deref() {
        None | Some("LINUX") => {}
        Some(other) => problems.client(
            "runtimePlatform.operatingSystemFamily",
            format!("runtimePlatform.operatingSystemFamily '{other}' is not supported: this is a Linux host."),
        ),
    }
    match platform.cpu_architecture.as_deref() {
        None => None,
        Some("X86_64") => Some(CpuArchitecture::X86_64),
        Some("ARM64") => Some(CpuArchitecture::Arm64),
        Some(other) => {
            problems.client(
                "runtimePlatform.cpuArchitecture",
                format!("Invalid cpuArchitecture '{other}': use X86_64 or ARM64."),
            );
            None
        }
    }
}

#[cfg(test)]
mod tests;
