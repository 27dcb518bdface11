//! Requests that are malformed: each member's rule, told with its path, and nothing is made.

use proto::v1::{
    DescribeTaskDefinitionRequest, DescribeTasksRequest, ListTaskDefinitionsRequest, ListTasksRequest, RunTaskRequest,
};
use serde_json::{Value, json};
use system_tests::TestHost;
use system_tests::definition::{shell, task, with};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// The fields at fault.
#[track_caller]
fn blamed(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let fields = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    fields.into_iter().map(|field| field.field).collect()
}

#[test]
fn a_bad_run_task_makes_no_task() {
    let host = TestHost::start();
    host.register(&task("f", &[shell("c", &host.image("base"), "true")])).unwrap();
    let tags: Vec<Value> = (0..51).map(|nth| json!({ "key": format!("k{nth}"), "value": "v" })).collect();
    for (members, field) in [
        (json!({ "taskDefinition": "" }), "taskDefinition"),
        (json!({ "count": 0 }), "count"),
        (json!({ "count": 11 }), "count"),
        (json!({ "startedBy": "no spaces" }), "startedBy"),
        (json!({ "clientToken": "x".repeat(65) }), "clientToken"),
        (json!({ "clientToken": "é" }), "clientToken"),
        (json!({ "group": "x".repeat(256) }), "group"),
        (json!({ "launchType": "MANAGED_INSTANCES" }), "launchType"),
        (json!({ "platformVersion": "1.4.0" }), "platformVersion"),
        (json!({ "capacityProviderStrategy": [{ "capacityProvider": "p" }] }), "capacityProviderStrategy"),
        (json!({ "placementConstraints": [{ "type": "distinctInstance" }] }), "placementConstraints"),
        (json!({ "placementStrategy": [{ "type": "random" }] }), "placementStrategy"),
        (json!({ "volumeConfigurations": [{ "name": "v" }] }), "volumeConfigurations"),
        (json!({ "referenceId": "r" }), "referenceId"),
        (json!({ "propagateTags": "SERVICE" }), "propagateTags"),
        (json!({ "tags": tags }), "tags"),
        (json!({ "tags": [{ "key": "aws:x", "value": "v" }] }), "tags[0].key"),
    ] {
        let mut request = json!({ "taskDefinition": "f" });
        request.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let status = host.run_task(serde_json::from_value(request).unwrap()).unwrap_err();
        assert_eq!(blamed(&status), [field], "{status}");
    }
    assert_eq!(host.list("RUNNING").len() + host.list("STOPPED").len(), 0);
    let request = RunTaskRequest { task_definition: Some("f".into()), count: Some(10), ..Default::default() };
    let answer = host.run_task(RunTaskRequest { group: Some("g".into()), ..request }).unwrap();
    assert!(answer.tasks.len() == 10 && answer.tasks.iter().all(|task| task.group() == "g"));
    for task in answer.tasks {
        host.stopped(task.task_arn());
    }
}

#[test]
fn a_bad_definition_is_not_registered() {
    let host = TestHost::start();
    let named = |name: &str, members: Value| with(json!({ "name": name, "image": "busybox", "memory": 6 }), members);
    let needs =
        |name: &str, condition: &str| json!({ "dependsOn": [{ "containerName": name, "condition": condition }] });
    let of = |containers: Vec<Value>| json!({ "containerDefinitions": containers });
    let alone = |members: Value| of(vec![named("a", members)]);
    let point = json!({ "sourceVolume": "v", "containerPath": "/v" });
    let ports = json!({ "portMappings": [{ "containerPort": 80 }] });
    let many = (0..11).map(|nth| named(&format!("c{nth}"), json!({}))).collect();
    let volume = json!([{ "name": "v" }]);
    for (definition, field, text) in [
        (of(vec![named("a", json!({})); 2]), "containerDefinitions[1].name", "'a' is used more than once"),
        (
            with(alone(json!({})), json!({ "volumes": [{ "name": "v" }, { "name": "v" }] })),
            "volumes[1].name",
            "'v' is used",
        ),
        (
            with(alone(json!({ "mountPoints": [point, point] })), json!({ "volumes": volume })),
            "containerDefinitions[0].mountPoints[1].containerPath",
            "has a volume already",
        ),
        (
            with(of(vec![named("a", ports.clone()), named("b", ports)]), json!({ "networkMode": "host" })),
            "containerDefinitions[1].portMappings",
            "maps host port 80/tcp, which 'a' has",
        ),
        (
            of(vec![named("a", needs("b", "START")), named("b", needs("c", "START")), named("c", needs("a", "START"))]),
            "containerDefinitions[0].dependsOn",
            "form a cycle: a -> b -> c -> a",
        ),
        (alone(needs("a", "START")), "containerDefinitions[0].dependsOn", "form a cycle: a -> a"),
        (
            of(vec![named("a", needs("b", "COMPLETE")), named("b", json!({}))]),
            "containerDefinitions[0].dependsOn[0].condition",
            "'b', which is essential",
        ),
        (
            of(vec![named("a", needs("b", "HEALTHY")), named("b", json!({}))]),
            "containerDefinitions[0].dependsOn[0].condition",
            "no healthCheck",
        ),
        (of(many), "containerDefinitions", "at most 10 containers"),
        (
            alone(json!({ "command": ["x".repeat(65536)] })),
            "containerDefinitions",
            "Max allowed length is '65536' bytes.",
        ),
        (alone(json!({ "image": "not an image" })), "containerDefinitions[0].image", "contains invalid characters"),
        (
            alone(json!({ "mountPoints": [point] })),
            "containerDefinitions[0].mountPoints[0].sourceVolume",
            "Invalid volume referenced: v",
        ),
        (
            alone(json!({ "volumesFrom": [{ "sourceContainer": "x" }] })),
            "containerDefinitions[0].volumesFrom[0].sourceContainer",
            "could not find volume source container with name x",
        ),
        (
            with(alone(json!({})), json!({ "ephemeralStorage": { "sizeInGiB": 20 } })),
            "ephemeralStorage.sizeInGiB",
            "must be 21 to 200",
        ),
        (alone(json!({ "essential": false })), "containerDefinitions", "must be marked as essential"),
    ] {
        let status = host.register(&with(definition, json!({ "family": "bad" }))).unwrap_err();
        assert_eq!(blamed(&status), [field], "{status}");
        assert!(status.message().contains(text), "{text}: {status}");
    }
    // Of equal names of variables the last counts, as in docker.
    let environment = json!([{ "name": "A", "value": "first" }, { "name": "A", "value": "last" }]);
    let container = with(shell("c", &host.image("base"), "echo $A"), json!({ "environment": environment }));
    let arn = host.run(&task("twice", &[container]));
    host.stopped(&arn);
    assert_eq!(host.logs(&arn, "c"), "last\n");
}

#[test]
fn questions_have_rules_too() {
    let host = TestHost::start();
    let describe =
        |request: DescribeTasksRequest| host.wait(async { host.tasks().await?.describe_tasks(request).await });
    let ids = |count: usize| DescribeTasksRequest { tasks: vec!["0".repeat(32); count], ..Default::default() };
    assert_eq!(describe(ids(100)).unwrap().into_inner().failures.len(), 100);
    assert_eq!(blamed(&describe(ids(101)).unwrap_err()), ["tasks"]);
    assert_eq!(blamed(&describe(ids(0)).unwrap_err()), ["tasks"]);
    let include = DescribeTasksRequest { include: vec!["LOGS".into()], ..ids(1) };
    assert_eq!(blamed(&describe(include).unwrap_err()), ["include"]);

    for (members, field) in [
        (json!({ "desiredStatus": "LOST" }), "desiredStatus"),
        (json!({ "launchType": "LAMBDA" }), "launchType"),
        (json!({ "serviceName": "s" }), "serviceName"),
        (json!({ "daemonName": "d" }), "daemonName"),
        (json!({ "maxResults": 101 }), "maxResults"),
        (json!({ "maxResults": 0 }), "maxResults"),
        (json!({ "nextToken": "x" }), "nextToken"),
    ] {
        let request: ListTasksRequest = serde_json::from_value(members).unwrap();
        let status = host.wait(async { host.tasks().await?.list_tasks(request).await }).unwrap_err();
        assert_eq!(blamed(&status), [field], "{status}");
    }
    for (members, field) in [
        (json!({ "status": "OLD" }), "status"),
        (json!({ "sort": "UP" }), "sort"),
        (json!({ "maxResults": 101 }), "maxResults"),
    ] {
        let request: ListTaskDefinitionsRequest = serde_json::from_value(members).unwrap();
        let status = host.wait(async { host.tasks().await?.list_task_definitions(request).await }).unwrap_err();
        assert_eq!(blamed(&status), [field], "{status}");
    }
    host.register(&task("f", &[shell("c", &host.image("base"), "true")])).unwrap();
    let include = DescribeTaskDefinitionRequest { task_definition: Some("f".into()), include: vec!["ALL".into()] };
    let status = host.wait(async { host.tasks().await?.describe_task_definition(include).await }).unwrap_err();
    assert_eq!(blamed(&status), ["include"]);
}

#[test]
fn tasks_are_listed_by_what_is_asked_for() {
    let host = TestHost::start();
    let image = host.image("base");
    host.register(&task("a", &[shell("c", &image, "exec sleep 1000")])).unwrap();
    host.register(&task("b", &[shell("c", &image, "exec sleep 1000")])).unwrap();
    let run = |members: Value| {
        let answer = host.run_task(serde_json::from_value(members).unwrap()).unwrap();
        answer.tasks[0].task_arn().to_owned()
    };
    let first = run(json!({ "taskDefinition": "a", "startedBy": "me" }));
    let second = run(json!({ "taskDefinition": "b", "launchType": "EXTERNAL" }));
    let list = |members: Value| -> Vec<String> {
        let request: ListTasksRequest = serde_json::from_value(members).unwrap();
        host.wait(async { host.tasks().await?.list_tasks(request).await }).unwrap().into_inner().task_arns
    };
    let instance = host.container_instance().container_instance_arn.unwrap();
    let id = system_tests::host::id(&instance).to_owned();
    assert_eq!(list(json!({ "family": "a" })), std::slice::from_ref(&first));
    assert_eq!(list(json!({ "startedBy": "me" })), [first]);
    assert_eq!(list(json!({ "launchType": "EXTERNAL" })), [second]);
    assert_eq!(list(json!({ "containerInstance": instance })).len(), 2);
    assert_eq!(list(json!({ "containerInstance": id })).len(), 2);
    assert_eq!(list(json!({ "containerInstance": id[1..] })).len(), 0, "a part of an id is no id");
}
