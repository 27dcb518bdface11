//! Flags of create, run, exec and kill that other files have no test of: as runc and crun have them.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use runtime::sys::unix_socket;
use serde_json::json;

use crate::harness::{BINARY, TestBundle, eventually};

/// The runtime below a shell that opens descriptors 3 and 4 first and says to whom they belong.
fn with_descriptors(bundle: &TestBundle, environment: &str, args: &[&str]) -> Command {
    let file = |name: &str| bundle.path().join(name).display().to_string();
    bundle.write("three", &json!("three"));
    bundle.write("four", &json!("four"));
    let script = format!("exec 3< {} 4< {}; {environment} exec \"$@\"", file("three"), file("four"));
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", BINARY, "--root"]).arg(bundle.path().join("state")).args(args);
    command.stdin(Stdio::null());
    command
}

fn text(output: &std::process::Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn descriptors_are_preserved_and_no_others() {
    let bundle = TestBundle::new("cat <&3; cat <&4; set -- /proc/self/fd/*; echo $#; echo $LISTEN_FDS $LISTEN_PID");
    bundle.write("config.json", &bundle.config);
    let path = bundle.path().to_str().unwrap().to_owned();
    let run = |flags: &[&str], environment: &str| {
        let words = [&["run", "--bundle", &path], flags, &[&bundle.id]].concat();
        text(&with_descriptors(&bundle, environment, &words).output().unwrap())
    };
    assert_eq!(run(&["--preserve-fds", "2"], "").0, "\"three\"\"four\"6\n\n");
    // Sockets of systemd's activation, told as they are told to services.
    assert_eq!(run(&[], "LISTEN_FDS=2 LISTEN_PID=$$").0, "\"three\"\"four\"6\n2 1\n");
    assert_eq!(run(&["--preserve-fds", "1"], "LISTEN_FDS=1 LISTEN_PID=$$").0, "\"three\"\"four\"6\n1 1\n");
    // Another process's sockets are not ours to hand on.
    assert!(run(&[], "LISTEN_FDS=2 LISTEN_PID=1").0.ends_with("4\n\n"));
    let missing = run(&["--preserve-fds", "3"], "");
    assert!(missing.0.is_empty() && missing.1.contains("descriptor 5"), "{missing:?}");
}

#[test]
fn exec_as_runc_has_it() {
    let mut bundle = TestBundle::new("sleep 600");
    bundle.config["process"]["capabilities"] =
        json!({"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]});
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    let status = "id -G; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status";
    let words = [
        "exec",
        "-g",
        "10",
        "--additional-gids",
        "20",
        "--cap",
        "CAP_KILL",
        "-c",
        "fowner",
        "--no-new-privs",
        &bundle.id,
        "sh",
        "-c",
        status,
    ];
    // CHOWN 0, FOWNER 3, KILL 5.
    assert_eq!(bundle.ok(&words), "0 10 20\nCapEff:\t0000000000000029\nCapBnd:\t0000000000000029\nNoNewPrivs:\t1\n");
    assert!(bundle.fails(&["exec", "--cap", "CAP_FLY", &bundle.id, "true"]).contains("CAP_FLY"));
    assert!(bundle.fails(&["exec", "--cgroup", "x", &bundle.id, "true"]).contains("--cgroup"));
    assert!(bundle.fails(&["exec", "--apparmor", "x", &bundle.id, "true"]).contains("security label"));
    assert!(bundle.fails(&["exec", "--process-label", "x", &bundle.id, "true"]).contains("security label"));
    let words = ["exec", "--preserve-fds", "2", &bundle.id, "sh", "-c", "cat <&4"];
    assert_eq!(text(&with_descriptors(&bundle, "", &words).output().unwrap()).0, "\"four\"");

    let pid_file = bundle.path().join("exec.pid");
    let mut detached =
        bundle.runtime(&["exec", "--detach", "--pid-file", pid_file.to_str().unwrap(), &bundle.id, "sleep", "600"]);
    assert!(detached.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    let pids: Vec<i32> = serde_json::from_str(&bundle.ok(&["ps", "-f", "json", &bundle.id])).unwrap();
    assert!(pids.contains(&pid));
    let affinity = json!({"user": {"uid": 0, "gid": 0}, "args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "env": ["PATH=/bin"],
                          "cwd": "/", "execCPUAffinity": {"initial": "0", "final": "0"}});
    bundle.write("process.json", &affinity);
    let file = bundle.path().join("process.json");
    assert_eq!(bundle.ok(&["exec", "--process", file.to_str().unwrap(), &bundle.id]), "Cpus_allowed_list:\t0\n");
}

#[test]
fn a_paused_container_takes_a_process_where_that_is_asked_for() {
    let bundle = TestBundle::new("sleep 600");
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    bundle.ok(&["pause", &bundle.id]);
    let mut exec = bundle.runtime(&["exec", "--ignore-paused", &bundle.id, "echo", "resumed"]);
    let exec = exec.stdout(Stdio::piped()).spawn().unwrap();
    bundle.ok(&["resume", &bundle.id]);
    assert_eq!(exec.wait_with_output().unwrap().stdout, b"resumed\n");
}

#[test]
fn a_console_goes_over_its_socket() {
    let mut bundle = TestBundle::new("tty; sleep 600");
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["process"]["consoleSize"] = json!({"height": 33, "width": 99});
    bundle.write("config.json", &bundle.config);
    let socket = bundle.path().join("console.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (path, socket) = (bundle.path().to_str().unwrap(), socket.to_str().unwrap());
    let master = || -> OwnedFd {
        let (stream, _) = listener.accept().unwrap();
        let (_, mut descriptors) = unix_socket::receive(&stream, &mut [0; 4096]).unwrap().unwrap();
        descriptors.pop().unwrap()
    };
    let pid_file = bundle.path().join("pid");
    bundle.ok(&[
        "create",
        "--bundle",
        path,
        "--console-socket",
        socket,
        "--pid-file",
        pid_file.to_str().unwrap(),
        &bundle.id,
    ]);
    let console = master();
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), bundle.state()["pid"].to_string());
    bundle.ok(&["start", &bundle.id]);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(std::fs::File::from(console)), &mut line).unwrap();
    assert!(line.starts_with("/dev/pts/"), "{line}");
    bundle.ok(&["exec", "--tty", "--detach", "--console-socket", socket, &bundle.id, "sleep", "600"]);
    drop(master());
    assert!(bundle.fails(&["exec", "--detach", "--tty", &bundle.id, "true"]).contains("--console-socket"));
    assert!(bundle.fails(&["exec", "--console-socket", socket, &bundle.id, "true"]).contains("--console-socket"));
}

/// What they change cannot be seen without a keyring of the caller's; that a container runs with them can.
#[test]
fn flags_that_change_nothing_inside_are_taken() {
    let bundle = TestBundle::new("true");
    bundle.write("config.json", &bundle.config);
    let path = bundle.path().to_str().unwrap();
    bundle.ok(&["run", "--bundle", path, "--no-new-keyring", "--no-subreaper", &bundle.id]);
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    let bundle = TestBundle::new("true");
    bundle.write("config.json", &bundle.config);
    let path = bundle.path().to_str().unwrap();
    assert!(bundle.fails(&["create", "--bundle", path, "--no-pivot", &bundle.id]).contains("--no-pivot"));
    assert!(bundle.fails(&["--systemd-cgroup", "list"]).contains("--systemd-cgroup"));
    assert!(bundle.fails(&["--cgroup-manager", "systemd", "list"]).contains("--cgroup-manager systemd"));
    assert!(bundle.fails(&["--cgroup-manager", "disabled", "list"]).contains("--cgroup-manager"));
    bundle.ok(&["--cgroup-manager", "cgroupfs", "list"]);
}

#[test]
fn a_kept_container_is_there_after_its_end_and_messages_go_to_the_log() {
    let bundle = TestBundle::new("exit 3");
    bundle.write("config.json", &bundle.config);
    let path = bundle.path().to_str().unwrap();
    assert_eq!(bundle.runtime(&["run", "--keep", "--bundle", path, &bundle.id]).status().unwrap().code(), Some(3));
    assert_eq!(bundle.state()["status"], "stopped");
    bundle.ok(&["delete", &bundle.id]);
    let log = bundle.path().join("log");
    bundle.fails(&["--log", log.to_str().unwrap(), "--log-format", "json", "state", &bundle.id]);
    let line = std::fs::read_to_string(&log).unwrap();
    let line: serde_json::Value = serde_json::from_str(line.trim()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().unwrap().contains("does not exist"), "{line}");
}

#[test]
fn signals_by_every_name_reach_all_processes() {
    let bundle = TestBundle::new(
        "trap 'echo first' USR1; (trap 'echo second' USR1; echo ready; while :; do sleep 0.05; done) & while :; do sleep 0.05; done",
    );
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    eventually("it is ready", || bundle.output().contains("ready"));
    bundle.ok(&["kill", &bundle.id, "SIGRTMIN+1"]);
    eventually("it goes on", || bundle.state()["status"] != "created");
    for name in ["FLY", "SIGRTMAX+1", "-1"] {
        assert!(bundle.fails(&["kill", &bundle.id, "--", name]).contains("no signal"), "{name}");
    }
    bundle.ok(&["kill", "--all", &bundle.id, "usr1"]);
    eventually("both have heard", || {
        let text = bundle.output();
        text.contains("first") && text.contains("second")
    });
}
