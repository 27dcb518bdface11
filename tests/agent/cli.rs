//! The command line against a real agent: its exit codes and its JSON.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;
use system_tests::TestHost;
use system_tests::definition::{shell, task, with};

fn definition(host: &TestHost, name: &str, script: &str) -> PathBuf {
    let path = host.scratch().join(format!("{name}.json"));
    let definition = task(name, &[shell("c", &host.image("base"), script)]);
    // As AWS answers it: wrapped, with members that only answers have.
    let answered = with(definition, serde_json::json!({ "revision": 7, "status": "ACTIVE", "registeredAt": 1.5 }));
    let text = serde_json::json!({ "taskDefinition": answered }).to_string();
    File::create(&path).and_then(|mut file| file.write_all(text.as_bytes())).unwrap();
    path
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(host: &TestHost, arguments: &[&str]) -> Output {
    host.cli(arguments)
}

#[test]
fn following_a_task_shows_its_output_and_ends_with_its_code() {
    let host = TestHost::start();
    let path = definition(&host, "job", "echo from the job; exit 42");
    let done = run(&host, &["run", path.to_str().unwrap(), "--follow"]);
    assert_eq!(done.status.code(), Some(42), "{done:?}");
    assert!(text(&done.stdout).contains("from the job"), "{done:?}");
    let killed = definition(&host, "killed", "sh -c 'kill -9 $$'; exit $?");
    assert_eq!(run(&host, &["run", killed.to_str().unwrap(), "--follow"]).status.code(), Some(137));
    let missing = definition(&host, "missing", "true");
    let broken = std::fs::read_to_string(&missing).unwrap().replace("test/base", "test/nothing");
    File::create(&missing).and_then(|mut file| file.write_all(broken.as_bytes())).unwrap();
    let never = run(&host, &["run", missing.to_str().unwrap(), "--follow"]);
    assert_eq!(never.status.code(), Some(125), "{never:?}");
}

#[test]
fn json_is_the_answer_as_ecs_gives_it_and_nothing_else() {
    let host = TestHost::start();
    let path = definition(&host, "answered", "sleep 60");
    let done = run(&host, &["run", path.to_str().unwrap(), "--json"]);
    assert!(done.status.success(), "{done:?}");
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(answer["failures"], serde_json::json!([]));
    let arn = answer["tasks"][0]["taskArn"].as_str().unwrap();
    host.running(arn);
    let prefix = &system_tests::host::id(arn)[..6];
    let described: Value = serde_json::from_slice(&run(&host, &["describe", prefix, "--json"]).stdout).unwrap();
    assert_eq!(described["tasks"][0]["taskArn"].as_str(), Some(arn), "named by a prefix: {described}");
    assert_eq!(run(&host, &["exec", prefix, "/bin/sh", "-c", "exit 9"]).status.code(), Some(9));
    assert!(run(&host, &["stop", prefix]).status.success());
    assert_eq!(host.describe(arn).last_status(), "STOPPED", "it has waited");
    let listed: Value = serde_json::from_slice(&run(&host, &["ps", "--json"]).stdout).unwrap();
    assert_eq!(listed["tasks"], serde_json::json!([]));
}

#[test]
fn running_the_same_file_again_registers_nothing_new() {
    let host = TestHost::start();
    let path = definition(&host, "same", "exit 0");
    for _ in 0..2 {
        assert!(run(&host, &["run", path.to_str().unwrap(), "--follow"]).status.success());
    }
    let request = proto::v1::ListTaskDefinitionsRequest::default();
    let listed = host.wait(async { host.tasks().await?.list_task_definitions(request).await }).unwrap();
    assert_eq!(listed.into_inner().task_definition_arns.len(), 1);
}
