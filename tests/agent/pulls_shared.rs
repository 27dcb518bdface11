//! Images that many tasks want at once, and images that none wants any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use system_tests::definition::{shell, task, with};
use system_tests::wire::{Fault, Gate, WireImage, WireRegistry};
use system_tests::{TestHost, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

/// Waits until that many containers have come to the pull of their image.
fn pulling(host: &TestHost, count: usize) {
    let begun = || std::fs::read_to_string(host.trace_file()).unwrap_or_default().matches(" pull\n").count();
    eventually("all of them pull", PATIENCE, || (begun() >= count).then_some(()));
}

#[test]
fn fifty_tasks_pull_the_image_that_they_share_once() {
    let scratch = tempfile::tempdir().unwrap();
    let base = WireImage::copied(&system_tests::TestRegistry::shared().image("base"), &scratch.path().join("base"));
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let registry =
        WireRegistry::serve(base, move |path, _| path.contains("/blobs/").then(|| Fault::Wait(held.clone())));
    let host = TestHost::start();
    let small = with(shell("c", &registry.image(), "true"), json!({ "memory": 16 }));
    let definition = task("shared", &[small]);
    let tasks: Vec<String> = (0..50).map(|_| host.run(&definition)).collect();
    eventually("the image is asked for", PATIENCE, || (!registry.asked_for("/blobs/").is_empty()).then_some(()));
    pulling(&host, 50);
    // One who goes in the middle takes nothing away from the others, and does not wait for them.
    host.stop(&tasks[0], Some("no longer")).unwrap();
    assert_eq!(host.stopped(&tasks[0]).stopped_reason(), "no longer");
    gate.open();
    for arn in &tasks[1..] {
        let ended = host.stopped(arn);
        assert_eq!(ended.containers[0].exit_code, Some(0), "{}", ended.stopped_reason());
    }
    let mut blobs = registry.asked_for("/blobs/");
    blobs.sort();
    let asked = blobs.len();
    blobs.dedup();
    assert_eq!((blobs.len(), asked), (2, 2), "configuration and layer, once each: {blobs:?}");
}

#[test]
fn a_pull_that_nobody_wants_any_more_ends() {
    let scratch = tempfile::tempdir().unwrap();
    let base = WireImage::copied(&system_tests::TestRegistry::shared().image("base"), &scratch.path().join("base"));
    let layer = base.blobs.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap().0.clone();
    let wanted = layer.clone();
    let registry = WireRegistry::serve(base, move |path, _| path.ends_with(&wanted).then_some(Fault::Stall(1000)));
    let host = TestHost::start();
    let definition = task("abandoned", &[shell("c", &registry.image(), "true")]);
    let tasks = [host.run(&definition), host.run(&definition)];
    let ingest = || std::fs::read_dir(host.root().join("images/ingest")).unwrap().count();
    eventually("the layer is on its way", PATIENCE, || (ingest() > 0).then_some(()));
    pulling(&host, 2);
    for arn in &tasks {
        host.stop(arn, None).unwrap();
        assert_eq!(host.stopped(arn).stop_code(), "UserInitiated");
    }
    eventually("what was half-made is gone", PATIENCE, || (ingest() == 0).then_some(()));
    assert_eq!(registry.asked_for(&layer).len(), 1);
}

#[test]
fn images_that_no_task_uses_go_when_they_are_old_enough() {
    let shared = system_tests::TestRegistry::shared();
    let kept = shared.image("signal");
    let host = TestHost::with(&format!(
        "[images]\ncleanup_interval_minutes = 0.02\ncleanup_age_hours = 0.0\nkeep = [\"{kept}\"]\n"
    ));
    let (used, unused) = (host.image("base"), host.image("configured"));
    let arn = host.run(&task("uses", &[shell("c", &used, FOREVER)]));
    host.running(&arn);
    host.pull(&kept).unwrap();
    host.pull(&unused).unwrap();
    eventually("what nobody uses goes", PATIENCE, || (!host.image_names().contains(&unused)).then_some(()));
    let names = host.image_names();
    assert!(names.contains(&used) && names.contains(&kept), "{names:?}");
    assert_eq!(host.inside(&arn, "c", "cat /deleted"), "a later layer deletes this\n");
    host.stop(&arn, None).unwrap();
    host.stopped(&arn);
    eventually("so does what was used", PATIENCE, || (host.image_names() == [kept.clone()]).then_some(()));
    let words = host.last_words();
    assert!(words.contains("removed an image that nobody uses"), "{words}");
}

#[test]
fn the_registry_is_asked_when_pull_behavior_says() {
    let scratch = tempfile::tempdir().unwrap();
    let image = WireImage::copied(&system_tests::TestRegistry::shared().image("base"), &scratch.path().join("base"));
    let gone = Arc::new(AtomicBool::new(false));
    let is_gone = gone.clone();
    let registry = WireRegistry::serve(image, move |_, _| is_gone.load(Ordering::SeqCst).then_some(Fault::Status(404)));
    let run = |host: &TestHost| host.stopped(&host.run(&task("asks", &[shell("c", &registry.image(), "exit 7")])));
    for (behavior, asks, runs_without) in
        [("default", true, true), ("always", true, false), ("once", false, true), ("prefer-cached", false, true)]
    {
        gone.store(false, Ordering::SeqCst);
        let host = TestHost::with(&format!("[images]\npull_behavior = \"{behavior}\"\n"));
        assert_eq!(run(&host).containers[0].exit_code, Some(7), "{behavior}, and the image is not here");
        let before = registry.asked_for("").len();
        assert_eq!(run(&host).containers[0].exit_code, Some(7), "{behavior}");
        assert_eq!(registry.asked_for("").len() > before, asks, "{behavior}");
        gone.store(true, Ordering::SeqCst);
        let last = run(&host);
        assert_eq!(last.containers[0].exit_code, runs_without.then_some(7), "{behavior}: {}", last.stopped_reason());
        assert_eq!(last.stopped_reason().starts_with("CannotPullContainerError"), !runs_without, "{behavior}");
    }
}
