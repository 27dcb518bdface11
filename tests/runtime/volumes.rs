//! Volumes: the host's directories and the task's own, with ids that mean the same inside and outside.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use nix::mount::{MsFlags, mount, umount};
use serde_json::json;
use system_tests::definition::{shell, task, with};
use system_tests::{TestHost, eventually};

use super::running;

#[test]
fn files_of_the_tasks_root_belong_to_the_hosts_root() {
    let host = TestHost::start();
    let directory = host.scratch().join("made/by/agent");
    let volumes = json!({ "volumes": [{ "name": "v", "host": { "sourcePath": directory } }] });
    let mounted = json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/data" }] });
    let arn = running(&host, mounted, volumes);
    host.inside(
        &arn,
        "c",
        "echo text > /data/file && mkdir /data/dir && touch /data/dir/app && chown 1000:65535 /data/dir/app",
    );
    let owner = |path: &str| fs::metadata(directory.join(path)).map(|found| (found.uid(), found.gid())).unwrap();
    assert_eq!(owner("file"), (0, 0));
    assert_eq!(owner("dir/app"), (1000, 65535));
    assert_eq!(fs::read_to_string(directory.join("file")).unwrap(), "text\n");
    fs::File::create(directory.join("of-host")).unwrap();
    assert_eq!(host.inside(&arn, "c", "stat -c '%u %g' /data/of-host"), "0 0\n");
    host.stop(&arn, None).unwrap();
    host.stopped(&arn);
    assert!(directory.join("file").exists(), "the host's directory is the host's");
}

#[test]
fn a_read_only_mount_point_takes_no_write() {
    let host = TestHost::start();
    let directory = host.scratch().join("read-only");
    let volumes = json!({ "volumes": [{ "name": "v", "host": { "sourcePath": directory } }] });
    let points = json!({ "mountPoints": [
        { "sourceVolume": "v", "containerPath": "/ro", "readOnly": true }, { "sourceVolume": "v", "containerPath": "/rw" },
    ] });
    let arn = running(&host, points, volumes);
    assert_eq!(
        host.inside(&arn, "c", "touch /ro/a 2>/dev/null || echo refused; touch /rw/b && ls /ro"),
        "refused\nb\n"
    );
}

#[test]
fn what_is_mounted_below_a_read_only_volume_is_read_only_too() {
    let host = TestHost::start();
    let directory = host.scratch().join("above");
    let below = directory.join("below");
    fs::create_dir_all(&below).unwrap();
    mount(Some("t"), &below, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let volumes = json!({ "volumes": [{ "name": "v", "host": { "sourcePath": directory } }] });
    let point = json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/ro", "readOnly": true }] });
    let arn = running(&host, point, volumes);
    let written = host.inside(&arn, "c", "touch /ro/below/a 2>/dev/null && echo written || echo refused");
    host.stop(&arn, None).unwrap();
    host.stopped(&arn);
    umount(&below).unwrap();
    assert_eq!(written, "refused\n");
}

#[test]
fn an_empty_volume_is_shared_by_the_tasks_containers_and_by_no_other_task() {
    let host = TestHost::start();
    let image = host.image("base");
    let mounted = json!({ "mountPoints": [{ "sourceVolume": "shared", "containerPath": "/shared" }] });
    let volumes = json!({ "volumes": [{ "name": "shared" }] });
    let writer = with(shell("writer", &image, "ls -A /shared; echo page > /shared/page; sleep 60"), mounted.clone());
    let writer = with(writer, json!({ "essential": false }));
    let reader = "for i in $(seq 100); do [ -s /shared/page ] && cat /shared/page && exit 0; sleep 0.05; done; exit 1";
    let reader = with(shell("reader", &image, reader), mounted);
    let definition = with(task("sidecar", &[writer, reader]), volumes);
    for _ in 0..2 {
        let arn = host.run(&definition);
        let ended = host.stopped(&arn);
        let code = ended.containers.iter().find(|container| container.name() == "reader").unwrap().exit_code;
        assert_eq!(code, Some(0));
        assert_eq!(host.logs(&arn, "reader"), "page\n");
        assert_eq!(host.logs(&arn, "writer"), "", "it was empty");
    }
}

#[test]
fn writes_into_the_root_are_the_containers_own_and_the_image_stays() {
    let host = TestHost::start();
    let script = "cat /etc/passwd | head -n 1; echo changed > /etc/passwd; rm /of-app; touch /new";
    let definition = task("writer", &[shell("c", &host.image("base"), script)]);
    for _ in 0..2 {
        let arn = host.run(&definition);
        assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(0));
        assert_eq!(host.logs(&arn, "c"), "root::0:0:root:/root:/bin/sh\n");
    }
}

#[test]
fn disks_of_stopped_tasks_are_removed_and_the_record_stays() {
    let host = TestHost::with("[history]\ndisk_keep_hours = 0.0");
    let arn = host.run(&task("gone", &[shell("c", &host.image("base"), "touch /new")]));
    host.stopped(&arn);
    let directory = host.task_directory(&arn);
    eventually("the disks are removed", Duration::from_secs(30), || (!directory.exists()).then_some(()));
    assert_eq!(host.describe(&arn).containers[0].exit_code, Some(0));
}

/// What the image has at /data, as its user sees it.
const DATA: &str = "cd /data; stat -c '%n %u:%g %a' . file sub; readlink link; cat file";
const OF_IMAGE: &str = ". 1000:1000 750\nfile 1000:1000 640\nsub 1000:1000 2770\nfile\nof the image\n";

#[test]
fn a_new_volume_begins_with_what_the_image_has_there() {
    let host = TestHost::start();
    let image = host.image("base");
    let mounted = json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/data" }], "user": "app" });
    let script = format!("{DATA}; echo changed > /data/file");
    for volume in [json!({ "name": "v" }), json!({ "name": "v", "dockerVolumeConfiguration": { "scope": "task" } })] {
        let volumes = json!({ "volumes": [volume] });
        let arn = host.run(&with(task("filled", &[with(shell("c", &image, &script), mounted.clone())]), volumes));
        assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(0));
        assert_eq!(host.logs(&arn, "c"), OF_IMAGE);
        let source = host.task_directory(&arn).join("disk/volumes/v/file");
        assert_eq!(fs::read_to_string(source).unwrap(), "changed\n", "it is the volume that was written");
    }
    // A directory of the host stays as it is.
    let directory = host.scratch().join("empty");
    let volumes = json!({ "volumes": [{ "name": "v", "host": { "sourcePath": directory } }] });
    let mounted = json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/data" }] });
    let arn = host.run(&with(task("bound", &[with(shell("c", &image, "ls -A /data"), mounted)]), volumes));
    host.stopped(&arn);
    assert_eq!(host.logs(&arn, "c"), "");
}

#[test]
fn a_link_of_the_image_leads_a_volume_nowhere_else() {
    let host = TestHost::start();
    let mounted = json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/data/link" }] });
    let container = with(shell("c", &host.image("base"), "ls -A /data/link"), mounted);
    let ended = host.run_to_end(&with(task("link", &[container]), json!({ "volumes": [{ "name": "v" }] })));
    assert_eq!(ended.stop_code(), "TaskFailedToStart", "a directory cannot lie on a file");
}

#[test]
fn shared_volumes_outlive_their_tasks() {
    let host = TestHost::start();
    let image = host.image("base");
    let with_volume = |script: &str, autoprovision: bool| {
        let mounted = json!({ "mountPoints": [{ "sourceVolume": "kept", "containerPath": "/kept" }] });
        let docker =
            json!({ "scope": "shared", "autoprovision": autoprovision, "driver": "local", "labels": { "a": "b" } });
        let volumes = json!({ "volumes": [{ "name": "kept", "dockerVolumeConfiguration": docker }] });
        with(task("sharing", &[with(shell("c", &image, script), mounted)]), volumes)
    };
    let missing = host.run_to_end(&with_volume("true", false));
    assert_eq!(missing.stop_code(), "TaskFailedToStart");
    assert!(missing.stopped_reason().starts_with("CannotInspectVolumeError: no volume 'kept'"), "{missing:?}");
    host.run_to_end(&with_volume("echo one > /kept/file", true));
    let arn = host.run(&with_volume("cat /kept/file", false));
    host.stopped(&arn);
    assert_eq!(host.logs(&arn, "c"), "one\n");
}

#[test]
fn a_lock_on_a_shared_volume_keeps_nobody_from_starting() {
    let host = TestHost::start();
    let volumes = json!({ "volumes": [
        { "name": "locked", "dockerVolumeConfiguration": { "scope": "shared", "autoprovision": true } },
    ] });
    let mounted = json!({ "mountPoints": [{ "sourceVolume": "locked", "containerPath": "/data" }] });
    let held = running(&host, mounted.clone(), volumes.clone());
    // As its owner it could empty the volume as well; who finds it filled needs no lock.
    host.inside(&held, "c", "(exec 9</data; flock 9; touch /tmp/locked; exec sleep 1000) >/dev/null 2>&1 &");
    let locked = || (host.inside(&held, "c", "ls /tmp") == "locked\n").then_some(());
    eventually("the volume is locked", Duration::from_secs(10), locked);
    let second = running(&host, mounted, volumes);
    assert_eq!(host.inside(&second, "c", "cat /data/file"), "of the image\n");
}

#[test]
fn only_what_is_the_images_own_is_copied_into_a_volume() {
    let host = TestHost::start();
    let volumes = json!({ "volumes": [{ "name": "outer" }, { "name": "inner" }, { "name": "linked" }] });
    // /links/sys of the image leads to /sys/kernel. The inner volume is listed first.
    let mounted = json!({ "mountPoints": [
        { "sourceVolume": "inner", "containerPath": "/data/sub" },
        { "sourceVolume": "outer", "containerPath": "/data" },
        { "sourceVolume": "linked", "containerPath": "/links/sys" },
    ] });
    let arn = running(&host, mounted, volumes);
    let volume = |name: &str| host.task_directory(&arn).join("disk/volumes").join(name);
    assert!(volume("outer").join("file").exists());
    assert_eq!(fs::metadata(volume("inner")).unwrap().uid(), 1000, "it is as the image has /data/sub");
    assert_eq!(fs::read_dir(volume("linked")).unwrap().count(), 0, "nothing of the host's /sys");
    host.inside(&arn, "c", "touch /data/sub/new");
    assert!(volume("inner").join("new").exists(), "the inner volume is not hidden");
}
