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
    let args = ["exec", "-u", "1:2", "-w", "/w", "-e", "A=b", "--privileged", "-c", "job", "abcd", "show", "-x"];
    let start: serde_json::Value = serde_json::from_slice(&output(&stub, &args).stdout).unwrap();
    assert_eq!(start["user"], "1:2");
    assert_eq!(start["workingDirectory"], "/w");
    assert_eq!(start["environment"][0]["value"], "b");
    assert_eq!(start["container"], "job");
    assert_eq!(start["command"], serde_json::json!(["show", "-x"]));
    assert_eq!((&start["pseudoTerminal"], &start["privileged"]), (&false.into(), &true.into()));
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

/// A command that has said "ready" to neargate.
fn waiting(stub: &Stub) -> (std::process::Child, std::io::Lines<BufReader<std::process::ChildStdout>>) {
    let mut child = spawn(&mut neargate(stub, &["exec", "abcd", "trap"]));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    (child, lines)
}

#[test]
fn a_session_is_gone_on_with_when_the_agent_is_back() {
    let mut stub = Stub::start(Script { tasks: vec![task(A, "RUNNING", None)], ..Default::default() });
    let (mut child, mut lines) = waiting(&stub);
    stub.kill();
    // Kept until the agent is back.
    kill("TERM", &child);
    std::thread::sleep(std::time::Duration::from_millis(300));
    stub.restart();
    assert_eq!(lines.next().unwrap().unwrap(), "resumed");
    assert_eq!(lines.next().unwrap().unwrap(), "SIGTERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let sessions = std::mem::take(&mut stub.script.lock().unwrap().sessions);
    let offsets: Vec<_> = sessions.iter().map(|session| session.output_offset).collect();
    assert_eq!(offsets, [None, Some(6)]);
    assert!(sessions[0].id == sessions[1].id && sessions[0].id.as_ref().unwrap().len() == 32);
}

#[test]
fn a_session_that_is_lost_with_the_agent_is_told() {
    let mut stub = Stub::start(Script { tasks: vec![task(A, "RUNNING", None)], ..Default::default() });
    let (child, _lines) = waiting(&stub);
    stub.kill();
    stub.script.lock().unwrap().sessions_are_lost = true;
    stub.restart();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the session is not there"), "{}", stderr(&output));
}

#[test]
fn three_interrupts_end_the_waiting_for_an_agent() {
    let mut stub = Stub::start(Script { tasks: vec![task(A, "RUNNING", None)], ..Default::default() });
    let (mut child, _lines) = waiting(&stub);
    stub.kill();
    while child.try_wait().unwrap().is_none() {
        kill("INT", &child);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn attach_tells_what_was_missed_and_detaches_by_keys() {
    let stub = Stub::start(Script { tasks: vec![task(A, "RUNNING", None)], ..Default::default() });
    let mut child = spawn(neargate(&stub, &["attach", "abcd"]).stdin(Stdio::piped()));
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "hello");
    stdin.write_all(b"a\x10b").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "keys [97, 16, 98]");
    stdin.write_all(b"\x10\x11c").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let told = stderr(&output);
    assert!(told.contains("5 bytes of output came too fast") && told.contains("detached"), "{told}");
}

#[test]
fn a_second_ctrl_c_leaves_a_container_without_a_terminal() {
    let script = Script { tasks: vec![task(A, "RUNNING", None)], attach_is_plain: true, ..Default::default() };
    let stub = Stub::start(script);
    let mut child = spawn(neargate(&stub, &["attach", "abcd"]).stdin(Stdio::piped()));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "hello");
    kill("INT", &child);
    assert_eq!(lines.next().unwrap().unwrap(), "SIGINT");
    kill("INT", &child);
    assert!(lines.next().is_none(), "the second one is not the container's");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let told = stderr(&output);
    assert!(told.contains("once more within 5 seconds") && told.contains("detached"), "{told}");
}
