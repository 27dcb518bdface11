//! The agent's promises to its callers: idempotency, refusals with their reasons, capacity, draining, who may call.

use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use proto::v1::{DeregisterTaskDefinitionRequest, RunTaskRequest};
use serde_json::json;
use system_tests::TestHost;
use system_tests::binaries::{built, output};
use system_tests::definition::{shell, task, with};
use system_tests::eventually::{eventually, stays};
use tonic::Code;
use tonic_types::StatusExt as _;

fn reason(status: &tonic::Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

#[test]
fn a_client_token_makes_run_task_idempotent() {
    let host = TestHost::start();
    let definition = host.register(&task("token", &[shell("c", &host.image("base"), "exit 0")])).unwrap();
    let request = RunTaskRequest {
        task_definition: definition.task_definition_arn,
        client_token: Some("once-only".into()),
        count: Some(2),
        ..Default::default()
    };
    let arns = |answer: proto::v1::RunTaskResponse| -> Vec<String> {
        answer.tasks.into_iter().map(|task| task.task_arn.unwrap()).collect()
    };
    let first = arns(host.run_task(request.clone()).unwrap());
    assert_eq!(first.len(), 2);
    assert_eq!(arns(host.run_task(request.clone()).unwrap()), first);
    let status = host.run_task(RunTaskRequest { count: Some(1), ..request }).unwrap_err();
    assert_eq!(reason(&status), "ConflictException", "{status}");
    let all = host.list("RUNNING").len() + host.list("STOPPED").len();
    assert_eq!(all, 2);
}

#[test]
fn tokens_and_definitions_and_the_instance_survive_kill9() {
    let mut host = TestHost::start();
    let definition = host.register(&task("kept", &[shell("c", &host.image("base"), "exit 0")])).unwrap();
    let arn = definition.task_definition_arn.clone();
    let request = RunTaskRequest { task_definition: arn, client_token: Some("t".into()), ..Default::default() };
    let first = host.run_task(request.clone()).unwrap().tasks[0].task_arn().to_owned();
    let instance = host.container_instance();
    host.kill9();
    host.restart();
    assert_eq!(host.run_task(request).unwrap().tasks[0].task_arn(), first);
    assert_eq!(host.container_instance().container_instance_arn, instance.container_instance_arn);
    assert_eq!(host.container_instance().registered_at, instance.registered_at);
    let again = host.register(&task("kept", &[shell("c", &host.image("base"), "exit 1")])).unwrap();
    assert_eq!(again.revision, Some(2));
}

#[test]
fn what_can_never_fit_is_a_failure_and_makes_no_task() {
    let host = TestHost::start();
    let container = with(shell("c", &host.image("base"), "exit 0"), json!({ "memory": 8 << 20 }));
    let definition = host.register(&task("huge", &[container])).unwrap();
    let request = RunTaskRequest { task_definition: definition.task_definition_arn, ..Default::default() };
    let answer = host.run_task(request).unwrap();
    assert_eq!(answer.tasks, []);
    assert_eq!(answer.failures[0].reason(), "RESOURCE:MEMORY");
    assert_eq!(host.list("RUNNING"), [] as [String; 0]);
}

#[test]
fn what_does_not_fit_now_waits_and_smaller_tasks_pass() {
    let probe = TestHost::start();
    let whole =
        probe.container_instance().registered_resources.iter().find(|r| r.name() == "MEMORY").unwrap().integer_value();
    drop(probe);
    let host = TestHost::with(&format!("[capacity]\nreserved_memory_mib = {}", whole - 1000));
    let image = host.image("base");
    let of = |name: &str, memory: u32, script: &str| {
        task(name, &[with(shell("c", &image, script), json!({ "memory": memory }))])
    };
    let forever = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let first = host.run(&of("first", 600, forever));
    host.running(&first);
    let large = host.run(&of("large", 700, "exit 0"));
    let small = host.run_to_end(&of("small", 100, "exit 0"));
    assert_eq!(small.containers[0].exit_code, Some(0), "the small one passes");
    let waits = || ["PROVISIONING", "PENDING"].contains(&host.describe(&large).last_status());
    assert!(stays(Duration::from_millis(300), waits), "the large one waits");
    host.stop(&first, None).unwrap();
    assert_eq!(host.stopped(&large).containers[0].exit_code, Some(0));
}

#[test]
fn a_waiting_task_can_be_stopped() {
    let host = TestHost::start();
    let whole =
        host.container_instance().registered_resources.iter().find(|r| r.name() == "MEMORY").unwrap().integer_value();
    let large = |name: &str| {
        let script = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
        // A reservation counts for placement and limits nothing.
        let memory = json!({ "memoryReservation": whole });
        task(name, &[with(shell("c", &host.image("base"), script), memory)])
    };
    let first = host.run(&large("first"));
    host.running(&first);
    let second = host.run(&large("second"));
    host.stop(&second, None).unwrap();
    let ended = host.stopped(&second);
    assert_eq!((ended.stop_code(), ended.containers[0].exit_code), ("UserInitiated", None));
}

#[test]
fn a_draining_host_takes_no_task_and_leaves_what_runs() {
    let host = TestHost::start();
    let definition = task("drained", &[shell("c", &host.image("base"), "sleep 60")]);
    let arn = host.run(&definition);
    host.running(&arn);
    host.set_state("DRAINING").unwrap();
    assert_eq!(host.container_instance().status(), "DRAINING");
    let request = RunTaskRequest { task_definition: Some("drained".into()), ..Default::default() };
    assert_eq!(host.run_task(request.clone()).unwrap_err().code(), Code::Unavailable);
    assert_eq!(host.describe(&arn).last_status(), "RUNNING");
    host.set_state("ACTIVE").unwrap();
    assert_eq!(host.run_task(request).unwrap().tasks.len(), 1);
}

#[test]
fn fargate_is_refused_in_words() {
    let host = TestHost::start();
    let definition = with(
        task("fargate", &[shell("c", &host.image("base"), "true")]),
        json!({ "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc", "cpu": "256", "memory": "512" }),
    );
    let arn = host.register(&definition).unwrap().task_definition_arn;
    let network_configuration = Some(system_tests::definition::network());
    let request = RunTaskRequest { task_definition: arn, network_configuration, ..Default::default() };
    let status = host.run_task(request.clone()).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("FARGATE"), "{status}");
    let request = RunTaskRequest { launch_type: Some("EC2".into()), ..request };
    assert_eq!(host.run_task(request).unwrap().tasks.len(), 1);
}

#[test]
fn all_problems_of_a_definition_are_told_with_their_paths() {
    let host = TestHost::start();
    let bad = json!({
        "family": "bad", "networkMode": "none", "enableFaultInjection": true,
        "containerDefinitions": [
            { "name": "a", "image": "i", "memory": 64, "secrets": [{ "name": "S", "valueFrom": "s" }], "links": ["b"] },
            { "image": "i", "memory": 64, "dependsOn": [{ "containerName": "nobody", "condition": "START" }] },
        ],
    });
    let status = host.register(&bad).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let told = status.get_details_bad_request().unwrap().field_violations;
    let paths: Vec<&str> = told.iter().map(|violation| violation.field.as_str()).collect();
    for path in [
        "enableFaultInjection",
        "containerDefinitions[0].secrets",
        "containerDefinitions[0].links",
        "containerDefinitions[1].name",
        "containerDefinitions[1].dependsOn[0].containerName",
    ] {
        assert!(paths.contains(&path), "{path} is not among {paths:?}");
    }
    assert_eq!(reason(&status), "ClientException");
}

#[test]
fn absent_values_of_fields_that_do_not_run_are_absent() {
    let host = TestHost::start();
    let empty = json!({ "links": [], "secrets": [], "firelensConfiguration": null, "dnsServers": [] });
    let container = with(shell("c", &host.image("base"), "exit 0"), empty);
    let mut definition = task("empty", &[container]);
    definition["containerDefinitions"][0].as_object_mut().unwrap().remove("firelensConfiguration");
    let ended = host.run_to_end(&definition);
    assert_eq!(ended.containers[0].exit_code, Some(0));
}

#[test]
fn unknown_tasks_are_missing_and_known_ones_are_described_beside() {
    let host = TestHost::start();
    let arn = host.run(&task("known", &[shell("c", &host.image("base"), "exit 0")]));
    let answer = host.describe_tasks(&[&arn, "00000000000000000000000000000000", "nonsense"]).unwrap();
    assert_eq!(answer.tasks.len(), 1);
    let reasons: Vec<&str> = answer.failures.iter().map(|failure| failure.reason()).collect();
    assert_eq!(reasons, ["MISSING", "MISSING"]);
}

#[test]
fn a_deregistered_definition_is_described_and_not_run() {
    let host = TestHost::start();
    let definition = host.register(&task("old", &[shell("c", &host.image("base"), "exit 0")])).unwrap();
    let request = DeregisterTaskDefinitionRequest { task_definition: Some("old:1".into()) };
    let inactive = host.wait(async { host.tasks().await?.deregister_task_definition(request).await }).unwrap();
    assert_eq!(inactive.into_inner().task_definition.unwrap().status(), "INACTIVE");
    let run = RunTaskRequest { task_definition: definition.task_definition_arn, ..Default::default() };
    assert_eq!(host.run_task(run).unwrap_err().code(), Code::InvalidArgument);
    let next = host.register(&task("old", &[shell("c", &host.image("base"), "exit 0")])).unwrap();
    assert_eq!(next.revision, Some(2), "a revision is never used again");
}

#[test]
fn an_image_in_use_is_not_removed() {
    let host = TestHost::start();
    let image = host.image("base");
    let told = host.pull(&image).unwrap();
    assert!(told.iter().any(|answer| answer.layer.is_some()), "progress is told");
    let pulled = told.last().unwrap().image.clone().unwrap();
    assert!(pulled.image_digest().starts_with("sha256:") && pulled.size_in_bytes() > 500_000.0, "{pulled:?}");
    let arn = host.run(&task("user", &[shell("c", &image, "trap 'exit 0' TERM; while :; do sleep 0.05; done")]));
    host.running(&arn);
    let status = host.remove_image(&image).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    host.stop(&arn, None).unwrap();
    host.stopped(&arn);
    assert!(host.remove_image(&image).unwrap() > 500_000.0);
    assert_eq!(host.image_names(), [] as [String; 0]);
    assert_eq!(host.remove_image(&image).unwrap_err().code(), Code::NotFound);
}

#[test]
fn a_second_agent_on_one_root_is_refused() {
    let host = TestHost::start();
    let second = host.command().output().unwrap();
    assert!(!second.status.success());
    let words = String::from_utf8_lossy(&second.stderr);
    assert!(words.contains("neargated.lock") || words.contains("another"), "{words}");
    assert!(host.is_serving(), "the first one goes on");
    assert!(host.root().join("run/neargated.sock").exists());
}

#[test]
fn a_socket_path_that_is_too_long_is_refused_with_its_length() {
    system_tests::binaries::need_root();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("x".repeat(110));
    let refused = Command::new(built("neargated")).arg("--root").arg(&root).stdin(Stdio::null()).output().unwrap();
    assert!(!refused.status.success());
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(words.contains("107"), "{words}");
    assert!(!root.exists(), "nothing was made");
}

#[test]
fn other_users_cannot_use_the_socket() {
    let host = TestHost::start();
    let socket = host.root().join("run/neargated.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().mode() & 0o007, 0, "others have no right to it");
    let mut client = Command::new("setpriv");
    // What nobody cannot execute is a copy that it can.
    let program = host.scratch().join("neargate");
    std::fs::copy(built("neargate"), &program).unwrap();
    client.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program).arg("host");
    client.env("NEARGATE_SOCKET", &socket);
    let refused = output("util-linux", &mut client);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let words = String::from_utf8_lossy(&refused.stderr).to_lowercase();
    assert!(words.contains("permission denied"), "{words}");
    assert!(host.cli(&["host"]).status.success());
}

#[test]
fn other_users_do_not_get_at_what_tasks_own() {
    let host = TestHost::start();
    let volume = json!([{ "name": "v", "dockerVolumeConfiguration": { "scope": "shared", "autoprovision": true } }]);
    let container = with(
        shell("c", &host.image("base"), "echo up; exec sleep 1000"),
        json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/v" }] }),
    );
    let arn = host.run(&with(task("secrets", &[container]), json!({ "volumes": volume })));
    host.running(&arn);
    let bundle = host.bundle(&arn, "c");
    let own = [
        host.root().join("neargate.redb"),
        bundle.join("config.json"),
        host.task_directory(&arn).join("etc/c/hosts"),
        host.root().join("volumes/v"),
        host.root().join("images/names"),
    ];
    for path in own {
        assert!(path.exists(), "{}", path.display());
        let mut other = Command::new("setpriv");
        other.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "ls"]).arg(&path);
        let refused = output("util-linux", &mut other);
        let readable = refused.status.success() && path.metadata().unwrap().mode() & 0o004 != 0;
        assert!(!readable, "{}: {refused:?}", path.display());
    }
}

#[test]
fn the_socket_may_be_elsewhere() {
    let mut host = TestHost::start();
    host.terminate();
    let socket = host.scratch().join("door/neargated.sock");
    let mut agent = host.command().arg("--socket").arg(&socket).stdin(Stdio::null()).spawn().unwrap();
    let asks = || Command::new(built("neargate")).env("NEARGATE_SOCKET", &socket).arg("host").output().unwrap();
    eventually("it answers", Duration::from_secs(30), || asks().status.success().then_some(()));
    assert!(!host.root().join("run/neargated.sock").exists());
    agent.kill().unwrap();
    agent.wait().unwrap();
    host.restart();
}

#[test]
fn two_agents_on_two_roots_do_not_touch_each_other() {
    let first = TestHost::start();
    let second = TestHost::start();
    let definition = with(
        task("same", &[shell("c", &first.image("base"), "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done")]),
        json!({ "networkMode": "bridge" }),
    );
    let (one, two) = (first.run(&definition), second.run(&definition));
    first.running(&one);
    second.running(&two);
    // Its drop stops all, checks that nothing is left and wipes the root.
    drop(first);
    assert_eq!(second.describe(&two).last_status(), "RUNNING");
    assert_eq!(second.inside(&two, "c", "echo alive"), "alive\n");
}

#[test]
fn a_terminated_agent_leaves_its_containers_and_adopts_them() {
    let mut host = TestHost::start();
    let script = "trap 'exit 33' TERM; echo up; while :; do sleep 0.05; done";
    let arn = host.run(&task("adopted", &[shell("c", &host.image("base"), script)]));
    host.running(&arn);
    let pid = host.inside(&arn, "c", "stat -c %Z /proc/1");
    assert!(host.terminate().unwrap().success());
    assert!(!host.root().join("run/neargated.sock").exists(), "its socket is removed");
    host.restart();
    assert_eq!(host.inside(&arn, "c", "stat -c %Z /proc/1"), pid, "it is the same process");
    host.stop(&arn, None).unwrap();
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(33));
}
