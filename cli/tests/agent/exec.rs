//! `neargate exec` without a terminal: stdin, signals, exit codes, and an agent that dies meanwhile.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
};

use crate::{
    A, kill, neargate, output, spawn, stderr, stdout,
    stub::{Script, Stub},
    task,
};

#[test]
fn exec_passes_stdin_on_and_the_exit_code_back() {
    let stub = Stub::start(Script { tasks: vec![task(A, "RUNNING", None)], ..Default::default() });
    let text = "line\n".repeat(100_000);
    let mut child = spawn(neargate(&stub, &["exec", "-i", "abcd", "cat"]).stdin(Stdio::piped()));
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn({
        let text = text.clone();
        move || stdin.write_all(text.as_bytes()).unwrap()
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert_eq!(stdout(&output), text);
}

#[test]
fn exec_says_all_that_was_asked_for() {
    let stub = Stub::start(Script { tasks: vec![task(A, "RUNNING", None)], ..Default::default() });
    let args = ["exec", "-u", "1:2", "-w", "/w", "-e", "A=b", "-c", "job", "abcd", "show", "-x"];
    let start: serde_json::Value = serde_json::from_slice(&output(&stub, &args).stdout).unwrap();
    assert_eq!(start["user"], "1:2");
    assert_eq!(start["workingDirectory"], "/w");
    assert_eq!(start["environment"][0]["value"], "b");
    assert_eq!(start["container"], "job");
    assert_eq!(start["command"], serde_json::json!(["show", "-x"]));
    assert_eq!(start["pseudoTerminal"], false);
    let output = output(&stub, &["exec", "-it", "abcd", "show"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("stdin is not a terminal"), "{}", stderr(&output));
}

#[test]
fn exec_forwards_signals() {
    let stub = Stub::start(Script { tasks: vec![task(A, "RUNNING", None)], ..Default::default() });
    let mut child = spawn(&mut neargate(&stub, &["exec", "abcd", "trap"]));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    kill("TERM", &child);
    assert_eq!(lines.next().unwrap().unwrap(), "SIGTERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn an_agent_that_dies_meanwhile_is_named() {
    let mut stub = Stub::start(Script { tasks: vec![task(A, "RUNNING", None)], ..Default::default() });
    let mut child = spawn(&mut neargate(&stub, &["exec", "abcd", "trap"]));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    stub.kill();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("lost neargated while it answered"), "{}", stderr(&output));
}
