//! A disk without room: tasks go on, no exit code is lost, and the agent says so once and works again once there is
//! room. The agent's root is a small file system of the test's own.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use proto::v1::RunTaskRequest;
use serde_json::json;
use system_tests::definition::{gated, shell, task, with};
use system_tests::{TestHost, eventually};
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(60);
const NO_ROOM: &str = "No space left on device";
const FAILS: &str = "the store cannot be written";
const WORKS: &str = "the store can be written again";

/// Takes the last byte of the root's file system.
fn fill(host: &TestHost) -> PathBuf {
    let path = host.root().join("fill");
    let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    for chunk in [1 << 20, 4096, 1] {
        while file.write_all(&vec![0; chunk]).is_ok() {}
    }
    path
}

/// Fills what the store's file has room for, too: until definitions of no size can be stored any more.
fn fill_store(host: &TestHost) {
    for bytes in [60_000, 6_000, 100] {
        let environment = json!({ "environment": [{ "name": "X", "value": "x".repeat(bytes) }] });
        let large = task("large", &[with(shell("c", &host.image("base"), "true"), environment)]);
        let mut refused = 0;
        for _ in 0..2000 {
            match host.register(&large) {
                Ok(_) => refused = 0,
                Err(status) => {
                    assert_eq!(status.code(), Code::Internal, "{status}");
                    assert!(status.message().contains(NO_ROOM), "{status}");
                    refused += 1;
                }
            }
            if refused == 3 {
                break;
            }
        }
        assert_eq!(refused, 3, "the store was never full");
        fill(host);
    }
}

#[test]
fn a_full_store_stops_no_task_and_loses_no_exit_code() {
    let mut host = TestHost::on_small_disk(64, 100_000);
    let (gate, image) = (host.gate(), host.image("base"));
    let until = |file: &str, code: u8| format!("while [ ! -e /gate/{file} ]; do sleep 0.02; done; exit {code}");
    let long = host.run(&gated(task("long", &[shell("c", &image, &until("long", 7))]), &gate));
    let quick = host.run(&gated(task("quick", &[shell("c", &image, &until("quick", 9))]), &gate));
    for arn in [&long, &quick] {
        host.running(arn);
    }
    let filled = fill(&host);
    fill_store(&host);
    // Where the record finds room after all, the bundle does not.
    let request = RunTaskRequest { task_definition: Some("quick".to_owned()), ..RunTaskRequest::default() };
    match host.run_task(request.clone()) {
        Err(status) => assert!(status.code() == Code::Internal && status.message().contains(NO_ROOM), "{status}"),
        Ok(accepted) => {
            let ended = host.stopped(accepted.tasks[0].task_arn());
            assert_eq!(ended.stop_code(), "TaskFailedToStart");
            assert!(ended.stopped_reason().contains(NO_ROOM), "{ended:?}");
        }
    }
    File::create(gate.join("quick")).unwrap();
    assert_eq!(host.stopped(&quick).containers[0].exit_code, Some(9));
    assert_eq!(host.describe(&long).last_status(), "RUNNING");
    assert_eq!(host.inside(&long, "c", "echo alive"), "alive\n");
    eventually("it is told", PATIENCE, || host.last_words().contains(FAILS).then_some(()));
    fs::remove_file(&filled).unwrap();
    eventually("it is got over", PATIENCE, || host.last_words().contains(WORKS).then_some(()));
    assert_eq!(host.last_words().matches(FAILS).count(), 1, "{}", host.last_words());
    // A new agent knows of it only by the store.
    host.kill9();
    host.restart();
    assert_eq!(host.describe(&quick).containers[0].exit_code, Some(9));
    assert_eq!(host.describe(&quick).last_status(), "STOPPED");
    let again = host.run_task(request).unwrap();
    assert_eq!(host.stopped(again.tasks[0].task_arn()).containers[0].exit_code, Some(9));
    File::create(gate.join("long")).unwrap();
    assert_eq!(host.stopped(&long).containers[0].exit_code, Some(7));
}

/// Numbers of the lines in a container's log, and what the log says of lost ones.
fn lines(host: &TestHost, arn: &str) -> (Vec<u64>, Vec<u64>) {
    let log = host.logs(arn, "c");
    let number = |line: &str, nth: usize| line.split(' ').nth(nth).and_then(|word| word.parse().ok());
    let lost = log.lines().filter(|line| line.starts_with("neargate: ")).filter_map(|line| number(line, 1)).collect();
    (log.lines().filter(|line| line.starts_with("line ")).filter_map(|line| number(line, 1)).collect(), lost)
}

#[test]
fn a_log_without_room_holds_nobody_up_and_tells_what_was_lost() {
    let host = TestHost::on_small_disk(64, 100_000);
    let (gate, image) = (host.gate(), host.image("base"));
    let script = format!(
        "i=0; while [ ! -e /gate/end ]; do i=$((i+1)); echo line $i {}; echo $i > /gate/new; mv /gate/new /gate/count; \
         done; exit 11",
        "x".repeat(300)
    );
    let arn = host.run(&gated(task("logging", &[shell("c", &image, &script)]), &gate));
    host.running(&arn);
    let count = || fs::read_to_string(gate.join("count")).ok().and_then(|text| text.trim().parse::<u64>().ok());
    eventually("it writes", PATIENCE, || count().filter(|count| *count > 10));
    let filled = fill(&host);
    let log = host.task_directory(&arn).join("logs/c.log");
    let written = || u64::try_from(fs::read_to_string(&log).unwrap().lines().count()).unwrap();
    // It goes on though its lines cannot be kept.
    eventually("lines are lost", PATIENCE, || count().filter(|count| *count > written() + 300));
    assert_eq!(host.describe(&arn).last_status(), "RUNNING");
    fs::remove_file(filled).unwrap();
    eventually("that is told", PATIENCE, || (!lines(&host, &arn).1.is_empty()).then_some(()));
    let told = lines(&host, &arn).0.len();
    eventually("it is written again", PATIENCE, || (lines(&host, &arn).0.len() > told + 10).then_some(()));
    File::create(gate.join("end")).unwrap();
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(11));
    let last = count().unwrap();
    let (numbers, lost) = lines(&host, &arn);
    assert!(numbers.is_sorted_by(|a, b| a < b), "a line is doubled or out of its place");
    assert_eq!(numbers.last(), Some(&last));
    let kept = u64::try_from(numbers.len()).unwrap();
    assert_eq!(kept + lost.iter().sum::<u64>(), last, "what is not there is counted: {lost:?}");
}
