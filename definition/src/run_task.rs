//! RunTask's own members, overrides' refused ones included.

use proto::v1::{RunTaskRequest, TaskDefinition};

use crate::length;
use crate::problem::{Problem, Problems};
use crate::support;
use crate::tags;
use crate::task::{CpuArchitecture, TaskSpec};

const MAX_COUNT: i32 = 10;
const MAX_STARTED_BY: usize = 128;
const MAX_CLIENT_TOKEN: usize = 64;
const MAX_GROUP: usize = 255;
const MAX_SUBNETS: usize = 16;
/// Characters of the overrides as JSON.
const MAX_OVERRIDES: usize = 8192;

const FARGATE: &str = "FARGATE";
/// RunTask's answer to the launch type FARGATE.
const FARGATE_REFUSED: &str = "The launch type FARGATE is not supported yet: tasks in microVMs come later. Run it \
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
    // First: whoever gets the rest right is refused all the same.
    if is_fargate(request, definition) {
        problems.client("launchType", FARGATE_REFUSED);
    }
    // ECS's own texts go before the others: the first problem's exception is the answer's.
    network(&mut problems, request, definition);
    if request.launch_type.is_some() && !request.capacity_provider_strategy.is_empty() {
        problems.parameter(
            "capacityProviderStrategy",
            "Specify either Launch Type or Capacity Provider Strategy, but not both.",
        );
    }
    let json = serde_json::to_value(request).unwrap_or_default();
    let overrides = json.get("overrides").map_or_else(String::new, length::written);
    if overrides.chars().count() > MAX_OVERRIDES {
        problems.parameter("overrides", format!("Container Overrides length must be at most {MAX_OVERRIDES}"));
    }
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
    if let Some(group) = &request.group
        && (group.is_empty() || group.chars().count() > MAX_GROUP || group.chars().any(|c| c.is_control()))
    {
        problems.parameter("group", format!("group must be 1 to {MAX_GROUP} characters."));
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
    problems.0
}

/// Whether the task would be one of Fargate: it is asked for, or the definition allows nothing else.
fn is_fargate(request: &RunTaskRequest, definition: &TaskDefinition) -> bool {
    match request.launch_type.as_deref() {
        Some(launch_type) => launch_type == FARGATE,
        None => definition.requires_compatibilities == [FARGATE],
    }
}

fn network(problems: &mut Problems, request: &RunTaskRequest, definition: &TaskDefinition) {
    const CONFIGURATION: &str = "networkConfiguration.awsvpcConfiguration";
    let is_awsvpc = definition.network_mode.as_deref() == Some("awsvpc");
    let given = request.network_configuration.as_ref().and_then(|network| network.awsvpc_configuration.as_ref());
    let Some(awsvpc) = given else {
        if is_awsvpc {
            problems.parameter(
                "networkConfiguration",
                "Network Configuration must be provided when networkMode 'awsvpc' is specified.",
            );
        }
        return;
    };
    if !is_awsvpc {
        problems.parameter(
            "networkConfiguration",
            "Network Configuration is not valid for the given networkMode of this task definition.",
        );
    }
    let path = format!("{CONFIGURATION}.subnets");
    if awsvpc.subnets.iter().all(String::is_empty) {
        problems.parameter(path, "subnets can not be empty.");
    } else if awsvpc.subnets.len() > MAX_SUBNETS {
        problems.parameter(path, format!("subnets can have at most {MAX_SUBNETS} items."));
    }
    match awsvpc.assign_public_ip.as_deref() {
        None | Some("DISABLED") => {}
        Some(other) => problems.client(
            format!("{CONFIGURATION}.assignPublicIp"),
            format!("{CONFIGURATION}.assignPublicIp {other} is not supported."),
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{Code, registered};

    fn problems(request: Value, network_mode: &str) -> Vec<Problem> {
        let definition = json!({
            "family": "f", "networkMode": network_mode,
            "containerDefinitions": [{ "name": "c", "image": "i", "memory": 6 }],
        });
        let definition = registered(&serde_json::from_value(definition).unwrap());
        check_run_task(&serde_json::from_value(request).unwrap(), &definition)
    }

    #[test]
    fn bad_members_are_told_with_their_path() {
        let subnets =
            |subnets: Value| json!({ "networkConfiguration": { "awsvpcConfiguration": { "subnets": subnets } } });
        let place = "networkConfiguration.awsvpcConfiguration.subnets";
        for (request, path) in [
            (json!({ "count": 0 }), "count"),
            (json!({ "count": 11 }), "count"),
            (json!({ "startedBy": "a b" }), "startedBy"),
            (json!({ "startedBy": "x".repeat(129) }), "startedBy"),
            (json!({ "clientToken": "" }), "clientToken"),
            (json!({ "clientToken": "x".repeat(65) }), "clientToken"),
            (json!({ "clientToken": "\u{7f}" }), "clientToken"),
            (json!({ "group": "" }), "group"),
            (json!({ "group": "x".repeat(256) }), "group"),
            (json!({ "launchType": "LAMBDA" }), "launchType"),
            (json!({ "platformVersion": "LATEST" }), "platformVersion"),
            (json!({ "capacityProviderStrategy": [{ "capacityProvider": "p" }] }), "capacityProviderStrategy"),
            (json!({ "placementConstraints": [{ "type": "distinctInstance" }] }), "placementConstraints"),
            (json!({ "placementStrategy": [{ "type": "random" }] }), "placementStrategy"),
            (json!({ "volumeConfigurations": [{ "name": "v" }] }), "volumeConfigurations"),
            (json!({ "referenceId": "r" }), "referenceId"),
            (json!({ "propagateTags": "SERVICE" }), "propagateTags"),
            (json!({ "tags": [{ "key": "", "value": "x" }] }), "tags[0].key"),
            (json!({ "overrides": { "taskRoleArn": "r" } }), "overrides.taskRoleArn"),
            (json!({ "overrides": { "executionRoleArn": "r" } }), "overrides.executionRoleArn"),
            (
                json!({ "overrides": { "containerOverrides": [{ "environmentFiles": [{ "value": "f" }] }] } }),
                "overrides.containerOverrides[0].environmentFiles",
            ),
            (
                json!({ "overrides": { "containerOverrides": [{ "resourceRequirements": [{ "type": "GPU" }] }] } }),
                "overrides.containerOverrides[0].resourceRequirements",
            ),
            (json!({ "overrides": { "containerOverrides": [{ "command": ["x".repeat(8192)] }] } }), "overrides"),
        ] {
            let told = problems(request, "bridge");
            assert_eq!(told.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>(), [path]);
        }
        for (given, path) in [(json!([]), place), (json!([""]), place), (json!(vec!["s"; 17]), place)] {
            assert_eq!(problems(subnets(given), "awsvpc")[0].path, path);
        }
        assert_eq!(problems(subnets(json!(["s"])), "awsvpc"), []);
    }

    #[test]
    fn texts_and_exceptions_of_ecs() {
        let network = json!({ "awsvpcConfiguration": { "subnets": ["s"] } });
        for (request, mode, text) in [
            (json!({}), "awsvpc", "Network Configuration must be provided when networkMode 'awsvpc' is specified."),
            (
                json!({ "networkConfiguration": network }),
                "bridge",
                "Network Configuration is not valid for the given networkMode of this task definition.",
            ),
            (
                json!({ "launchType": "EC2", "capacityProviderStrategy": [{ "capacityProvider": "p" }] }),
                "bridge",
                "Specify either Launch Type or Capacity Provider Strategy, but not both.",
            ),
        ] {
            let told = problems(request, mode);
            assert_eq!((told[0].message.as_str(), told[0].code), (text, Code::InvalidParameterException));
        }
    }

    #[test]
    fn overrides_have_a_length() {
        let of = |characters: usize| json!({ "overrides": { "containerOverrides": [{ "command": ["é".repeat(characters)] }] } });
        // {"containerOverrides":[{"command":[""]}]} is 41 characters.
        assert_eq!(problems(of(8192 - 41), "bridge"), []);
        assert_eq!(problems(of(8192 - 40), "bridge")[0].message, "Container Overrides length must be at most 8192");
    }
}
