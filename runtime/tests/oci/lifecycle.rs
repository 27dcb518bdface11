//! create, start, state, kill, delete, run: order, exit codes, and nothing left.

use serde_json::json;

use crate::harness::{TestBundle, eventually};

#[test]
fn exit_codes_pass_through_and_nothing_stays() {
    let bundle = TestBundle::new("exit 42");
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(bundle.run().status.code(), Some(42));
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    assert!(bundle.cgroups().is_empty());
    assert_eq!(bundle.ok(&["list", "-q"]), "");
    let killed = TestBundle::new("kill -9 $$; exit 1");
    // pid 1 of a namespace cannot be killed from inside.
    assert_eq!(killed.run().status.code(), Some(1));
}

#[test]
fn created_waits_and_then_lives_its_life() {
    let bundle = TestBundle::new("echo started; trap 'exit 7' TERM; while :; do sleep 0.1; done");
    bundle.create();
    assert_eq!(bundle.state()["status"], "created");
    assert_eq!(bundle.output(), "");
    assert!(bundle.fails(&["create", "--bundle", bundle.path().to_str().unwrap(), &bundle.id]).contains("exists"));
    bundle.ok(&["start", &bundle.id]);
    assert_eq!(bundle.state()["status"], "running");
    assert!(bundle.fails(&["start", &bundle.id]).contains("is running"));
    assert!(bundle.fails(&["delete", &bundle.id]).contains("is running"));
    eventually("the program writes", || bundle.output().contains("started"));
    bundle.ok(&["kill", &bundle.id, "TERM"]);
    eventually("the program ends", || bundle.state()["status"] == "stopped");
    assert!(bundle.fails(&["kill", &bundle.id]).contains("is stopped"));
    bundle.ok(&["delete", &bundle.id]);
    assert!(bundle.fails(&["state", &bundle.id]).contains("does not exist"));
    bundle.ok(&["delete", "--force", &bundle.id]);
}

#[test]
fn force_ends_what_runs() {
    let bundle = TestBundle::new("sleep 600");
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    bundle.ok(&["delete", "--force", &bundle.id]);
    assert!(bundle.cgroups().is_empty());
}

#[test]
fn a_program_that_cannot_be_executed_is_told_and_removed() {
    let mut bundle = TestBundle::new("");
    for (program, reason) in [("/bin/missing", "ENOENT"), ("/etc/passwd", "EACCES"), ("missing", "ENOENT")] {
        bundle.config["process"]["args"] = json!([program]);
        let output = bundle.run();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(program) && text.contains(reason), "{text}");
        assert_eq!(bundle.ok(&["list", "-q"]), "");
        assert!(bundle.cgroups().is_empty());
    }
}

#[test]
fn a_failed_create_leaves_nothing() {
    let mut bundle = TestBundle::new("true");
    bundle.mount(json!({"destination": "/x", "type": "bind", "source": "/does/not/exist", "options": ["bind"]}));
    let text = String::from_utf8(bundle.run().stderr).unwrap();
    assert!(text.contains("/does/not/exist"), "{text}");
    assert_eq!(bundle.ok(&["list", "-q"]), "");
    assert!(bundle.cgroups().is_empty());
}

#[test]
fn hooks_run_in_order_with_the_state() {
    let mut bundle = TestBundle::new("echo program >> /order");
    let order = bundle.rootfs().join("order");
    let hook = |name: &str, file: &str| {
        let script = format!("grep -o '\"status\":\"[a-z]*\"' | sed 's/^/{name} /' >> {file}");
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 5}])
    };
    let host = order.to_str().unwrap();
    bundle.config["hooks"] = json!({
        "createRuntime": hook("createRuntime", host),
        "createContainer": hook("createContainer", host),
        "poststop": hook("poststop", host),
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "echo startContainer >> /order"]}],
    });
    bundle.run_ok();
    let text = std::fs::read_to_string(order).unwrap();
    let names: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["createRuntime", "createContainer", "startContainer", "program", "poststop"], "{text}");
    assert!(text.contains("poststop \"status\":\"stopped\""), "{text}");
}

#[test]
fn a_failing_hook_fails_the_container() {
    let mut bundle = TestBundle::new("true");
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    assert!(!bundle.run().status.success());
    assert_eq!(bundle.ok(&["list", "-q"]), "");
}

#[test]
fn a_damaged_record_hides_no_other_container_and_can_be_removed() {
    let (sound, damaged) = (TestBundle::new("sleep 600"), TestBundle::new("sleep 600"));
    for bundle in [&sound, &damaged] {
        bundle.create();
        bundle.ok(&["start", &bundle.id]);
    }
    // Both below one state root.
    let (from, to) = (damaged.path().join("state").join(&damaged.id), sound.path().join("state").join(&damaged.id));
    std::fs::rename(&from, &to).unwrap();
    let path = to.join("state.json");
    let whole = std::fs::read(&path).unwrap();
    let end = whole.windows(8).position(|bytes| bytes == b"\"status\"").unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(u64::try_from(end).unwrap()).unwrap();
    let listed = sound.runtime(&["list"]).output().unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let (rows, words) = (String::from_utf8(listed.stdout).unwrap(), String::from_utf8(listed.stderr).unwrap());
    assert!(rows.contains(&sound.id) && !rows.contains(&damaged.id), "{rows}");
    assert!(words.contains(path.to_str().unwrap()) && words.lines().count() == 1, "{words}");
    assert!(sound.fails(&["delete", &damaged.id]).contains("cannot parse"));
    assert!(!damaged.cgroups().is_empty(), "without force nothing is touched");
    sound.ok(&["delete", "--force", &damaged.id]);
    assert!(damaged.cgroups().is_empty() && !to.exists());
    assert_eq!(sound.ok(&["list", "-q"]).trim(), sound.id);
}
