//! What a task's start took, as GetTiming and `neargate describe --timing` tell it, and as spans in the agent's log.

use std::os::unix::fs::MetadataExt as _;

use proto::v1::observation_service_client::ObservationServiceClient;
use proto::v1::{GetTimingRequest, GetTimingResponse, TaskPhase};
use serde_json::{Value, json};
use system_tests::TestHost;
use system_tests::definition::{shell, task, with};
use system_tests::host::id;
use tonic::{Code, Status};

fn timing(host: &TestHost, task: &str) -> Result<GetTimingResponse, Status> {
    let request = GetTimingRequest { task: Some(task.to_owned()), ..GetTimingRequest::default() };
    let answer = host.wait(async { ObservationServiceClient::new(host.channel().await?).get_timing(request).await })?;
    Ok(answer.into_inner())
}

fn find<'a>(timing: &'a GetTimingResponse, phase: &str, container: &str) -> &'a TaskPhase {
    let found = timing.phases.iter().find(|found| found.phase() == phase && found.container() == container);
    found.unwrap_or_else(|| panic!("no phase {phase} of {container:?} in {:?}", timing.phases))
}

#[test]
fn every_phase_from_run_task_to_exec_is_told() {
    let host = TestHost::start();
    let image = host.image("base");
    let second = with(
        shell("second", &image, "true"),
        json!({ "essential": false, "dependsOn": [{ "containerName": "first", "condition": "START" }] }),
    );
    let arn = host
        .run(&with(task("timed", &[shell("first", &image, "sleep 60"), second]), json!({ "networkMode": "bridge" })));
    host.running(&arn);
    let timing = timing(&host, &arn).unwrap();
    let all = timing.milliseconds.expect("both were executed");
    for phase in ["admission", "store", "directories", "cgroup", "namespaces"] {
        let found = find(&timing, phase, "");
        assert!(found.milliseconds() >= 0.0 && found.begins_at() <= all, "{found:?}");
    }
    for container in ["first", "second"] {
        for phase in ["pull", "bundle", "execute"] {
            assert_eq!(find(&timing, phase, container).part_of, None);
        }
        let execute = find(&timing, "execute", container);
        let parts: Vec<_> = ["monitor", "plan", "limits", "clone", "mounts", "init", "exec", "record"]
            .iter()
            .map(|phase| find(&timing, phase, container))
            .collect();
        assert!(parts.iter().all(|part| part.part_of() == "execute"), "{parts:?}");
        // The monitor's own clock and the agent's are one: its steps fit in between without a gap.
        let mut at = execute.begins_at();
        for part in &parts {
            assert!((part.begins_at() - at).abs() < 1e-3, "{part:?} begins at {at}");
            at += part.milliseconds();
        }
        assert!((at - execute.begins_at() - execute.milliseconds()).abs() < 1e-3, "{execute:?} {parts:?}");
        // A process cannot be cloned, mounted for and executed in no time: each was noted.
        assert!(parts[3..7].iter().all(|part| part.milliseconds() > 0.0), "{parts:?}");
        let executed = parts[6].begins_at() + parts[6].milliseconds();
        assert!(executed <= all + 1e-3, "{executed} is not after the last, {all}");
    }
    let first = find(&timing, "execute", "first");
    assert!(find(&timing, "execute", "second").begins_at() >= first.begins_at() + first.milliseconds());
    assert!(timing.phases.iter().map(|phase| phase.begins_at()).is_sorted());
}

#[test]
fn the_command_line_shows_the_timing_of_a_task_that_has_ended() {
    let mut host = TestHost::start();
    let ended = host.run_to_end(&task("ended", &[shell("c", &host.image("base"), "true")]));
    let task = id(ended.task_arn()).to_owned();
    let shown = host.cli(&["describe", "--timing", &task[..8]]);
    assert!(shown.status.success(), "{shown:?}");
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.lines().next().unwrap().ends_with(" ms from RunTask to exec"), "{text}");
    for word in ["admission", "pull", "execute", "  clone", "  exec"] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }
    let answer: Value = serde_json::from_slice(&host.cli(&["describe", "--timing", "--json", &task]).stdout).unwrap();
    assert_eq!(answer["timings"][0]["taskArn"].as_str(), Some(ended.task_arn()));
    let missing = host.cli(&["describe", "--timing", &"0".repeat(32)]);
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");

    host.kill9();
    host.restart();
    let status = timing(&host, &task).unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("an earlier agent accepted it"), "{status}");
}

#[test]
fn phases_are_spans_and_lines_for_journald_have_priorities() {
    let mut host = TestHost::start();
    host.terminate();
    // The agent appends to this file, as it would to the journal's socket.
    let log = std::fs::metadata(host.scratch().join("neargated.log")).unwrap();
    host.environment("JOURNAL_STREAM", &format!("{}:{}", log.dev(), log.ino()));
    host.environment("RUST_LOG", "info,agent=debug");
    let before = host.last_words().len();
    host.restart();
    let ended = host.run_to_end(&task("spans", &[shell("c", &host.image("base"), "true")]));
    let words = host.last_words();
    let lines: Vec<&str> = words[before..].lines().collect();
    assert!(lines.iter().all(|line| line.starts_with(['<'])), "without a priority: {lines:?}");
    let span = format!(
        "<7>task{{id={}}}:phase{{phase=\"clone\" part_of=\"execute\" container=\"c\"}}: ",
        id(ended.task_arn())
    );
    assert!(lines.iter().any(|line| line.starts_with(&span) && line.contains("milliseconds=")), "{span}\n{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("<6>") && line.contains("ready")), "{lines:#?}");
}
