//! Capabilities, seccomp, masked and read-only paths, devices, descriptors: what a container may not do.

use std::path::Path;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use proto::v1::ExecuteCommandStart;
use serde_json::json;
use system_tests::TestHost;

use super::{running, status};

/// docker's 14: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
/// sys_chroot, mknod, audit_write, setfcap.
const DOCKERS: u64 = 0x0000_0000_a804_25fb;

/// Whether a shell command fails inside.
fn refused(host: &TestHost, arn: &str, script: &str) -> bool {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let start = ExecuteCommandStart { task: Some(arn.to_owned()), command, ..ExecuteCommandStart::default() };
    host.exec(start, None).unwrap().exit_code != Some(0)
}

#[test]
fn capabilities_are_dockers_fourteen() {
    let host = TestHost::start();
    let arn = running(&host, json!({}), json!({}));
    for place in ["/proc/1/status", "/proc/self/status"] {
        let text = host.inside(&arn, "c", &format!("cat {place}"));
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(u64::from_str_radix(&status(&text, set), 16).unwrap(), DOCKERS, "{set} of {place}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&status(&text, set), 16).unwrap(), 0, "{set} of {place}");
        }
    }
    assert!(refused(&host, &arn, "mount -t tmpfs none /tmp"), "without CAP_SYS_ADMIN nothing is mounted");
}

#[test]
fn capabilities_are_added_and_dropped() {
    let host = TestHost::start();
    let changes =
        json!({ "linuxParameters": { "capabilities": { "add": ["SYS_PTRACE"], "drop": ["CHOWN", "NET_RAW"] } } });
    let arn = running(&host, changes, json!({}));
    let text = host.inside(&arn, "c", "cat /proc/1/status");
    let wanted = (DOCKERS | 1 << 19) & !(1 << 0) & !(1 << 13);
    assert_eq!(u64::from_str_radix(&status(&text, "CapEff"), 16).unwrap(), wanted);
    assert!(refused(&host, &arn, "touch /x && chown 1000 /x"), "without CAP_CHOWN nothing is given away");
}

#[test]
fn another_user_has_no_capabilities() {
    let host = TestHost::start();
    let arn = running(&host, json!({ "user": "1000" }), json!({}));
    let text = host.inside(&arn, "c", "cat /proc/1/status");
    assert_eq!(u64::from_str_radix(&status(&text, "CapEff"), 16).unwrap(), 0);
    assert_eq!(u64::from_str_radix(&status(&text, "CapBnd"), 16).unwrap(), DOCKERS);
}

#[test]
fn seccomp_filters_and_new_privileges_are_as_dockers() {
    let host = TestHost::start();
    let arn = running(&host, json!({}), json!({}));
    for place in ["/proc/1/status", "/proc/self/status"] {
        let text = host.inside(&arn, "c", &format!("cat {place}"));
        assert_eq!(status(&text, "Seccomp"), "2", "{place}");
        assert_eq!(status(&text, "NoNewPrivs"), "0", "{place}");
    }
    assert!(refused(&host, &arn, "unshare -U true"), "a further user namespace");
    assert!(refused(&host, &arn, "unshare -m true"), "a further mount namespace");
}

#[test]
fn masked_paths_cannot_be_read() {
    let host = TestHost::start();
    let arn = running(&host, json!({}), json!({}));
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/latency_stats", "/proc/interrupts"] {
        let bytes = host.inside(&arn, "c", &format!("head -c 100 {path} 2>/dev/null | wc -c"));
        assert_eq!(bytes.trim(), "0", "{path}");
    }
    for path in ["/sys/firmware", "/proc/acpi", "/proc/scsi"] {
        let entries = host.inside(&arn, "c", &format!("ls -A {path} 2>/dev/null | wc -l"));
        assert_eq!(entries.trim(), "0", "{path}");
    }
}

#[test]
fn the_kernels_settings_cannot_be_written() {
    let host = TestHost::start();
    let arn = running(&host, json!({}), json!({}));
    for path in [
        "/proc/sys/kernel/hostname",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
    ] {
        assert!(refused(&host, &arn, &format!("echo 1 > {path}")), "{path}");
    }
    assert!(refused(&host, &arn, "mkdir /sys/fs/cgroup/memory/own || mkdir /sys/fs/cgroup/own"), "cgroups");
    let paths = ["/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/sysrq-trigger", "/sys"];
    // A kernel without magic keys has no sysrq-trigger; all have the first.
    for path in paths.into_iter().filter(|path| *path == "/proc/sys" || Path::new(path).exists()) {
        let options =
            host.inside(&arn, "c", &format!("grep ' {path} ' /proc/self/mountinfo | tail -n 1 | cut -d' ' -f6"));
        assert!(options.split(',').any(|option| option.trim() == "ro"), "{path}: {options}");
    }
}

#[test]
fn devices_are_the_harmless_ones() {
    let host = TestHost::start();
    let arn = running(&host, json!({}), json!({}));
    let names = host.inside(&arn, "c", "ls /dev");
    for name in
        ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "stdin", "stdout", "stderr", "fd"]
    {
        assert!(names.lines().any(|known| known == name), "/dev/{name} is not in {names}");
    }
    for name in ["kmsg", "mem", "kvm", "vda", "fuse", "loop0"] {
        assert!(!names.lines().any(|known| known == name), "/dev/{name}");
    }
    host.inside(&arn, "c", "echo x > /dev/null && head -c 4 /dev/urandom | wc -c");
    assert!(refused(&host, &arn, "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk"), "a disk");
    assert!(refused(&host, &arn, "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem"), "memory");
}

#[test]
fn device_nodes_of_images_and_volumes_open_nothing() {
    let host = TestHost::start();
    let directory = host.scratch().join("nodes");
    std::fs::create_dir(&directory).unwrap();
    // The null device, which the device cgroup lets everybody open: that it is refused is the mount's doing.
    let node = directory.join("null");
    let mode = Mode::from_bits_truncate(0o666);
    mknod(&node, SFlag::S_IFCHR, mode, makedev(1, 3)).unwrap();
    std::fs::set_permissions(&node, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let volumes = json!({ "volumes": [{ "name": "v", "host": { "sourcePath": directory } }] });
    let mounted = json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/v" }] });
    let arn = running(&host, mounted, volumes);
    assert_eq!(host.inside(&arn, "c", "test -c /null && test -c /v/null && cat /dev/null && echo there"), "there\n");
    for path in ["/null", "/v/null"] {
        assert!(refused(&host, &arn, &format!("cat {path}")), "{path}");
        assert!(refused(&host, &arn, &format!("echo x > {path}")), "{path}");
    }
    if let Some(rules) = host.cgroup_file(&arn, "c", "devices", "devices.list") {
        assert!(rules.contains("c 1:3 rwm") && !rules.contains("a *:* rwm"), "{rules}");
    }
}

#[test]
fn no_descriptor_leaks_into_a_container_or_a_command() {
    let host = TestHost::start();
    let container = json!({ "entryPoint": ["/bin/sleep"], "command": ["1000"] });
    let arn = running(&host, container, json!({}));
    assert_eq!(host.inside(&arn, "c", "ls /proc/1/fd | tr '\\n' ' '"), "0 1 2 ");
    // ls has its directory open.
    let start = ExecuteCommandStart {
        task: Some(arn.clone()),
        command: ["/bin/ls", "/proc/self/fd"].map(str::to_owned).to_vec(),
        ..ExecuteCommandStart::default()
    };
    assert_eq!(host.exec(start, None).unwrap().stdout, "0\n1\n2\n3\n");
}

#[test]
fn a_read_only_root_takes_no_write() {
    let host = TestHost::start();
    let arn = running(&host, json!({ "readonlyRootFilesystem": true }), json!({}));
    assert!(refused(&host, &arn, "touch /new"));
    assert!(refused(&host, &arn, "touch /etc/passwd"));
    host.inside(&arn, "c", "touch /dev/shm/new");
}

#[test]
fn the_runtimes_own_binary_is_out_of_reach() {
    let host = TestHost::start();
    let arn = running(&host, json!({}), json!({}));
    let targets = host.inside(&arn, "c", "for p in /proc/[0-9]*; do readlink $p/exe; done; true");
    assert!(!targets.contains("neargate"), "{targets}");
}
