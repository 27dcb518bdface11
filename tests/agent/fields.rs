//! Members of a container definition, each looked at from inside a real container.

use std::time::Duration;

use serde_json::{Value, json};
use system_tests::definition::{shell, task, with};
use system_tests::{TestHost, eventually};

/// Runs `script` in a container with `members`; answers what it wrote, and that it ended well.
#[track_caller]
fn inside(host: &TestHost, members: Value, script: &str) -> String {
    let container = with(shell("c", &host.image("base"), script), members);
    let arn = host.run(&task("fields", &[container]));
    let ended = host.stopped(&arn);
    let log = host.logs(&arn, "c");
    assert_eq!(ended.containers[0].exit_code, Some(0), "{log}{:?} {:?}", ended.stopped_reason, ended.containers);
    log
}

fn linux(members: Value) -> Value {
    json!({ "linuxParameters": members })
}

#[test]
fn hostname_and_extra_hosts() {
    let host = TestHost::start();
    let hosts = json!([
        { "hostname": "db.internal", "ipAddress": "10.1.2.3" }, { "hostname": "six", "ipAddress": "2001:db8::1" },
    ]);
    let script = "hostname; echo $HOSTNAME; cat /etc/hostname; cat /etc/hosts";
    let log = inside(&host, json!({ "hostname": "web-1.example", "extraHosts": hosts }), script);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[..3], ["web-1.example"; 3]);
    for line in ["10.1.2.3\tdb.internal", "2001:db8::1\tsix", "127.0.0.1\tweb-1.example", "127.0.0.1\tlocalhost"] {
        assert!(lines.contains(&line), "{line} in {log}");
    }
}

#[test]
fn tmpfs_has_its_size_and_options() {
    let host = TestHost::start();
    let mounts = json!([
        { "containerPath": "/fixed", "size": 100, "mountOptions": ["ro", "noexec"] },
        { "containerPath": "/made/scratch", "size": 1, "mountOptions": ["exec", "mode=1777"] },
    ]);
    let script = "grep -E ' /(fixed|made/scratch) ' /proc/mounts; touch /fixed/x 2>/dev/null && exit 1
        head -c 2000000 /dev/zero > /made/scratch/big 2>/dev/null && exit 2
        stat -c %a /made/scratch; rm /made/scratch/big
        printf '#!/bin/sh\\necho executed\\n' > /made/scratch/s; chmod +x /made/scratch/s
        /made/scratch/s";
    let log = inside(&host, linux(json!({ "tmpfs": mounts })), script);
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines[0].starts_with("tmpfs /fixed tmpfs ro,nosuid,nodev,noexec,relatime,size=102400k"), "{log}");
    assert!(lines[1].starts_with("tmpfs /made/scratch tmpfs rw,nosuid,nodev,relatime,size=1024k"), "{log}");
    assert_eq!(lines[2..], ["1777", "executed"]);
}

#[test]
fn shared_memory_has_its_size() {
    let host = TestHost::start();
    let script = "df -k /dev/shm | tail -1 | awk '{print $2}'";
    assert_eq!(inside(&host, json!({}), script), "65536\n");
    assert_eq!(inside(&host, linux(json!({ "sharedMemorySize": 8 })), script), "8192\n");
}

#[test]
fn swap_settings_reach_the_kernel() {
    let host = TestHost::start();
    let settings = linux(json!({ "maxSwap": 32, "swappiness": 7 }));
    let container = with(shell("c", &host.image("base"), "sleep 60"), settings);
    let arn = host.run(&with(task("swap", &[container]), json!({ "memory": "64" })));
    host.running(&arn);
    let of = |container: &str, file: &str| host.cgroup_file(&arn, container, "memory", file).unwrap();
    assert_eq!(of("c", "memory.memsw.limit_in_bytes"), (96 << 20).to_string());
    assert_eq!(of("c", "memory.swappiness"), "7");
    assert_eq!(of("", "memory.memsw.limit_in_bytes"), (96 << 20).to_string(), "the task has room for it");
}

#[test]
fn kernel_parameters_are_the_containers_own() {
    let host = TestHost::start();
    let controls = json!([
        { "namespace": "net.core.somaxconn", "value": "333" }, { "namespace": "net.ipv4.ip_default_ttl", "value": "44" },
        { "namespace": "kernel.shmmax", "value": "1048576" }, { "namespace": "fs.mqueue.queues_max", "value": "3" },
    ]);
    let script = "cd /proc/sys; cat net/core/somaxconn net/ipv4/ip_default_ttl kernel/shmmax fs/mqueue/queues_max";
    assert_eq!(inside(&host, json!({ "systemControls": controls }), script), "333\n44\n1048576\n3\n");
    let of_host = std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap();
    assert_ne!(of_host.trim(), "44");
}

#[test]
fn labels_go_with_the_container() {
    let host = TestHost::start();
    let labels = json!({ "com.example.team": "a", "empty": "" });
    let container = with(shell("c", &host.image("base"), "sleep 60"), json!({ "dockerLabels": labels }));
    let arn = host.run(&task("labels", &[container]));
    host.running(&arn);
    let config = std::fs::read(host.bundle(&arn, "c").join("config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["annotations"], labels);
}

#[test]
fn privileges_can_be_kept_from_growing() {
    let host = TestHost::start();
    let script = "awk '/NoNewPrivs/ {print $2}' /proc/self/status";
    assert_eq!(inside(&host, json!({}), script), "0\n");
    assert_eq!(inside(&host, json!({ "dockerSecurityOptions": ["no-new-privileges"] }), script), "1\n");
}

#[test]
fn stdin_stays_open_where_it_is_asked_for() {
    let host = TestHost::start();
    assert_eq!(inside(&host, json!({}), "read line || echo closed"), "closed\n");
    let container =
        with(shell("c", &host.image("base"), "echo waits; read line; echo went on"), json!({ "interactive": true }));
    let arn = host.run(&task("interactive", &[container]));
    host.running(&arn);
    eventually("it waits", Duration::from_secs(10), || (host.logs(&arn, "c") == "waits\n").then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(host.logs(&arn, "c"), "waits\n");
    host.stop(&arn, None).unwrap();
}

#[test]
fn a_terminal_is_a_terminal() {
    let host = TestHost::start();
    let script = "test -t 0 && test -t 1 && test -t 2 && tty && echo $TERM && test -c /dev/console";
    let log = inside(&host, json!({ "pseudoTerminal": true, "interactive": true }), script);
    assert_eq!(log.replace('\r', ""), "/dev/pts/0\nxterm\n");
}

#[test]
fn an_init_reaps_and_forwards_signals() {
    let host = TestHost::start();
    let init = linux(json!({ "initProcessEnabled": true }));
    // A grandchild whose parent ends is pid 1's; without an init it would stay a zombie.
    let script = "echo $$ $(tr '\\0' ' ' < /proc/1/cmdline); (sleep 0.2 & echo $! > /orphan); sleep 0.6
        test -d /proc/$(cat /orphan) && echo zombie; exec 2>/dev/null
        readlink /proc/1/exe && echo reached; head -c 1 /proc/1/exe && echo read; cat /proc/1/environ && echo environment; exit 0";
    let log = inside(&host, init.clone(), script);
    let mut words = log.split_whitespace();
    assert_ne!(words.next(), Some("1"), "the program is not pid 1: {log}");
    assert_eq!(words.collect::<Vec<_>>(), ["init"], "{log}");

    let script = "trap 'exit 33' TERM; echo ready; while :; do sleep 0.05; done";
    let arn = host.run(&task("forward", &[with(shell("c", &host.image("base"), script), init.clone())]));
    eventually("the trap is set", Duration::from_secs(10), || (host.logs(&arn, "c") == "ready\n").then_some(()));
    host.stop(&arn, None).unwrap();
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(33));

    // Not pid 1, the program dies of a signal that it does not handle.
    let arn = host.run(&task("dies", &[with(shell("c", &host.image("base"), "kill -SEGV $$"), init.clone())]));
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(139));
    let missing = json!({ "name": "c", "image": host.image("base"), "entryPoint": ["/no/such/program"] });
    let ended = host.run_to_end(&task("missing", &[with(missing, init.clone())]));
    assert_eq!((ended.containers[0].exit_code, ended.stop_code()), (Some(127), "TaskFailedToStart"));
    let both = with(init, json!({ "pseudoTerminal": true }));
    assert_eq!(inside(&host, both, "test -t 0 && echo terminal").trim_end(), "terminal");
}

#[test]
fn volumes_come_from_other_containers() {
    let host = TestHost::start();
    let image = host.image("base");
    let points =
        |volume: &str, path: &str| json!({ "mountPoints": [{ "sourceVolume": volume, "containerPath": path }] });
    let from =
        |name: &str, read_only: bool| json!({ "volumesFrom": [{ "sourceContainer": name, "readOnly": read_only }] });
    let optional = json!({ "essential": false });
    let first = with(with(shell("first", &image, "echo one > /vol/file"), points("v", "/vol")), optional.clone());
    let second = with(with(shell("second", &image, "true"), from("first", false)), optional.clone());
    let second = with(second, points("w", "/own"));
    let script = "until test -e /vol/file; do sleep 0.05; done; cat /vol/file; touch /own/x && exit 1; touch /vol/x && exit 2; exit 0";
    let third = with(shell("third", &image, script), from("second", true));
    let definition =
        with(task("from", &[first, second, third]), json!({ "volumes": [{ "name": "v" }, { "name": "w" }] }));
    let arn = host.run(&definition);
    let ended = host.stopped(&arn);
    let code = ended.containers.iter().find(|container| container.name() == "third").unwrap().exit_code;
    assert_eq!(
        (code, host.logs(&arn, "third").lines().next()),
        (Some(0), Some("one")),
        "{:?}",
        host.logs(&arn, "third")
    );
}

#[test]
fn devices_of_the_host_with_their_permissions() {
    let host = TestHost::start();
    let devices = json!([{ "hostPath": "/dev/fuse", "containerPath": "/dev/box", "permissions": ["read"] }]);
    let script = "test -c /dev/box && test ! -e /dev/fuse && (exec 3</dev/box) && ! (exec 3<>/dev/box) 2>/dev/null && echo read only";
    let log = inside(&host, linux(json!({ "devices": devices })), script);
    assert_eq!(log, "read only\n");
    let missing = linux(json!({ "devices": [{ "hostPath": "/dev/no-such-device" }] }));
    let ended = host.run_to_end(&task("missing", &[with(shell("c", &host.image("base"), "true"), missing)]));
    assert!(
        ended.stopped_reason().starts_with("CannotCreateContainerError: /dev/no-such-device is not a device"),
        "{ended:?}"
    );
}

#[test]
fn limits_of_every_kind() {
    let host = TestHost::start();
    // By ECS's name, by the kernel's, and what is asked for: less than any host's own.
    let limits = [
        ("core", "Max core file size", 4096, 8192),
        ("cpu", "Max cpu time", 100, 200),
        ("data", "Max data size", 1 << 30, 1 << 30),
        ("fsize", "Max file size", 1 << 20, 1 << 21),
        ("locks", "Max file locks", 50, 60),
        ("memlock", "Max locked memory", 4096, 8192),
        ("msgqueue", "Max msgqueue size", 1000, 2000),
        ("nice", "Max nice priority", 0, 0),
        ("nofile", "Max open files", 64, 128),
        ("nproc", "Max processes", 500, 600),
        ("rss", "Max resident set", 1 << 20, 1 << 21),
        ("rtprio", "Max realtime priority", 0, 0),
        ("rttime", "Max realtime timeout", 1000, 2000),
        ("sigpending", "Max pending signals", 10, 20),
        ("stack", "Max stack size", 1 << 20, 1 << 21),
    ];
    let asked: Vec<Value> = limits
        .iter()
        .map(|(name, _, soft, hard)| json!({ "name": name, "softLimit": soft, "hardLimit": hard }))
        .collect();
    let log = inside(&host, json!({ "ulimits": asked }), "cat /proc/self/limits");
    for (name, of_kernel, soft, hard) in limits {
        let line = log.lines().find_map(|line| line.strip_prefix(of_kernel)).unwrap();
        let told: Vec<&str> = line.split_whitespace().take(2).collect();
        assert_eq!(told, [soft.to_string(), hard.to_string()], "{name}: {log}");
    }
}

#[test]
fn who_it_is_and_where_it_begins() {
    let host = TestHost::start();
    let script = "id -u; id -g; id -G; pwd; echo $HOME";
    for (user, told) in [
        ("app", "1000 1000 1000 2000"),
        ("1000:2000", "1000 2000 2000"),
        ("65535", "65535 65535 65535"),
        ("app:last", "1000 65535 65535"),
    ] {
        let members = json!({ "user": user, "workingDirectory": "/made/for/it" });
        let log = inside(&host, members, script);
        let words: Vec<&str> = log.split_whitespace().collect();
        let (ids, place) = words.split_at(words.len() - 2);
        assert_eq!((ids.join(" ").as_str(), place[0]), (told, "/made/for/it"), "{user}");
    }
}

#[test]
fn a_docker_volume_of_the_task_is_the_tasks() {
    let host = TestHost::start();
    let image = host.image("base");
    let points = json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/v" }] });
    let docker = json!({ "scope": "task", "driver": "local", "labels": { "a": "b" } });
    let volumes = json!({ "volumes": [{ "name": "v", "dockerVolumeConfiguration": docker }] });
    let first =
        with(with(shell("first", &image, "echo here > /v/file"), points.clone()), json!({ "essential": false }));
    let waits = json!({ "dependsOn": [{ "containerName": "first", "condition": "SUCCESS" }] });
    let second = with(with(shell("second", &image, "cat /v/file"), points.clone()), waits);
    let arn = host.run(&with(task("volume", &[first, second]), volumes.clone()));
    host.stopped(&arn);
    assert_eq!(host.logs(&arn, "second"), "here\n");
    let other = with(shell("c", &image, "ls /v | wc -l"), points);
    let arn = host.run(&with(task("volume", &[other]), volumes));
    host.stopped(&arn);
    assert_eq!(host.logs(&arn, "c"), "0\n", "another task has another");
}

#[test]
fn the_platform_is_this_hosts_or_nothing_runs() {
    let host = TestHost::start();
    let of = |architecture: &str| {
        let platform = json!({ "cpuArchitecture": architecture, "operatingSystemFamily": "LINUX" });
        let compatible = json!({ "runtimePlatform": platform, "requiresCompatibilities": ["EC2", "EXTERNAL"] });
        let definition = with(task("platform", &[shell("c", &host.image("base"), "uname -m")]), compatible);
        let task_definition = host.register(&definition).unwrap().task_definition_arn;
        host.run_task(proto::v1::RunTaskRequest { task_definition, ..Default::default() }).unwrap()
    };
    let answer = of("X86_64");
    let arn = answer.tasks[0].task_arn();
    host.stopped(arn);
    assert_eq!(host.logs(arn, "c"), "x86_64\n");
    let answer = of("ARM64");
    assert_eq!((answer.tasks.len(), answer.failures[0].reason()), (0, "ATTRIBUTE"));
}
