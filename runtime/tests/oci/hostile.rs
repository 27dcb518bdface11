//! Images and bundles that attack the runtime. Each test is named after the hole it keeps closed.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::harness::TestBundle;

/// CVE-2019-5736 and its kin: the runtime's own file must not be writable through /proc/PID/exe.
#[test]
fn the_runtimes_binary_is_out_of_reach() {
    let bundle = TestBundle::new("true");
    bundle.create();
    let pid = bundle.state()["pid"].as_i64().unwrap();
    // Opening it for writing would say ETXTBSY as long as any runtime runs: the mount is what counts.
    let exe = nix::sys::statvfs::statvfs(format!("/proc/{pid}/exe").as_str()).unwrap();
    assert!(exe.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
}

/// CVE-2019-16884: /proc as a link would take masks and read-only paths to another place.
#[test]
fn proc_must_be_a_plain_directory() {
    let bundle = TestBundle::new("true");
    fs::remove_dir(bundle.rootfs().join("proc")).unwrap();
    symlink("/tmp", bundle.rootfs().join("proc")).unwrap();
    let text = String::from_utf8(bundle.run().stderr).unwrap();
    assert!(text.contains("/proc") && text.contains("ELOOP"), "{text}");
}

/// A mount target that is a link to procfs would hide or change what the kernel shows.
#[test]
fn a_link_into_procfs_is_no_mount_target() {
    let mut bundle = TestBundle::new("true");
    symlink("/proc/self", bundle.rootfs().join("data")).unwrap();
    bundle.mount(json!({"destination": "/data/attr", "type": "tmpfs", "source": "tmpfs"}));
    let text = String::from_utf8(bundle.run().stderr).unwrap();
    assert!(text.contains("/data/attr"), "{text}");
}

/// CVE-2021-30465 and many before: links in mount targets must not lead to the host.
#[test]
fn mount_targets_stay_inside() {
    let mut bundle = TestBundle::new("ls /in/side");
    let outside = tempfile::tempdir().unwrap();
    symlink(format!("../../../../../../../../{}", outside.path().display()), bundle.rootfs().join("escape")).unwrap();
    symlink("/in", bundle.rootfs().join("absolute")).unwrap();
    bundle.mount(json!({"destination": "/escape/made", "type": "tmpfs", "source": "tmpfs"}));
    bundle.mount(json!({"destination": "/absolute/side", "type": "tmpfs", "source": "tmpfs"}));
    bundle.run_ok();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// CVE-2024-21626: a working directory through a leaked descriptor.
#[test]
fn no_working_directory_through_a_descriptor() {
    for number in 3..16 {
        let mut bundle = TestBundle::new("ls ../../../../../../..; readlink /proc/self/cwd");
        bundle.config["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        let output = bundle.run();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!output.status.success() && text.is_empty(), "{number}: {text}");
    }
}

/// CVE-2025-31133: a masked path is covered by the null device itself, whatever the image has in its /dev.
#[test]
fn masks_do_not_use_the_images_null() {
    let mut bundle = TestBundle::new("wc -c < /proc/keys");
    bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    symlink("/etc/passwd", bundle.rootfs().join("dev/null")).unwrap();
    assert_eq!(bundle.run_ok().trim(), "0");
}

/// A user database that is a fifo would block the runtime for ever.
#[test]
fn a_fifo_is_no_user_database() {
    let bundle = TestBundle::new("true");
    let passwd = bundle.rootfs().join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(!bundle.run().status.success());
}

/// Ids become paths of state and cgroups.
#[test]
fn ids_are_no_paths() {
    let bundle = TestBundle::new("true");
    bundle.run_ok();
    for id in ["../x", "a/b", "..", "."] {
        let text = bundle.fails(&["create", "--bundle", bundle.path().to_str().unwrap(), id]);
        assert!(text.contains("is not made of"), "{text}");
    }
}
