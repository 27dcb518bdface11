//! RunTask's own members, overrides' refused ones included.

use proto::v1::{RunTaskRequest, TaskDefinition};

use crate::problem::{Problem, Problems};
use crate::support;
use crate::tags;
use crate::task::{CpuArchitecture, TaskSpec};

const MAX_COUNT: i32 = 10;
const MAX_STARTED_BY: usize = 128;
const MAX_CLIENT_TOKEN: usize = 64;

/// RunTask's answer to the launch type FARGATE.
pub const FARGATE_REFUSED: &str = "The launch type FARGATE is not supported yet: tasks in microVMs come later. Run it \
                                   with the launch type EC2.";

/// Why a sound definition can be registered, but not be run as it is on a host like the one this program was built for.
pub fn refused_here(task: &TaskSpec) -> Vec<String> {
    let mut reasons = Vec::new();
    if task.is_fargate_only() {
        reasons.push(FARGATE_REFUSED.to_owned());
    }
    if let Some(wanted) = task.cpu_architecture.filter(|wanted| *wanted != CpuArchitecture::HOST) {
        let (wanted, host) = (wanted.as_str(), CpuArchitecture::HOST.as_str());
        reasons.push(format!("runtimePlatform.cpuArchitecture is {wanted}, but this host is {host}."));
    }
    reasons
}

/// Checks a RunTask against the definition it names.
pub fn check_run_task(request: &RunTaskRequest, definition: &TaskDefinition) -> Vec<Problem> {
    let mut problems = Problems::default();
    let json = serde_json::to_value(request).unwrap_or_default();
    support::refuse(support::RUN_TASK, &json, "", &mut problems);
    if request.count.is_some_and(|count| !(1..=MAX_COUNT).contains(&count)) {
        problems.parameter("count", format!("count must be 1 to {MAX_COUNT}."));
    }
    if let Some(started_by) = &request.started_by {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/');
        if started_by.len() > MAX_STARTED_BY || !started_by.chars().all(allowed) {
            problems.parameter("startedBy", "startedBy must be up to 128 letters, digits, -, _ and /.");
        }
    }
    if let Some(token) = &request.client_token
        && (token.is_empty() || token.len() > MAX_CLIENT_TOKEN || !token.bytes().all(|b| (33..=126).contains(&b)))
    {
        problems.parameter("clientToken", "clientToken must be 1 to 64 printable ASCII characters.");
    }
    match request.launch_type.as_deref() {
        None | Some("EC2" | "FARGATE" | "EXTERNAL") => {}
        Some(other) => {
            problems.parameter("launchType", format!("Invalid launchType '{other}': use EC2, EXTERNAL or FARGATE."))
        }
    }
    tags::check(&mut problems, &request.tags);
    match request.propagate_tags.as_deref() {
        None | Some("" | "NONE" | "TASK_DEFINITION") => {}
        Some("SERVICE") => problems.parameter(
            "propagateTags",
            "propagateTags 'SERVICE' is not valid for RunTask: use TASK_DEFINITION or NONE.",
        ),
        Some(other) => problems
            .parameter("propagateTags", format!("Invalid propagateTags '{other}': use TASK_DEFINITION or NONE.")),
    }
    network(&mut problems, request, definition);
    problems.0
}

fn network(problems: &mut Problems, request: &RunTaskRequest, definition: &TaskDefinition) {
    let Some(awsvpc) = request.network_configuration.as_ref().and_then(|network| network.awsvpc_configuration.as_ref())
    else {
        return;
    };
    if definition.network_mode.as_deref() != Some("awsvpc") {
        problems.parameter(
            "networkConfiguration",
            "Network Configuration is not valid for the given networkMode of this task definition.",
        );
    }
    match awsvpc.assign_public_ip.as_deref() {
        None | Some("DISABLED") => {}
        Some(other) => problems.client(
            "networkConfiguration.awsvpcConfiguration.assignPublicIp",
            format!("networkConfiguration.awsvpcConfiguration.assignPublicIp {other} is not supported."),
        ),
    }
}
