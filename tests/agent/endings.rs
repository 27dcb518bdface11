//! How tasks end, in ECS's words: stopCode, stoppedReason, the containers' reasons and codes, and when what happened.

use std::fs;
use std::time::Duration;

use proto::v1::{Container, Task};
use serde_json::{Value, json};
use system_tests::definition::{shell, task, with};
use system_tests::{TestHost, eventually};

const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

fn container<'a>(task: &'a Task, name: &str) -> &'a Container {
    task.containers.iter().find(|container| container.name() == name).unwrap()
}

/// These moments are told, in this order, and no others of a task's life.
#[track_caller]
fn assert_moments(task: &Task, wanted: &[&str]) {
    let all = [
        ("createdAt", task.created_at),
        ("pullStartedAt", task.pull_started_at),
        ("pullStoppedAt", task.pull_stopped_at),
        ("startedAt", task.started_at),
        ("stoppingAt", task.stopping_at),
        ("executionStoppedAt", task.execution_stopped_at),
        ("stoppedAt", task.stopped_at),
    ];
    let of = |name: &str| all.iter().find(|(known, _)| *known == name).unwrap().1;
    let moments: Vec<Option<f64>> = wanted.iter().map(|name| of(name)).collect();
    assert!(moments.iter().all(Option::is_some) && moments.is_sorted(), "{wanted:?} are {moments:?}");
    for (name, moment) in all.iter().filter(|(name, _)| !wanted.contains(name)) {
        assert_eq!(*moment, None, "{name}");
    }
}

#[test]
fn of_itself() {
    let host = TestHost::start();
    let ended = host.run_to_end(&task("itself", &[shell("c", &host.image("base"), "exit 3")]));
    assert_eq!(ended.stop_code(), "EssentialContainerExited");
    assert_eq!(ended.stopped_reason(), "Essential container in task exited");
    assert_eq!((ended.containers[0].exit_code, ended.containers[0].reason.as_ref()), (Some(3), None));
    assert_eq!((ended.last_status(), ended.desired_status()), ("STOPPED", "STOPPED"));
    assert_moments(
        &ended,
        &["createdAt", "pullStartedAt", "pullStoppedAt", "startedAt", "executionStoppedAt", "stoppingAt", "stoppedAt"],
    );
}

#[test]
fn by_its_user() {
    let host = TestHost::start();
    let definition = task("user", &[shell("c", &host.image("base"), FOREVER)]);
    // ECS cuts reasons at 1024 characters.
    let long = "é".repeat(2000);
    for (given, told) in
        [(None, "Task stopped by user"), (Some(""), "Task stopped by user"), (Some(long.as_str()), &long[..2048])]
    {
        let arn = host.run(&definition);
        host.running(&arn);
        host.stop(&arn, given).unwrap();
        let ended = host.stopped(&arn);
        assert_eq!((ended.stop_code(), ended.stopped_reason()), ("UserInitiated", told));
        assert_eq!(ended.containers[0].reason, None, "a container that was stopped is a good one");
        assert_moments(
            &ended,
            &[
                "createdAt",
                "pullStartedAt",
                "pullStoppedAt",
                "startedAt",
                "stoppingAt",
                "executionStoppedAt",
                "stoppedAt",
            ],
        );
    }
}

/// The reason is the error's name and what it says; of the container that is to blame, and of the task.
#[test]
fn before_it_began() {
    let host = TestHost::start();
    let image = host.image("base");
    let fine = with(shell("fine", &image, "true"), json!({ "essential": false }));
    let none = host.image("none");
    let broken = |members: Value| with(shell("broken", &image, "true"), members);
    for (broken, error, code) in [
        (broken(json!({ "image": none })), "CannotPullContainerError: ", None),
        (broken(json!({ "user": "nobody-known" })), "CannotCreateContainerError: ", None),
        (
            broken(json!({ "linuxParameters": { "devices": [{ "hostPath": "/dev/no-such-device" }] } })),
            "CannotCreateContainerError: /dev/no-such-device is not a device of this host",
            None,
        ),
        (broken(json!({ "entryPoint": ["/no/such/program"] })), "CannotStartContainerError: ", Some(127)),
        (broken(json!({ "entryPoint": ["/etc/passwd"] })), "CannotStartContainerError: ", Some(126)),
    ] {
        let waits = json!({ "dependsOn": [{ "containerName": "broken", "condition": "START" }] });
        let ended = host.run_to_end(&task("broken", &[broken, with(fine.clone(), waits)]));
        let to_blame = container(&ended, "broken");
        assert_eq!(ended.stop_code(), "TaskFailedToStart");
        assert!(to_blame.reason().starts_with(error), "{error}: {}", to_blame.reason());
        assert_eq!((to_blame.reason(), to_blame.exit_code), (ended.stopped_reason(), code));
        let other = container(&ended, "fine");
        assert_eq!((other.exit_code, other.reason.as_ref(), other.last_status()), (None, None, "STOPPED"), "{error}");
        assert_moments(
            &ended,
            &["createdAt", "pullStartedAt", "pullStoppedAt", "stoppingAt", "executionStoppedAt", "stoppedAt"],
        );
    }
}

#[test]
fn before_its_images_were_asked_for() {
    let host = TestHost::start();
    let resources = host.container_instance().registered_resources;
    let whole = resources.iter().find(|resource| resource.name() == "MEMORY").unwrap().integer_value();
    let memory = json!({ "memoryReservation": whole });
    let definition = task("whole", &[with(shell("c", &host.image("base"), FOREVER), memory)]);
    let first = host.run(&definition);
    host.running(&first);
    let waits = host.run(&definition);
    host.stop(&waits, Some("enough")).unwrap();
    let ended = host.stopped(&waits);
    assert_eq!((ended.stop_code(), ended.stopped_reason()), ("UserInitiated", "enough"));
    let reason =
        format!("TaskStoppedBeforePullBeginError: Task stopped before image pull could begin for task: {waits}");
    assert_eq!((ended.containers[0].reason(), ended.containers[0].exit_code), (reason.as_str(), None));
    assert_moments(&ended, &["createdAt", "stoppingAt", "stoppedAt"]);
}

#[test]
fn for_want_of_memory_while_no_agent_runs() {
    let mut host = TestHost::start();
    let go = host.scratch().join("go");
    fs::create_dir(&go).unwrap();
    let points = json!({ "memory": 32, "mountPoints": [{ "sourceVolume": "go", "containerPath": "/go" }] });
    let script = "until test -e /go/on; do sleep 0.05; done; exec dd if=/dev/zero of=/dev/null bs=200M count=1";
    let definition = with(
        task("memory", &[with(shell("c", &host.image("base"), script), points)]),
        json!({ "volumes": [{ "name": "go", "host": { "sourcePath": go } }] }),
    );
    let arn = host.run(&definition);
    host.running(&arn);
    host.kill9();
    fs::File::create(go.join("on")).unwrap();
    let exit = host.bundle(&arn, "c").join("exit.json");
    eventually("it ends", Duration::from_secs(30), || exit.exists().then_some(()));
    host.restart();
    let ended = host.stopped(&arn);
    assert_eq!((ended.stop_code(), ended.containers[0].exit_code), ("EssentialContainerExited", Some(137)));
    assert_eq!(ended.containers[0].reason(), "OutOfMemoryError: Container killed due to memory usage");
}
