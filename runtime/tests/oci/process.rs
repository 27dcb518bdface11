//! OCI's `process`, `linux.personality` and `linux.timeOffsets`: how the kernel runs the program.

use serde_json::{Value, json};

use crate::harness::TestBundle;

#[test]
fn scheduler_and_io_priority() {
    let mut bundle = TestBundle::new("sleep 600");
    bundle.config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
    bundle.config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
    bundle.create();
    let pid = bundle.state()["pid"].as_i64().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // proc_pid_stat(5): 19 is nice, 41 the policy, and SCHED_BATCH is 3; counted from field 3.
    assert_eq!((fields[19 - 3], fields[41 - 3]), ("5", "3"), "{stat}");
    let class = std::process::Command::new("ionice").args(["-p", &pid.to_string()]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&class.stdout).trim(), "idle");
}

#[test]
fn personality() {
    let mut bundle = TestBundle::new("cat /proc/self/personality; uname -m");
    std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/uname")).unwrap();
    bundle.config["linux"]["personality"] = json!({"domain": "LINUX32"});
    let text = bundle.run_ok();
    assert!(text.starts_with("00000008\n"), "{text}");
    bundle.config["linux"]["personality"] = json!({"domain": "LINUX", "flags": ["SHORT_INODE"]});
    assert!(String::from_utf8(bundle.run().stderr).unwrap().contains("SHORT_INODE"));
}

#[test]
fn clocks_of_a_time_namespace() {
    let mut bundle = TestBundle::new("cat /proc/uptime; readlink /proc/self/ns/time");
    let offsets = json!({"boottime": {"secs": 86_400_000}, "monotonic": {"secs": 86_400_000, "nanosecs": 5}});
    bundle.config["linux"]["timeOffsets"] = offsets.clone();
    let output = bundle.run();
    assert!(String::from_utf8(output.stderr).unwrap().contains("time namespace"), "there is none to set them in");
    bundle.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
    let text = bundle.run_ok();
    let lines: Vec<&str> = text.lines().collect();
    let uptime: f64 = lines[0].split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 86_400_000.0, "{text}");
    assert_ne!(lines[1], std::fs::read_link("/proc/self/ns/time").unwrap().to_str().unwrap());
    bundle.config["linux"]["timeOffsets"] = json!({"realtime": {"secs": 1}});
    assert!(String::from_utf8(bundle.run().stderr).unwrap().contains("realtime"));
    let mut user = TestBundle::new("cat /proc/uptime").with_user_namespace(760_000);
    user.config["linux"]["timeOffsets"] = offsets;
    user.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
    user.overlay(&[], true);
    assert!(user.run_ok().split(' ').next().unwrap().parse::<f64>().unwrap() > 86_400_000.0);
}

#[test]
fn what_cannot_be_is_refused_by_name_before_anything_is_made() {
    for (member, value, name) in [
        ("/linux/intelRdt", json!({"closID": "x"}), "linux.intelRdt"),
        ("/linux/mountLabel", json!("x"), "linux.mountLabel"),
        ("/process/scheduler", json!({"policy": "SCHED_ISO"}), "SCHED_ISO"),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 9}), "9"),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_CORE", "soft": 1, "hard": 1}]),
            "RLIMIT_CORE twice",
        ),
        ("/hooks", json!({"poststop": [{"path": "bin/true"}]}), "bin/true"),
        ("/hooks", json!({"poststart": [{"path": "/bin/true", "timeout": 0}]}), "timeout"),
        ("/linux/rootfsPropagation", json!("sideways"), "sideways"),
    ] {
        let mut bundle = TestBundle::new("true");
        let (parent, key) = member.rsplit_once('/').unwrap();
        let parent: &mut Value =
            if parent.is_empty() { &mut bundle.config } else { bundle.config.pointer_mut(parent).unwrap() };
        parent[key] = value;
        let output = bundle.run();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(name), "{member}: {text}");
        assert!(bundle.cgroups().is_empty() && bundle.ok(&["list", "-q"]).is_empty(), "{member}");
    }
}
