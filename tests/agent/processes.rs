//! Processes that behave badly, or are treated badly: whatever happens to a container's processes, the task ends in a
//! told way and nothing of it is left.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use system_tests::definition::{shell, task, with};
use system_tests::host::id;
use system_tests::{TestHost, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

/// Pid of a container's monitor or init as the kernel of the host knows it.
fn pid(host: &TestHost, arn: &str, which: &str) -> Pid {
    let text = fs::read_to_string(host.bundle(arn, "c").join("monitor.json")).unwrap();
    let record: Value = serde_json::from_str(&text).unwrap();
    Pid::from_raw(i32::try_from(record[which]["pid"].as_i64().unwrap()).unwrap())
}

/// Gone, or dead and not waited for by whose child it became.
fn is_over(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// Whether any process of the host has this word among its arguments.
fn somebody_has(word: &str) -> bool {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let own = std::process::id().to_string();
    let others = entries.filter(|entry| entry.file_name().to_string_lossy() != own);
    let line = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).unwrap_or_default();
    others.map(line).any(|line| String::from_utf8_lossy(&line).contains(word))
}

#[test]
fn a_killed_monitor_takes_its_container_along_and_is_told() {
    let host = TestHost::start();
    let arn = host.run(&task("monitor", &[shell("c", &host.image("base"), "echo up; exec sleep 1000")]));
    host.running(&arn);
    let init = pid(&host, &arn, "init");
    kill(pid(&host, &arn, "monitor"), Signal::SIGKILL).unwrap();
    let ended = host.stopped(&arn);
    let container = &ended.containers[0];
    assert_eq!(container.exit_code, None, "nobody knows it");
    assert!(container.reason().starts_with("ContainerVanishedError: "), "{container:?}");
    assert_eq!(ended.stop_code(), "EssentialContainerExited");
    assert!(is_over(init), "the container outlives its monitor");
    assert_eq!(host.logs(&arn, "c"), "up\n");
}

#[test]
fn a_monitor_killed_while_the_agent_is_away_is_told_too() {
    let mut host = TestHost::start();
    // Beside one that goes on.
    let definition = task("away", &[shell("c", &host.image("base"), FOREVER)]);
    let (arn, other) = (host.run(&definition), host.run(&definition));
    for arn in [&arn, &other] {
        host.running(arn);
    }
    host.kill9();
    kill(pid(&host, &arn, "monitor"), Signal::SIGKILL).unwrap();
    host.restart();
    let ended = host.stopped(&arn);
    assert_eq!(ended.containers[0].exit_code, None);
    assert!(ended.containers[0].reason().starts_with("ContainerVanishedError: "), "{ended:?}");
    assert_eq!(host.describe(&other).last_status(), "RUNNING");
}

#[test]
fn a_killed_init_has_the_code_of_its_signal() {
    let host = TestHost::start();
    let arn = host.run(&task("init", &[shell("c", &host.image("base"), "sleep 1000 & exec sleep 1000")]));
    host.running(&arn);
    kill(pid(&host, &arn, "init"), Signal::SIGKILL).unwrap();
    let ended = host.stopped(&arn);
    assert_eq!((ended.containers[0].exit_code, ended.stop_code()), (Some(137), "EssentialContainerExited"));
    assert_eq!(ended.containers[0].reason, None, "it was not for want of memory");
}

/// By the old recipe: fork, a session of its own, fork again, and the parent is gone.
#[test]
fn daemons_go_with_their_container_whosever_children_they_became() {
    let host = TestHost::start();
    for (mode, word) in [(None, "47110815"), (Some("task"), "47110816"), (Some("host"), "47110817")] {
        let daemon = format!("(setsid sh -c '(trap \"\" TERM HUP; echo > /tmp/up; exec sleep {word}) &' &)");
        let script = format!("{daemon}; while [ ! -e /tmp/up ]; do sleep 0.02; done; exit 5");
        let mut definition = task("daemon", &[shell("c", &host.image("base"), &script)]);
        if let Some(mode) = mode {
            definition = with(definition, json!({ "pidMode": mode }));
        }
        let ended = host.run_to_end(&definition);
        assert_eq!(ended.containers[0].exit_code, Some(5), "{mode:?}: {ended:?}");
        assert!(!somebody_has(word), "pidMode {mode:?}: the daemon outlives its container");
    }
}

#[test]
fn a_fork_bomb_stays_within_its_limit_and_harms_nobody() {
    let host = TestHost::start();
    // A shell that cannot fork ends, and another one takes its place; pid 1 itself never forks again.
    let script = "(b() { while :; do b & done; }; b) 2>/dev/null & exec sleep 1000";
    let limits = json!({ "cpu": 2, "stopTimeout": 2 });
    let arn = host.run(&task("bomb", &[with(shell("c", &host.image("base"), script), limits)]));
    host.running(&arn);
    let read = |file: &str| -> u64 {
        let text = host.cgroup_file(&arn, "", "pids", file).expect("the host has the pids controller");
        text.parse().unwrap_or_else(|_| panic!("{file}: {text}"))
    };
    let limit = read("pids.max");
    assert_eq!(limit, 200, "ECS_TASK_PIDS_LIMIT");
    eventually("the bomb reaches its limit", PATIENCE, || (read("pids.current") > limit - 20).then_some(()));
    assert!(read("pids.current") <= limit);
    let other = host.run_to_end(&task("beside", &[shell("c", &host.image("base"), "exit 6")]));
    assert_eq!(other.containers[0].exit_code, Some(6));
    host.stop(&arn, None).unwrap();
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(137));
}

/// The file that freezes a container's processes, and the words for frozen and not, on cgroup v1 and v2.
fn freezer(host: &TestHost, arn: &str, container: &str) -> (PathBuf, [&'static str; 2]) {
    let group = format!("neargate-{}/{}/{container}", host.instance(), id(arn));
    let v1 = Path::new("/sys/fs/cgroup/freezer").join(&group).join("freezer.state");
    if v1.exists() {
        return (v1, ["FROZEN", "THAWED"]);
    }
    (Path::new("/sys/fs/cgroup").join(&group).join("cgroup.freeze"), ["1", "0"])
}

#[test]
fn a_frozen_container_can_be_stopped() {
    let host = TestHost::start();
    // The container's own group, and that of its task.
    for group in ["c", ""] {
        let container = with(shell("c", &host.image("base"), FOREVER), json!({ "stopTimeout": 2 }));
        let arn = host.run(&task("frozen", &[container]));
        host.running(&arn);
        let (file, [frozen, _]) = freezer(&host, &arn, group);
        File::options().write(true).open(&file).unwrap().write_all(frozen.as_bytes()).unwrap();
        host.stop(&arn, None).unwrap();
        let ended = host.stopped(&arn);
        assert!([Some(0), Some(137)].contains(&ended.containers[0].exit_code), "{ended:?}");
    }
}

#[test]
fn a_frozen_container_holds_no_other_up_and_goes_on_when_it_is_thawed() {
    let mut host = TestHost::start();
    let arn = host.run(&task("frozen", &[shell("c", &host.image("base"), FOREVER)]));
    host.running(&arn);
    let (file, [frozen, thawed]) = freezer(&host, &arn, "c");
    let put = |word: &str| File::options().write(true).open(&file).unwrap().write_all(word.as_bytes()).unwrap();
    put(frozen);
    host.kill9();
    host.restart();
    assert_eq!(host.describe(&arn).last_status(), "RUNNING");
    let other = host.run_to_end(&task("beside", &[shell("c", &host.image("base"), "exit 6")]));
    assert_eq!(other.containers[0].exit_code, Some(6));
    put(thawed);
    host.stop(&arn, None).unwrap();
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(0));
}

#[test]
fn a_hundred_crashing_tasks_keep_no_new_one_from_starting() {
    let host = TestHost::start();
    let image = host.image("base");
    host.register(&task("crashes", &[shell("c", &image, "exit 1")])).unwrap();
    let request = || proto::v1::RunTaskRequest {
        task_definition: Some("crashes".to_owned()),
        ..proto::v1::RunTaskRequest::default()
    };
    std::thread::scope(|scope| {
        let looping = |_| {
            scope.spawn(|| {
                for _ in 0..25 {
                    // As a supervisor would: the next as soon as one is over.
                    let arn = host.run_task(request()).unwrap().tasks[0].task_arn().to_owned();
                    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(1));
                }
            })
        };
        let loops: Vec<_> = (0..4).map(looping).collect();
        let arn = host.run(&task("new", &[shell("c", &image, FOREVER)]));
        host.running(&arn);
        assert!(loops.iter().any(|crashing| !crashing.is_finished()), "it did not start beside them");
        assert_eq!(host.inside(&arn, "c", "echo alive"), "alive\n");
        for crashing in loops {
            crashing.join().unwrap();
        }
        assert_eq!(host.describe(&arn).last_status(), "RUNNING");
        host.stop(&arn, None).unwrap();
        assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(0));
    });
}
