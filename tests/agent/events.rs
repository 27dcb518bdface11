//! What WatchEvents and `neargate events` tell of real tasks: everything, in order, once.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use proto::v1::observation_service_client::ObservationServiceClient;
use proto::v1::{Event, EventPosition, RunTaskRequest, WatchEventsRequest};
use serde_json::{Value, json};
use system_tests::binaries::built;
use system_tests::definition::{shell, task, with};
use system_tests::host::id;
use system_tests::{TestHost, eventually};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

/// From then on, whatever came before; an agent of this life has a position of it.
fn watch(
    host: &TestHost,
    request: WatchEventsRequest,
    mut done: impl FnMut(&Event) -> bool,
) -> Result<Vec<Event>, Status> {
    host.wait(async {
        let mut client = ObservationServiceClient::new(host.channel().await?);
        let mut stream = client.watch_events(request).await?.into_inner();
        let mut seen = Vec::new();
        while let Some(answer) = stream.next().await {
            seen.extend(answer?.event);
            if seen.last().is_some_and(&mut done) {
                break;
            }
        }
        Ok(seen)
    })
}

/// All that this agent remembers: from before it was started on.
fn remembered() -> WatchEventsRequest {
    WatchEventsRequest { since: Some(0.0), ..WatchEventsRequest::default() }
}

fn is_over(event: &Event) -> bool {
    event.r#type() == "TASK_STATUS" && event.status() == "STOPPED"
}

fn words(events: &[Event]) -> Vec<String> {
    let word = |event: &Event| match event.r#type() {
        "TASK_STATUS" => event.status().to_owned(),
        kind => format!("{kind} {}", event.container()),
    };
    events.iter().map(word).collect()
}

#[test]
fn each_step_of_a_task_is_told_in_order() {
    let host = TestHost::start();
    let image = host.image("base");
    let second = with(
        shell("second", &image, "exit 3"),
        json!({ "essential": false, "dependsOn": [{ "containerName": "first", "condition": "START" }] }),
    );
    let arn = host.run(&task("told", &[shell("first", &image, "sleep 2; exit 4"), second]));
    let seen = watch(&host, remembered(), is_over).unwrap();
    assert_eq!(seen[0].r#type(), "MISSED", "nobody knows what an earlier agent told");
    let of_task: Vec<Event> = seen.iter().filter(|event| event.task_arn() == arn).cloned().collect();
    let told = words(&of_task);
    let at = |word: &str| {
        let found: Vec<usize> = (0..told.len()).filter(|at| told[*at] == word).collect();
        assert_eq!(found.len(), 1, "{word} once in {told:?}");
        found[0]
    };
    // PROVISIONING is the status of tasks that wait for room.
    let order = [
        "PENDING",
        "ACTIVATING",
        "CONTAINER_CREATED first",
        "CONTAINER_STARTED first",
        "CONTAINER_CREATED second",
        "CONTAINER_STARTED second",
        "RUNNING",
        "DEACTIVATING",
        "STOPPING",
        "DEPROVISIONING",
        "STOPPED",
    ];
    assert!(order.iter().map(|word| at(word)).is_sorted(), "{told:?}");
    assert!(at("CONTAINER_EXITED second") > at("CONTAINER_STARTED second"), "{told:?}");
    assert!(at("CONTAINER_EXITED first") < at("DEACTIVATING"), "{told:?}");
    let code = |container: &str| {
        let exited = |event: &&Event| event.r#type() == "CONTAINER_EXITED" && event.container() == container;
        of_task.iter().find(exited).unwrap().exit_code
    };
    assert_eq!((code("first"), code("second")), (Some(4), Some(3)));
    assert_eq!(of_task.last().unwrap().stop_code(), "EssentialContainerExited");
    assert!(of_task.iter().all(|event| event.task_definition_arn().ends_with("/told:1")));
    let sequences: Vec<i64> = seen[1..].iter().map(|event| event.position.as_ref().unwrap().sequence()).collect();
    assert!(sequences.iter().copied().eq(1..=i64::try_from(sequences.len()).unwrap()), "no gap: {sequences:?}");
    assert!(seen[1..].iter().map(|event| event.timestamp()).is_sorted());
    let pulled = seen.iter().find(|event| event.r#type() == "IMAGE_PULLED").expect("the image was not here");
    assert_eq!(pulled.image(), image);

    host.remove_image(&image).unwrap();
    let only = WatchEventsRequest { types: vec!["IMAGE_REMOVED".into()], ..remembered() };
    let seen = watch(&host, only, |event| event.r#type() == "IMAGE_REMOVED").unwrap();
    assert_eq!(words(&seen), ["MISSED ", "IMAGE_REMOVED "]);
}

#[test]
fn health_and_want_of_memory_are_told() {
    let host = TestHost::start();
    let image = host.image("base");
    let check = json!({ "healthCheck": { "command": ["CMD-SHELL", "true"], "interval": 5, "retries": 1 } });
    let healthy = with(shell("healthy", &image, "sleep 1000"), check);
    let arn = host.run(&task("healthy", &[healthy]));
    let seen = watch(&host, remembered(), |event| event.r#type() == "CONTAINER_HEALTH").unwrap();
    assert_eq!(seen.last().unwrap().status(), "HEALTHY");
    host.stop(&arn, None).unwrap();
    // Shared memory that the limit does not allow.
    let greedy = with(shell("greedy", &image, "exec head -c 60000000 /dev/zero > /dev/shm/x"), json!({ "memory": 16 }));
    let ended = host.run_to_end(&task("greedy", &[greedy]));
    let request = WatchEventsRequest { tasks: vec![ended.task_arn().to_owned()], ..remembered() };
    let told = words(&watch(&host, request, is_over).unwrap());
    let at = |word: &str| told.iter().position(|told| told == word).unwrap_or_else(|| panic!("{word} in {told:?}"));
    assert!(at("CONTAINER_OOM greedy") < at("CONTAINER_EXITED greedy"), "{told:?}");
}

#[test]
fn of_a_hundred_quick_tasks_nothing_is_missed() {
    let host = TestHost::start();
    let definition = host.register(&task("quick", &[shell("c", &host.image("base"), "true")])).unwrap();
    let request = RunTaskRequest {
        task_definition: definition.task_definition_arn,
        count: Some(10),
        ..RunTaskRequest::default()
    };
    let mut arns = Vec::new();
    let mut seen = Vec::new();
    // Five at a time on this host, or so; each ten are waited for with a deadline of their own.
    for _ in 0..10 {
        let answer = host.run_task(request.clone()).unwrap();
        arns.extend(answer.tasks.iter().map(|task| task.task_arn().to_owned()));
        let mut left: Vec<&str> = answer.tasks.iter().map(|task| task.task_arn()).collect();
        let after = seen.last().map(|event: &Event| event.position.clone().unwrap());
        let from = WatchEventsRequest { after, families: vec!["quick".into()], ..remembered() };
        seen.extend(
            watch(&host, from, |event| {
                left.retain(|arn| !(is_over(event) && *arn == event.task_arn()));
                left.is_empty()
            })
            .unwrap(),
        );
    }
    let mut of_task: BTreeMap<&str, Vec<Event>> = BTreeMap::new();
    for event in &seen {
        of_task.entry(event.task_arn()).or_default().push(event.clone());
    }
    let whole = [
        "PENDING",
        "ACTIVATING",
        "CONTAINER_CREATED c",
        "CONTAINER_STARTED c",
        "RUNNING",
        "CONTAINER_EXITED c",
        "DEACTIVATING",
        "STOPPING",
        "DEPROVISIONING",
        "STOPPED",
    ];
    assert_eq!(arns.len(), 100);
    for arn in &arns {
        let mut told = words(&of_task[arn.as_str()]);
        // Of those that had to wait for room.
        told.retain(|word| word != "PROVISIONING");
        assert_eq!(told, whole, "{arn}");
    }
}

#[test]
fn a_watcher_goes_on_after_the_agent_was_killed() {
    let mut host = TestHost::start();
    let image = host.image("base");
    let arn = host.run(&task("on", &[shell("c", &image, "sleep 1000")]));
    host.running(&arn);
    let mut command = Command::new(built("neargate"));
    command.env("NEARGATE_SOCKET", host.root().join("run/neargated.sock")).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut watching = command.args(["events", "--json", "--since", "0", "--filter", "family=on"]).spawn().unwrap();
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let event: Value = serde_json::from_str(&line).expect("a line of JSON");
            if tell.send(event).is_err() {
                return;
            }
        }
    });
    let next = |kind: &str, status: Option<&str>| loop {
        let event = told.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("no {kind} {status:?}"));
        if event["type"] == kind && status.is_none_or(|status| event["status"] == status) {
            return event;
        }
    };
    let running = next("TASK_STATUS", Some("RUNNING"));
    host.kill9();
    host.restart();
    let resync = next("RESYNC", None);
    assert_ne!(resync["position"]["epoch"], running["position"]["epoch"], "another life");
    assert_eq!(next("TASK_STATUS", None)["status"], "RUNNING", "as it is");
    host.stop(&arn, None).unwrap();
    let stopped = next("TASK_STATUS", Some("STOPPED"));
    assert_eq!(stopped["stopCode"], "UserInitiated");
    assert_eq!(stopped["taskArn"], arn.as_str());
    watching.kill().unwrap();
    watching.wait().unwrap();

    // One that stopped while nobody watched is told as it is, to whoever has seen it run.
    let position = EventPosition { epoch: running["position"]["epoch"].as_str().map(str::to_owned), sequence: Some(1) };
    let since = running["timestamp"].as_f64();
    let request = WatchEventsRequest { after: Some(position), since, ..WatchEventsRequest::default() };
    let seen = watch(&host, request, is_over).unwrap();
    assert_eq!(words(&seen), ["RESYNC ", "STOPPED"]);
}

#[test]
fn the_command_line_tells_a_line_each_and_refuses_what_is_none() {
    let host = TestHost::start();
    let ended = host.run_to_end(&task("line", &[shell("c", &host.image("base"), "exit 7")]));
    let short = &id(ended.task_arn())[..8];
    // The end is told a moment after it can be seen.
    let text = eventually("its end is told", Duration::from_secs(60), || {
        let told = host.cli(&["events", "--since", "10m", "--until", "0s", "--filter", &format!("task={short}")]);
        assert!(told.status.success(), "{told:?}");
        let text = String::from_utf8(told.stdout).unwrap();
        text.contains(" status=STOPPED").then_some(text)
    });
    let exited =
        format!(" CONTAINER_EXITED task={} definition=line:1 container=c exit=7 image=", &id(ended.task_arn())[..12]);
    assert!(text.lines().any(|line| line.contains(&exited)), "{exited} is not in\n{text}");
    assert!(text.lines().last().unwrap().contains(" TASK_STATUS ") && text.contains(" status=STOPPED"), "{text}");
    let refused = host.cli(&["events", "--filter", "type=nonsense"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("Invalid type 'NONSENSE': use TASK_STATUS"),
        "{refused:?}"
    );
    let status = watch(&host, WatchEventsRequest { until: Some(f64::NAN), ..remembered() }, |_| true).unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "until must be a time in seconds."));
}
