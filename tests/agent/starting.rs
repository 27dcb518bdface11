//! Tasks that are stopped while they start, at every step of it: each ends as asked, and nothing of it is left.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use proto::v1::Task;
use serde_json::{Value, json};
use system_tests::definition::{shell, task, with};
use system_tests::host::id;
use system_tests::{TestHost, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

fn definition(family: &str, image: &str) -> Value {
    let container = with(shell("c", image, FOREVER), json!({ "stopTimeout": 2 }));
    with(task(family, &[container]), json!({ "networkMode": "bridge" }))
}

/// Whether the agent's trace says that the task came to this step.
fn came(trace: &Path, arn: &str, step: &str) -> bool {
    let text = fs::read_to_string(trace).unwrap_or_default();
    text.lines().any(|line| line.contains(id(arn)) && line.ends_with(step))
}

fn assert_stopped(host: &TestHost, ended: &Task) {
    let arn = ended.task_arn();
    assert_eq!((ended.stop_code(), ended.stopped_reason()), ("UserInitiated", "enough"), "{ended:?}");
    // It never ran, or heard SIGTERM, or was killed before it could listen.
    assert!([None, Some(0), Some(137)].contains(&ended.containers[0].exit_code), "{ended:?}");
    assert!(ended.containers.iter().all(|container| container.last_status() == "STOPPED"), "{ended:?}");
    assert!(!host.root().join("run").join(id(arn)).exists(), "{arn}: its bundles are left");
    assert_eq!(host.cgroup_file(arn, "", "memory", "cgroup.procs"), None, "{arn}: its cgroup is left");
}

#[test]
fn ten_tasks_stopped_while_starting_leave_nothing() {
    let host = TestHost::start();
    let image = host.image("base");
    let started = |arn: &str| host.bundle(arn, "c").join("monitor.json").exists();
    let steps = ["accepted", "provision", "pull", "start", "monitor.json"];
    std::thread::scope(|scope| {
        for nth in 0..10 {
            let (host, image, step) = (&host, &image, steps[nth % steps.len()]);
            scope.spawn(move || {
                let arn = host.run(&definition(&format!("starting-{nth}"), image));
                eventually(step, PATIENCE, || {
                    let there = match step {
                        "accepted" => true,
                        "monitor.json" => started(&arn),
                        step => came(&host.trace_file(), &arn, step),
                    };
                    there.then_some(())
                });
                host.stop(&arn, Some("enough")).unwrap();
                assert_stopped(host, &host.stopped(&arn));
            });
        }
    });
}

/// The runtime stands still before a command as long as a file is there.
fn hold(host: &mut TestHost, command: &str) -> std::path::PathBuf {
    host.terminate();
    let (held, holding) = (host.scratch().join("hold"), host.scratch().join("holding"));
    File::create(&held).unwrap();
    let words = command.split(' ').count();
    let given = ["$1", "$1 $2"][words - 1];
    let wait = format!("touch {}; while [ -e {} ]; do sleep 0.02; done", holding.display(), held.display());
    host.interpose(&format!("if [ \"{given}\" = '{command}' ]; then {wait}; fi\nexec \"$RUNTIME\" \"$@\""));
    host.restart();
    held
}

#[test]
fn a_task_is_stopped_while_its_namespaces_or_its_container_are_made() {
    for command in ["namespaces create", "monitor"] {
        let mut host = TestHost::start();
        let held = hold(&mut host, command);
        let arn = host.run(&definition("held", &host.image("base")));
        eventually(command, PATIENCE, || host.scratch().join("holding").exists().then_some(()));
        host.stop(&arn, Some("enough")).unwrap();
        let task = host.describe(&arn);
        assert_eq!(task.desired_status(), "STOPPED");
        fs::remove_file(&held).unwrap();
        assert_stopped(&host, &host.stopped(&arn));
    }
}

#[test]
fn an_agent_killed_after_the_stop_of_a_start_is_followed_by_one_that_ends_it() {
    let mut host = TestHost::start();
    let held = hold(&mut host, "namespaces create");
    let arn = host.run(&definition("held", &host.image("base")));
    eventually("it is held", PATIENCE, || host.scratch().join("holding").exists().then_some(()));
    host.stop(&arn, Some("enough")).unwrap();
    host.kill9();
    fs::remove_file(&held).unwrap();
    host.restart();
    assert_stopped(&host, &host.stopped(&arn));
}

#[test]
fn a_task_is_stopped_while_its_registry_says_nothing() {
    // Takes connections and never answers.
    let registry = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = registry.local_addr().unwrap();
    let host = TestHost::with(&format!("[registries.\"{address}\"]\nplain_http = true"));
    let arn = host.run(&definition("silent", &format!("{address}/test/silent:latest")));
    eventually("it pulls", PATIENCE, || came(&host.trace_file(), &arn, "pull").then_some(()));
    let connected = registry.accept().unwrap();
    host.stop(&arn, Some("enough")).unwrap();
    let ended = host.stopped(&arn);
    assert_eq!(ended.containers[0].exit_code, None);
    assert_stopped(&host, &ended);
    drop(connected);
}
