//! RunTask's overrides: each kind seen from inside a real container, each bad one refused before anything is made.

use proto::v1::RunTaskRequest;
use serde_json::{Value, json};
use system_tests::TestHost;
use system_tests::definition::{shell, task, with};

fn request(definition: &str, overrides: Value) -> RunTaskRequest {
    serde_json::from_value(json!({ "taskDefinition": definition, "overrides": overrides })).unwrap()
}

#[test]
fn every_kind_of_override_reaches_the_container() {
    let host = TestHost::start();
    let members = json!({
        "cpu": 100, "memory": 32, "memoryReservation": 16, "environment": [{ "name": "A", "value": "definition" }],
    });
    let container = with(shell("c", &host.image("base"), "exit 9"), members);
    let definition = with(task("overridden", &[container]), json!({ "cpu": "256", "memory": "64" }));
    let arn = host.register(&definition).unwrap().task_definition_arn.unwrap();
    let overrides = json!({
        "cpu": ".5 vCPU", "memory": "0.125 GB", "ephemeralStorage": { "sizeInGiB": 22 },
        "containerOverrides": [{
            "name": "c", "command": ["echo $A $B; df -k / | tail -1 | awk '{print $2}'; exec sleep 1000"], "cpu": 300,
            "memory": 48, "memoryReservation": 24,
            "environment": [{ "name": "A", "value": "call" }, { "name": "B", "value": "call" }],
        }],
    });
    let answer = host.run_task(request(&arn, overrides)).unwrap();
    let shown = &answer.tasks[0];
    let arn = shown.task_arn();
    assert_eq!((shown.cpu(), shown.memory()), ("512", "128"));
    let container = &shown.containers[0];
    assert_eq!((container.cpu(), container.memory(), container.memory_reservation()), ("300", "48", "24"));
    assert_eq!(shown.ephemeral_storage.unwrap().size_in_gi_b(), 22);
    host.running(arn);
    let text = system_tests::eventually("it has spoken", std::time::Duration::from_secs(20), || {
        let text = host.logs(arn, "c");
        (text.lines().count() == 2).then_some(text)
    });
    let (words, size) = text.split_once('\n').unwrap();
    assert_eq!(words, "call call");
    let size: u64 = size.trim().parse().unwrap();
    assert!((21 << 20..22 << 20).contains(&size), "{size} KiB");
    let of = |container: &str, controller: &str, file: &str| host.cgroup_file(arn, container, controller, file);
    if of("", "memory", "memory.limit_in_bytes").is_some() {
        let bytes = |mebibytes: u64| Some((mebibytes << 20).to_string());
        assert_eq!(of("", "memory", "memory.limit_in_bytes"), bytes(128));
        assert_eq!(of("c", "memory", "memory.limit_in_bytes"), bytes(48));
        assert_eq!(of("c", "memory", "memory.soft_limit_in_bytes"), bytes(24));
        assert_eq!(of("c", "cpu", "cpu.shares").as_deref(), Some("300"));
        assert_eq!(of("", "cpu", "cpu.cfs_quota_us").as_deref(), Some("50000"));
    }
    assert_eq!(host.describe(arn).overrides.unwrap().container_overrides[0].memory, Some(48));
}

#[test]
fn bad_overrides_are_refused_and_make_no_task() {
    let host = TestHost::start();
    let container = with(shell("c", &host.image("base"), "exit 0"), json!({ "memory": 32 }));
    let definition = with(task("overridden", &[container]), json!({ "memory": "64" }));
    let arn = host.register(&definition).unwrap().task_definition_arn.unwrap();
    let of = |members: Value| json!({ "containerOverrides": [with(json!({ "name": "c" }), members)] });
    for (overrides, text) in [
        (
            json!({ "containerOverrides": [{ "name": "x" }] }),
            "Override for container named x is not a container in the TaskDefinition.",
        ),
        (of(json!({ "memory": 128 })), "The 'memory' setting for container 'c' is greater than for the task."),
        (json!({ "memory": "16" }), "The 'memory' setting for container 'c' is greater than for the task."),
        (of(json!({ "command": ["x".repeat(8192)] })), "Container Overrides length must be at most 8192"),
        (of(json!({ "environmentFiles": [{ "value": "f", "type": "s3" }] })), ".environmentFiles is not supported"),
        (of(json!({ "resourceRequirements": [{ "type": "GPU", "value": "1" }] })), ".resourceRequirements is not"),
        (json!({ "taskRoleArn": "r" }), "overrides.taskRoleArn is not supported"),
        (json!({ "executionRoleArn": "r" }), "overrides.executionRoleArn is not supported"),
        (json!({ "ephemeralStorage": { "sizeInGiB": 1 } }), "overrides.ephemeralStorage.sizeInGiB must be 21 to 200."),
    ] {
        let status = host.run_task(request(&arn, overrides)).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(text), "{text}: {status}");
    }
    assert_eq!(host.list("RUNNING").len() + host.list("STOPPED").len(), 0);
}
