//! Tasks whose images cannot be had: each says why in ECS's words, leaves nothing, and the agent goes on.

use std::fs;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;
use system_tests::definition::{shell, task};
use system_tests::wire::{Fault, WireImage, WireRegistry, member, tar};
use system_tests::{TestHost, binaries};

const QUICK: &str = "[images]\ninactivity_timeout_secs = 3\nretries = 1\nmax_image_mib = 8\nmax_image_files = 1000\n";
const NOT_THERE: &str =
    "CannotPullContainerError: The task can’t pull the image. Check whether the image exists. image ";
const NOT_LET_IN: &str = "CannotPullContainerError: The task can’t pull the image. Check that the role has the \
                          permissions to pull images from the registry. pull access to image ";
const NO_NETWORK: &str = "CannotPullContainerError: The task can’t pull the image. Check your network configuration. \
                          cannot reach the source of image ";
const OTHERS: &str = "CannotPullContainerError: ";

/// What is left in the agent's image store: layers, half-made things, names.
fn left(host: &TestHost) -> usize {
    let areas = ["layers", "ingest", "names", "images", "leases"];
    areas.iter().map(|area| fs::read_dir(host.root().join("images").join(area)).unwrap().count()).sum()
}

struct Case {
    registry: WireRegistry,
    begins: &'static str,
    contains: String,
}

fn case(
    image: &WireImage,
    begins: &'static str,
    contains: &str,
    fault: impl Fn(&str, usize) -> Option<Fault> + Send + Sync + 'static,
) -> Case {
    Case { registry: WireRegistry::serve(image.clone(), fault), begins, contains: contains.to_owned() }
}

fn is_manifest(path: &str) -> bool {
    path.contains("/manifests/")
}

fn faulty_registries(image: &WireImage) -> Vec<Case> {
    // The largest blob is the layer.
    let (layer, bytes) = image.blobs.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let half = bytes.len() / 2;
    let of_layer = {
        let layer = layer.clone();
        move |path: &str| path.ends_with(&layer)
    };
    let mut other = bytes.clone();
    other[half] ^= 1;
    let truncated = bytes[..half].to_vec();
    let layer_gets = |fault: Fault| {
        let of_layer = of_layer.clone();
        move |path: &str, _: usize| of_layer(path).then(|| fault.clone())
    };
    let (goes, silent) = (of_layer.clone(), of_layer.clone());
    vec![
        case(image, NOT_THERE, "was not found", |path, _| is_manifest(path).then_some(Fault::Status(404))),
        case(image, NOT_THERE, "was not found", layer_gets(Fault::Status(404))),
        case(image, NOT_LET_IN, "is denied", |path, _| is_manifest(path).then_some(Fault::Status(401))),
        case(image, NOT_LET_IN, "is denied", |path, _| is_manifest(path).then_some(Fault::Status(403))),
        case(image, OTHERS, "answered with status 429", |path, _| is_manifest(path).then_some(Fault::Status(429))),
        case(image, OTHERS, "answered with status 500", |path, _| is_manifest(path).then_some(Fault::Status(500))),
        case(image, OTHERS, "manifest is malformed", |path, _| {
            is_manifest(path).then(|| Fault::Body(b"<html>".to_vec()))
        }),
        case(image, OTHERS, &format!("should be {layer} but is"), layer_gets(Fault::Body(other))),
        case(image, OTHERS, "is damaged at the source", layer_gets(Fault::Body(truncated))),
        case(image, NO_NETWORK, "the connection failed", move |path, earlier| {
            goes(path).then_some(if earlier == 0 { Fault::Cut(half) } else { Fault::HangUp })
        }),
        case(image, NO_NETWORK, "the connection failed", move |path, earlier| {
            silent(path).then_some(Fault::Stall(if earlier == 0 { half } else { 0 }))
        }),
    ]
}

fn hostile_images() -> Vec<Case> {
    let hand = |layers: &[Vec<u8>]| WireImage::by_hand("amd64", layers);
    let honest = |_: &str, _: usize| None;
    let escapes = tar(&[member("../../../escaped", b'0', "", b"x")]);
    let through = tar(&[
        member("out", b'2', "/", b""),
        member("out/etc/escaped", b'0', "", b"x"),
        member("../up", b'0', "", b""),
    ]);
    let linked = tar(&[member("passwd", b'1', "../../../../etc/passwd", b"")]);
    let whiteout = tar(&[member("a/.wh...", b'0', "", b"")]);
    let absurd = tar(&[member("pax", b'x', "", b"99999999 path=x\n"), member("a", b'0', "", b"")]);
    let swapped =
        tar(&[member("d", b'5', "", b""), member("d", b'2', "/etc", b""), member("d/../../up", b'0', "", b"")]);
    let large = tar(&[member("zeros", b'0', "", &vec![0; 9 << 20])]);
    let many = tar(&(0..1001).map(|number| member(&format!("f{number}"), b'0', "", b"")).collect::<Vec<_>>());
    let says = |image: WireImage, contains: &str| case(&image, OTHERS, contains, honest);
    vec![
        says(WireImage::by_hand("s390x", &[tar(&[])]), "no matching manifest for linux/amd64 in image "),
        says(hand(&[escapes]), "entry \"../../../escaped\": the name leads outside the layer"),
        says(hand(&[through]), "entry \"../up\": the name leads outside the layer"),
        says(hand(&[swapped]), "entry \"d/../../up\": the name leads outside the layer"),
        says(hand(&[linked]), "the name leads outside the layer"),
        says(hand(&[whiteout]), "the whiteout names nothing that can be deleted"),
        says(hand(&[absurd]), "has an invalid PAX record"),
        says(hand(&[large]), "it is larger when unpacked than the 8 MiB of max_image_mib"),
        says(hand(&[many]), "it has more files than the 1000 of max_image_files"),
        says(hand(&[b"no tar".repeat(200)]), "the layer is damaged"),
    ]
}

#[test]
fn a_task_whose_image_cannot_be_had_says_why_and_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let base = WireImage::copied(&system_tests::TestRegistry::shared().image("base"), &scratch.path().join("base"));
    let host = TestHost::with(QUICK);
    let before = left(&host);
    let cases: Vec<Case> = faulty_registries(&base).into_iter().chain(hostile_images()).collect();
    // Side by side: most of the time is that of those who are waited for.
    let tasks: Vec<String> =
        cases.iter().map(|case| host.run(&task("unpullable", &[shell("c", &case.registry.image(), "true")]))).collect();
    for (case, arn) in cases.iter().zip(&tasks) {
        let ended = host.stopped(arn);
        let reason = ended.stopped_reason();
        assert_eq!(ended.stop_code(), "TaskFailedToStart", "{reason}");
        assert!(reason.starts_with(case.begins) && reason.contains(&case.contains), "{}: {reason}", case.contains);
        assert!(reason.contains(&case.registry.image()), "{reason}");
        assert_eq!((ended.containers[0].reason(), ended.containers[0].exit_code), (reason, None));
    }
    // Layers that had arrived whole before a connection broke are kept for the next try; none of these had any.
    assert_eq!(left(&host), before);
    assert!(!std::path::Path::new("/escaped").exists() && !std::path::Path::new("/etc/escaped").exists());
    let well = host.run_to_end(&task("well", &[shell("c", &host.image("base"), "true")]));
    assert_eq!(well.containers[0].exit_code, Some(0));
}

#[test]
fn a_broken_transfer_goes_on_where_it_broke_and_the_task_runs() {
    let scratch = tempfile::tempdir().unwrap();
    let base = WireImage::copied(&system_tests::TestRegistry::shared().image("base"), &scratch.path().join("base"));
    let layer = base.blobs.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap().0.clone();
    let breaks = layer.clone();
    let registry = WireRegistry::serve(base, move |path, earlier| {
        let faults = [Fault::Cut(100_000), Fault::Stall(100_000), Fault::Status(503)];
        path.ends_with(&breaks).then(|| faults.get(earlier).cloned()).flatten()
    });
    let host = TestHost::with(QUICK);
    let ended = host.run_to_end(&task("broken", &[shell("c", &registry.image(), "echo here")]));
    assert_eq!(ended.containers[0].exit_code, Some(0), "{}", ended.stopped_reason());
    assert_eq!(registry.asked_for(&layer).len(), 4);
}

/// A file system of that many MiB; it has to outlive the agent on it.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(mib: u64) -> SmallDisk {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={mib}m,mode=700");
        mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        SmallDisk(directory)
    }

    fn free(&self) -> u64 {
        let disk = statvfs(self.0.path()).unwrap();
        disk.blocks_available() * disk.fragment_size()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).expect("our own mount can be undone");
    }
}

#[test]
fn a_disk_that_is_full_in_the_middle_of_a_pull_costs_the_task_alone() {
    // Dropped last.
    let disk = SmallDisk::new(24);
    let large = |mib: usize| {
        WireImage::by_hand(
            "amd64",
            &[
                tar(&[member("fits", b'0', "", &vec![1; 2 << 20])]),
                tar(&[member("zeros", b'0', "", &vec![0; mib << 20])]),
            ],
        )
    };
    let registry = WireRegistry::serve(large(40), |_, _| None);
    let mut host = TestHost::with("[images]\nlow_disk_mib = 0\n");
    host.terminate();
    let images = host.root().join("images");
    fs::remove_dir_all(&images).unwrap();
    std::os::unix::fs::symlink(disk.0.path(), &images).unwrap();
    host.restart();
    let (free, before) = (disk.free(), left(&host));
    let ended = host.run_to_end(&task("full", &[shell("c", &registry.image(), "true")]));
    let reason = ended.stopped_reason();
    assert_eq!(ended.stop_code(), "TaskFailedToStart");
    assert!(reason.starts_with("CannotPullContainerError: cannot unpack layer "), "{reason}");
    assert!(reason.ends_with("cannot write its data: No space left on device (os error 28)"), "{reason}");
    assert_eq!(left(&host), before);
    assert!(free - disk.free() < 256 << 10, "{} of {free} bytes are free", disk.free());
    let next = host.run_to_end(&task("next", &[shell("c", &host.image("base"), "true")]));
    assert_eq!(next.containers[0].exit_code, Some(0), "{}", next.stopped_reason());
}

#[test]
fn an_archive_of_docker_save_is_pulled_and_run() {
    let host = TestHost::start();
    let plain = host.scratch().join("base.tar");
    let (from, to) = (format!("docker://{}", host.image("base")), format!("docker-archive:{}:app:v1", plain.display()));
    let mut copy = Command::new("skopeo");
    binaries::tool("skopeo", copy.args(["copy", "--quiet", "--src-tls-verify=false", &from, &to]));
    let ended = host.run_to_end(&task("archived", &[shell("c", &to, "cat /deleted")]));
    assert_eq!(ended.containers[0].exit_code, Some(0), "{}", ended.stopped_reason());
    assert_eq!(host.logs(ended.task_arn(), "c"), "a later layer deletes this\n");
    binaries::tool("gzip", Command::new("gzip").arg(&plain));
    let zipped = format!("docker-archive:{}.gz", plain.display());
    assert!(host.cli(&["pull", &zipped]).status.success());
    assert!(host.image_names().contains(&zipped), "{:?}", host.image_names());
    let missing = host.cli(&["pull", &to]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("base.tar does not exist"), "{missing:?}");
}
