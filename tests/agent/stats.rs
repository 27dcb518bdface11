//! What tasks use, as GetStats and `neargate stats` tell it of real containers that do something on purpose.

use std::fs::File;
use std::io::Read as _;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use nix::pty::openpty;
use proto::v1::observation_service_client::ObservationServiceClient;
use proto::v1::{ContainerStats, GetStatsRequest, GetStatsResponse, TaskStats, Usage};
use serde_json::{Value, json};
use system_tests::TestHost;
use system_tests::binaries::built;
use system_tests::definition::{shell, task, with};
use system_tests::eventually;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

/// Until a busy machine has let a container do what it is for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first so many measurements of `tasks`; fewer where the stream ends.
fn measure(host: &TestHost, tasks: &[&str], count: usize) -> Result<Vec<GetStatsResponse>, Status> {
    let tasks = tasks.iter().map(ToString::to_string).collect();
    let request = GetStatsRequest { tasks, interval: Some(0.5), ..GetStatsRequest::default() };
    host.wait(async {
        let mut client = ObservationServiceClient::new(host.channel().await?);
        let mut stream = client.get_stats(request).await?.into_inner().take(count);
        let mut found = Vec::new();
        while let Some(answer) = stream.next().await {
            found.push(answer?);
        }
        Ok(found)
    })
}

fn of_task<'a>(measured: &'a GetStatsResponse, task: &str) -> &'a TaskStats {
    measured.tasks.iter().find(|stats| stats.task_arn() == task).expect("the task is measured")
}

fn of_container(stats: &TaskStats, name: &str) -> Usage {
    let found = stats.containers.iter().find(|container| container.name() == name);
    found.and_then(|ContainerStats { usage, .. }| *usage).unwrap_or_else(|| panic!("{name} is not in {stats:?}"))
}

#[test]
fn processors_memory_and_processes_are_told_against_their_limits() {
    let host = TestHost::start();
    let image = host.image("base");
    let burner = shell("burner", &image, "while :; do :; done");
    // Shared memory is not given up as the cache of a file is.
    let script = "head -c 50000000 /dev/zero > /dev/shm/x; echo touched; sleep 1000";
    let eater = with(shell("eater", &image, script), json!({ "memory": 256 }));
    let parent = shell("parent", &image, "for i in 1 2 3 4 5; do sleep 1000 & done; wait");
    let definition = with(task("used", &[burner, eater, parent]), json!({ "cpu": "256", "memory": "512" }));
    let arn = host.run(&definition);
    host.running(&arn);
    eventually("the memory is touched", PATIENCE, || host.logs(&arn, "eater").contains("touched").then_some(()));
    let (first, second) = eventually("all do what they are for", PATIENCE, || {
        let mut measured = measure(&host, &[&arn], 2).unwrap().into_iter();
        let (first, second) = (measured.next().unwrap(), measured.next().unwrap());
        let stats = of_task(&second, &arn);
        let works = of_container(stats, "burner").cpu_percent() > 0.0 && of_container(stats, "parent").pids() == 6;
        works.then_some((first, second))
    });
    assert!(second.timestamp() > first.timestamp());
    let (before, after) = (of_task(&first, &arn), of_task(&second, &arn));

    let burner = of_container(after, "burner");
    assert_eq!(of_container(before, "burner").cpu_percent, None, "one measurement tells nothing of speed");
    assert!(burner.cpu_seconds() > of_container(before, "burner").cpu_seconds(), "{burner:?}");
    assert_eq!(burner.cpu_limit_percent, Some(25.0), "its task's");
    assert_eq!(burner.memory_limit_bytes, Some(f64::from(64 << 20)), "its own");

    let eater = of_container(after, "eater");
    assert!((50e6..200e6).contains(&eater.memory_bytes()), "{eater:?}");
    assert_eq!(eater.memory_limit_bytes, Some(f64::from(256 << 20)));
    assert_eq!(eater.oom_kills, Some(0));

    let whole = after.usage.unwrap();
    assert_eq!((whole.cpu_limit_percent, whole.memory_limit_bytes), (Some(25.0), Some(f64::from(512 << 20))));
    assert!(whole.memory_bytes() >= eater.memory_bytes() / 2.0, "all together: {whole:?}");
    assert!(whole.pids() >= 8, "all together: {whole:?}");
    assert_eq!(whole.pids_limit, Some(200), "as configured");
}

#[test]
fn what_has_stopped_cannot_be_measured_and_ends_the_stream() {
    let host = TestHost::start();
    let image = host.image("base");
    let ended = host.run_to_end(&task("ended", &[shell("c", &image, "true")]));
    let status = measure(&host, &[ended.task_arn()], 1).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("has stopped: there is nothing to measure"), "{status}");
    let told = host.cli(&["stats", "--no-stream", system_tests::host::id(ended.task_arn())]);
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    assert!(String::from_utf8_lossy(&told.stderr).contains("has stopped"), "{told:?}");

    let arn = host.run(&task("ends", &[shell("c", &image, "sleep 2")]));
    host.running(&arn);
    // Ends with the task: `wait` gives up after a minute.
    measure(&host, &[&arn], usize::MAX).unwrap();
    host.stopped(&arn);

    let refused = |request: GetStatsRequest| {
        host.wait(async { ObservationServiceClient::new(host.channel().await?).get_stats(request).await }).unwrap_err()
    };
    let status = refused(GetStatsRequest { interval: Some(0.01), ..Default::default() });
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "interval must be 0.1 to 3600 seconds."));
    assert_eq!(
        refused(GetStatsRequest { interval: Some(f64::NAN), ..Default::default() }).code(),
        Code::InvalidArgument
    );
    let status = refused(GetStatsRequest { tasks: vec!["0".repeat(32)], ..Default::default() });
    assert_eq!(status.message(), "The referenced task was not found.");
}

#[test]
fn the_command_line_shows_a_table_or_json() {
    let host = TestHost::start();
    let nothing = host.cli(&["stats", "--no-stream"]);
    assert!(nothing.status.success(), "{nothing:?}");
    assert!(String::from_utf8_lossy(&nothing.stdout).starts_with("TASK   CONTAINER   CPU % / LIMIT"), "{nothing:?}");

    let arn = host.run(&task("shown", &[shell("shown", &host.image("base"), "sleep 1000")]));
    host.running(&arn);
    let table = host.cli(&["stats", "--no-stream", "--interval", "0.2", &system_tests::host::id(&arn)[..8]]);
    let text = String::from_utf8(table.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[1].contains(" shown ") && lines[1].contains(" / 64.0 MiB"), "{text}");
    assert!(!text.contains('\x1b'), "a pipe is no terminal: {text:?}");
    let answer = host.cli(&["stats", "--no-stream", "--interval", "0.2", "--json"]);
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(answer["tasks"][0]["taskArn"].as_str(), Some(arn.as_str()));
    assert!(answer["tasks"][0]["containers"][0]["usage"]["cpuPercent"].is_number(), "{answer}");
}

#[test]
fn on_a_terminal_the_table_is_drawn_again_in_place() {
    let host = TestHost::start();
    let arn = host.run(&task("live", &[shell("live", &host.image("base"), "sleep 1000")]));
    host.running(&arn);
    let pty = openpty(None, None).unwrap();
    let mut command = std::process::Command::new(built("neargate"));
    command.env("NEARGATE_SOCKET", host.root().join("run/neargated.sock")).args(["stats", "--interval", "0.2"]);
    let mut live = command.stdin(Stdio::null()).stdout(pty.slave).stderr(Stdio::null()).spawn().unwrap();
    // The command holds the terminal open too.
    drop(command);
    let (tell, told) = mpsc::channel();
    let mut screen = File::from(pty.master);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = screen.read(&mut buffer) {
            if length == 0 || tell.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut drawn = String::new();
    while drawn.matches("\x1b[H").count() < 3 {
        let more = told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it is not drawn again: {drawn:?}"));
        drawn.push_str(&String::from_utf8_lossy(&more));
    }
    let tables: Vec<&str> = drawn.split("\x1b[H").collect();
    assert!(tables[1].contains(" live ") && tables[1].contains(" - / -"), "the first tells no speed: {drawn:?}");
    assert!(tables[2].contains("% / -"), "the second does: {drawn:?}");
    assert!(tables[2].ends_with("\x1b[J"), "what was below is cleared: {drawn:?}");
    live.kill().unwrap();
    live.wait().unwrap();
}
