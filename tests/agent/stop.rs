//! Order of starts and ends, signals and timeouts.

use std::fs::{self, File};
use std::io::Write as _;
use std::time::{Duration, Instant};

use proto::v1::{Container, Task};
use serde_json::{Value, json};
use system_tests::TestHost;
use system_tests::definition::{shell, task, with};

fn container<'a>(task: &'a Task, name: &str) -> &'a Container {
    task.containers.iter().find(|container| container.name() == name).unwrap()
}

fn depending(container: Value, on: &str, condition: &str) -> Value {
    with(container, json!({ "dependsOn": [{ "containerName": on, "condition": condition }] }))
}

fn optional(container: Value) -> Value {
    with(container, json!({ "essential": false }))
}

/// One task that hears SIGTERM and one that does not.
#[test]
fn the_stop_signal_comes_first_and_sigkill_after_the_timeout() {
    let host = TestHost::start();
    let image = host.image("base");
    let hears = shell("hears", &image, "trap 'exit 143' TERM; while :; do sleep 0.05; done");
    let deaf = with(shell("deaf", &image, "trap '' TERM; while :; do sleep 0.05; done"), json!({ "stopTimeout": 3 }));
    let arn = host.run(&task("timeouts", &[hears, deaf]));
    host.running(&arn);
    let asked = Instant::now();
    host.stop(&arn, Some("enough")).unwrap();
    let ended = host.stopped(&arn);
    let took = asked.elapsed();
    assert_eq!(container(&ended, "hears").exit_code, Some(143));
    assert_eq!(container(&ended, "deaf").exit_code, Some(137));
    assert!((Duration::from_secs(3)..Duration::from_secs(8)).contains(&took), "{took:?}");
    assert_eq!((ended.stop_code(), ended.stopped_reason()), ("UserInitiated", "enough"));
    assert!(container(&ended, "deaf").reason.is_none(), "SIGKILL by us is not for want of memory");
}

#[test]
fn an_untrapped_sigterm_ends_a_program_with_143() {
    let host = TestHost::start();
    // pid 1 has no default action: the program is a child of it.
    let script = "sleep 60 & trap 'kill -TERM $!; wait $!; exit $?' TERM; wait $!";
    let arn = host.run(&task("child", &[shell("c", &host.image("base"), script)]));
    host.running(&arn);
    host.stop(&arn, None).unwrap();
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(143));
}

#[test]
fn the_images_stop_signal_is_sent() {
    let host = TestHost::start();
    let script =
        "trap 'echo usr1; exit 21' USR1; trap 'echo term; exit 22' TERM; echo ready; while :; do sleep 0.05; done";
    let arn = host.run(&task("usr1", &[shell("c", &host.image("signal"), script)]));
    system_tests::eventually("the traps are set", Duration::from_secs(10), || {
        host.logs(&arn, "c").contains("ready").then_some(())
    });
    host.stop(&arn, None).unwrap();
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(21));
    assert_eq!(host.logs(&arn, "c"), "ready\nusr1\n");
}

/// Somebody with the host's root has frozen it: a frozen process of cgroup v1 does not even die of SIGKILL.
#[test]
fn a_frozen_container_is_stopped_too() {
    let host = TestHost::start();
    let arn = host.run(&task("frozen", &[shell("c", &host.image("base"), "sleep 100")]));
    host.running(&arn);
    let record = fs::read_to_string(host.bundle(&arn, "c").join("monitor.json")).unwrap();
    let init = &serde_json::from_str::<Value>(&record).unwrap()["init"]["pid"];
    let groups = fs::read_to_string(format!("/proc/{init}/cgroup")).unwrap();
    let path = |controller: &str| groups.lines().find_map(|line| line.split_once(controller).map(|(_, path)| path));
    let (file, word) = match path(":freezer:") {
        Some(path) => (format!("/sys/fs/cgroup/freezer{path}/freezer.state"), "FROZEN"),
        None => (format!("/sys/fs/cgroup{}/cgroup.freeze", path("0::").unwrap()), "1"),
    };
    File::options().write(true).open(file).unwrap().write_all(word.as_bytes()).unwrap();
    host.stop(&arn, None).unwrap();
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(137));
}

#[test]
fn stopping_twice_is_success_and_the_first_reason_stays() {
    let host = TestHost::start();
    let arn = host.run(&task("twice", &[shell("c", &host.image("base"), "sleep 100")]));
    host.stop(&arn, Some("first")).unwrap();
    host.stop(&arn, Some("second")).unwrap();
    let ended = host.stopped(&arn);
    host.stop(&arn, Some("third")).unwrap();
    assert_eq!(ended.stopped_reason(), "first");
    assert_eq!(host.describe(&arn).stopped_reason(), "first");
}

/// Both write the time of their start or end into a shared volume.
#[test]
fn dependants_wait_for_start_complete_and_success() {
    let host = TestHost::start();
    let image = host.image("base");
    let volume = json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/v" }] });
    let slow = "sleep 0.7; touch /v/done; exit ";
    for (condition, code) in [("COMPLETE", 4), ("SUCCESS", 0)] {
        let first = optional(with(shell("first", &image, &format!("{slow}{code}")), volume.clone()));
        let second = depending(with(shell("second", &image, "test -e /v/done"), volume.clone()), "first", condition);
        let definition = with(task("ordered", &[second, first]), json!({ "volumes": [{ "name": "v" }] }));
        let ended = host.run_to_end(&definition);
        assert_eq!(container(&ended, "first").exit_code, Some(code), "{condition}");
        assert_eq!(container(&ended, "second").exit_code, Some(0), "{condition}: started before its time");
    }
    let first = optional(with(shell("first", &image, "touch /v/done; sleep 60"), volume.clone()));
    let second = with(
        shell("second", &image, "for i in $(seq 100); do test -e /v/done && exit 0; sleep 0.05; done; exit 1"),
        volume,
    );
    let definition =
        with(task("started", &[depending(second, "first", "START"), first]), json!({ "volumes": [{ "name": "v" }] }));
    let ended = host.run_to_end(&definition);
    assert_eq!(container(&ended, "second").exit_code, Some(0), "START does not wait for the end");
}

#[test]
fn a_failed_success_dependency_stops_the_task() {
    let host = TestHost::start();
    let image = host.image("base");
    let first = optional(shell("first", &image, "exit 9"));
    let second = depending(shell("second", &image, "exit 0"), "first", "SUCCESS");
    let ended = host.run_to_end(&task("failing", &[first, second]));
    assert_eq!(container(&ended, "first").exit_code, Some(9));
    assert_eq!(container(&ended, "second").exit_code, None, "it never started");
    assert_eq!(ended.stop_code(), "TaskFailedToStart");
}

#[test]
fn containers_stop_in_reverse_order_of_their_start() {
    let host = TestHost::start();
    let image = host.image("base");
    let volume = json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/v" }] });
    let base = "trap 'test -e /v/dependant-ended; exit $?' TERM; echo ready; while :; do sleep 0.05; done";
    let dependant = "trap 'sleep 0.5; touch /v/dependant-ended; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let base = with(shell("base", &image, base), volume.clone());
    let dependant = depending(with(shell("dependant", &image, dependant), volume), "base", "START");
    let arn = host.run(&with(task("reverse", &[base, dependant]), json!({ "volumes": [{ "name": "v" }] })));
    for name in ["base", "dependant"] {
        let ready = || host.logs(&arn, name).contains("ready").then_some(());
        system_tests::eventually("the traps are set", Duration::from_secs(10), ready);
    }
    host.stop(&arn, None).unwrap();
    let ended = host.stopped(&arn);
    assert_eq!(container(&ended, "dependant").exit_code, Some(0));
    assert_eq!(container(&ended, "base").exit_code, Some(0), "it was stopped before what depends on it");
}

/// As ECS's own agent is tested: 0, 137 and 0. `slow` needs longer than the host's default of two seconds.
#[test]
fn each_container_has_a_stop_timeout_of_its_own() {
    let host = TestHost::start();
    let image = host.image("base");
    let quick = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let slow = "trap 'sleep 4; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let parent = depending(shell("parent", &image, quick), "deaf", "START");
    let deaf = depending(with(shell("deaf", &image, deaf), json!({ "stopTimeout": 1 })), "slow", "START");
    let slow = with(shell("slow", &image, slow), json!({ "stopTimeout": 60 }));
    let arn = host.run(&task("granular", &[parent, deaf, slow]));
    for name in ["parent", "deaf", "slow"] {
        let ready = || host.logs(&arn, name).contains("ready").then_some(());
        system_tests::eventually("the traps are set", Duration::from_secs(20), ready);
    }
    host.stop(&arn, None).unwrap();
    let ended = host.stopped(&arn);
    let codes = ["parent", "deaf", "slow"].map(|name| container(&ended, name).exit_code);
    assert_eq!(codes, [Some(0), Some(137), Some(0)]);
}
