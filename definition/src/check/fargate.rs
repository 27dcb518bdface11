//! What a definition that requires FARGATE must obey, so that it can be registered now and run later.

use proto::v1::RegisterTaskDefinitionRequest;

use crate::problem::Problems;
use crate::task::{ContainerSpec, IpcMode, LaunchType, NetworkMode, PidMode, TaskSpec, VolumeSource};

/// CPU units and the memory they may go with: first, last and step in MiB.
const SIZES: [(u32, u32, u32, u32); 7] = [
    (256, 512, 2048, 512),
    (512, 1024, 4096, 1024),
    (1024, 2048, 8192, 1024),
    (2048, 4096, 16_384, 1024),
    (4096, 8192, 30_720, 1024),
    (8192, 16_384, 61_440, 4096),
    (16_384, 32_768, 122_880, 8192),
];
/// Seconds.
const TIMEOUT: std::ops::RangeInclusive<u32> = 2..=120;

pub(super) fn check(problems: &mut Problems, request: &RegisterTaskDefinitionRequest, task: &TaskSpec) {
    if !task.requires_compatibilities.contains(&LaunchType::Fargate) {
        return;
    }
    if task.network_mode != NetworkMode::Awsvpc {
        problems.client("networkMode", "Fargate only supports network mode ‘awsvpc’.");
    }
    if task.pid_mode == PidMode::Host {
        problems.client(
            "pidMode",
            "Tasks using the Fargate launch type do not support pidMode 'host'. The supported value for pidMode is 'task'.",
        );
    }
    if task.ipc_mode != IpcMode::Private {
        problems.client("ipcMode", "ipcMode is not supported in Fargate.");
    }
    for (path, given) in [("cpu", request.cpu.is_some()), ("memory", request.memory.is_some())] {
        if !given {
            problems.client(path, format!("Fargate requires that '{path}' be defined at the task level."));
        }
    }
    if let (Some(cpu), Some(memory)) = (task.cpu_units, task.memory_mib) {
        // 256 units go with 512, 1024 and 2048 MiB, not with 1536.
        let fits = SIZES.iter().any(|&(units, first, last, step)| {
            units == cpu && (first..=last).contains(&memory) && memory % step == 0 && (units, memory) != (256, 1536)
        });
        if !fits {
            problems.client("memory", "No Fargate configuration exists for given values.");
        }
    }
    for (index, volume) in task.volumes.iter().enumerate() {
        if request.volumes[index].docker_volume_configuration.is_some() {
            let path = format!("volumes[{index}].dockerVolumeConfiguration");
            problems.client(&path, format!("{path} is not supported in Fargate."));
        }
        if matches!(volume.source, VolumeSource::Host(_)) {
            problems.client(
                format!("volumes[{index}].host.sourcePath"),
                "host.sourcePath should not be set for volumes in Fargate.",
            );
        }
    }
    for (index, container) in task.containers.iter().enumerate() {
        let path = format!("containerDefinitions[{index}]");
        if container.privileged {
            problems.client(format!("{path}.privileged"), "Fargate does not support privileged containers.");
        }
        if container.capabilities_add.iter().any(|name| name != "CAP_SYS_PTRACE") {
            problems.client(
                format!("{path}.linuxParameters.capabilities.add"),
                "SYS_PTRACE is the only capability that can be added in Fargate.",
            );
        }
        for (member, given) in refused(container) {
            if given {
                problems.client(format!("{path}.{member}"), format!("{path}.{member} is not supported in Fargate."));
            }
        }
        if container.start_timeout_secs.is_some_and(|seconds| !TIMEOUT.contains(&seconds)) {
            problems.client(
                format!("{path}.startTimeout"),
                "The startTimeout of a container in Fargate is 2 to 120 seconds.",
            );
        }
        if container.stop_timeout_secs.is_some_and(|seconds| !TIMEOUT.contains(&seconds)) {
            problems.client(
                format!("{path}.stopTimeout"),
                "The stopTimeout of a container in Fargate is 2 to 120 seconds.",
            );
        }
    }
}

/// Members that Fargate does not take, and whether the container has them.
fn refused(container: &ContainerSpec) -> [(&'static str, bool); 6] {
    [
        ("extraHosts", !container.extra_hosts.is_empty()),
        ("dockerSecurityOptions", container.no_new_privileges),
        ("linuxParameters.devices", !container.devices.is_empty()),
        ("linuxParameters.sharedMemorySize", container.shared_memory_mib.is_some()),
        ("linuxParameters.maxSwap", container.max_swap_mib.is_some()),
        ("linuxParameters.swappiness", container.swappiness.is_some()),
    ]
}
