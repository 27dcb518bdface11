//! Limits of cpu, memory and open files, exceeded on purpose, and what is told of it.

use std::time::{Duration, Instant};

use serde_json::json;
use system_tests::TestHost;
use system_tests::definition::{shell, task, with};
use system_tests::eventually::{eventually, stays};

use super::running;

const OUT_OF_MEMORY: &str = "OutOfMemoryError: Container killed due to memory usage";

/// dd has a buffer of one block, and fills it.
fn allocating(mebibytes: u32) -> String {
    format!("exec dd if=/dev/zero of=/dev/null bs={mebibytes}M count=1")
}

#[test]
fn beyond_the_containers_memory_is_137_and_told() {
    let host = TestHost::start();
    let image = host.image("base");
    let container = |mebibytes| with(shell("c", &image, &allocating(mebibytes)), json!({ "memory": 32 }));
    let ended = host.run_to_end(&task("too-much", &[container(200)]));
    assert_eq!((ended.containers[0].exit_code, ended.containers[0].reason()), (Some(137), OUT_OF_MEMORY));
    let ended = host.run_to_end(&task("enough", &[container(16)]));
    assert_eq!((ended.containers[0].exit_code, ended.containers[0].reason()), (Some(0), ""));
}

#[test]
fn beyond_the_tasks_memory_is_137_and_told() {
    let host = TestHost::start();
    let container = with(shell("c", &host.image("base"), &allocating(200)), json!({ "memoryReservation": 8 }));
    let ended = host.run_to_end(&with(task("too-much", &[container]), json!({ "memory": "32" })));
    assert_eq!((ended.containers[0].exit_code, ended.containers[0].reason()), (Some(137), OUT_OF_MEMORY));
}

/// v1 counts memory and swap together.
#[test]
fn no_swap_lies_beyond_a_limit_of_memory() {
    let host = TestHost::start();
    let arn = running(&host, json!({ "memory": 32 }), json!({ "memory": "48" }));
    let of = |container: &str, file: &str| host.cgroup_file(&arn, container, "memory", file).unwrap();
    for (container, mebibytes) in [("c", 32_u64), ("", 48)] {
        for file in ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"] {
            assert_eq!(of(container, file), (mebibytes << 20).to_string(), "{container} {file}");
        }
    }
}

#[test]
fn a_killed_child_does_not_end_its_container() {
    let host = TestHost::start();
    let script = "dd if=/dev/zero of=/dev/null bs=200M count=1; echo dd $?; exit 6";
    let arn = host.run(&task("child", &[with(shell("c", &host.image("base"), script), json!({ "memory": 32 }))]));
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(6));
    assert!(host.logs(&arn, "c").contains("dd 137"), "{}", host.logs(&arn, "c"));
}

#[test]
fn the_tasks_cpu_is_a_hard_limit_that_throttles() {
    let host = TestHost::start();
    let container = shell("c", &host.image("base"), "while :; do :; done & while :; do :; done");
    let container = with(container, json!({ "stopTimeout": 2 }));
    let arn = host.run(&with(task("busy", &[container]), json!({ "cpu": "128" })));
    host.running(&arn);
    let microseconds = || -> u64 {
        if let Some(nanoseconds) = host.cgroup_file(&arn, "", "cpuacct", "cpuacct.usage") {
            return nanoseconds.parse::<u64>().unwrap() / 1000;
        }
        let stat = host.cgroup_file(&arn, "", "cpu", "cpu.stat").unwrap();
        stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap().parse().unwrap()
    };
    let (before, from) = (microseconds(), Instant::now());
    stays(Duration::from_secs(3), || true);
    let used = Duration::from_micros(microseconds() - before).as_secs_f64() / from.elapsed().as_secs_f64();
    assert!(used < 0.20, "an eighth of a processor was allowed, {used:.3} were used");
    assert!(used > 0.02, "it ran: {used:.3}");
    let stat = host.cgroup_file(&arn, "", "cpu", "cpu.stat").unwrap();
    let throttled = stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap();
    assert!(throttled.parse::<u64>().unwrap() > 5, "{stat}");
}

#[test]
fn a_containers_cpu_is_a_weight() {
    let host = TestHost::start();
    let arn = running(&host, json!({ "cpu": 512 }), json!({}));
    let found = host.cgroup_file(&arn, "c", "cpu", "cpu.shares");
    let of_v2 = host.cgroup_file(&arn, "c", "cpu", "cpu.weight");
    assert!(found.as_deref() == Some("512") || of_v2.as_deref() == Some("20"), "{found:?} {of_v2:?}");
}

#[test]
fn no_task_has_more_processes_than_the_host_allows() {
    let host = TestHost::start();
    let bomb = "n=0; while [ $n -lt 300 ]; do sleep 60 & n=$((n+1)); done; echo all 300 run";
    let bomb = with(shell("bomb", &host.image("base"), bomb), json!({ "essential": false }));
    let arn = host.run(&task("bomb", &[bomb, shell("c", &host.image("base"), "sleep 60")]));
    let refused = || {
        // v2 counts in the group that is limited, v1 in the one that wanted more.
        let events = ["", "bomb"].map(|group| host.cgroup_file(&arn, group, "pids", "pids.events").unwrap_or_default());
        events.iter().any(|events| events.strip_prefix("max ").is_some_and(|count| count != "0"))
    };
    eventually("the limit is met", Duration::from_secs(20), || refused().then_some(()));
    assert_eq!(host.cgroup_file(&arn, "", "pids", "pids.max").as_deref(), Some("200"));
    assert!(!host.logs(&arn, "bomb").contains("all 300"));
}

#[test]
fn open_files_are_limited_as_the_definition_says() {
    let host = TestHost::start();
    let limits = json!({ "ulimits": [{ "name": "nofile", "softLimit": 64, "hardLimit": 128 }] });
    let arn = running(&host, limits, json!({}));
    let limits = host.inside(&arn, "c", "cat /proc/1/limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["64", "128"]);
    // paste opens all its files before it reads one.
    let open =
        |files: u32| format!("paste $(yes /dev/null | head -n {files}) 2>&1 | grep -c 'Too many open files' || true");
    assert_eq!(host.inside(&arn, "c", &open(40)).trim(), "0");
    assert_ne!(host.inside(&arn, "c", &open(80)).trim(), "0", "80 files are beyond the soft limit");
}
