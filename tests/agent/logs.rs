//! Logs and commands through gRPC.

use proto::v1::{ExecuteCommandStart, GetLogsRequest, KeyValuePair};
use serde_json::json;
use system_tests::TestHost;
use system_tests::definition::{shell, task, with};
use tonic::Code;

#[test]
fn following_a_log_ends_with_the_container_and_misses_nothing() {
    let host = TestHost::start();
    let script = "for i in $(seq 1 40); do echo $i; sleep 0.02; done";
    let arn = host.run(&task("followed", &[shell("c", &host.image("base"), script)]));
    let request = GetLogsRequest { task: Some(arn.clone()), follow: Some(true), ..Default::default() };
    let entries = host.log_entries(request).unwrap();
    let text: Vec<u8> = entries.iter().flat_map(|entry| entry.data.clone().unwrap_or_default()).collect();
    let wanted: String = (1..=40).map(|number| format!("{number}\n")).collect();
    assert_eq!(String::from_utf8(text).unwrap(), wanted);
    assert!(entries.iter().all(|entry| entry.stream() == "stdout" && entry.container() == "c"));
    assert!(entries.windows(2).all(|pair| pair[0].timestamp() <= pair[1].timestamp()));
    host.stopped(&arn);
}

#[test]
fn logs_are_rotated_by_size_and_the_oldest_goes() {
    let host = TestHost::start();
    let log =
        json!({ "logConfiguration": { "logDriver": "json-file", "options": { "max-size": "4k", "max-file": "3" } } });
    let container = with(
        shell(
            "c",
            &host.image("base"),
            "seq -f 'number %05.0f' 1 2000 2>/dev/null || for i in $(seq 1 2000); do echo number $i; done",
        ),
        log,
    );
    let arn = host.run(&task("rotated", &[container]));
    host.stopped(&arn);
    let logs = host.task_directory(&arn).join("logs");
    let mut names: Vec<String> =
        std::fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["c.log", "c.log.1", "c.log.2"]);
    for name in &names {
        let text = std::fs::read_to_string(logs.join(name)).unwrap();
        assert!(text.len() <= 4096, "{name} has {} bytes", text.len());
        assert!(
            text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
            "{name} has a torn line"
        );
    }
    let numbers: Vec<u32> =
        host.logs(&arn, "c").lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers.last(), Some(&2000));
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "what is kept has no gap");
    assert!(numbers.len() < 2000);
}

#[test]
fn the_last_lines_alone_can_be_asked_for() {
    let host = TestHost::start();
    let arn = host.run(&task("tail", &[shell("c", &host.image("base"), "seq 1 100")]));
    host.stopped(&arn);
    let request = GetLogsRequest { task: Some(arn), tail: Some(3), ..Default::default() };
    let text: Vec<u8> = host.log_entries(request).unwrap().into_iter().flat_map(|entry| entry.data.unwrap()).collect();
    assert_eq!(String::from_utf8(text).unwrap(), "98\n99\n100\n");
}

#[test]
fn a_command_has_input_output_and_an_exit_code_of_its_own() {
    let host = TestHost::start();
    // The longest name that ECS takes, as it is part of many paths.
    let name = "c".repeat(255);
    let script = "echo started; trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let arn = host.run(&task("exec", &[shell(&name, &host.image("base"), script)]));
    host.running(&arn);
    let start = |words: &[&str]| ExecuteCommandStart {
        task: Some(arn.clone()),
        command: words.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    let done =
        host.exec(start(&["/bin/sh", "-c", "cat; echo problem >&2; exit 17"]), Some("through\nand through\n")).unwrap();
    assert_eq!(
        (done.stdout.as_str(), done.stderr.as_str(), done.exit_code),
        ("through\nand through\n", "problem\n", Some(17))
    );

    let pair = KeyValuePair { name: Some("GIVEN".into()), value: Some("value".into()) };
    let asked = ExecuteCommandStart {
        user: Some("app".into()),
        working_directory: Some("/tmp".into()),
        environment: vec![pair],
        ..start(&["/bin/sh", "-c", "id -u; pwd; echo $GIVEN"])
    };
    assert_eq!(host.exec(asked, None).unwrap().stdout, "1000\n/tmp\nvalue\n");

    let killed = host.exec(start(&["/bin/sh", "-c", "kill -9 $$"]), None).unwrap();
    assert_eq!(killed.exit_code, Some(137));
    let missing = host.exec(start(&["/no/such/program"]), None).unwrap();
    assert!(missing.stderr.contains("/no/such/program") && missing.exit_code == Some(127), "{missing:?}");

    let terminal = ExecuteCommandStart { pseudo_terminal: Some(true), ..start(&["/bin/sh", "-c", "test -t 0 && tty"]) };
    let done = host.exec(terminal, Some("")).unwrap();
    assert!(done.stdout.starts_with("/dev/pts/"), "{done:?}");
    let request = GetLogsRequest { task: Some(arn), ..Default::default() };
    assert_eq!(host.log_entries(request).unwrap()[0].data.as_deref(), Some(&b"started\n"[..]));
}

#[test]
fn much_output_of_a_command_arrives_whole() {
    let host = TestHost::start();
    let arn =
        host.run(&task("much", &[shell("c", &host.image("base"), "trap 'exit 0' TERM; while :; do sleep 0.05; done")]));
    host.running(&arn);
    assert_eq!(host.inside(&arn, "c", "head -c 5000000 /dev/zero | tr '\\0' x").len(), 5_000_000);
}

#[test]
fn a_command_in_a_stopped_container_is_refused() {
    let host = TestHost::start();
    let arn = host.run(&task("over", &[shell("c", &host.image("base"), "exit 0")]));
    host.stopped(&arn);
    let start = ExecuteCommandStart { task: Some(arn), command: vec!["true".into()], ..Default::default() };
    assert_eq!(host.exec(start, None).unwrap_err().code(), Code::FailedPrecondition);
}

#[test]
fn output_of_many_kinds_is_kept_as_docker_keeps_it() {
    let host = TestHost::start();
    // A long line, invalid UTF-8 and a last line without its end.
    let script = "head -c 40000 /dev/zero | tr '\\0' a; echo; printf '\\377\\n'; printf end";
    let arn = host.run(&task("kinds", &[shell("c", &host.image("base"), script)]));
    host.stopped(&arn);
    let text = host.logs(&arn, "c");
    assert_eq!(text, format!("{}\n\u{fffd}\nend", "a".repeat(40000)));
    let file = std::fs::read_to_string(host.task_directory(&arn).join("logs/c.log")).unwrap();
    let longest = file
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["log"].as_str().unwrap().len());
    assert_eq!(longest.max(), Some(16 * 1024), "longer lines are split there");
}
