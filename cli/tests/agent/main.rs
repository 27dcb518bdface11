//! Runs the built binary against a scripted agent: what it asks for, what it prints, how it ends.

#![allow(clippy::unwrap_used, reason = "a panic in a test is its report, in helpers too")]

mod exec;
mod images;
mod logs;
mod stop;
mod stub;
mod tty;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Output, Stdio},
};

use proto::v1::{Container, Failure, GetLogsResponse, Task};
use stub::{Script, Stub};
use tonic::Status;

const DEFINITION: &str =
    r#"{"family": "job", "containerDefinitions": [{"name": "job", "image": "busybox", "memory": 32}]}"#;

fn neargate(stub: &Stub, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neargate"));
    command.args(args).env("NEARGATE_SOCKET", &stub.socket).stdin(Stdio::null());
    command
}

fn output(stub: &Stub, args: &[&str]) -> Output {
    neargate(stub, args).output().unwrap()
}

/// Runs with `input` on stdin.
fn fed(stub: &Stub, args: &[&str], input: &str) -> Output {
    let mut child = spawn(neargate(stub, args).stdin(Stdio::piped()));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn task(id: &str, status: &str, exit_code: Option<i32>) -> Task {
    let container =
        Container { name: Some("job".into()), last_status: Some(status.into()), exit_code, ..Default::default() };
    Task {
        task_arn: Some(format!("arn:aws:ecs:local:000000000000:task/default/{id}")),
        task_definition_arn: Some("arn:aws:ecs:local:000000000000:task-definition/job:1".into()),
        last_status: Some(status.into()),
        desired_status: Some(if status == "STOPPED" { "STOPPED" } else { "RUNNING" }.into()),
        containers: vec![container],
        stopped_reason: (status == "STOPPED").then(|| "Essential container in task exited".into()),
        ..Default::default()
    }
}

fn line(stream: &str, timestamp: f64, text: &str) -> Result<GetLogsResponse, Status> {
    Ok(GetLogsResponse {
        container: Some("job".into()),
        stream: Some(stream.into()),
        timestamp: Some(timestamp),
        data: Some(text.into()),
    })
}

const A: &str = "abcd0000000000000000000000000001";
const B: &str = "abcd0000000000000000000000000002";
const STOPPED: &str = "ffff0000000000000000000000000003";

#[test]
fn the_same_content_is_registered_once() {
    let stub = Stub::start(Script { tasks: vec![task(A, "PROVISIONING", None)], ..Default::default() });
    for _ in 0..2 {
        let output = fed(&stub, &["run", "-"], DEFINITION);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stdout(&output), format!("{A} job:1 PROVISIONING\n"));
    }
    assert_eq!(stub.script.lock().unwrap().definitions.len(), 1);
    let output = fed(&stub, &["run", "-"], &DEFINITION.replace("32", "33"));
    assert_eq!(stdout(&output), format!("{A} job:2 PROVISIONING\n"));
    let output = fed(&stub, &["register", "-"], DEFINITION);
    assert_eq!(stdout(&output), "job:3\n");
}

#[test]
fn following_shows_states_and_logs_and_ends_with_the_containers_code() {
    let stub = Stub::start(Script {
        tasks: vec![task(A, "PROVISIONING", None)],
        states: vec![task(A, "PENDING", None), task(A, "RUNNING", None), task(A, "STOPPED", Some(42))],
        logs: [vec![line("stdout", 1.0, "out\n"), line("stderr", 2.0, "err\n"), line("stdout", 3.0, "end")]].into(),
        ..Default::default()
    });
    let output = fed(&stub, &["run", "-", "--follow"], DEFINITION);
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(stdout(&output), "out\nend");
    let told = stderr(&output);
    for part in [
        "err\n",
        "PROVISIONING → PENDING\n",
        "PENDING → RUNNING\n",
        "RUNNING → STOPPED\n",
        "job: exit code 42\n",
        "Essential container in task exited\n",
    ] {
        assert!(told.contains(part), "{part:?} is missing in:\n{told}");
    }
}

#[test]
fn logs_survive_an_agent_that_goes_away() {
    let away = || Err(Status::unavailable("restarting"));
    let stub = Stub::start(Script {
        tasks: vec![task(A, "RUNNING", None)],
        states: vec![task(A, "STOPPED", None)],
        logs: [
            vec![line("stdout", 1.0, "1\n"), line("stdout", 2.0, "2\n"), line("stdout", 2.0, "3\n"), away()],
            vec![away()],
            vec![
                line("stdout", 1.0, "1\n"),
                line("stdout", 2.0, "2\n"),
                line("stdout", 2.0, "3\n"),
                line("stdout", 2.0, "4\n"),
                line("stdout", 3.0, "5\n"),
            ],
        ]
        .into(),
        ..Default::default()
    });
    let output = fed(&stub, &["run", "-", "--follow"], DEFINITION);
    assert_eq!(stdout(&output), "1\n2\n3\n4\n5\n");
    assert_eq!(output.status.code(), Some(125), "it never started: {}", stderr(&output));
    assert_eq!(stub.script.lock().unwrap().since, [None, Some(1.0), Some(1.0)]);
}

#[test]
fn an_agent_that_is_killed_is_waited_for() {
    let mut stub = Stub::start(Script {
        tasks: vec![task(A, "RUNNING", None)],
        logs: [vec![line("stdout", 1.0, "1\n")]].into(),
        logs_stay_open: true,
        ..Default::default()
    });
    let mut child = spawn(neargate(&stub, &["run", "-", "--follow"]).stdin(Stdio::piped()));
    child.stdin.take().unwrap().write_all(DEFINITION.as_bytes()).unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "1");
    stub.kill();
    {
        let mut script = stub.script.lock().unwrap();
        script.logs = [vec![line("stdout", 1.0, "1\n"), line("stdout", 2.0, "2\n")]].into();
        script.logs_stay_open = false;
        script.states = vec![task(A, "STOPPED", Some(5))];
    }
    stub.restart();
    assert_eq!(lines.next().unwrap().unwrap(), "2");
    assert!(lines.next().is_none());
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn following_with_json_prints_the_stopped_task_only() {
    let stub = Stub::start(Script {
        tasks: vec![task(A, "PENDING", None)],
        states: vec![task(A, "STOPPED", Some(0))],
        ..Default::default()
    });
    let output = fed(&stub, &["run", "-", "--follow", "--json"], DEFINITION);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["tasks"][0]["lastStatus"], "STOPPED");
    assert_eq!(answer["failures"], serde_json::json!([]));
    assert_eq!(stderr(&output), "");
}

#[test]
fn ctrl_c_detaches_and_says_how_to_come_back() {
    let stub = Stub::start(Script {
        tasks: vec![task(A, "RUNNING", None)],
        logs: [vec![line("stdout", 1.0, "hello\n"), Err(Status::unavailable("stays away"))]].into(),
        ..Default::default()
    });
    let definition = tempfile::NamedTempFile::new().unwrap();
    definition.as_file().write_all(DEFINITION.as_bytes()).unwrap();
    let mut child = spawn(&mut neargate(&stub, &["run", definition.path().to_str().unwrap(), "--follow"]));
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "hello\n");
    kill("INT", &child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(stderr(&output).contains("neargate logs -f abcd00000000"), "{}", stderr(&output));
}

fn kill(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn tasks_that_were_not_placed_are_explained() {
    let failure = Failure { reason: Some("RESOURCE:MEMORY".into()), ..Default::default() };
    let stub = Stub::start(Script { failures: vec![failure], ..Default::default() });
    let output = fed(&stub, &["run", "-", "--json"], DEFINITION);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("more memory than this host has"), "{}", stderr(&output));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer, serde_json::json!({"tasks": [], "failures": [{"reason": "RESOURCE:MEMORY"}]}));
}

#[test]
fn refusals_name_every_field() {
    let stub = Stub::start(Script::default());
    let output = fed(&stub, &["register", "-"], &DEFINITION.replace(r#""family": "job""#, r#""family": "refused""#));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "neargate: cannot register the task definition: 2 problems (ClientException)\n  \
         family: no such\\x1b family\n  memory: too little\n"
    );
}

#[test]
fn tasks_are_named_by_the_beginning_of_their_ids() {
    let tasks = vec![task(A, "RUNNING", None), task(B, "RUNNING", None), task(STOPPED, "STOPPED", Some(0))];
    let stub = Stub::start(Script { tasks, ..Default::default() });
    let output_of = |name| output(&stub, &["describe", name]);
    assert!(stdout(&output_of("FFFF")).contains(STOPPED));
    assert!(stdout(&output_of(&A[..32])).is_empty(), "the stub knows ARNs only");
    let ambiguous = output_of("abcd");
    assert_eq!(ambiguous.status.code(), Some(1));
    assert!(stderr(&ambiguous).contains(A) && stderr(&ambiguous).contains(B), "{}", stderr(&ambiguous));
    for (name, reason) in [("1234", "there is no task 1234"), ("abc", "is no task"), ("web", "is no task")] {
        let output = output_of(name);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
    }
}

#[test]
fn ps_shows_what_has_not_stopped_unless_asked_for_all() {
    let stopping = Task { desired_status: Some("STOPPED".into()), ..task(B, "RUNNING", None) };
    let tasks = vec![task(A, "RUNNING", None), stopping, task(STOPPED, "STOPPED", Some(42))];
    let stub = Stub::start(Script { tasks, ..Default::default() });
    let some = stdout(&output(&stub, &["ps"]));
    assert!(some.contains(&A[..12]) && some.lines().count() == 3, "{some}");
    let all = stdout(&output(&stub, &["ps", "-a"]));
    assert!(all.contains("42 Essential container in task exited") && all.lines().count() == 4, "{all}");
    let json: serde_json::Value = serde_json::from_slice(&output(&stub, &["ps", "--json"]).stdout).unwrap();
    assert_eq!(json["tasks"].as_array().unwrap().len(), 2);
}

#[test]
fn quiet_lists_ids_and_nothing_else() {
    let stub = Stub::start(Script { tasks: vec![task(A, "RUNNING", None)], ..Default::default() });
    assert_eq!(stdout(&output(&stub, &["ps", "-q"])), "abcd00000000\n");
    let refused = output(&stub, &["ps", "--quiet", "--json"]);
    assert_eq!((refused.status.code(), refused.stdout.is_empty()), (Some(2), true));
    stub.script.lock().unwrap().tasks.clear();
    assert_eq!(stdout(&output(&stub, &["ps", "-aq"])), "");
}
