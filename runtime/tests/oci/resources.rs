//! `linux.resources`, the members that a test of its own has not got: what the kernel says of them, and what is refused.

use serde_json::{Value, json};

use crate::harness::TestBundle;

/// What a file of the container's cgroup says, on whichever hierarchy it is.
fn file(bundle: &TestBundle, name: &str) -> String {
    let found = bundle.cgroups().into_iter().find_map(|group| std::fs::read_to_string(group.join(name)).ok());
    found.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
}

fn created(resources: Value) -> TestBundle {
    let mut bundle = TestBundle::new("sleep 600");
    bundle.config["linux"]["resources"] = resources;
    bundle.create();
    bundle
}

fn is_v2() -> bool {
    runtime::cgroup::is_v2()
}

#[test]
fn processors_and_their_time() {
    let bundle = created(
        json!({"cpu": {"cpus": "0", "mems": "0", "shares": 512, "quota": 50_000, "period": 100_000, "burst": 10_000}}),
    );
    assert_eq!(file(&bundle, "cpuset.cpus"), "0");
    assert_eq!(file(&bundle, if is_v2() { "cpu.max.burst" } else { "cpu.cfs_burst_us" }), "10000");
    let pid = bundle.state()["pid"].as_i64().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    bundle.ok(&["delete", "--force", &bundle.id]);
    assert!(bundle.cgroups().is_empty(), "cpuset's group goes too");
}

#[test]
fn every_flag_of_update() {
    let bundle = created(json!({"memory": {"limit": 64 << 20}}));
    bundle.ok(&["update", "--cpuset-cpus", "0", "--cpuset-mems", "0", &bundle.id]);
    assert_eq!((file(&bundle, "cpuset.cpus"), file(&bundle, "cpuset.mems")), ("0".into(), "0".into()));
    bundle.ok(&["update", "--cpu-quota", "50000", "--cpu-period", "100000", "--cpu-burst", "5000", &bundle.id]);
    assert_eq!(file(&bundle, if is_v2() { "cpu.max.burst" } else { "cpu.cfs_burst_us" }), "5000");
    bundle.ok(&["update", "--cpu-idle", "1", &bundle.id]);
    assert_eq!(file(&bundle, "cpu.idle"), "1");
    bundle.ok(&["update", "--memory-reservation", "32m", &bundle.id]);
    let soft = file(&bundle, if is_v2() { "memory.low" } else { "memory.soft_limit_in_bytes" });
    assert_eq!(soft, (32 << 20).to_string());
    for (flag, value, name) in [
        ("--kernel-memory", "64m", "memory.kernel"),
        ("--l3-cache-schema", "L3:0=f", "--l3-cache-schema"),
        ("--mem-bw-schema", "MB:0=20", "--mem-bw-schema"),
        ("--cpuset-cpus", "9-1", "cpu.cpus"),
    ] {
        let text = bundle.fails(&["update", flag, value, &bundle.id]);
        assert!(text.contains(name), "{flag}: {text}");
    }
    // What this kernel may lack is told by the file that is missing, or set.
    let output = bundle.runtime(&["update", "--blkio-weight", "300", &bundle.id]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    if output.status.success() {
        let of_v2 = ["io.bfq.weight", "io.weight"];
        let names = if is_v2() { of_v2 } else { ["blkio.bfq.weight", "blkio.weight"] };
        let found = names.iter().find_map(|name| {
            bundle.cgroups().into_iter().find_map(|group| std::fs::read_to_string(group.join(name)).ok())
        });
        assert!(found.is_some_and(|text| !text.is_empty()));
    } else {
        assert!(text.contains("blockIO.weight"), "{text}");
    }
}

#[test]
fn memory_in_all_its_members() {
    let bundle = created(json!({"memory": {
        "limit": 64 << 20, "reservation": 32 << 20, "swap": 64 << 20, "useHierarchy": true, "disableOOMKiller": false,
        "checkBeforeUpdate": true,
    }}));
    let limit = file(&bundle, if is_v2() { "memory.max" } else { "memory.limit_in_bytes" });
    assert_eq!(limit, (64 << 20).to_string());
    if is_v2() {
        return;
    }
    let old = created(json!({"memory": {"disableOOMKiller": true, "swappiness": 7, "kernelTCP": 1 << 20}}));
    assert!(file(&old, "memory.oom_control").contains("oom_kill_disable 1"));
    assert_eq!(file(&old, "memory.swappiness"), "7");
    assert_eq!(file(&old, "memory.kmem.tcp.limit_in_bytes"), (1 << 20).to_string());
}

#[test]
fn device_rules_leave_the_defaults_and_what_is_allowed() {
    let script =
        "echo x > /dev/null && echo null; (: < /dev/tun) 2>&1 | grep -o 'not permitted'; (: < /dev/zero) && echo zero";
    for (rules, wanted) in [
        (json!([{"allow": false, "access": "rwm"}]), "null\nnot permitted\nzero\n"),
        (
            json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "r"}]),
            "null\nzero\n",
        ),
    ] {
        let mut bundle = TestBundle::new(script);
        bundle.config["linux"]["devices"] = json!([{"path": "/dev/tun", "type": "c", "major": 10, "minor": 200}]);
        bundle.config["linux"]["resources"] = json!({"devices": rules});
        assert_eq!(bundle.run_ok(), wanted, "{rules}");
    }
}

#[test]
fn what_the_host_does_not_have_is_refused_by_name_and_leaves_nothing() {
    let network = if is_v2() { "network.classID" } else { "net_cls" };
    for (resources, name) in [
        (json!({"network": {"classID": 1_048_577}}), network),
        (json!({"rdma": {"mlx5_9": {"hcaHandles": 3}}}), "rdma"),
        (json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 0}]}), "huge"),
        (json!({"memory": {"kernel": 1 << 20}}), "memory.kernel"),
        (json!({"blockIO": {"leafWeight": 10}}), "blockIO.leafWeight"),
        (
            json!({"blockIO": {"throttleReadBpsDevice": [{"major": 250, "minor": 250, "rate": 1}]}}),
            "throttleReadBpsDevice",
        ),
        (json!({"unified": {"cgroup.procs": "1"}}), "unified"),
    ] {
        let mut bundle = TestBundle::new("true");
        bundle.config["linux"]["resources"] = resources;
        let output = bundle.run();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(name), "{name}: {text}");
        assert!(bundle.cgroups().is_empty() && bundle.ok(&["list", "-q"]).is_empty(), "{name}");
    }
}
