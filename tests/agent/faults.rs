//! What goes wrong around a task: a start that hangs, a teardown that fails, a tag that moves while the agent is away.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use proto::v1::Container;
use serde_json::json;
use system_tests::definition::{shell, task, with};
use system_tests::{TestHost, eventually};

const PATIENCE: Duration = Duration::from_secs(30);
const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

#[test]
fn a_start_that_hangs_is_ended_after_the_stop_timeout() {
    let mut host = TestHost::start();
    host.terminate();
    host.interpose("[ \"$1\" = monitor ] && exec sleep 4242\nexec \"$RUNTIME\" \"$@\"");
    host.restart();
    let hangs = with(shell("hangs", &host.image("base"), "true"), json!({ "stopTimeout": 1 }));
    let arn = host.run(&task("hangs", &[hangs]));
    eventually("its monitor is executed", PATIENCE, || {
        host.bundle(&arn, "hangs").join("start.lock").exists().then_some(())
    });
    host.stop(&arn, Some("enough")).unwrap();
    let ended = host.stopped(&arn);
    assert_eq!((ended.stop_code(), ended.stopped_reason()), ("UserInitiated", "enough"));
    assert_eq!(ended.containers[0].exit_code, None);
    let reason = ended.containers[0].reason().to_owned();
    assert!(reason.starts_with("CannotCreateContainerError: the monitor ended with signal: 9"), "{reason}");
}

#[test]
fn what_cannot_be_removed_is_removed_later() {
    let mut host = TestHost::start();
    host.terminate();
    let stuck = host.scratch().join("stuck");
    File::create(&stuck).unwrap();
    let script =
        format!("[ \"$1 $2\" = 'namespaces delete' ] && [ -e {} ] && [ -e \"$4/net\" ] && exit 1", stuck.display());
    host.interpose(&format!("{script}\nexec \"$RUNTIME\" \"$@\""));
    host.restart();
    let arn =
        host.run(&with(task("left", &[shell("c", &host.image("base"), "true")]), json!({ "networkMode": "bridge" })));
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(0));
    let run = host.bundle(&arn, "");
    assert!(run.exists(), "the script let it be removed");
    // The range of ids that its namespace has is not given away.
    let next = host.run(&task("next", &[shell("c", &host.image("base"), "cat /proc/self/uid_map; exec sleep 1000")]));
    host.running(&next);
    let base = |text: String| text.split_whitespace().nth(1).map(str::to_owned);
    let used = base(host.inside(&next, "c", "cat /proc/self/uid_map"));
    let (user, map) = (run.join("task.ns/user"), "cat /proc/self/uid_map");
    let held =
        Command::new("nsenter").arg(format!("--user={}", user.display())).args(["sh", "-c", map]).output().unwrap();
    assert!(held.status.success(), "{held:?}");
    assert_ne!(base(String::from_utf8(held.stdout).unwrap()), used);
    fs::remove_file(&stuck).unwrap();
    eventually("it is removed in the end", PATIENCE, || (!run.exists()).then_some(()));
}

/// A layout that calls `of` of the test images `latest`.
fn tag(host: &TestHost, layout: &std::path::Path, of: &str) {
    let from = format!("docker://{}", host.image(of));
    let to = format!("oci:{}:latest", layout.display());
    let copied = Command::new("skopeo").args(["copy", "--quiet", "--src-tls-verify=false", &from, &to]).status();
    assert!(copied.unwrap().success());
}

#[test]
fn a_task_keeps_its_images_when_their_tag_moves_while_the_agent_is_away() {
    let mut host = TestHost::start();
    let layout = host.scratch().join("layout");
    tag(&host, &layout, "base");
    let image = format!("oci:{}:latest", layout.display());
    let gate = host.scratch().join("gate");
    fs::create_dir(&gate).unwrap();
    let mounted = json!({ "essential": false, "mountPoints": [{ "sourceVolume": "gate", "containerPath": "/gate" }] });
    let first = with(shell("first", &image, "while [ ! -e /gate/open ]; do sleep 0.05; done"), mounted);
    let later = json!({ "dependsOn": [{ "containerName": "first", "condition": "SUCCESS" }] });
    let later = with(shell("later", &image, "[ ! -e /added ] && cat /deleted"), later);
    let volumes = json!({ "volumes": [{ "name": "gate", "host": { "sourcePath": gate } }] });
    let arn = host.run(&with(task("moved", &[later, first]), volumes));
    host.watch(&arn, |task| task.containers.iter().any(|container| container.last_status() == "RUNNING"));
    let digests = |host: &TestHost| -> Vec<String> {
        host.describe(&arn).containers.iter().map(|container: &Container| container.image_digest().to_owned()).collect()
    };
    let before = digests(&host);
    host.kill9();
    // The image `configured` has /added and no /deleted.
    tag(&host, &layout, "configured");
    host.restart();
    File::create(gate.join("open")).unwrap();
    let ended = host.stopped(&arn);
    let code = |name: &str| ended.containers.iter().find(|c| c.name() == name).unwrap().exit_code;
    assert_eq!((code("first"), code("later")), (Some(0), Some(0)), "{}", host.logs(&arn, "later"));
    assert_eq!(digests(&host), before);
}

/// Processor time of the agent in clock ticks, user and system together (proc(5)).
fn ticks(host: &TestHost) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", host.agent_pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum()
}

#[test]
fn waiting_for_a_task_to_stop_costs_nothing() {
    let host = TestHost::start();
    let image = host.image("base");
    let check = json!({ "healthCheck": { "command": ["CMD-SHELL", "false"], "retries": 10 }, "startTimeout": 2, "stopTimeout": 4 });
    let deaf = with(shell("deaf", &image, "trap '' TERM; while :; do sleep 0.1; done"), check);
    let waits = json!({ "dependsOn": [{ "containerName": "deaf", "condition": "HEALTHY" }] });
    let arn = host.run(&task("late", &[with(shell("client", &image, "true"), waits), deaf]));
    host.watch(&arn, |task| task.desired_status() == "STOPPED");
    let before = ticks(&host);
    let ended = host.stopped(&arn);
    let spent = ticks(&host) - before;
    assert!(spent < 8, "{spent} ticks in 4 s of waiting");
    let reason = ended.containers.iter().find(|c| c.name() == "client").unwrap().reason().to_owned();
    assert_eq!(reason, "waits for 'deaf' to be HEALTHY, which is not within its startTimeout of 2 s");
}

#[test]
fn a_waiting_task_says_what_it_waits_for() {
    let host = TestHost::start();
    let image = host.image("base");
    let ports = json!({ "portMappings": [{ "containerPort": 47_114 }] });
    let holder = with(shell("c", &image, FOREVER), ports);
    let definition = with(task("port", &[holder]), json!({ "networkMode": "host" }));
    let (first, second) = (host.run(&definition), host.run(&definition));
    host.running(&first);
    let binding = host.describe(&first).containers[0].network_bindings[0].clone();
    assert_eq!((binding.host_port, binding.protocol()), (Some(47_114), "tcp"));
    let waits = "waits for host port 47114/tcp";
    let listed = String::from_utf8(host.cli(&["ps"]).stdout).unwrap();
    assert_eq!(listed.lines().filter(|line| line.contains(waits)).count(), 1, "{listed}");
    let described = String::from_utf8(host.cli(&["describe", &second]).stdout).unwrap();
    assert!(described.contains("neargate.waits-for=host port 47114/tcp"), "{described}");
    host.stop(&first, None).unwrap();
    host.running(&second);
    assert!(!String::from_utf8(host.cli(&["ps"]).stdout).unwrap().contains("waits for"));
}

#[test]
fn the_hosts_name_and_hosts_are_those_of_a_task_in_its_network() {
    let host = TestHost::start();
    let arn =
        host.run(&with(task("named", &[shell("c", &host.image("base"), FOREVER)]), json!({ "networkMode": "host" })));
    host.running(&arn);
    let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
    assert_eq!(host.inside(&arn, "c", "hostname").trim(), name);
    let hosts = fs::read_to_string("/etc/hosts").unwrap();
    assert!(host.inside(&arn, "c", "cat /etc/hosts").contains(hosts.trim()));
}

#[test]
fn run_takes_the_name_of_a_registered_definition() {
    let host = TestHost::start();
    let file = host.scratch().join("named.json");
    let definition = task("named", &[shell("c", &host.image("base"), "exit 5")]);
    File::create(&file).unwrap().write_all(definition.to_string().as_bytes()).unwrap();
    assert!(host.cli(&["register", file.to_str().unwrap()]).status.success());
    for name in ["named", "named:1"] {
        assert_eq!(host.cli(&["run", "--follow", name]).status.code(), Some(5), "{name}");
    }
    let shown = String::from_utf8(host.cli(&["definitions", "named"]).stdout).unwrap();
    assert!(shown.contains("\"revision\": 1"), "{shown}");
    let unknown = host.cli(&["run", "named:9"]);
    assert_eq!(unknown.status.code(), Some(1));
    let words = String::from_utf8(unknown.stderr).unwrap();
    assert!(words.contains("named:9 is neither a file nor a task definition"), "{words}");
}
