//! Rules and ECS's texts.

use serde_json::{Value, json};

use super::*;
use crate::{Code, check_run_task, registered, with_overrides};

/// A sound definition with `changes` merged into it; `container` into its only container.
fn definition(changes: Value, container: Value) -> RegisterTaskDefinitionRequest {
    let mut base = json!({
        "family": "f",
        "containerDefinitions": [{ "name": "c", "image": "busybox", "memory": 64 }],
    });
    merge(&mut base["containerDefinitions"][0], container);
    merge(&mut base, changes);
    serde_json::from_value(base).unwrap()
}

fn merge(base: &mut Value, changes: Value) {
    if let Value::Object(changes) = changes {
        for (name, value) in changes {
            base[name] = value;
        }
    }
}

#[track_caller]
fn assert_problem(changes: Value, container: Value, path: &str, text: &str) {
    let problems = check(&definition(changes, container)).unwrap_err();
    assert!(
        problems.iter().any(|problem| problem.path == path && problem.message.contains(text)),
        "{path}: {text}\nnot in {problems:#?}"
    );
}

#[test]
fn sound_definition_is_taken_with_its_defaults() {
    let task = check(&definition(json!({}), json!({}))).unwrap();
    let container = &task.containers[0];
    assert_eq!(task.network_mode, NetworkMode::Bridge);
    assert!(container.essential && !container.privileged);
    assert_eq!((container.cpu_shares, container.memory_mib), (2, Some(64)));
}

#[test]
fn texts_of_ecs() {
    assert_problem(
        json!({}),
        json!({ "name": null }),
        "containerDefinitions[0].name",
        "Container.name should not be null or empty.",
    );
    assert_problem(
        json!({}),
        json!({ "image": "" }),
        "containerDefinitions[0].image",
        "Container.image should not be null or empty.",
    );
    assert_problem(
        json!({}),
        json!({ "memory": null }),
        "containerDefinitions[0].memory",
        "Invalid setting for container 'c'. At least one of 'memory' or 'memoryReservation' must be specified.",
    );
    assert_problem(
        json!({ "memory": "32" }),
        json!({}),
        "containerDefinitions[0].memory",
        "The 'memory' setting for container 'c' is greater than for the task.",
    );
    assert_problem(
        json!({ "cpu": "lots" }),
        json!({}),
        "cpu",
        "Invalid 'cpu' setting for task. For more information, see",
    );
    let point = json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/v" }] });
    assert_problem(
        json!({}),
        point,
        "containerDefinitions[0].mountPoints[0].sourceVolume",
        "Invalid volume referenced: v",
    );
}

#[test]
fn containers_do_not_share_a_host_port() {
    let container = |name: &str, protocol: &str| {
        let ports = json!([{ "containerPort": 80, "protocol": protocol }]);
        json!({ "name": name, "image": "busybox", "memory": 6, "portMappings": ports })
    };
    let check = |second: &str| {
        let containers = [container("a", "tcp"), container("b", second)];
        let definition = json!({ "family": "f", "networkMode": "host", "containerDefinitions": containers });
        super::check(&serde_json::from_value(definition).unwrap())
    };
    check("udp").unwrap();
    let problems = check("tcp").unwrap_err();
    assert_eq!(problems[0].path, "containerDefinitions[1].portMappings");
    assert_eq!(problems[0].message, "Container 'b' maps host port 80/tcp, which 'a' has.");
}

#[test]
fn what_is_sound_and_does_not_run_here_is_told() {
    let definition = json!({
        "family": "f", "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc", "cpu": "256", "memory": "512",
        "runtimePlatform": { "cpuArchitecture": "ARM64" },
        "containerDefinitions": [{ "name": "a", "image": "busybox" }],
    });
    let task = super::check(&serde_json::from_value(definition).unwrap()).unwrap();
    let told = crate::refused_here(&task);
    assert!(told[0].contains("FARGATE") && told[1].contains("ARM64"), "{told:?}");
}

#[test]
fn bad_values_of_a_container_are_told_with_their_path() {
    for (container, path) in [
        (json!({ "memory": 3 }), "memory"),
        (json!({ "image": "no spaces" }), "image"),
        (json!({ "dockerLabels": { "": "x" } }), "dockerLabels"),
        (
            json!({ "linuxParameters": { "tmpfs": [{ "containerPath": "/t", "size": 1 }, { "containerPath": "/t/", "size": 1 }] } }),
            "linuxParameters.tmpfs[1].containerPath",
        ),
        (json!({ "cpu": -1 }), "cpu"),
        (json!({ "stopTimeout": -1 }), "stopTimeout"),
        (json!({ "workingDirectory": "relative" }), "workingDirectory"),
        (json!({ "user": "a:b:c" }), "user"),
        (json!({ "command": ["a\u{0}b"] }), "command[0]"),
        (json!({ "environment": [{ "name": "A=B", "value": "" }] }), "environment[0].name"),
        (json!({ "linuxParameters": { "capabilities": { "add": ["NOPE"] } } }), "linuxParameters.capabilities.add[0]"),
        (json!({ "ulimits": [{ "name": "nofile", "softLimit": 2, "hardLimit": 1 }] }), "ulimits[0].softLimit"),
        (json!({ "logConfiguration": { "logDriver": "awslogs" } }), "logConfiguration.logDriver"),
        (
            json!({ "logConfiguration": { "logDriver": "json-file", "options": { "max-size": "x" } } }),
            "logConfiguration.options.max-size",
        ),
        (json!({ "portMappings": [{ "containerPort": 80 }] }), "portMappings"),
        (json!({ "memoryReservation": 65 }), "memoryReservation"),
        (json!({ "healthCheck": { "command": ["CMD"] } }), "healthCheck.command"),
        (json!({ "healthCheck": { "interval": 30 } }), "healthCheck.command"),
        (json!({ "healthCheck": { "command": ["true"], "interval": 4 } }), "healthCheck.interval"),
        (json!({ "healthCheck": { "command": ["true"], "timeout": 61 } }), "healthCheck.timeout"),
        (json!({ "healthCheck": { "command": ["true"], "retries": 0 } }), "healthCheck.retries"),
        (json!({ "healthCheck": { "command": ["true"], "startPeriod": -1 } }), "healthCheck.startPeriod"),
        (json!({ "restartPolicy": { "ignoredExitCodes": [0] } }), "restartPolicy.enabled"),
        (
            json!({ "restartPolicy": { "enabled": true, "restartAttemptPeriod": 59 } }),
            "restartPolicy.restartAttemptPeriod",
        ),
        (
            json!({ "restartPolicy": { "enabled": true, "ignoredExitCodes": vec![1; 51] } }),
            "restartPolicy.ignoredExitCodes",
        ),
        (json!({ "startTimeout": -1 }), "startTimeout"),
        (json!({ "hostname": "no spaces" }), "hostname"),
    ] {
        assert_problem(json!({}), container, &format!("containerDefinitions[0].{path}"), "");
    }
}

#[test]
fn bad_values_of_what_surrounds_a_container_are_told_with_their_path() {
    for (container, path) in [
        (json!({ "extraHosts": [{ "hostname": "h", "ipAddress": "1.2.3" }] }), "extraHosts[0].ipAddress"),
        (json!({ "extraHosts": [{ "hostname": "", "ipAddress": "1.2.3.4" }] }), "extraHosts[0].hostname"),
        (json!({ "linuxParameters": { "devices": [{ "hostPath": "fuse" }] } }), "linuxParameters.devices[0].hostPath"),
        (
            json!({ "linuxParameters": { "devices": [{ "hostPath": "/dev/fuse", "permissions": ["own"] }] } }),
            "linuxParameters.devices[0].permissions[0]",
        ),
        (json!({ "linuxParameters": { "tmpfs": [{ "containerPath": "/t" }] } }), "linuxParameters.tmpfs[0].size"),
        (
            json!({ "linuxParameters": { "tmpfs": [{ "containerPath": "/t", "size": 1, "mountOptions": ["bind"] }] } }),
            "linuxParameters.tmpfs[0].mountOptions[0]",
        ),
        (json!({ "linuxParameters": { "sharedMemorySize": -1 } }), "linuxParameters.sharedMemorySize"),
        (json!({ "linuxParameters": { "maxSwap": -1 } }), "linuxParameters.maxSwap"),
        (json!({ "linuxParameters": { "maxSwap": 1, "swappiness": 101 } }), "linuxParameters.swappiness"),
        (
            json!({ "memory": null, "memoryReservation": 6, "linuxParameters": { "maxSwap": 1 } }),
            "linuxParameters.maxSwap",
        ),
        (json!({ "systemControls": [{ "namespace": "kernel.panic", "value": "1" }] }), "systemControls[0].namespace"),
        (
            json!({ "systemControls": [{ "namespace": "net.a/../../kernel", "value": "1" }] }),
            "systemControls[0].namespace",
        ),
        (json!({ "systemControls": [{ "namespace": "net.a" }] }), "systemControls[0].value"),
        (
            json!({ "systemControls": [{ "namespace": "net.a.//.//.kernel.panic", "value": "1" }] }),
            "systemControls[0].namespace",
        ),
        (
            json!({ "linuxParameters": { "tmpfs": [{ "containerPath": "/./", "size": 1 }] } }),
            "linuxParameters.tmpfs[0].containerPath",
        ),
        (json!({ "dockerSecurityOptions": ["apparmor:docker-default"] }), "dockerSecurityOptions[0]"),
        (json!({ "volumesFrom": [{ "sourceContainer": "x" }] }), "volumesFrom[0].sourceContainer"),
        (json!({ "volumesFrom": [{ "sourceContainer": "c" }] }), "volumesFrom"),
        (json!({ "dependsOn": [{ "containerName": "x", "condition": "WELL" }] }), "dependsOn[0].condition"),
        (json!({ "dependsOn": [{ "containerName": "x", "condition": "START" }] }), "dependsOn[0].containerName"),
    ] {
        assert_problem(json!({}), container, &format!("containerDefinitions[0].{path}"), "");
    }
}

#[test]
fn bad_values_of_a_task_are_told_with_their_path() {
    let docker = |configuration: Value| json!({ "name": "v", "dockerVolumeConfiguration": configuration });
    for (changes, path) in [
        (json!({ "family": "a b" }), "family"),
        (json!({ "family": "f".repeat(256) }), "family"),
        (json!({ "ephemeralStorage": { "sizeInGiB": 20 } }), "ephemeralStorage.sizeInGiB"),
        (json!({ "ephemeralStorage": { "sizeInGiB": 201 } }), "ephemeralStorage.sizeInGiB"),
        (json!({ "tags": vec![json!({ "key": "k", "value": "v" }); 2] }), "tags[1].key"),
        (json!({ "networkMode": "weird" }), "networkMode"),
        (json!({ "containerDefinitions": [] }), "containerDefinitions"),
        (json!({ "volumes": [{ "name": "v" }, { "name": "v" }] }), "volumes[1].name"),
        (json!({ "volumes": [{ "name": "v", "host": { "sourcePath": "a/../b" } }] }), "volumes[0].host.sourcePath"),
        (json!({ "volumes": [docker(json!({ "driver": "rexray" }))] }), "volumes[0].dockerVolumeConfiguration.driver"),
        (json!({ "volumes": [docker(json!({ "scope": "global" }))] }), "volumes[0].dockerVolumeConfiguration.scope"),
        (
            json!({ "volumes": [docker(json!({ "autoprovision": true }))] }),
            "volumes[0].dockerVolumeConfiguration.autoprovision",
        ),
        (
            json!({ "volumes": [docker(json!({ "driverOpts": { "type": "nfs" } }))] }),
            "volumes[0].dockerVolumeConfiguration.driverOpts",
        ),
        (json!({ "pidMode": "container" }), "pidMode"),
        (json!({ "ipcMode": "shareable" }), "ipcMode"),
        (
            json!({ "runtimePlatform": { "operatingSystemFamily": "WINDOWS_SERVER_2022_CORE" } }),
            "runtimePlatform.operatingSystemFamily",
        ),
        (json!({ "requiresCompatibilities": ["LAMBDA"] }), "requiresCompatibilities[0]"),
    ] {
        assert_problem(changes, json!({}), path, "");
    }
}

#[test]
fn a_definition_has_at_most_ten_containers_and_64_kib() {
    let containers = |count: usize| -> Vec<Value> {
        (0..count).map(|nth| json!({ "name": format!("c{nth}"), "image": "i", "memory": 6 })).collect()
    };
    let with = |containers: Vec<Value>| check(&definition(json!({ "containerDefinitions": containers }), json!({})));
    assert!(with(containers(10)).is_ok());
    assert_eq!(with(containers(11)).unwrap_err()[0].path, "containerDefinitions");
    let mut large = containers(1);
    large[0]["command"] = json!(["x".repeat(64 << 10)]);
    let problems = with(large).unwrap_err();
    assert!(problems[0].message.ends_with("Max allowed length is '65536' bytes."), "{problems:?}");
}

#[test]
fn ephemeral_storage_is_in_gib() {
    let of = |size: i32| check(&definition(json!({ "ephemeralStorage": { "sizeInGiB": size } }), json!({})));
    assert_eq!(of(21).unwrap().ephemeral_storage_gib, Some(21));
    assert_eq!(of(200).unwrap().ephemeral_storage_gib, Some(200));
    assert_eq!(check(&definition(json!({}), json!({}))).unwrap().ephemeral_storage_gib, None);
}

#[test]
fn host_ports_of_awsvpc_are_the_containers() {
    let ports = json!({ "portMappings": [{ "containerPort": 80, "hostPort": 8080 }] });
    let text = "When networkMode=awsvpc, the host ports and container ports in port mappings must match.";
    assert_problem(json!({ "networkMode": "awsvpc" }), ports, "containerDefinitions[0].portMappings[0].hostPort", text);
}

#[test]
fn all_problems_at_once() {
    let problems =
        check(&definition(json!({ "family": "", "cpu": "1", "enableFaultInjection": true }), json!({ "image": "" })))
            .unwrap_err();
    let paths: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["enableFaultInjection", "family", "cpu", "containerDefinitions[0].image"]);
}

#[test]
fn cycles_and_waits_for_essential_containers_are_told() {
    let containers = |condition: &str, essential: bool| {
        json!({ "containerDefinitions": [
            { "name": "a", "image": "i", "memory": 6, "dependsOn": [{ "containerName": "b", "condition": condition }] },
            { "name": "b", "image": "i", "memory": 6, "essential": essential,
              "dependsOn": [{ "containerName": "a", "condition": "START" }] },
        ] })
    };
    assert_problem(containers("START", true), json!({}), "containerDefinitions[0].dependsOn", "a -> b -> a");
    assert_problem(
        containers("SUCCESS", true),
        json!({}),
        "containerDefinitions[0].dependsOn[0].condition",
        "essential",
    );
}

#[test]
fn what_a_network_mode_forbids() {
    let controls = json!({ "systemControls": [{ "namespace": "net.core.somaxconn", "value": "1" }] });
    assert!(check(&definition(json!({}), controls.clone())).is_ok());
    let place = "containerDefinitions[0].systemControls[0].namespace";
    assert_problem(json!({ "networkMode": "host" }), controls, place, "the host's");
    for member in [json!({ "hostname": "h" }), json!({ "extraHosts": [{ "hostname": "h", "ipAddress": "1.2.3.4" }] })] {
        let name = member.as_object().unwrap().keys().next().unwrap().clone();
        assert!(check(&definition(json!({}), member.clone())).is_ok());
        assert_problem(
            json!({ "networkMode": "awsvpc" }),
            member,
            &format!("containerDefinitions[0].{name}"),
            "awsvpc",
        );
    }
}

#[test]
fn health_checks_in_all_forms() {
    let check = |health: Value| check(&definition(json!({}), json!({ "healthCheck": health })));
    let command = |command: Value| check(json!({ "command": command })).unwrap().containers[0].health_check.clone();
    assert_eq!(command(json!(["CMD-SHELL", "a || exit 1"])).unwrap().command, ["/bin/sh", "-c", "a || exit 1"]);
    assert_eq!(command(json!(["CMD", "a", "b"])).unwrap().command, ["a", "b"]);
    let bare = command(json!(["a", "b"])).unwrap();
    assert_eq!(bare.command, ["a", "b"]);
    assert_eq!((bare.interval_secs, bare.timeout_secs, bare.retries, bare.start_period_secs), (30, 5, 3, 0));
    assert!(check(json!({})).unwrap().containers[0].health_check.is_none());
    let waits = json!({ "containerDefinitions": [
        { "name": "a", "image": "i", "memory": 6, "dependsOn": [{ "containerName": "b", "condition": "HEALTHY" }] },
        { "name": "b", "image": "i", "memory": 6 },
    ] });
    assert_problem(waits, json!({}), "containerDefinitions[0].dependsOn[0].condition", "has no healthCheck");
}

#[test]
fn fargate_rules() {
    let fargate = |cpu: Value, memory: Value| json!({ "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc", "cpu": cpu, "memory": memory });
    assert!(check(&definition(fargate(json!("256"), json!("512")), json!({}))).is_ok());
    assert_problem(
        fargate(Value::Null, json!("512")),
        json!({}),
        "cpu",
        "Fargate requires that 'cpu' be defined at the task level.",
    );
    assert_problem(
        fargate(json!("256"), json!("4096")),
        json!({}),
        "memory",
        "No Fargate configuration exists for given values.",
    );
    for (container, path) in [
        (json!({ "linuxParameters": { "devices": [{ "hostPath": "/dev/fuse" }] } }), "linuxParameters.devices"),
        (json!({ "linuxParameters": { "maxSwap": 1 } }), "linuxParameters.maxSwap"),
        (json!({ "dockerSecurityOptions": ["no-new-privileges"] }), "dockerSecurityOptions"),
    ] {
        let path = format!("containerDefinitions[0].{path}");
        assert_problem(fargate(json!("256"), json!("512")), container, &path, "Fargate");
    }
    let mut bridge = fargate(json!("256"), json!("512"));
    bridge["networkMode"] = json!("bridge");
    assert_problem(bridge, json!({}), "networkMode", "Fargate only supports network mode ‘awsvpc’.");
}

#[test]
fn ports_in_host_mode() {
    let task = check(&definition(
        json!({ "networkMode": "host" }),
        json!({ "portMappings": [{ "containerPort": 80, "hostPort": 0 }, { "containerPort": 53, "protocol": "udp" }] }),
    ))
    .unwrap();
    assert_eq!(task.containers[0].port_mappings.iter().map(|port| port.host_port).collect::<Vec<_>>(), [80, 53]);
}

#[test]
fn overrides_replace_and_merge() {
    let request =
        definition(json!({}), json!({ "environment": [{ "name": "A", "value": "1" }, { "name": "B", "value": "2" }] }));
    let overrides = serde_json::from_value(json!({ "memory": "128", "containerOverrides": [
        { "name": "c", "command": ["x"], "environment": [{ "name": "B", "value": "3" }], "cpu": 512 },
    ] }))
    .unwrap();
    let task = with_overrides(&check(&request).unwrap(), &overrides).unwrap();
    assert_eq!(task.memory_mib, Some(128));
    assert_eq!(task.containers[0].command.as_deref(), Some(["x".to_owned()].as_slice()));
    assert_eq!(task.containers[0].cpu_shares, 512);
    assert_eq!(task.containers[0].environment, [("A".into(), "1".into()), ("B".into(), "3".into())]);
    let unknown = serde_json::from_value(json!({ "containerOverrides": [{ "name": "x" }] })).unwrap();
    let problems = with_overrides(&check(&request).unwrap(), &unknown).unwrap_err();
    assert_eq!(problems[0].message, "Override for container named x is not a container in the TaskDefinition.");
}

#[test]
fn run_task_members() {
    let definition = registered(&definition(json!({}), json!({})));
    let problems = |request: Value| check_run_task(&serde_json::from_value(request).unwrap(), &definition);
    assert_eq!(problems(json!({ "count": 10, "startedBy": "me", "clientToken": "abc", "overrides": {} })), []);
    let told = problems(json!({
        "count": 11, "placementStrategy": [{ "type": "random" }], "clientToken": "a b",
        "networkConfiguration": { "awsvpcConfiguration": { "subnets": ["s"] } },
    }));
    let paths: Vec<_> = told.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["networkConfiguration", "placementStrategy", "count", "clientToken"]);
    assert_eq!(told[0].code, Code::InvalidParameterException);
}

#[test]
fn that_fargate_does_not_run_is_told_first_and_beside_the_rest() {
    let definition = |types: Value| {
        let definition = json!({
            "family": "f", "requiresCompatibilities": types, "networkMode": "awsvpc", "cpu": "256", "memory": "512",
            "containerDefinitions": [{ "name": "a", "image": "busybox" }],
        });
        registered(&serde_json::from_value(definition).unwrap())
    };
    let paths = |request: Value, types: Value| {
        let problems = check_run_task(&serde_json::from_value(request).unwrap(), &definition(types));
        problems.into_iter().map(|problem| problem.path).collect::<Vec<_>>()
    };
    let both = ["launchType", "networkConfiguration"];
    assert_eq!(paths(json!({}), json!(["FARGATE"])), both);
    assert_eq!(paths(json!({ "launchType": "FARGATE" }), json!(["EC2"])), both);
    assert_eq!(paths(json!({ "launchType": "EC2" }), json!(["FARGATE"])), both[1..]);
    assert_eq!(paths(json!({}), json!(["FARGATE", "EC2"])), both[1..]);
}
