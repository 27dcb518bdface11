//! ECS's words: the texts that clients look for (ecs-semantics 1.6), through gRPC and through the command line.

use std::fs::File;
use std::io::Write as _;

use proto::v1::{
    DeregisterTaskDefinitionRequest, DescribeTaskDefinitionRequest, ListTaskDefinitionsRequest, ListTasksRequest,
    RunTaskRequest,
};
use serde_json::{Value, json};
use system_tests::TestHost;
use system_tests::definition::{shell, task, with};
use tonic::Status;
use tonic_types::StatusExt as _;

/// ECS's name of the exception, and the texts of all problems.
fn told(status: &Status) -> (String, Vec<String>) {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    let fields = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    let mut texts: Vec<String> = fields.into_iter().map(|field| field.description).collect();
    texts.push(status.message().to_owned());
    (reason, texts)
}

#[track_caller]
fn assert_told(status: &Status, exception: &str, text: &str) {
    let (reason, texts) = told(status);
    assert!(reason == exception && texts.iter().any(|told| told == text), "{exception} {text}\nnot {reason} {texts:?}");
}

const FARGATE: &str =
    r#"{ "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc", "cpu": "256", "memory": "512" }"#;
const NETWORK_NEEDED: &str = "Network Configuration must be provided when networkMode 'awsvpc' is specified.";
const NETWORK_NOT_VALID: &str = "Network Configuration is not valid for the given networkMode of this task definition.";

#[test]
fn what_cannot_be_registered() {
    let host = TestHost::start();
    let fargate = |members: Value| with(serde_json::from_str(FARGATE).unwrap(), members);
    let ports = json!({ "portMappings": [{ "containerPort": 80, "hostPort": 8080 }] });
    for (definition, container, text) in [
        (json!({}), json!({ "name": null }), "Container.name should not be null or empty."),
        (json!({}), json!({ "image": null }), "Container.image should not be null or empty."),
        (
            json!({}),
            json!({ "memory": null }),
            "Invalid setting for container 'c'. At least one of 'memory' or 'memoryReservation' must be specified.",
        ),
        (json!({ "memory": "32" }), json!({}), "The 'memory' setting for container 'c' is greater than for the task."),
        (fargate(json!({ "cpu": null })), json!({}), "Fargate requires that 'cpu' be defined at the task level."),
        (fargate(json!({ "memory": null })), json!({}), "Fargate requires that 'memory' be defined at the task level."),
        (fargate(json!({ "memory": "8192" })), json!({}), "No Fargate configuration exists for given values."),
        (
            fargate(json!({ "pidMode": "host" })),
            json!({}),
            "Tasks using the Fargate launch type do not support pidMode 'host'. The supported value for pidMode is \
             'task'.",
        ),
        (fargate(json!({ "networkMode": "bridge" })), json!({}), "Fargate only supports network mode ‘awsvpc’."),
        (
            json!({ "networkMode": "awsvpc" }),
            ports,
            "When networkMode=awsvpc, the host ports and container ports in port mappings must match.",
        ),
    ] {
        let base = json!({ "name": "c", "image": "busybox", "memory": 64 });
        let whole = json!({ "family": "f", "containerDefinitions": [with(base, container)] });
        assert_told(&host.register(&with(whole, definition)).unwrap_err(), "ClientException", text);
    }
    // What was given follows, as help.
    let cpu =
        json!({ "family": "f", "cpu": "lots", "containerDefinitions": [{ "name": "c", "image": "i", "memory": 6 }] });
    let status = host.register(&cpu).unwrap_err();
    let text = "Invalid 'cpu' setting for task. For more information, see the Troubleshooting section of the Amazon ECS \
                Developer Guide.";
    assert!(status.message().starts_with(text), "{status}");
    let all = ListTaskDefinitionsRequest::default();
    let listed = host.wait(async { host.tasks().await?.list_task_definitions(all).await }).unwrap();
    assert_eq!(listed.into_inner().task_definition_arns, [] as [String; 0], "nothing was registered");
}

#[test]
fn what_cannot_be_run_or_found() {
    let host = TestHost::start();
    let image = host.image("base");
    let plain = host.register(&task("plain", &[shell("c", &image, "true")])).unwrap().task_definition_arn.unwrap();
    let awsvpc = with(task("awsvpc", &[shell("c", &image, "true")]), json!({ "networkMode": "awsvpc" }));
    host.register(&awsvpc).unwrap();
    host.register(&task("old", &[shell("c", &image, "true")])).unwrap();
    let old = DeregisterTaskDefinitionRequest { task_definition: Some("old:1".into()) };
    host.wait(async { host.tasks().await?.deregister_task_definition(old).await }).unwrap();
    let run = |request: Value| host.run_task(serde_json::from_value::<RunTaskRequest>(request).unwrap()).unwrap_err();
    let network = json!({ "awsvpcConfiguration": { "subnets": ["any"] } });

    assert_told(&run(json!({ "taskDefinition": "no:1" })), "ClientException", "TaskDefinition not found.");
    assert_told(&run(json!({ "taskDefinition": "old:1" })), "ClientException", "TaskDefinition is inactive");
    assert_told(&run(json!({ "taskDefinition": "awsvpc" })), "InvalidParameterException", NETWORK_NEEDED);
    let given = json!({ "taskDefinition": plain, "networkConfiguration": network });
    assert_told(&run(given), "InvalidParameterException", NETWORK_NOT_VALID);
    let both = json!({ "taskDefinition": plain, "launchType": "EC2",
        "capacityProviderStrategy": [{ "capacityProvider": "p" }] });
    let text = "Specify either Launch Type or Capacity Provider Strategy, but not both.";
    assert_told(&run(both), "InvalidParameterException", text);
    let elsewhere = json!({ "taskDefinition": plain, "cluster": "other" });
    assert_told(&run(elsewhere), "ClusterNotFoundException", "Cluster not found.");
    let other = ListTasksRequest { cluster: Some("other".into()), ..Default::default() };
    let status = host.wait(async { host.tasks().await?.list_tasks(other).await }).unwrap_err();
    assert_told(&status, "ClusterNotFoundException", "Cluster not found.");
    for name in ["no:1", "no", ""] {
        let unknown = DescribeTaskDefinitionRequest { task_definition: Some(name.into()), ..Default::default() };
        let status = host.wait(async { host.tasks().await?.describe_task_definition(unknown).await }).unwrap_err();
        assert_told(&status, "ClientException", "Unable to describe task definition.");
    }
    assert_told(&host.describe_tasks(&[]).unwrap_err(), "InvalidParameterException", "Tasks cannot be empty.");
    let id = "0".repeat(32);
    let of_another_cluster = format!("arn:aws:ecs:local:000000000000:task/other/{id}");
    for unknown in [id.as_str(), "nonsense", &of_another_cluster] {
        let status = host.stop(unknown, None).unwrap_err();
        assert_told(&status, "InvalidParameterException", "The referenced task was not found.");
    }
}

#[test]
fn the_command_line_passes_them_on() {
    let host = TestHost::start();
    let file = |name: &str, definition: &Value| {
        let path = host.scratch().join(format!("{name}.json"));
        File::create(&path).and_then(|mut file| file.write_all(definition.to_string().as_bytes())).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let image = host.image("base");
    let plain = file("plain", &task("plain", &[shell("c", &image, "true")]));
    let awsvpc = with(task("awsvpc", &[shell("c", &image, "true")]), json!({ "networkMode": "awsvpc" }));
    let awsvpc = file("awsvpc", &awsvpc);
    let nameless = file("nameless", &task("nameless", &[json!({ "image": image })]));
    let spaced = file("spaced", &task("spaced", &[json!({ "name": "c", "image": "no such image" })]));
    let id = "0".repeat(32);
    let network = r#"{"awsvpcConfiguration":{"subnets":["any"]}}"#;
    for (arguments, text) in [
        (vec!["run", &plain, "--cluster", "other"], "Cluster not found."),
        (vec!["run", &awsvpc], NETWORK_NEEDED),
        (vec!["run", &plain, "--network-configuration", network], NETWORK_NOT_VALID),
        (vec!["run", &nameless], "Container.name should not be null or empty."),
        (vec!["validate", &nameless], "Container.name should not be null or empty."),
        (vec!["validate", &spaced], "Container.image contains invalid characters: 'no such image'"),
        (vec!["definitions", "no:1"], "Unable to describe task definition."),
        (vec!["stop", &id], "The referenced task was not found."),
    ] {
        let refused = host.cli(&arguments);
        let words = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(1) && words.contains(text), "{arguments:?}: {text}\n{words}");
    }
    let taken = host.cli(&["run", &awsvpc, "--network-configuration", network]);
    assert!(taken.status.success(), "{taken:?}");
}
