//! Hooks: which namespaces they run in, what their failure and slowness do.

use serde_json::{Value, json};

use crate::harness::{TestBundle, eventually};

fn shell(script: &str) -> Value {
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], "timeout": 20}])
}

#[test]
fn each_stage_in_its_namespaces_with_its_state() {
    let mut bundle = TestBundle::new("echo program >> /order; sleep 600");
    let order = bundle.rootfs().join("order");
    // The stage, the mount namespace it is in, and what it is told.
    let note = |stage: &str, file: &str| {
        shell(&format!(
            "s=$(cat); case $s in *'\"status\":\"'*) s=${{s#*status\\\":\\\"}}; s=${{s%%\\\"*}};; esac; \
             echo {stage} $(readlink /proc/self/ns/mnt) $s >> {file}"
        ))
    };
    let host = order.to_str().unwrap();
    bundle.config["hooks"] = json!({
        "prestart": note("prestart", host), "createRuntime": note("createRuntime", host),
        "createContainer": note("createContainer", host), "startContainer": note("startContainer", "/order"),
        "poststart": note("poststart", host), "poststop": note("poststop", host),
    });
    bundle.create();
    let pid = bundle.state()["pid"].as_i64().unwrap();
    let inside = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    let outside = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    let (inside, outside) = (inside.to_str().unwrap(), outside.to_str().unwrap());
    let lines = || std::fs::read_to_string(&order).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    let wanted = |stage: &str, namespace: &str, status: &str| format!("{stage} {namespace} {status}");
    let created = [
        wanted("prestart", outside, "creating"),
        wanted("createRuntime", outside, "creating"),
        wanted("createContainer", inside, "creating"),
    ];
    assert_eq!(lines(), created);
    bundle.ok(&["start", &bundle.id]);
    eventually("the program runs", || lines().iter().any(|line| line == "program"));
    let started = lines();
    assert_eq!(started[3], wanted("startContainer", inside, "created"));
    assert!(started.contains(&wanted("poststart", outside, "running")), "{started:?}");
    bundle.ok(&["delete", "--force", &bundle.id]);
    assert_eq!(lines().last().unwrap(), &wanted("poststop", outside, "stopped"));
}

#[test]
fn a_failure_before_the_program_ends_the_container_and_later_ones_are_told() {
    for stage in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let mut bundle = TestBundle::new("echo ran");
        bundle.config["hooks"] = json!({stage: shell("exit 3")});
        let output = bundle.run();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{stage}: {output:?}");
        assert!(text.contains("/bin/sh ended with exit status: 3"), "{stage}: {text}");
        assert!(bundle.cgroups().is_empty() && bundle.ok(&["list", "-q"]).is_empty(), "{stage}");
    }
    for stage in ["poststart", "poststop"] {
        let mut bundle = TestBundle::new("echo ran");
        let second = bundle.path().join("second");
        let mut hooks = shell("exit 3");
        hooks.as_array_mut().unwrap().push(shell(&format!("echo > {}", second.display()))[0].clone());
        bundle.config["hooks"] = json!({stage: hooks});
        let output = bundle.run();
        assert!(output.status.success() && output.stdout == b"ran\n", "{stage}: {output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(&format!("warning: {stage}")) && text.contains("exit status: 3"), "{text}");
        assert!(second.exists(), "{stage}: the next one runs all the same");
    }
}

#[test]
fn a_hook_that_takes_too_long_is_ended() {
    let mut bundle = TestBundle::new("true");
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "600"], "timeout": 1}]});
    let output = bundle.run();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("took longer than 1 s"), "{text}");
}
