//! The comparison of before and after itself: it must see what is left, or every other test's silence means nothing.

#![forbid(unsafe_code)]

use std::fs;
use std::process::Command;

use system_tests::leaks::{Scope, Snapshot, instance_id};

struct Group(std::path::PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        // Gone already when the test went well.
        let _best_effort = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_cgroup_that_is_left_is_told() {
    system_tests::binaries::need_root();
    let root = tempfile::Builder::new().prefix("ng-leaks-").tempdir().unwrap();
    let scope = Scope::Root(root.path().to_owned());
    let before = Snapshot::take(&scope);
    let path = format!("/sys/fs/cgroup/pids/neargate-{}", instance_id(root.path()));
    let group = Group(path.clone().into());
    fs::create_dir(&group.0).unwrap();
    let left = Snapshot::take(&scope).new_since(&before);
    assert_eq!(left, [format!("+ cgroup: {path}")]);
    drop(group);
    Snapshot::settle(&scope, &before).unwrap();
}

#[test]
fn a_mount_and_a_file_that_are_left_are_told() {
    system_tests::binaries::need_root();
    let root = tempfile::Builder::new().prefix("ng-leaks-").tempdir().unwrap();
    let scope = Scope::Root(root.path().to_owned());
    let before = Snapshot::take(&scope);
    let place = root.path().join("mounted");
    fs::create_dir(&place).unwrap();
    system_tests::binaries::tool("mount", Command::new("mount").args(["-t", "tmpfs", "left"]).arg(&place));
    let left = Snapshot::take(&scope).new_since(&before);
    system_tests::binaries::tool("mount", Command::new("umount").arg(&place));
    fs::remove_dir(&place).unwrap();
    assert!(left.iter().any(|line| line.starts_with("+ mount: ") && line.contains("mounted")), "{left:?}");
    assert!(left.iter().any(|line| line.starts_with("+ file: ")), "{left:?}");
    Snapshot::settle(&scope, &before).unwrap();
}

#[test]
fn a_loop_device_that_is_left_is_told() {
    system_tests::binaries::need_root();
    let root = tempfile::Builder::new().prefix("ng-leaks-").tempdir().unwrap();
    let scope = Scope::Root(root.path().to_owned());
    let file = root.path().join("disk.ext4");
    fs::File::create(&file).unwrap().set_len(1 << 20).unwrap();
    let before = Snapshot::take(&scope);
    let losetup =
        |arguments: &[&str]| system_tests::binaries::tool("mount", Command::new("/sbin/losetup").args(arguments));
    let device = losetup(&["--find", "--show", file.to_str().unwrap()]).trim().to_owned();
    let left = Snapshot::take(&scope).new_since(&before);
    losetup(&["--detach", &device]);
    let name = device.trim_start_matches("/dev/");
    assert_eq!(left, [format!("+ loop device: {name} on {}", file.display())]);
    Snapshot::settle(&scope, &before).unwrap();
}
