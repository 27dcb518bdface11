//! `pidMode` and `ipcMode`: whose processes and whose shared memory a container sees.

use std::time::Duration;

use proto::v1::Task;
use serde_json::{Value, json};
use system_tests::definition::{shell, task, with};
use system_tests::{TestHost, eventually};

fn off(task: &Task) -> Option<&str> {
    let told = task.attributes.iter().find(|attribute| attribute.name() == "neargate.user-namespace");
    told.map(|attribute| attribute.value())
}

/// Two containers, one after the other has started; answers what the second wrote.
#[track_caller]
fn beside(host: &TestHost, mode: Value, first: &str, second: &str) -> (Task, String) {
    let image = host.image("base");
    let first = with(shell("first", &image, first), json!({ "essential": false }));
    let waits = json!({ "dependsOn": [{ "containerName": "first", "condition": "START" }] });
    let second = with(shell("second", &image, second), waits);
    let arn = host.run(&with(task("modes", &[first, second]), mode));
    let ended = host.stopped(&arn);
    let log = host.logs(&arn, "second");
    let code = ended.containers.iter().find(|container| container.name() == "second").unwrap().exit_code;
    assert_eq!(code, Some(0), "{log} {:?} {:?}", ended.stopped_reason, ended.containers);
    (ended, log)
}

/// The namespace of the test itself.
fn of_host(kind: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_string_lossy().into_owned()
}

const SEES: &str = "for i in $(seq 20); do grep -q '[4]321' /proc/[0-9]*/cmdline 2>/dev/null && echo seen && exit 0; sleep 0.05; done; echo unseen";

#[test]
fn processes_are_private_shared_or_the_hosts() {
    let host = TestHost::start();
    let (ended, log) = beside(&host, json!({}), "exec sleep 4321", SEES);
    assert_eq!((log.as_str(), off(&ended)), ("unseen\n", None));
    let (ended, log) = beside(&host, json!({ "pidMode": "task" }), "exec sleep 4321", SEES);
    assert_eq!((log.as_str(), off(&ended)), ("seen\n", None), "in a user namespace all the same");
    let script = format!("{SEES}; readlink /proc/self/ns/pid");
    let (ended, log) =
        beside(&host, json!({ "pidMode": "host" }), "exec sleep 4321", &script.replace("exit 0", "break"));
    assert_eq!(log.lines().next(), Some("seen"));
    assert_eq!(log.lines().last(), Some(of_host("pid").as_str()));
    assert_eq!(off(&ended), Some("off:host-pid"));
}

#[test]
fn the_process_that_holds_the_tasks_processes_together_has_nothing_to_take() {
    let host = TestHost::start();
    let script = "tr '\\0' ' ' < /proc/1/cmdline; echo; exec 2>/dev/null
        ls /proc/1/root/ && echo root; readlink /proc/1/exe && echo executable; ls /proc/1/fd/ && echo descriptors
        kill -9 1; (sleep 0.1 & echo $! > /orphan); sleep 0.4; test -d /proc/$(cat /orphan) && echo zombie; exit 0";
    let (_, log) = beside(&host, json!({ "pidMode": "task" }), "sleep 100", script);
    assert_eq!(log.trim_end(), "pause");
}

#[test]
fn the_end_of_one_leaves_the_others_of_a_shared_namespace() {
    let host = TestHost::start();
    let image = host.image("base");
    let short = with(shell("short", &image, "sleep 4321 & exit 3"), json!({ "essential": false }));
    let long = shell("long", &image, "trap 'exit 4' TERM; while :; do sleep 0.1; done");
    let arn = host.run(&with(task("shared", &[short, long]), json!({ "pidMode": "task" })));
    let seen = host.watch(&arn, |task| {
        task.last_status() == "RUNNING" && task.containers.iter().any(|container| container.last_status() == "STOPPED")
    });
    assert_eq!(seen.last().unwrap().containers[0].exit_code, Some(3));
    let left =
        || host.cli(&["exec", "--container", "long", &arn, "pgrep", "-f", "^sleep 4321"]).status.code() == Some(0);
    eventually("what it left is gone with it", Duration::from_secs(5), || (!left()).then_some(()));
    host.stop(&arn, None).unwrap();
    assert_eq!(host.stopped(&arn).containers[1].exit_code, Some(4));
}

#[test]
fn memory_is_private_shared_the_hosts_or_not_there() {
    let host = TestHost::start();
    let first = "echo hello > /dev/shm/neargate-test; sleep 100";
    let second = "for i in $(seq 20); do test -s /dev/shm/neargate-test && break; sleep 0.05; done
        cat /dev/shm/neargate-test 2>/dev/null; grep -c ' /dev/shm ' /proc/mounts; readlink /proc/self/ns/ipc";
    let told = |mode: Value| {
        let (ended, log) = beside(&host, mode, first, second);
        (off(&ended).map(str::to_owned), log.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let (_, private) = told(json!({}));
    assert_eq!(private[0], "1", "{private:?}");
    let (off, shared) = told(json!({ "ipcMode": "task" }));
    assert_eq!((off, &shared[..2]), (None, &["hello".to_owned(), "1".to_owned()][..]));
    assert_ne!(shared[2], of_host("ipc"));
    let (_, none) = told(json!({ "ipcMode": "none" }));
    assert_eq!(none[none.len() - 2], "0", "{none:?}");
    let (off, of_all) = told(json!({ "ipcMode": "host" }));
    assert_eq!((off.as_deref(), of_all.last().unwrap()), (Some("off:host-ipc"), &of_host("ipc")));
    std::fs::remove_file("/dev/shm/neargate-test").unwrap();
}

#[test]
fn shared_memory_is_as_large_as_the_largest_that_is_asked_for() {
    let host = TestHost::start();
    let image = host.image("base");
    let sized = |name: &str, mib: u32, script: &str| {
        with(shell(name, &image, script), json!({ "linuxParameters": { "sharedMemorySize": mib } }))
    };
    let size = "df -k /dev/shm | tail -1 | awk '{print $2}'; touch /dev/shm/file && stat -c %u:%g /dev/shm/file";
    let arn = host
        .run(&with(task("sized", &[sized("a", 8, size), sized("b", 16, "sleep 100")]), json!({ "ipcMode": "task" })));
    host.stopped(&arn);
    assert_eq!(host.logs(&arn, "a"), "16384\n0:0\n");
}
