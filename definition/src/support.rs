//! Which members of the ECS model run here. One table serves the refusals, `neargate validate` and the README.
//! A unit test holds it against the schema: no member is missing and none is made up.

use serde_json::Value;

use crate::problem::Problems;

/// Whether a member runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It does what ECS documents, within the note's limits.
    Works(&'static str),
    /// A definition that gives it is refused, for the reason.
    Refused(&'static str),
}

use Support::{Refused, Works};

/// A member's path, with `[]` for each item of a list, and whether it runs.
pub type Row = (&'static str, Support);

const ROLES: &str = "task endpoints and roles come later";
const NETWORK: &str = "addresses, ports and names come later";
const STORAGE: &str = "NFS volumes come later";
const CLUSTER: &str = "there is one host and no scheduler of many";

/// RegisterTaskDefinition.
#[rustfmt::skip]
pub const TASK_DEFINITION: &[Row] = &[
    ("family", Works("")),
    ("taskRoleArn", Refused(ROLES)),
    ("executionRoleArn", Refused(ROLES)),
    ("networkMode", Works("`host`, `none`; `bridge` and `awsvpc` give the task a network namespace with loopback")),
    ("volumes", Works("")),
    ("volumes[].name", Works("")),
    ("volumes[].host", Works("without `sourcePath` a directory that ends with the task and begins with what the image has there")),
    ("volumes[].host.sourcePath", Works("")),
    ("volumes[].dockerVolumeConfiguration", Works("")),
    ("volumes[].dockerVolumeConfiguration.scope", Works("")),
    ("volumes[].dockerVolumeConfiguration.autoprovision", Works("")),
    ("volumes[].dockerVolumeConfiguration.driver", Works("`local`")),
    ("volumes[].dockerVolumeConfiguration.driverOpts", Refused(STORAGE)),
    ("volumes[].dockerVolumeConfiguration.labels", Works("")),
    ("volumes[].efsVolumeConfiguration", Refused(STORAGE)),
    ("volumes[].s3filesVolumeConfiguration", Refused("S3 Files are not mounted")),
    ("volumes[].fsxWindowsFileServerVolumeConfiguration", Refused("Windows is not supported")),
    ("volumes[].configuredAtLaunch", Refused("there are no EBS volumes here")),
    ("placementConstraints", Refused(CLUSTER)),
    ("requiresCompatibilities", Works("`EC2` and `EXTERNAL` run; `FARGATE` is checked and kept, running it comes later")),
    ("cpu", Works("a hard limit")),
    ("memory", Works("a hard limit")),
    ("tags", Works("")),
    ("tags[].key", Works("")),
    ("tags[].value", Works("")),
    ("pidMode", Works("`host`: the task then has no user namespace")),
    ("ipcMode", Works("`host`: the task then has no user namespace")),
    ("proxyConfiguration", Refused("App Mesh is not supported")),
    ("inferenceAccelerators", Refused("AWS has retired Elastic Inference")),
    ("ephemeralStorage", Works("a hard limit of what containers write to their roots and to volumes of the task")),
    ("ephemeralStorage.sizeInGiB", Works("21 to 200")),
    ("runtimePlatform", Works("")),
    ("runtimePlatform.cpuArchitecture", Works("the host's own")),
    ("runtimePlatform.operatingSystemFamily", Works("`LINUX`")),
    ("enableFaultInjection", Refused(ROLES)),
    ("containerDefinitions", Works("")),
    ("containerDefinitions[].name", Works("")),
    ("containerDefinitions[].image", Works("also `oci:DIRECTORY[:TAG]` and `docker-archive:FILE[:NAME]`")),
    ("containerDefinitions[].repositoryCredentials", Refused(ROLES)),
    ("containerDefinitions[].cpu", Works("a weight, never a cap")),
    ("containerDefinitions[].memory", Works("a hard limit")),
    ("containerDefinitions[].memoryReservation", Works("")),
    ("containerDefinitions[].links", Refused(NETWORK)),
    ("containerDefinitions[].portMappings", Works("with `networkMode` `host`")),
    ("containerDefinitions[].portMappings[].containerPort", Works("")),
    ("containerDefinitions[].portMappings[].hostPort", Works("")),
    ("containerDefinitions[].portMappings[].protocol", Works("")),
    ("containerDefinitions[].portMappings[].name", Refused(NETWORK)),
    ("containerDefinitions[].portMappings[].appProtocol", Refused(NETWORK)),
    ("containerDefinitions[].portMappings[].containerPortRange", Refused(NETWORK)),
    ("containerDefinitions[].essential", Works("")),
    ("containerDefinitions[].restartPolicy", Works("")),
    ("containerDefinitions[].restartPolicy.enabled", Works("")),
    ("containerDefinitions[].restartPolicy.ignoredExitCodes", Works("")),
    ("containerDefinitions[].restartPolicy.restartAttemptPeriod", Works("")),
    ("containerDefinitions[].entryPoint", Works("")),
    ("containerDefinitions[].command", Works("")),
    ("containerDefinitions[].environment", Works("")),
    ("containerDefinitions[].environment[].name", Works("")),
    ("containerDefinitions[].environment[].value", Works("")),
    ("containerDefinitions[].environmentFiles", Refused(ROLES)),
    ("containerDefinitions[].mountPoints", Works("")),
    ("containerDefinitions[].mountPoints[].sourceVolume", Works("")),
    ("containerDefinitions[].mountPoints[].containerPath", Works("")),
    ("containerDefinitions[].mountPoints[].readOnly", Works("")),
    ("containerDefinitions[].volumesFrom", Works("")),
    ("containerDefinitions[].volumesFrom[].sourceContainer", Works("")),
    ("containerDefinitions[].volumesFrom[].readOnly", Works("")),
    ("containerDefinitions[].linuxParameters", Works("")),
    ("containerDefinitions[].linuxParameters.capabilities", Works("")),
    ("containerDefinitions[].linuxParameters.capabilities.add", Works("")),
    ("containerDefinitions[].linuxParameters.capabilities.drop", Works("")),
    ("containerDefinitions[].linuxParameters.devices", Works("the task then has no user namespace")),
    ("containerDefinitions[].linuxParameters.devices[].hostPath", Works("")),
    ("containerDefinitions[].linuxParameters.devices[].containerPath", Works("")),
    ("containerDefinitions[].linuxParameters.devices[].permissions", Works("")),
    ("containerDefinitions[].linuxParameters.initProcessEnabled", Works("")),
    ("containerDefinitions[].linuxParameters.sharedMemorySize", Works("")),
    ("containerDefinitions[].linuxParameters.tmpfs", Works("")),
    ("containerDefinitions[].linuxParameters.tmpfs[].containerPath", Works("")),
    ("containerDefinitions[].linuxParameters.tmpfs[].size", Works("")),
    ("containerDefinitions[].linuxParameters.tmpfs[].mountOptions", Works("")),
    ("containerDefinitions[].linuxParameters.maxSwap", Works("with `memory`; none when absent")),
    ("containerDefinitions[].linuxParameters.swappiness", Works("with `maxSwap`, on cgroup v1")),
    ("containerDefinitions[].secrets", Refused(ROLES)),
    ("containerDefinitions[].dependsOn", Works("")),
    ("containerDefinitions[].dependsOn[].containerName", Works("")),
    ("containerDefinitions[].dependsOn[].condition", Works("`START`, `COMPLETE`, `SUCCESS`, `HEALTHY`")),
    ("containerDefinitions[].startTimeout", Works("")),
    ("containerDefinitions[].stopTimeout", Works("")),
    ("containerDefinitions[].versionConsistency", Refused("a service's deployments come later")),
    ("containerDefinitions[].hostname", Works("")),
    ("containerDefinitions[].user", Works("")),
    ("containerDefinitions[].workingDirectory", Works("")),
    ("containerDefinitions[].disableNetworking", Refused(NETWORK)),
    ("containerDefinitions[].privileged", Works("")),
    ("containerDefinitions[].readonlyRootFilesystem", Works("")),
    ("containerDefinitions[].dnsServers", Refused(NETWORK)),
    ("containerDefinitions[].dnsSearchDomains", Refused(NETWORK)),
    ("containerDefinitions[].extraHosts", Works("")),
    ("containerDefinitions[].extraHosts[].hostname", Works("")),
    ("containerDefinitions[].extraHosts[].ipAddress", Works("")),
    ("containerDefinitions[].dockerSecurityOptions", Works("`no-new-privileges`")),
    ("containerDefinitions[].interactive", Works("stdin stays open")),
    ("containerDefinitions[].pseudoTerminal", Works("")),
    ("containerDefinitions[].dockerLabels", Works("")),
    ("containerDefinitions[].ulimits", Works("within what the host may raise")),
    ("containerDefinitions[].ulimits[].name", Works("")),
    ("containerDefinitions[].ulimits[].softLimit", Works("")),
    ("containerDefinitions[].ulimits[].hardLimit", Works("")),
    ("containerDefinitions[].logConfiguration", Works("")),
    ("containerDefinitions[].logConfiguration.logDriver", Works("`json-file`")),
    ("containerDefinitions[].logConfiguration.options", Works("`max-size`, `max-file`")),
    ("containerDefinitions[].logConfiguration.secretOptions", Refused(ROLES)),
    ("containerDefinitions[].healthCheck", Works("")),
    ("containerDefinitions[].healthCheck.command", Works("")),
    ("containerDefinitions[].healthCheck.interval", Works("")),
    ("containerDefinitions[].healthCheck.timeout", Works("")),
    ("containerDefinitions[].healthCheck.retries", Works("")),
    ("containerDefinitions[].healthCheck.startPeriod", Works("")),
    ("containerDefinitions[].systemControls", Works("`net.*`, `kernel.msg*`, `kernel.sem`, `kernel.shm*`, `fs.mqueue.*`")),
    ("containerDefinitions[].systemControls[].namespace", Works("")),
    ("containerDefinitions[].systemControls[].value", Works("")),
    ("containerDefinitions[].resourceRequirements", Refused("GPUs and accelerators are not supported")),
    ("containerDefinitions[].firelensConfiguration", Refused("FireLens is not supported")),
    ("containerDefinitions[].credentialSpecs", Refused("gMSA is not supported")),
];

/// RunTask without its overrides.
#[rustfmt::skip]
pub const RUN_TASK: &[Row] = &[
    ("capacityProviderStrategy", Refused(CLUSTER)),
    ("cluster", Works("")),
    ("count", Works("1 to 10")),
    ("enableECSManagedTags", Works("`aws:ecs:clusterName`")),
    ("enableExecuteCommand", Works("commands can be executed in any task")),
    ("group", Works("")),
    ("launchType", Works("`EC2`, `EXTERNAL`; `FARGATE` comes later")),
    ("networkConfiguration", Works("")),
    ("networkConfiguration.awsvpcConfiguration", Works("with `networkMode` `awsvpc`")),
    ("networkConfiguration.awsvpcConfiguration.subnets", Works("accepted; there is one network")),
    ("networkConfiguration.awsvpcConfiguration.securityGroups", Refused(NETWORK)),
    ("networkConfiguration.awsvpcConfiguration.assignPublicIp", Works("`DISABLED`")),
    ("overrides", Works("")),
    ("overrides.containerOverrides", Works("")),
    ("overrides.containerOverrides[].name", Works("")),
    ("overrides.containerOverrides[].command", Works("")),
    ("overrides.containerOverrides[].environment", Works("")),
    ("overrides.containerOverrides[].environment[].name", Works("")),
    ("overrides.containerOverrides[].environment[].value", Works("")),
    ("overrides.containerOverrides[].environmentFiles", Refused(ROLES)),
    ("overrides.containerOverrides[].cpu", Works("")),
    ("overrides.containerOverrides[].memory", Works("")),
    ("overrides.containerOverrides[].memoryReservation", Works("")),
    ("overrides.containerOverrides[].resourceRequirements", Refused("GPUs and accelerators are not supported")),
    ("overrides.cpu", Works("")),
    ("overrides.inferenceAcceleratorOverrides", Refused("AWS has retired Elastic Inference")),
    ("overrides.executionRoleArn", Refused(ROLES)),
    ("overrides.memory", Works("")),
    ("overrides.taskRoleArn", Refused(ROLES)),
    ("overrides.ephemeralStorage", Works("")),
    ("overrides.ephemeralStorage.sizeInGiB", Works("21 to 200")),
    ("placementConstraints", Refused(CLUSTER)),
    ("placementStrategy", Refused(CLUSTER)),
    ("platformVersion", Refused("platform versions are Fargate's")),
    ("propagateTags", Works("`TASK_DEFINITION`, `NONE`")),
    ("referenceId", Refused("there is nothing that it could refer to")),
    ("startedBy", Works("")),
    ("tags", Works("")),
    ("tags[].key", Works("")),
    ("tags[].value", Works("")),
    ("taskDefinition", Works("")),
    ("clientToken", Works("")),
    ("volumeConfigurations", Refused("there are no EBS volumes here")),
];

/// Adds a problem for each member of `value` that `table` refuses. What says nothing (null, `[]`, `{}`, false, 0, NONE)
/// counts as absent.
pub(crate) fn refuse(table: &[Row], value: &Value, prefix: &str, problems: &mut Problems) {
    walk(table, value, &mut String::new(), &mut String::from(prefix), problems);
}

fn walk(table: &[Row], value: &Value, row: &mut String, path: &mut String, problems: &mut Problems) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let (row_end, path_end) = (row.len(), path.len());
                for text in [&mut *row, &mut *path] {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(name);
                }
                match table.iter().find(|(known, _)| *known == row.as_str()) {
                    Some((_, Refused(reason))) if !is_absent(member) => {
                        problems.client(path.as_str(), format!("{path} is not supported: {reason}."));
                    }
                    Some((_, Works(_))) => walk(table, member, row, path, problems),
                    _ => {}
                }
                row.truncate(row_end);
                path.truncate(path_end);
            }
        }
        Value::Array(items) => {
            let (row_end, path_end) = (row.len(), path.len());
            row.push_str("[]");
            for (index, item) in items.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                walk(table, item, row, path, problems);
                path.truncate(path_end);
            }
            row.truncate(row_end);
        }
        _ => {}
    }
}

fn is_absent(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text == "NONE",
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.values().all(is_absent),
        Value::Bool(true) => false,
    }
}

/// The README's table: each member that works with its note, each that is refused with its reason.
pub fn markdown_table() -> String {
    let mut text = String::from("| Task definition | | |\n|---|---|---|\n");
    for (path, support) in TASK_DEFINITION {
        let (word, note) = match support {
            Works(note) => ("works", note),
            Refused(reason) => ("refused", reason),
        };
        text.push_str(&format!("| `{path}` | {word} | {note} |\n"));
    }
    text
}

#[cfg(test)]
mod tests;
