//! The echo rule: DescribeTaskDefinition answers what was registered and ECS's defaults, nothing else. Terraform and
//! Prefect compare the two.

use proto::v1::DescribeTaskDefinitionRequest;
use serde_json::{Value, json};
use system_tests::TestHost;
use system_tests::definition::with;

/// What is described, without what only answers have.
fn echoed(host: &TestHost, definition: &Value) -> Value {
    let arn = host.register(definition).unwrap().task_definition_arn;
    let request = DescribeTaskDefinitionRequest { task_definition: arn, include: Vec::new() };
    let answer = host.wait(async { host.tasks().await?.describe_task_definition(request).await }).unwrap();
    let mut described = serde_json::to_value(answer.into_inner().task_definition.unwrap()).unwrap();
    let members = described.as_object_mut().unwrap();
    let answered = ["taskDefinitionArn", "revision", "status", "compatibilities", "registeredAt"];
    assert!(answered.iter().all(|name| members.remove(*name).is_some()), "{described}");
    without_empty(&mut described);
    described
}

/// An empty list says what an absent one says.
fn without_empty(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(without_empty);
            members.retain(|_, member| !matches!(member, Value::Array(items) if items.is_empty()));
            members.retain(|_, member| !matches!(member, Value::Object(items) if items.is_empty()));
        }
        Value::Array(items) => items.iter_mut().for_each(without_empty),
        _ => {}
    }
}

#[test]
fn little_is_answered_with_the_defaults() {
    let host = TestHost::start();
    let container = json!({ "name": "c", "image": "busybox", "memory": 64 });
    let defaults = json!({ "essential": true, "cpu": 0 });
    assert_eq!(
        echoed(&host, &json!({ "family": "little", "containerDefinitions": [container] })),
        json!({ "family": "little", "networkMode": "bridge", "containerDefinitions": [with(container, defaults)] })
    );
    let container = json!({
        "name": "c", "image": "busybox", "memory": 64, "portMappings": [{ "containerPort": 80 }],
        "healthCheck": { "command": ["CMD", "true"] },
    });
    let more = json!({
        "essential": true, "cpu": 0, "portMappings": [{ "containerPort": 80, "hostPort": 80, "protocol": "tcp" }],
        "healthCheck": { "command": ["CMD", "true"], "interval": 30, "timeout": 5, "retries": 3 },
    });
    let registered = json!({
        "family": "ports", "networkMode": "host", "cpu": ".5 vCPU", "memory": "1 GB", "containerDefinitions": [container],
    });
    let wanted = json!({ "cpu": "512", "memory": "1024", "containerDefinitions": [with(container, more)] });
    assert_eq!(echoed(&host, &registered), with(registered.clone(), wanted));
}

#[test]
fn everything_is_answered_as_it_was_registered() {
    let host = TestHost::start();
    let container = json!({
        "name": "app", "image": "registry.example:5000/team/app:1", "cpu": 10, "memory": 64, "memoryReservation": 32,
        "essential": true, "entryPoint": ["/bin/sh", "-c"], "command": ["exit 0"], "user": "1000:1000",
        "workingDirectory": "/srv", "hostname": "app", "privileged": false, "readonlyRootFilesystem": true,
        "interactive": true, "pseudoTerminal": true, "startTimeout": 10, "stopTimeout": 5,
        "environment": [{ "name": "B", "value": "2" }, { "name": "A", "value": "" }],
        "mountPoints": [{ "sourceVolume": "v", "containerPath": "/v", "readOnly": true }],
        "volumesFrom": [{ "sourceContainer": "side", "readOnly": false }],
        "dependsOn": [{ "containerName": "side", "condition": "HEALTHY" }],
        "extraHosts": [{ "hostname": "db", "ipAddress": "10.0.0.1" }],
        "dockerSecurityOptions": ["no-new-privileges"], "dockerLabels": { "team": "a" },
        "ulimits": [{ "name": "nofile", "softLimit": 64, "hardLimit": 128 }],
        "systemControls": [{ "namespace": "net.core.somaxconn", "value": "333" }],
        "logConfiguration": { "logDriver": "json-file", "options": { "max-size": "1m", "max-file": "2" } },
        "restartPolicy": { "enabled": true, "ignoredExitCodes": [0], "restartAttemptPeriod": 60 },
        "linuxParameters": {
            "capabilities": { "add": ["SYS_PTRACE"], "drop": ["MKNOD"] }, "initProcessEnabled": true,
            "devices": [{ "hostPath": "/dev/fuse", "containerPath": "/dev/fuse", "permissions": ["read", "write"] }],
            "sharedMemorySize": 32, "tmpfs": [{ "containerPath": "/t", "size": 1, "mountOptions": ["noexec"] }],
            "maxSwap": 10, "swappiness": 5,
        },
    });
    let side = json!({
        "name": "side", "image": "busybox", "cpu": 0, "memory": 6, "essential": false,
        "healthCheck": { "command": ["CMD-SHELL", "true"], "interval": 5, "timeout": 2, "retries": 1, "startPeriod": 3 },
    });
    let definition = json!({
        "family": "everything", "networkMode": "bridge", "pidMode": "task", "ipcMode": "task", "cpu": "256",
        "memory": "512", "ephemeralStorage": { "sizeInGiB": 21 }, "requiresCompatibilities": ["EC2"],
        "runtimePlatform": { "cpuArchitecture": "X86_64", "operatingSystemFamily": "LINUX" },
        "volumes": [
            { "name": "v" }, { "name": "h", "host": { "sourcePath": "/srv/data" } },
            { "name": "d", "dockerVolumeConfiguration": {
                "scope": "shared", "autoprovision": true, "driver": "local", "labels": { "a": "b" } } },
        ],
        "containerDefinitions": [container, side],
    });
    assert_eq!(echoed(&host, &definition), definition);
}
