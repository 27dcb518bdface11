//! `neargate stop`: waits until the tasks have stopped, unless told not to.

use proto::v1::Task;

use crate::{
    A, STOPPED, output, stderr, stdout,
    stub::{Script, Stub},
    task,
};

/// Has another short id than [`A`].
const OTHER: &str = "eeee0000000000000000000000000004";

fn stopping(id: &str) -> Task {
    Task { desired_status: Some("STOPPED".into()), ..task(id, "RUNNING", None) }
}

#[test]
fn stop_returns_when_every_task_has_stopped() {
    let stub = Stub::start(Script {
        tasks: vec![task(A, "RUNNING", None), task(OTHER, "RUNNING", None)],
        states: vec![stopping(A), stopping(OTHER), task(OTHER, "STOPPED", Some(0)), task(A, "STOPPED", Some(0))],
        ..Default::default()
    });
    let ids = stdout(&output(&stub, &["ps", "-q"]));
    let ids: Vec<&str> = ids.lines().collect();
    // One of them twice: it is told once.
    let output = output(&stub, &[&["stop", "abcd"], &ids[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "eeee00000000 has stopped\nabcd00000000 has stopped\n");
    assert_eq!(stderr(&output), "", "nobody looks at it");
}

#[test]
fn stop_with_json_tells_each_task_as_it_ended() {
    let stub = Stub::start(Script {
        tasks: vec![task(A, "RUNNING", None)],
        states: vec![stopping(A), task(A, "STOPPED", Some(143))],
        ..Default::default()
    });
    let output = output(&stub, &["stop", "abcd", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["task"]["lastStatus"], "STOPPED");
    assert_eq!(answer["task"]["containers"][0]["exitCode"], 143);
}

#[test]
fn stop_does_not_wait_where_it_is_told_so() {
    let stub = Stub::start(Script { tasks: vec![task(A, "RUNNING", None)], ..Default::default() });
    let output = output(&stub, &["stop", "--no-wait", "abcd"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "abcd00000000 is stopping, now RUNNING\n");
}

#[test]
fn one_that_is_not_there_does_not_keep_the_others() {
    let stub = Stub::start(Script { tasks: vec![task(STOPPED, "STOPPED", Some(0))], ..Default::default() });
    let output = output(&stub, &["stop", "1234", "ffff"]);
    assert_eq!(output.status.code(), Some(1), "one of them was not there");
    assert_eq!(stdout(&output), "ffff00000000 has stopped\n");
}
