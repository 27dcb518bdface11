//! What a killed agent may leave of a task that no record tells of, and what a new one does about it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use system_tests::TestHost;
use system_tests::binaries::{built, tool};

/// No task has this id.
const ID: &str = "0123456789abcdef0123456789abcdef";

/// The hierarchies of cgroup v1, or the one of v2.
fn hierarchies() -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    if top.join("cgroup.procs").exists() {
        return vec![top.to_owned()];
    }
    ["cpu", "memory", "pids"].map(|controller| top.join(controller)).to_vec()
}

#[test]
fn what_no_record_tells_of_is_ended_and_removed() {
    let mut host = TestHost::start();
    host.kill9();
    let (run, disks) = (host.root().join("run").join(ID), host.root().join("tasks").join(ID));
    fs::create_dir_all(run.join("c/rootfs")).unwrap();
    fs::create_dir_all(disks.join("disk")).unwrap();
    let image = disks.join("disk.ext4");
    File::create(&image).unwrap().set_len(8 << 20).unwrap();
    tool("e2fsprogs", Command::new("/usr/sbin/mkfs.ext4").args(["-q", "-F"]).arg(&image));
    tool("mount", Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disks.join("disk")));
    fs::create_dir_all(disks.join("disk/rw/c/upper")).unwrap();
    let namespaces = run.join("task.ns");
    let pinned = Command::new(built("neargate-runtime"))
        .args(["namespaces", "create", "--net", "--user-base", "1900000000", "--user-size", "65536", "--dir"])
        .arg(&namespaces)
        .status();
    assert!(pinned.unwrap().success());
    let mut process = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let groups: Vec<PathBuf> =
        hierarchies().iter().map(|top| top.join(format!("neargate-{}/{ID}/c", host.instance()))).collect();
    for group in &groups {
        fs::create_dir_all(group).unwrap();
        let joined = File::create(group.join("cgroup.procs"));
        joined.and_then(|mut group| group.write_all(process.id().to_string().as_bytes())).unwrap();
    }
    host.restart();
    let ended = process.try_wait().unwrap();
    if ended.is_none() {
        process.kill().unwrap();
    }
    assert!(ended.is_some(), "the process of a task that nobody knows goes on");
    assert!(!run.exists() && !disks.exists());
    assert!(groups.iter().all(|group| !group.exists() && !group.parent().unwrap().exists()));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(namespaces.to_str().unwrap()), "{mounts}");
    assert!(!mounts.contains(disks.to_str().unwrap()), "{mounts}");
}

#[test]
fn a_host_that_is_drained_stays_so() {
    let mut host = TestHost::start();
    let before = host.container_instance().container_instance_arn;
    host.set_state("DRAINING").unwrap();
    host.kill9();
    host.restart();
    let after = host.container_instance();
    assert_eq!((after.status(), after.container_instance_arn.as_deref()), ("DRAINING", before.as_deref()));
    host.set_state("ACTIVE").unwrap();
    host.kill9();
    host.restart();
    assert_eq!(host.container_instance().status(), "ACTIVE");
}
