//! Seccomp profiles: every action as the kernel takes it, notifications answered from outside, compiled filters kept.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use runtime::sys::unix_socket;
use serde_json::{Value, json};

use crate::harness::TestBundle;

/// A container that runs `mkdir /tmp/x`, with `rule` for that call.
fn with_rule(rule: &Value) -> TestBundle {
    let mut bundle = TestBundle::new("mkdir /tmp/x; echo code $?");
    let mut rule = rule.clone();
    rule["names"] = json!(["mkdir", "mkdirat"]);
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    bundle
}

#[test]
fn every_action_is_taken() {
    for (rule, code, text) in [
        (json!({"action": "SCMP_ACT_ALLOW"}), "0", ""),
        (json!({"action": "SCMP_ACT_LOG"}), "0", ""),
        (json!({"action": "SCMP_ACT_ERRNO"}), "1", "Operation not permitted"),
        (json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 28}), "1", "No space left"),
        // Nobody traces it: such a call does not exist.
        (json!({"action": "SCMP_ACT_TRACE", "errnoRet": 7}), "1", "not implemented"),
        (json!({"action": "SCMP_ACT_TRAP"}), "159", ""),
        (json!({"action": "SCMP_ACT_KILL"}), "159", ""),
        (json!({"action": "SCMP_ACT_KILL_THREAD"}), "159", ""),
        (json!({"action": "SCMP_ACT_KILL_PROCESS"}), "159", ""),
    ] {
        let output = with_rule(&rule).run();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(out.contains(&format!("code {code}\n")), "{rule}: {out}{err}");
        assert!(err.contains(text), "{rule}: {err}");
    }
}

#[test]
fn what_is_not_listed_gets_the_defaults_error() {
    let mut bundle = with_rule(&json!({"action": "SCMP_ACT_ALLOW"}));
    let mut profile = serde_json::to_value(runtime::seccomp::default_profile(&runtime::capabilities::DEFAULT)).unwrap();
    profile["defaultErrnoRet"] = json!(38);
    for rule in profile["syscalls"].as_array_mut().unwrap() {
        rule["names"].as_array_mut().unwrap().retain(|name| name != "mkdir" && name != "mkdirat");
    }
    bundle.config["linux"]["seccomp"] = profile;
    let output = bundle.run();
    assert!(String::from_utf8_lossy(&output.stderr).contains("not implemented"), "{output:?}");
}

/// One signal is refused, others are not.
#[test]
fn arguments_are_compared() {
    let args = json!([{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]);
    let mut bundle = TestBundle::new("kill -10 $$ || echo refused; kill -0 $$ && echo sent");
    let rule = json!({"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": args});
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    assert_eq!(bundle.run_ok(), "refused\nsent\n");
}

/// The next connection's message and descriptor.
fn accepted(listener: &UnixListener) -> (Value, OwnedFd) {
    let deadline = Instant::now() + Duration::from_secs(30);
    listener.set_nonblocking(true).unwrap();
    let stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(_) => assert!(Instant::now() < deadline, "nobody passes notifications on"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    stream.set_nonblocking(false).unwrap();
    let mut buffer = vec![0; 65536];
    let (length, mut descriptors) = unix_socket::receive(&stream, &mut buffer).unwrap().unwrap();
    (serde_json::from_slice(&buffer[..length]).unwrap(), descriptors.pop().unwrap())
}

#[test]
fn notifications_go_to_whoever_listens() {
    let mut bundle = with_rule(&json!({"action": "SCMP_ACT_NOTIFY"}));
    let socket = bundle.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let seccomp = &mut bundle.config["linux"]["seccomp"];
    seccomp["listenerPath"] = json!(socket);
    seccomp["listenerMetadata"] = json!("who am I");
    bundle.config["process"]["args"] = json!(["sh", "-c", "mkdir /tmp/x || echo answered; exec sleep 600"]);
    bundle.create();
    let (first, second) = std::thread::scope(|scope| {
        let heard = scope.spawn(|| accepted(&listener));
        bundle.ok(&["start", &bundle.id]);
        let first = heard.join().unwrap();
        let heard = scope.spawn(|| accepted(&listener));
        // With no pipe of ours, which it would keep open.
        let mut exec = bundle.runtime(&["exec", "--detach", &bundle.id, "sleep", "600"]);
        assert!(exec.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
        (first, heard.join().unwrap())
    });
    let pid = &bundle.state()["pid"];
    assert_eq!(
        (&first.0["pid"], &first.0["metadata"], &first.0["fds"]),
        (pid, &json!("who am I"), &json!(["seccompFd"]))
    );
    assert_eq!((&first.0["state"]["id"], &first.0["state"]["pid"]), (&json!(bundle.id), pid));
    assert_ne!(&second.0["pid"], pid);
    assert_eq!(&second.0["state"]["pid"], pid);
    // Nobody answers any more: the kernel does, and the program goes on.
    drop((first, second));
    crate::harness::eventually("the call ends", || bundle.output().contains("answered"));
    // Without anybody there the container does not start unconfined.
    drop(listener);
    std::fs::remove_file(&socket).unwrap();
    let mut again = with_rule(&json!({"action": "SCMP_ACT_NOTIFY"}));
    again.config["linux"]["seccomp"]["listenerPath"] = json!(socket);
    let output = again.run();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("agent.sock"), "{output:?}");
}

#[test]
fn compiled_filters_are_kept_beside_the_containers() {
    let bundle = with_rule(&json!({"action": "SCMP_ACT_ERRNO"}));
    bundle.run();
    let kept = || {
        let files = std::fs::read_dir(bundle.path().join("state/seccomp:")).unwrap();
        files.map(|file| file.unwrap().path()).collect::<Vec<_>>()
    };
    let [file] = kept().try_into().unwrap();
    let mut before = Vec::new();
    std::fs::File::open(&file).unwrap().read_to_end(&mut before).unwrap();
    assert!(before.len() > 32 && before.len().is_multiple_of(8));
    assert!(String::from_utf8_lossy(&bundle.run().stdout).contains("code 1"), "the kept one confines too");
    assert_eq!(kept(), [file]);
    assert_eq!(bundle.ok(&["list", "-q"]), "");
}
