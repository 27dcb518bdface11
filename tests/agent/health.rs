//! Health checks, what waits for them, and containers that are started again.

use std::time::Duration;

use proto::v1::{Container, Task};
use serde_json::{Value, json};
use system_tests::definition::{shell, task, with};
use system_tests::{TestHost, eventually};

fn container<'a>(task: &'a Task, name: &str) -> &'a Container {
    task.containers.iter().find(|container| container.name() == name).unwrap()
}

/// Why it is not healthy.
fn health_reason(task: &Task, name: &str) -> Option<String> {
    let attribute = format!("neargate.health.{name}");
    task.attributes.iter().find(|known| known.name() == attribute)?.value.clone()
}

/// The shortest that ECS allows.
fn checked(container: Value, script: &str) -> Value {
    with(
        container,
        json!({ "healthCheck": { "command": ["CMD-SHELL", script], "interval": 5, "timeout": 2, "retries": 1 } }),
    )
}

#[test]
fn dependants_wait_until_it_is_healthy() {
    let mut host = TestHost::start();
    let image = host.image("base");
    let server = checked(shell("server", &image, "sleep 1; touch /ready; sleep 100"), "test -e /ready");
    let waits = json!({ "dependsOn": [{ "containerName": "server", "condition": "HEALTHY" }], "essential": false });
    let client = with(shell("client", &image, "echo started"), waits);
    let arn = host.run(&task("healthy", &[client, server]));
    let started = eventually("the server is healthy", Duration::from_secs(20), || {
        let task = host.describe(&arn);
        let healthy = container(&task, "server").health_status() == "HEALTHY";
        assert!(healthy || container(&task, "client").last_status() == "PENDING", "{task:?}");
        healthy.then_some(task)
    });
    assert_eq!(started.health_status(), "HEALTHY");
    let seen = host.watch(&arn, |task| container(task, "client").last_status() == "STOPPED");
    assert_eq!(container(seen.last().unwrap(), "client").exit_code, Some(0));
    // A new agent goes on where this one was.
    host.kill9();
    host.restart();
    let task = host.describe(&arn);
    assert_eq!((task.last_status(), task.health_status()), ("RUNNING", "HEALTHY"));
    let told = exec(&host, &arn, "server", "rm /ready");
    assert_eq!(told, Some(0));
    let seen = host.watch(&arn, |task| task.health_status() == "UNHEALTHY");
    assert_eq!(seen.last().unwrap().last_status(), "RUNNING", "a task of nobody's service goes on");
    assert_eq!(health_reason(seen.last().unwrap(), "server").as_deref(), Some("exit code 1"));
    assert_eq!(exec(&host, &arn, "server", "touch /ready"), Some(0));
    let seen = host.watch(&arn, |task| task.health_status() == "HEALTHY");
    assert_eq!(health_reason(seen.last().unwrap(), "server"), None, "it is well again");
}

#[test]
fn an_images_own_health_check_is_ignored() {
    let host = TestHost::start();
    // Its check fails each second.
    let arn = host.run(&task("of-image", &[shell("c", &host.image("signal"), "exec sleep 1000")]));
    host.running(&arn);
    let unknown = || {
        let task = host.describe(&arn);
        (task.health_status(), task.containers[0].health_status()) == ("UNKNOWN", "UNKNOWN")
    };
    assert!(system_tests::eventually::stays(Duration::from_secs(2), unknown));
}

fn exec(host: &TestHost, arn: &str, container: &str, script: &str) -> Option<i32> {
    host.cli(&["exec", "--container", container, arn, "sh", "-c", script]).status.code()
}

#[test]
fn checks_that_hang_or_flood_have_failed_and_leave_nothing() {
    let host = TestHost::start();
    let image = host.image("base");
    let hangs = checked(shell("hangs", &image, "sleep 100"), "exec sleep 4321");
    let floods = checked(shell("floods", &image, "sleep 100"), "exec yes");
    let missing = with(
        shell("missing", &image, "sleep 100"),
        json!({ "healthCheck": {
        "command": ["CMD", "/no/such/program"], "interval": 5, "timeout": 2, "retries": 1 } }),
    );
    let says = checked(shell("says", &image, "sleep 100"), "printf 'no\\033[2J: %01000d\\n' 7; exit 3");
    let arn = host.run(&task("unhealthy", &[hangs, floods, missing, says]));
    let unhealthy = |task: &Task| task.containers.iter().all(|container| container.health_status() == "UNHEALTHY");
    let seen = host.watch(&arn, unhealthy);
    assert_eq!(seen.last().unwrap().health_status(), "UNHEALTHY");
    let reasons = [
        ("hangs", "timed out after 2s".to_owned()),
        ("floods", "timed out after 2s".to_owned()),
        ("missing", "exit code 127: exec: \"/no/such/program\": no such file or directory".to_owned()),
        ("says", format!("exit code 3: no\u{1b}[2J: {}", "0".repeat(200 - "no\u{1b}[2J: ".len()))),
    ];
    for (name, reason) in &reasons {
        assert_eq!(health_reason(seen.last().unwrap(), name).as_ref(), Some(reason));
    }
    let described = String::from_utf8(host.cli(&["describe", &arn]).stdout).unwrap();
    let told = |text: &str| assert!(described.contains(text), "{text} is missing in:\n{described}");
    told("  Because     timed out after 2s\n");
    told("  Because     exit code 3: no\\x1b[2J: 00");
    assert!(!described.contains("neargate.health."), "{described}");
    let filter = format!("task={}", &system_tests::host::id(&arn)[..12]);
    let events = host.cli(&["events", "--since", "10m", "--until", "0s", "--filter", &filter]);
    let events = String::from_utf8(events.stdout).unwrap();
    let event = events.lines().find(|line| line.contains("CONTAINER_HEALTH") && line.contains("container=hangs"));
    assert!(event.is_some_and(|line| line.contains("status=UNHEALTHY reason=\"timed out after 2s\"")), "{events}");
    // The next check begins three seconds after the last was given up.
    let gone = |name: &str, word: &str| {
        let script = format!("grep -q '{word}' /proc/[0-9]*/cmdline; test $? = 1");
        let gone = || (exec(&host, &arn, name, &script) == Some(0)).then_some(());
        eventually("the check was killed", Duration::from_secs(10), gone);
    };
    gone("hangs", "[4]321");
    gone("floods", "^[y]es");
    assert!(host.logs(&arn, "floods").is_empty(), "a check's output is not the container's");
}

#[test]
fn what_is_not_healthy_in_time_stops_the_task() {
    let host = TestHost::start();
    let image = host.image("base");
    let slow = with(
        checked(shell("slow", &image, "trap 'exit 9' TERM; while :; do sleep 0.1; done"), "false"),
        json!({ "startTimeout": 2 }),
    );
    let waits = json!({ "dependsOn": [{ "containerName": "slow", "condition": "HEALTHY" }] });
    let ended = host.run_to_end(&task("late", &[with(shell("client", &image, "true"), waits), slow]));
    assert_eq!(ended.stop_code(), "TaskFailedToStart");
    let reason = format!("TaskDependencyError: Task dependencies cannot be resolved, taskArn: {}", ended.task_arn());
    assert_eq!(ended.stopped_reason(), reason);
    assert_eq!((container(&ended, "client").exit_code, container(&ended, "slow").exit_code), (None, Some(9)));
}

/// ECS allows no shorter period than a minute, so this takes one.
#[test]
fn a_container_is_started_again() {
    let mut host = TestHost::start();
    let image = host.image("base");
    let policy = |ignored: Value| json!({ "restartPolicy": { "enabled": true, "restartAttemptPeriod": 60, "ignoredExitCodes": ignored } });
    let script = "echo run $(ls /runs | wc -l); touch /runs/$(ls /runs | wc -l); sleep 61; exit 7";
    let volume = json!({ "mountPoints": [{ "sourceVolume": "runs", "containerPath": "/runs" }] });
    let again = with(with(shell("again", &image, script), policy(json!([]))), volume);
    let quick = with(with(shell("quick", &image, "exit 7"), policy(json!([]))), json!({ "essential": false }));
    let ignored =
        with(with(shell("ignored", &image, "sleep 61; exit 7"), policy(json!([7]))), json!({ "essential": false }));
    // The second time its shell is not there.
    let broken = with(
        with(shell("broken", &image, "sleep 61; rm /bin/busybox; exit 7"), policy(json!([]))),
        json!({ "essential": false }),
    );
    let containers = [again, quick, ignored, broken];
    let arn = host.run(&with(task("again", &containers), json!({ "volumes": [{ "name": "runs" }] })));
    host.running(&arn);
    // The end of the first run is for a new agent to find.
    std::thread::sleep(Duration::from_secs(55));
    host.kill9();
    std::thread::sleep(Duration::from_secs(8));
    host.restart();
    eventually("it runs again", Duration::from_secs(20), || {
        (host.logs(&arn, "again") == "run 0\nrun 1\n").then_some(())
    });
    let task = host.describe(&arn);
    assert_eq!((task.last_status(), container(&task, "again").last_status()), ("RUNNING", "RUNNING"));
    for name in ["quick", "ignored"] {
        assert_eq!(container(&task, name).exit_code, Some(7), "{name} is not started again");
    }
    let seen = host.watch(&arn, |task| container(task, "broken").last_status() == "STOPPED");
    let broken = container(seen.last().unwrap(), "broken");
    assert!(broken.reason().starts_with("CannotStartContainerError: "), "{broken:?}");
    assert_eq!((broken.exit_code, seen.last().unwrap().last_status()), (Some(127), "RUNNING"), "the task goes on");
    host.stop(&arn, None).unwrap();
    let ended = host.stopped(&arn);
    assert_eq!(container(&ended, "again").exit_code, Some(137), "stopped by us it stays stopped");
}

/// Beside the one above, in the same minute.
#[test]
fn a_container_that_is_being_started_again_survives_the_agent_and_can_be_stopped() {
    let mut host = TestHost::start();
    let (hold, held) = (host.scratch().join("hold"), host.scratch().join("held"));
    std::fs::create_dir(&held).unwrap();
    host.terminate();
    host.interpose(&format!(
        "if [ $1 = monitor ] && [ -e {hold} ]; then touch {held}/$$; while [ -e {hold} ]; do sleep 0.1; done; fi
        exec \"$RUNTIME\" \"$@\"",
        hold = hold.display(),
        held = held.display()
    ));
    host.restart();
    let policy = json!({ "restartPolicy": { "enabled": true, "restartAttemptPeriod": 60 } });
    let container = with(shell("c", &host.image("base"), "echo run; sleep 61; exit 7"), policy);
    let [goes, stops] = ["goes", "stops"].map(|family| host.run(&task(family, std::slice::from_ref(&container))));
    host.running(&goes);
    host.running(&stops);
    std::fs::File::create(&hold).unwrap();
    let starts = || std::fs::read_dir(&held).unwrap().count();
    eventually("both are started again", Duration::from_secs(120), || (starts() == 2).then_some(()));
    let task = host.describe(&goes);
    assert_eq!((task.last_status(), task.containers[0].last_status()), ("RUNNING", "RUNNING"), "as if nothing were");
    host.stop(&stops, None).unwrap();
    let ended = host.stopped(&stops);
    assert_eq!(ended.stop_code(), "UserInitiated", "{ended:?}");
    host.kill9();
    host.restart();
    std::fs::remove_file(&hold).unwrap();
    eventually("it runs again", Duration::from_secs(30), || (host.logs(&goes, "c") == "run\nrun\n").then_some(()));
    let task = host.describe(&goes);
    let restarts = task.attributes.iter().find(|attribute| attribute.name() == "neargate.restarts.c").unwrap();
    assert_eq!((task.last_status(), restarts.value()), ("RUNNING", "1"));
    assert_eq!(host.logs(&stops, "c"), "run\n");
}
