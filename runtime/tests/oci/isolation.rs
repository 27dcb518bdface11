//! What a container sees of itself, and what it does not see of the host.

use serde_json::json;

use crate::harness::TestBundle;

#[test]
fn every_namespace_is_its_own() {
    let names = ["pid", "net", "ipc", "uts", "mnt", "cgroup"];
    let script = names.map(|name| format!("readlink /proc/self/ns/{name};")).join("");
    let inside = TestBundle::new(&script).run_ok();
    for (name, inside) in names.iter().zip(inside.lines()) {
        let outside = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(inside.starts_with(name) && inside != outside.to_str().unwrap(), "{name} {inside}");
    }
}

#[test]
fn a_namespace_that_is_not_asked_for_is_the_hosts() {
    let mut bundle = TestBundle::new("readlink /proc/self/ns/ipc");
    bundle.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "ipc");
    let outside = std::fs::read_link("/proc/self/ns/ipc").unwrap();
    assert_eq!(bundle.run_ok().trim(), outside.to_str().unwrap());
}

#[test]
fn pid_one_names_and_cgroup_root() {
    let text =
        TestBundle::new("echo $$; hostname; grep pids: /proc/self/cgroup || grep 0:: /proc/self/cgroup").run_ok();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["1", "inside"]);
    assert!(lines[2].ends_with(":/"), "{text}");
}

#[test]
fn no_descriptor_leaks() {
    // 0, 1, 2 and the one that lists.
    assert_eq!(TestBundle::new("set -- /proc/self/fd/*; echo $#").run_ok().trim(), "4");
}

#[test]
fn the_host_root_is_gone() {
    let bundle = TestBundle::new("cat /proc/self/mountinfo; ls /");
    let text = bundle.run_ok();
    assert!(!text.contains(" /sys/fs/cgroup/unified ") && !text.contains("nsfs"), "{text}");
    assert!(text.lines().filter(|line| line.split(' ').nth(4) == Some("/")).count() == 1, "{text}");
    assert!(!text.contains("shared:") && !text.contains("master:"), "{text}");
}

#[test]
fn masked_and_read_only_paths() {
    let text = TestBundle::new(
        "wc -c < /proc/keys; ls /sys/firmware | wc -l; echo x > /proc/sys/kernel/hostname || echo denied; touch /fine && echo fine",
    )
    .run_ok();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines, ["0", "0", "denied", "fine"]);
}

#[test]
fn read_only_root_with_writable_mounts() {
    let mut bundle = TestBundle::new("touch /x || echo denied; touch /tmp/x && echo fine; touch /dev/x && echo dev");
    bundle.config["root"]["readonly"] = json!(true);
    bundle.mount(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
    assert_eq!(bundle.run_ok(), "denied\nfine\ndev\n");
}

#[test]
fn binds_take_their_options_recursively_or_not() {
    let mut bundle = TestBundle::new(
        "touch /ro/x || echo denied; touch /rw/x && echo fine; cat /file; grep ' /ro ' /proc/self/mountinfo",
    );
    let source = bundle.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::copy(bundle.rootfs().join("etc/group"), source.join("f")).unwrap();
    bundle.mount(json!({"destination": "/ro", "type": "bind", "source": source, "options": ["rbind", "ro", "nosuid"]}));
    bundle.mount(json!({"destination": "/rw", "type": "bind", "source": "source", "options": ["bind"]}));
    bundle.mount(json!({"destination": "/file", "type": "bind", "source": source.join("f"), "options": ["bind"]}));
    let text = bundle.run_ok();
    assert!(text.starts_with("denied\nfine\nroot:x:0:"), "{text}");
    assert!(text.contains("ro,nosuid"), "{text}");
    assert!(source.join("x").exists());
}

#[test]
fn devices_are_there_and_work() {
    let script = "echo x > /dev/null; cat /dev/null | wc -c; ls -l /dev/ptmx | grep -c pts/ptmx; : < /dev/zero; readlink /dev/fd; \
                  stat -c %F:%t:%T /dev/full";
    for bundle in [TestBundle::new(script), TestBundle::new(script).with_user_namespace(720_000)] {
        let text = if bundle.config["linux"].get("uidMappings").is_some() {
            bundle.overlay(&[], true);
            bundle.run_ok()
        } else {
            bundle.run_ok()
        };
        assert_eq!(text, "0\n1\n/proc/self/fd\ncharacter special file:1:7\n");
    }
}

#[test]
fn process_settings_are_applied() {
    let mut bundle = TestBundle::new(
        "id; echo $HOME; umask; ulimit -n; readlink /proc/self/cwd; grep -E 'NoNewPrivs|CapEff|CapBnd' /proc/self/status; cat /proc/sys/kernel/shm_rmid_forced",
    );
    let process = &mut bundle.config["process"];
    process["user"] = json!({"uid": 0, "gid": 0, "username": "web", "umask": 0o77});
    process["cwd"] = json!("/made/here");
    process["noNewPrivileges"] = json!(true);
    process["capabilities"] = json!({"bounding": ["CAP_CHOWN"], "effective": [], "permitted": []});
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
    bundle.config["linux"]["sysctl"] = json!({"kernel.shm_rmid_forced": "1"});
    let text = bundle.run_ok();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..5], ["uid=33(web) gid=44(web) groups=4(adm)", "/srv", "0077", "100", "/made/here"]);
    assert_eq!(lines[5..], ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000001", "NoNewPrivs:\t1", "1"]);
}

#[test]
fn ambient_capabilities_are_those_that_can_be_inherited() {
    let mut bundle = TestBundle::new("grep -E 'CapEff|CapAmb' /proc/self/status");
    let process = &mut bundle.config["process"];
    process["user"] = json!({"uid": 33, "gid": 44});
    let both = json!(["CAP_CHOWN", "CAP_KILL"]);
    process["capabilities"] =
        json!({"bounding": both, "permitted": both, "ambient": both, "inheritable": ["CAP_CHOWN"]});
    assert_eq!(bundle.run_ok(), "CapEff:\t0000000000000001\nCapAmb:\t0000000000000001\n");
}

#[test]
fn the_hosts_sysctls_are_refused() {
    let mut bundle = TestBundle::new("true");
    bundle.config["linux"]["sysctl"] = json!({"vm.swappiness": "1"});
    assert!(String::from_utf8(bundle.run().stderr).unwrap().contains("vm.swappiness"));
}

#[test]
fn limits_that_the_host_cannot_raise_do_not_fail() {
    let mut bundle = TestBundle::new("ulimit -n");
    bundle.config["process"]["rlimits"] =
        json!([{"type": "RLIMIT_NOFILE", "soft": 2_000_000_000u64, "hard": 2_000_000_000u64}]);
    let output = bundle.run();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("RlimitNofile"));
}

#[test]
fn seccomp_filters_for_users_without_no_new_privs() {
    for no_new_privileges in [false, true] {
        let mut bundle = TestBundle::new("mkdir /tmp/x || echo denied; grep Seccomp: /proc/self/status");
        bundle.config["process"]["user"] = json!({"uid": 33, "gid": 44});
        bundle.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        bundle.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
        });
        assert_eq!(bundle.run_ok(), "denied\nSeccomp:\t2\n");
    }
}
