//! Further processes in a running container.

use serde_json::json;

use crate::harness::TestBundle;

fn running(user_namespace: bool) -> TestBundle {
    let bundle = TestBundle::new("sleep 600");
    let bundle = if user_namespace { bundle.with_user_namespace(740_000) } else { bundle };
    bundle.overlay(&[], user_namespace);
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    bundle
}

#[test]
fn it_is_in_every_namespace_and_in_the_cgroup() {
    for user_namespace in [false, true] {
        let bundle = running(user_namespace);
        let pid = bundle.state()["pid"].as_i64().unwrap();
        for name in ["user", "pid", "net", "ipc", "uts", "mnt", "cgroup"] {
            let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
            let ours = bundle.ok(&["exec", &bundle.id, "readlink", &format!("/proc/self/ns/{name}")]);
            assert_eq!(ours.trim(), theirs.to_str().unwrap());
        }
        let cgroup = bundle.ok(&["exec", &bundle.id, "grep", "-E", ":pids:|0::", "/proc/self/cgroup"]);
        assert!(cgroup.lines().any(|line| line.ends_with(":/")), "{cgroup}");
    }
}

#[test]
fn codes_signals_and_failures() {
    let bundle = running(true);
    let code = |args: &[&str]| {
        let all: Vec<&str> = ["exec", &bundle.id].into_iter().chain(args.iter().copied()).collect();
        bundle.runtime(&all).status().unwrap().code()
    };
    assert_eq!(code(&["sh", "-c", "exit 9"]), Some(9));
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]), Some(137));
    let text = bundle.fails(&["exec", &bundle.id, "missing"]);
    assert!(text.contains(r#"exec: "missing": executable file not found in $PATH"#), "{text}");
}

#[test]
fn settings_and_descriptors() {
    let bundle = running(true);
    let script =
        "id -u; readlink /proc/self/cwd; echo $A; set -- /proc/self/fd/*; echo $#; grep CapEff /proc/self/status";
    let text = bundle.ok(&["exec", "-u", "33:44", "--cwd", "/bin", "-e", "A=b", &bundle.id, "sh", "-c", script]);
    assert_eq!(text, "33\n/bin\nb\n4\nCapEff:\t0000000000000000\n");
}

#[test]
fn a_process_file_is_honoured() {
    let bundle = running(false);
    let file = bundle.path().join("process.json");
    let process = json!({"user": {"uid": 0, "gid": 0}, "args": ["id", "-u"], "env": ["PATH=/bin"], "cwd": "/"});
    std::io::Write::write_all(&mut std::fs::File::create(&file).unwrap(), process.to_string().as_bytes()).unwrap();
    assert_eq!(bundle.ok(&["exec", "--process", file.to_str().unwrap(), &bundle.id]), "0\n");
}

#[test]
fn a_stopped_container_cannot_be_entered() {
    let bundle = running(false);
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    crate::harness::eventually("it ends", || bundle.state()["status"] == "stopped");
    assert!(bundle.fails(&["exec", &bundle.id, "true"]).contains("is stopped"));
}

#[test]
fn a_process_that_the_container_stops_on_its_way_in_is_not_waited_for() {
    // In the container's pid namespace the new process is seen from its first moment.
    let script =
        "while :; do for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p -gt 1 ] && kill -STOP $p 2>/dev/null; done; done";
    let bundle = TestBundle::new(script);
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    // Stopped too late it runs, and is stopped then; what counts is that somebody who waits for its start goes on.
    let mut exec = bundle.runtime(&["exec", "--detach", &bundle.id, "true"]);
    let mut exec = exec.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while exec.try_wait().unwrap().is_none() {
        assert!(std::time::Instant::now() < deadline, "it is waited for");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
