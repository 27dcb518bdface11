//! Many who want one image: one pull, for as long as anybody wants it; and a pull that finds all of it here.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rootfs::{Config, Image, Images, Progress, ProgressStatus, PullError, Reference};
use tokio::task::JoinHandle;

use crate::harness::{Layer, Made, files, layers_on_disk, noise, store};
use crate::server::{Gate, Reply, Server, honest, quick};
use crate::wire::big;

/// Begins to pull. By the time that `begun` says so it is about to join the others, if it has not.
fn begin(
    (images, reference): (&Images, Reference),
    owner: String,
    begun: &Arc<AtomicUsize>,
    told: impl Fn(Progress) + Send + Sync + 'static,
) -> JoinHandle<Result<Image, Arc<PullError>>> {
    let (images, begun) = (images.clone(), begun.clone());
    tokio::spawn(async move {
        begun.fetch_add(1, Ordering::SeqCst);
        images.pull(&reference, Some(&owner), told).await
    })
}

/// Waits until that many have begun and joined.
async fn all_join(begun: &AtomicUsize, count: usize) {
    until("all have begun", || begun.load(Ordering::SeqCst) >= count).await;
    // No await lies between that and the joining, so a moment is enough.
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// An image of two layers whose big one waits for the gate in the middle.
fn gated(gate: &Arc<Gate>) -> (Server, String) {
    let (_, big_layer) = big();
    let made = Made::new(vec![Layer::gzip(files(&[("small", b"1")])), Layer::gzip(files(&[("big", &noise(600_000))]))]);
    let (held, gate) = (big_layer.clone(), gate.clone());
    let server = Server::start(move |request, _| match honest(&made, request) {
        reply if request.path.ends_with(&held) => Reply { sent: Some(100_000), gate: Some(gate.clone()), ..reply },
        reply => reply,
    });
    (server, big_layer)
}

/// How often each path was asked for.
fn counts(server: &Server) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    server.asked_for("/v2/").into_iter().for_each(|request| *counts.entry(request.path).or_default() += 1);
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_who_want_one_image_pull_it_once() {
    let gate = Arc::new(Gate::default());
    let (server, big_layer) = gated(&gate);
    let (dir, images) = store(Config::default());
    let [begun, complete, counted] = [0; 3].map(|_| Arc::new(AtomicUsize::new(0)));
    let pulls: Vec<_> = (0..50)
        .map(|number| {
            let (complete, counted) = (complete.clone(), counted.clone());
            let told = move |progress: Progress| {
                if progress.status == ProgressStatus::Complete {
                    complete.fetch_add(1, Ordering::SeqCst);
                    counted.fetch_add(usize::from(progress.is_first), Ordering::SeqCst);
                }
            };
            begin((&images, server.reference()), format!("task {number}"), &begun, told)
        })
        .collect();
    until("the layer is asked for", || !server.asked_for(&big_layer).is_empty()).await;
    all_join(&begun, 50).await;
    gate.open();
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    // All are told of the big layer; each layer is counted once.
    assert!(complete.load(Ordering::SeqCst) >= 50, "{complete:?}");
    assert_eq!(counted.load(Ordering::SeqCst), 2);
    let counts = counts(&server);
    assert_eq!(counts.len(), 4, "{counts:?}");
    let blobs = counts.iter().filter(|(path, _)| path.contains("/blobs/"));
    assert!(blobs.clone().count() == 3 && blobs.clone().all(|(_, count)| *count == 1), "{counts:?}");
    assert_eq!((images.list().unwrap()[0].owners.len(), layers_on_disk(&dir)), (50, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_leaves_the_pull_to_the_others_and_the_last_one_ends_it() {
    let gate = Arc::new(Gate::default());
    let (server, big_layer) = gated(&gate);
    let (dir, images) = store(Config::default());
    let begun = Arc::new(AtomicUsize::new(0));
    let pull = |owner: &str| begin((&images, server.reference()), owner.to_owned(), &begun, |_| {});
    let (first, second) = (pull("first"), pull("second"));
    until("the layer is asked for", || !server.asked_for(&big_layer).is_empty()).await;
    all_join(&begun, 2).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    gate.open();
    second.await.unwrap().unwrap();
    assert_eq!((server.asked_for(&big_layer).len(), server.asked_for("v1").len()), (1, 1));
    assert_eq!(images.list().unwrap()[0].owners, ["second"]);

    let gate = Arc::new(Gate::default());
    let (server, big_layer) = gated(&gate);
    images.release("second").unwrap();
    images.remove(&images.list().unwrap()[0].id.to_string()).unwrap();
    let pull = |owner: &str| begin((&images, server.reference()), owner.to_owned(), &begun, |_| {});
    let both = [pull("first"), pull("second")];
    until("the layer is asked for", || !server.asked_for(&big_layer).is_empty()).await;
    all_join(&begun, 4).await;
    for pull in both {
        pull.abort();
        assert!(pull.await.unwrap_err().is_cancelled());
    }
    let ingest = dir.path().join("images/ingest");
    until("what was half-made is gone", || std::fs::read_dir(&ingest).unwrap().count() == 0).await;
    gate.open();
    assert!(images.list().unwrap().is_empty());
    images.collect_garbage().unwrap();
    assert_eq!(layers_on_disk(&dir), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_wait_for_a_pull_that_fails_are_told_why() {
    let server = Server::start(|_, _| Reply { sent: Some(0), stalls: true, ..Reply::ok(b"x") });
    let (_dir, images) = store(quick());
    let pulls: Vec<_> = (0..10)
        .map(|_| {
            let (images, reference) = (images.clone(), server.reference());
            tokio::spawn(async move { images.pull(&reference, None, |_| {}).await })
        })
        .collect();
    for pull in pulls {
        let error = pull.await.unwrap().unwrap_err();
        assert!(error.to_string().starts_with("cannot reach the source"), "{error}");
    }
    // One pull with two more tries; who began late on a busy machine may have had one of his own.
    let asked = server.asked_for("v1").len();
    assert!((3..10).contains(&asked), "{asked} requests");
}

/// Inode and content of every small file of the store.
fn small_files(dir: &tempfile::TempDir) -> BTreeMap<std::path::PathBuf, u64> {
    let areas = ["names", "images", "content", "layer-records"].map(|area| dir.path().join("images").join(area));
    let entries = areas.iter().flat_map(|area| std::fs::read_dir(area).unwrap());
    entries.map(|entry| entry.unwrap()).map(|entry| (entry.path(), entry.metadata().unwrap().ino())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_here_is_neither_fetched_nor_written_again() {
    let (made, _) = big();
    let server = Server::start(move |request, _| honest(&made, request));
    let (dir, images) = store(Config::default());
    let first = images.pull(&server.reference(), Some("one"), |_| {}).await.unwrap();
    let (written, asked) = (small_files(&dir), counts(&server));
    assert_eq!(written.len(), 5);
    let second = images.pull(&server.reference(), Some("two"), |_| {}).await.unwrap();
    assert_eq!((small_files(&dir), &second.id), (written.clone(), &first.id));
    assert!(second.pulled_at >= first.pulled_at);
    let again = counts(&server);
    assert_eq!(
        again.values().sum::<usize>(),
        asked.values().sum::<usize>() + 1,
        "the tag alone is asked for: {again:?}"
    );
    assert_eq!(images.list().unwrap()[0].owners, ["one", "two"]);

    // What is damaged is fetched again all the same.
    let config = dir.path().join("images/content").join(first.id.digest().hex());
    crate::harness::put(&config, b"{}");
    let third = images.pull(&server.reference(), None, |_| {}).await.unwrap();
    assert_eq!(third.id, first.id);
    assert!(images.get(&server.reference()).unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_survive_the_process_that_took_them() {
    let (made, _) = big();
    let server = Server::start(move |request, _| honest(&made, request));
    let (dir, images) = store(Config::default());
    let image = images.pull(&server.reference(), Some("task"), |_| {}).await.unwrap();
    drop(images);
    let images = Images::open(&dir.path().join("images"), Config::default()).unwrap();
    assert_eq!(images.list().unwrap()[0].owners, ["task"]);
    assert!(images.remove(&image.id.to_string()).is_err());
    let held = images.held(&server.reference(), "other").await.unwrap().unwrap();
    assert_eq!(held.id, image.id);
    assert_eq!(images.list().unwrap()[0].owners, ["other", "task"]);
    images.release("task").unwrap();
    images.release("other").unwrap();
    images.remove(&image.id.to_string()).unwrap();
    assert!(images.held(&server.reference(), "other").await.unwrap().is_none());
}

#[test]
fn layers_that_arrive_slowly_keep_nobody_from_the_disk() {
    let few = tokio::runtime::Builder::new_multi_thread().max_blocking_threads(2).enable_all().build().unwrap();
    few.block_on(async {
        let gate = Arc::new(Gate::default());
        let names = ["a", "b", "c", "d"];
        let made = Made::new(names.map(|name| Layer::gzip(files(&[(name, &noise(600_000))]))).into());
        let held = gate.clone();
        let server = Server::start(move |request, _| match honest(&made, request) {
            reply if reply.body.len() > 100_000 => Reply { sent: Some(100_000), gate: Some(held.clone()), ..reply },
            reply => reply,
        });
        let (_dir, images) = store(Config::default());
        let pull = begin((&images, server.reference()), "task".to_owned(), &Arc::default(), |_| {});
        // The configuration too.
        until("all layers are on their way", || server.asked_for("/blobs/").len() == names.len() + 1).await;
        let other = tokio::task::spawn_blocking(|| 7);
        assert_eq!(tokio::time::timeout(Duration::from_secs(30), other).await.expect("a thread is free").unwrap(), 7);
        gate.open();
        pull.await.unwrap().unwrap();
    });
}
