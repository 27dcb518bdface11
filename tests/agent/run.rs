//! A definition end to end: exit codes, logs, states, and what the definition and the image say about the program.

use proto::v1::{ContainerOverride, KeyValuePair, RunTaskRequest, TaskOverride};
use serde_json::json;
use system_tests::TestHost;
use system_tests::definition::{shell, task, with};

#[test]
fn a_definition_runs_end_to_end() {
    let host = TestHost::start();
    let image = host.image("base");
    let arn = host.run(&task("job", &[shell("job", &image, "echo out; echo err >&2; exit 42")]));
    let seen = host.watch(&arn, |task| task.last_status() == "STOPPED");
    let order =
        ["PROVISIONING", "PENDING", "ACTIVATING", "RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED"];
    let rank = |status: &str| order.iter().position(|known| *known == status).unwrap();
    let ranks: Vec<usize> = seen.iter().map(|task| rank(task.last_status())).collect();
    assert!(ranks.is_sorted(), "{ranks:?}");
    assert!(seen.windows(2).all(|pair| pair[0].version < pair[1].version), "versions grow");
    let last = seen.last().unwrap();
    assert_eq!(last.containers[0].exit_code, Some(42));
    assert_eq!(last.stop_code(), "EssentialContainerExited");
    assert_eq!(last.stopped_reason(), "Essential container in task exited");
    assert!(last.containers[0].image_digest().starts_with("sha256:"));
    let times =
        [last.created_at(), last.pull_started_at(), last.pull_stopped_at(), last.started_at(), last.stopped_at()];
    assert!(times[0] > 0.0 && times.is_sorted(), "{times:?}");
    let mut lines: Vec<String> = host.logs(&arn, "job").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
}

#[test]
fn containers_may_be_called_like_our_own_files() {
    let host = TestHost::start();
    let image = host.image("base");
    let names = ["ns", "tasks", "notify_on_release", "rootfs", "images", "logs", "etc", "run"];
    let containers: Vec<_> = names.iter().map(|name| shell(name, &image, "echo $0 runs; sleep 0.2")).collect();
    let arn = host.run(&with(task("names", &containers), json!({ "networkMode": "bridge" })));
    let stopped = host.stopped(&arn);
    assert_eq!(stopped.stopped_reason(), "Essential container in task exited", "{stopped:?}");
    for name in names {
        assert!(host.logs(&arn, name).contains("runs"), "{name}");
    }
}

#[test]
fn programs_that_cannot_be_executed_have_dockers_codes() {
    let host = TestHost::start();
    let image = host.image("base");
    for (program, code) in [("/no/such/program", 127), ("/etc/passwd", 126)] {
        let container = json!({ "name": "c", "image": image, "entryPoint": [program] });
        let ended = host.run_to_end(&task("broken", &[container]));
        assert_eq!(ended.containers[0].exit_code, Some(code), "{program}");
        assert_eq!(ended.stop_code(), "TaskFailedToStart");
        let reason = ended.containers[0].reason();
        assert!(reason.starts_with("Cannot") && reason.contains(program), "{reason}");
    }
}

#[test]
fn a_missing_image_is_told() {
    let host = TestHost::start();
    let ended = host.run_to_end(&task("missing", &[shell("c", &host.image("none"), "true")]));
    assert_eq!(ended.stop_code(), "TaskFailedToStart");
    assert!(ended.stopped_reason().starts_with("CannotPullContainerError"), "{}", ended.stopped_reason());
    assert_eq!(ended.containers[0].exit_code, None);
}

#[test]
fn the_images_configuration_is_obeyed() {
    let host = TestHost::start();
    let image = host.image("configured");
    let plain = json!({ "name": "c", "image": image });
    let arn = host.run(&task("plain", &[plain]));
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(0));
    assert_eq!(host.logs(&arn, "c"), "command of the image\n");

    let script = "echo $FROM_IMAGE $SHARED $OWN; pwd; id -u; id -G; cat /added; ls /deleted";
    let environment = json!([{ "name": "SHARED", "value": "definition" }, { "name": "OWN", "value": "own" }]);
    let arn = host.run(&task(
        "mixed",
        &[json!({ "name": "c", "image": image, "command": [script], "environment": environment })],
    ));
    assert_ne!(host.stopped(&arn).containers[0].exit_code, Some(0), "/deleted is whited out");
    let log = host.logs(&arn, "c");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[..5], ["image definition own", "/srv/work", "1000", "1000 2000", "by the second layer"], "{log}");
}

#[test]
fn the_definition_overrides_the_image_and_the_call_overrides_both() {
    let host = TestHost::start();
    let container = json!({
        "name": "c", "image": host.image("configured"), "user": "65535:1000", "workingDirectory": "/made/for/it",
        "entryPoint": ["/bin/sh", "-c"], "command": ["exit 9"], "environment": [{ "name": "A", "value": "definition" }],
    });
    let registered = host.register(&task("overridden", &[container])).unwrap();
    let command = vec!["echo $A $B; pwd; id -u; id -g".to_owned()];
    let pair = |name: &str, value: &str| KeyValuePair { name: Some(name.into()), value: Some(value.into()) };
    let environment = vec![pair("A", "call"), pair("B", "call")];
    let container = ContainerOverride { name: Some("c".into()), command, environment, ..Default::default() };
    let overrides = TaskOverride { container_overrides: vec![container], ..Default::default() };
    let request = RunTaskRequest {
        task_definition: registered.task_definition_arn,
        overrides: Some(overrides),
        ..Default::default()
    };
    let answer = host.run_task(request).unwrap();
    let arn = answer.tasks[0].task_arn();
    assert_eq!(host.stopped(arn).containers[0].exit_code, Some(0));
    assert_eq!(host.logs(arn, "c"), "call call\n/made/for/it\n65535\n1000\n");
}

#[test]
fn an_essential_container_takes_the_others_with_it() {
    let host = TestHost::start();
    let image = host.image("base");
    let forever = with(
        shell("forever", &image, "trap 'exit 7' TERM; while :; do sleep 0.1; done"),
        json!({ "essential": false }),
    );
    let ended = host.run_to_end(&task("essential", &[shell("main", &image, "sleep 0.3; exit 3"), forever]));
    let code = |name: &str| ended.containers.iter().find(|c| c.name() == name).unwrap().exit_code;
    assert_eq!((code("main"), code("forever")), (Some(3), Some(7)));
}

#[test]
fn the_end_of_another_container_changes_nothing() {
    let host = TestHost::start();
    let image = host.image("base");
    let short = with(shell("short", &image, "exit 5"), json!({ "essential": false }));
    let arn = host.run(&task("other", &[shell("main", &image, "sleep 60"), short]));
    let seen = host.watch(&arn, |task| {
        task.containers.iter().any(|c| c.last_status() == "STOPPED") && task.last_status() == "RUNNING"
    });
    let task = seen.last().unwrap();
    assert_eq!(task.desired_status(), "RUNNING");
    let short = task.containers.iter().find(|c| c.name() == "short").unwrap();
    assert_eq!(short.exit_code, Some(5));
}
