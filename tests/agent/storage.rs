//! `ephemeralStorage`: a hard limit of what a task writes, which costs the host what is written.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::json;
use system_tests::TestHost;
use system_tests::definition::{shell, task, with};

/// Takes all there is in a few big pieces, of which nothing is written, and then writes.
const FILL: &str = "for size in 4G 1G 256M 64M 16M 4M 1M; do
        n=0; while fallocate -l $size /fill.$size.$n 2>/dev/null; do n=$((n+1)); done; done
    dd if=/dev/zero of=$1/more bs=64k count=128";

fn loops_on(root: &Path) -> usize {
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    let files = devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.filter(|file| Path::new(file.trim()).starts_with(root)).count()
}

#[test]
fn beyond_its_size_a_disk_is_full_and_the_hosts_is_not() {
    let mut host = TestHost::start();
    let image = host.image("base");
    let volume = json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/v" }] });
    let containers = ["one", "two"].map(|name| with(shell(name, &image, "exec sleep 1000"), volume.clone()));
    let definition = with(
        task("storage", &containers),
        json!({ "networkMode": "bridge", "ephemeralStorage": { "sizeInGiB": 21 }, "volumes": [{ "name": "v" }] }),
    );
    let arn = host.run(&definition);
    let running = host.running(&arn);
    assert_eq!(running.ephemeral_storage.unwrap().size_in_gi_b(), 21);
    assert!(!running.attributes.iter().any(|attribute| attribute.name() == "neargate.user-namespace"), "{running:?}");

    let fill = |container: &str, place: &str| {
        let script = FILL.replace("$1", place);
        host.cli(&["exec", "--container", container, &arn, "sh", "-c", &script])
    };
    let full = fill("one", "/tmp");
    let words = String::from_utf8_lossy(&full.stderr).into_owned();
    assert!(!full.status.success() && words.contains("No space left on device"), "{full:?}");
    let full = fill("two", "/v");
    let words = String::from_utf8_lossy(&full.stderr).into_owned();
    assert!(!full.status.success() && words.contains("No space left on device"), "one disk for all: {full:?}");
    let given = host.inside(&arn, "one", "du -k -c /fill.* | tail -1 | cut -f1");
    assert!(given.trim().parse::<u64>().unwrap() > 20 << 20, "{given} KiB were to be had");
    let disk = host.task_directory(&arn).join("disk.ext4");
    let of_host = fs::metadata(&disk).unwrap().blocks() * 512;
    assert!(of_host < 512 << 20, "the host's disk has lost {of_host} bytes");

    host.kill9();
    host.restart();
    let script = "rm /fill.*; echo kept > /v/kept; chown 1000:1000 /v/kept; stat -c '%u %g' /v/kept";
    assert_eq!(host.inside(&arn, "one", script), "1000 1000\n", "it goes on under another agent");
    assert_eq!(host.inside(&arn, "two", "cat /v/kept"), "kept\n");
    assert_eq!(loops_on(&host.root()), 1);
    host.stop(&arn, None).unwrap();
    host.stopped(&arn);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(host.task_directory(&arn).to_str().unwrap()), "{mounts}");
}

#[test]
fn a_disk_goes_with_a_task_that_ends_while_no_agent_runs() {
    let mut host = TestHost::start();
    let go = host.scratch().join("go");
    fs::create_dir(&go).unwrap();
    let points = json!({ "mountPoints": [{ "sourceVolume": "go", "containerPath": "/go" }] });
    let script = "touch /own; until test -e /go/on; do sleep 0.1; done; exit 5";
    let definition = with(
        task("alone", &[with(shell("c", &host.image("base"), script), points)]),
        json!({ "ephemeralStorage": { "sizeInGiB": 21 }, "volumes": [{ "name": "go", "host": { "sourcePath": go } }] }),
    );
    let arn = host.run(&definition);
    host.running(&arn);
    assert_eq!(loops_on(&host.root()), 1);
    host.kill9();
    fs::File::create(go.join("on")).unwrap();
    let exit = host.bundle(&arn, "c").join("exit.json");
    system_tests::eventually("it ends", std::time::Duration::from_secs(20), || exit.exists().then_some(()));
    host.restart();
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(5));
    // The rest is the test host's to look for: mounts, loop devices, cgroups.
}

#[test]
fn a_task_that_stops_while_it_is_made_leaves_no_disk() {
    let host = TestHost::start();
    let container = shell("c", &host.image("base"), "exec sleep 1000");
    let definition = with(task("soon", &[container]), json!({ "ephemeralStorage": { "sizeInGiB": 21 } }));
    let arns: Vec<String> = (0..4).map(|_| host.run(&definition)).collect();
    for arn in &arns {
        host.stop(arn, None).unwrap();
    }
    for arn in &arns {
        assert_eq!(host.stopped(arn).stop_code(), "UserInitiated");
    }
}
