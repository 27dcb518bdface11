//! Runs the built binary without an agent: wrong usage, help, validation, and what it says when nobody answers.

#![allow(clippy::unwrap_used, reason = "a panic in a test is its report, in helpers too")]

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Output, Stdio},
};

fn neargate(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neargate"));
    command.args(args).env_remove("NEARGATE_SOCKET").stdin(Stdio::null());
    command
}

fn output(args: &[&str]) -> Output {
    neargate(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn file(directory: &Path, name: &str, content: &[u8]) -> String {
    let path = directory.join(name);
    std::fs::File::create(&path).unwrap().write_all(content).unwrap();
    path.to_str().unwrap().to_owned()
}

const GOOD: &[u8] = br#"{
  "family": "good",
  "containerDefinitions": [{"name": "a", "image": "busybox", "memory": 32}]
}
"#;

const BAD: &[u8] = br#"{
  "family": "bad",
  "containerDefinitions": [
    {
      "name": "a",
      "image": "busybox",
      "memory": 32,
      "links": ["b"]
    },
    { "name": "b", "memory": 32 }
  ]
}
"#;

#[test]
fn wrong_usage_exits_with_2() {
    let cases: [&[&str]; 20] = [
        &[],
        &["no-such-command"],
        &["run"],
        &["validate"],
        &["stop"],
        &["ps", "--no-such-option"],
        &["run", "f.json", "--count", "11"],
        &["run", "f.json", "--count", "2", "--follow"],
        &["run", "f.json", "--launch-type", "MOON"],
        &["run", "f.json", "--overrides", "{"],
        &["run", "f.json", "--overrides", r#"{"no":1}"#],
        &["host", "--drain", "--activate"],
        &["exec", "abcd"],
        &["stats", "--interval", "0"],
        &["stats", "--interval", "often"],
        &["describe", "--timing"],
        &["events", "--since", "yesterday"],
        &["events", "--filter", "colour=red"],
        &["events", "--filter", "task"],
        &["--host", "https://elsewhere", "ps"],
    ];
    for case in cases {
        let output = output(case);
        assert_eq!(output.status.code(), Some(2), "{case:?}: {}", stderr(&output));
        assert!(!output.stderr.is_empty(), "{case:?}");
        assert!(output.stdout.is_empty(), "{case:?}: {}", stdout(&output));
    }
}

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let output = output(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = stdout(&output);
    for word in [
        "run",
        "validate",
        "register",
        "definitions",
        "deregister",
        "ps",
        "describe",
        "logs",
        "stop",
        "exec",
        "pull",
        "images",
        "rmi",
        "host",
        "NEARGATE_SOCKET",
        "Exit codes",
    ] {
        assert!(help.contains(word), "{word} is missing in:\n{help}");
    }
}

#[test]
fn without_an_agent_it_says_where_it_looked() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.sock");
    let missing = missing.to_str().unwrap();
    let output = output(&["--socket", missing, "ps"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("cannot reach neargated at {missing}")), "{}", stderr(&output));
    assert!(stderr(&output).contains("Is it running?"), "{}", stderr(&output));

    let stale = directory.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let output = neargate(&["ps", "--json"]).env("NEARGATE_SOCKET", &stale).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("nobody listens"), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
}

#[test]
fn validate_says_ok_with_an_outline() {
    let directory = tempfile::tempdir().unwrap();
    let good = file(directory.path(), "good.json", GOOD);
    let output = output(&["validate", &good]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), format!("{good}: ok: family good, 1 container (a)\n"));
}

#[test]
fn validate_tells_every_problem_with_line_and_column() {
    let directory = tempfile::tempdir().unwrap();
    let good = file(directory.path(), "good.json", GOOD);
    let bad = file(directory.path(), "bad.json", BAD);
    let output = output(&["validate", &bad, &good]);
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    assert!(told.contains(&format!("{bad}:8:")) && told.contains("containerDefinitions[0].links"), "{told}");
    assert!(told.contains("Container.image should not be null or empty."), "{told}");
    assert!(stdout(&output).contains(&format!("{good}: ok")), "the other file was not checked");
}

#[test]
fn validate_warns_of_what_may_not_be_meant_and_offers_near_names() {
    let directory = tempfile::tempdir().unwrap();
    let good = String::from_utf8(GOOD.to_vec()).unwrap();
    let with =
        |name, member: &str| file(directory.path(), name, good.replace("32}", &format!("32, {member}}}")).as_bytes());
    let doubted = output(&["validate", &with("check.json", r#""healthCheck": {"command": ["curl localhost"]}"#)]);
    assert_eq!(doubted.status.code(), Some(0), "{}", stderr(&doubted));
    let told = "warning: containerDefinitions[0].healthCheck.command begins with neither CMD nor CMD-SHELL";
    assert!(stdout(&doubted).contains(told), "{}", stdout(&doubted));
    let unknown = output(&["validate", &with("typo.json", r#""enviroment": []"#)]);
    assert_eq!(unknown.status.code(), Some(1));
    let told = "containerDefinitions[0].enviroment: unknown field `enviroment`: did you mean `environment`?";
    assert!(stderr(&unknown).contains(told), "{}", stderr(&unknown));
}

#[test]
fn validate_reads_stdin_and_prints_json() {
    let mut child =
        neargate(&["validate", "-", "--json"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(BAD).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["files"][0]["valid"], false);
    assert_eq!(report["files"][0]["problems"][0]["path"], "containerDefinitions[0].links");
    assert_eq!(report["files"][0]["problems"][0]["line"], 8);
}

#[test]
fn what_is_no_definition_is_refused_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let cases = [
        (file(directory.path(), "latin1.json", b"{\"family\": \"\xe4\"}"), "not UTF-8"),
        (file(directory.path(), "cut.json", b"{\n  \"family\": "), ":2:"),
        (file(directory.path(), "empty.json", b""), "empty.json"),
        (directory.path().to_str().unwrap().to_owned(), "cannot read"),
        ("/does/not/exist.json".to_owned(), "cannot read /does/not/exist.json: No such file"),
        ("/dev/zero".to_owned(), "larger than 1 MiB"),
    ];
    for (path, reason) in cases {
        let output = output(&["validate", &path]);
        assert_eq!(output.status.code(), Some(1), "{path}");
        assert!(stderr(&output).contains(reason), "{path}: {}", stderr(&output));
    }
}

#[test]
fn control_characters_of_a_file_do_not_reach_the_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let hostile = file(
        directory.path(),
        "hostile.json",
        br#"{"family": "\u001b[2Jx", "containerDefinitions": [{"name": "\u009b2J", "image": "i\u0007"}], "\u001b]0;t": 1}"#,
    );
    let output = output(&["validate", &hostile]);
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    assert!(!told.chars().any(|c| c.is_control() && c != '\n'), "{told:?}");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let directory = tempfile::tempdir().unwrap();
    let good = file(directory.path(), "good.json", GOOD);
    let files = vec![good.as_str(); 2000];
    let mut child =
        neargate(&[&["validate"], &files[..]].concat()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(told, "");
    assert_eq!(child.wait().unwrap().code(), Some(141));
}
