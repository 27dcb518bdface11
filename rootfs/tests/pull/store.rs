//! Tags that move, leases, removal, collection, and what a kill may leave, with OCI layouts as the source.

use std::collections::HashSet;
use std::fs;

use rootfs::{Config, Images, OpenError, PullError, RemoveError};
use serde_json::json;

use crate::harness::{Layer, Made, digest, files, layers_on_disk, put, store};

fn image(content: &str) -> Made {
    let shared = Layer::gzip(files(&[("shared", b"base")]));
    Made::new(vec![shared, Layer::zstd(files(&[("own", content.as_bytes())]))])
}

#[tokio::test]
async fn a_moved_tag_leaves_the_old_image_to_its_lease() {
    let (layout, (dir, images)) = (tempfile::tempdir().unwrap(), store(Config::default()));
    let tag = image("old").write(layout.path(), "v1");
    let old = images.pull(&tag, Some("task 1"), |_| {}).await.unwrap();
    image("new").write(layout.path(), "v1");
    let new = images.pull(&tag, None, |_| {}).await.unwrap();
    assert_ne!(old.id, new.id);
    assert_eq!(images.get(&tag).unwrap().unwrap().id, new.id);
    assert_eq!(images.list().unwrap().len(), 2);
    assert_eq!(fs::read(images.layers(&old)[0].join("own")).unwrap(), b"old");

    assert_eq!(images.collect_garbage().unwrap(), rootfs::Collected::default());
    let in_use = images.remove(&old.id.to_string()).unwrap_err();
    assert!(matches!(in_use, RemoveError::InUse { owners, .. } if owners == ["task 1"]));
    images.release("task 1").unwrap();
    images.release("task 1").unwrap();
    let collected = images.collect_garbage().unwrap();
    assert_eq!((collected.images, collected.layers, collected.freed_bytes), (1, 1, 3));
    assert!(images.layers(&new).iter().all(|layer| layer.exists()));

    images.lease("task 2", &new.id).unwrap();
    assert!(matches!(images.remove(&tag.to_string()), Err(RemoveError::InUse { .. })));
    images.retain_owners(&HashSet::from(["task 2".to_owned()])).unwrap();
    assert!(images.remove(&tag.to_string()).is_err());
    images.retain_owners(&HashSet::new()).unwrap();
    assert_eq!(images.remove(&tag.to_string()).unwrap(), 7);
    assert_eq!((layers_on_disk(&dir), images.list().unwrap().len()), (0, 0));
    assert!(matches!(images.remove(&tag.to_string()), Err(RemoveError::NotFound(_))));
    assert!(images.get(&tag).unwrap().is_none() && images.lease("x", &new.id).is_err());
}

#[tokio::test]
async fn an_image_goes_with_its_last_name() {
    let (layout, (_dir, images)) = (tempfile::tempdir().unwrap(), store(Config::default()));
    let (one, two) = (image("x").write(layout.path(), "one"), image("x").write(layout.path(), "two"));
    let pulled = images.pull(&one, Some("task"), |_| {}).await.unwrap();
    images.pull(&two, None, |_| {}).await.unwrap();
    assert_eq!(images.list().unwrap()[0].references, [one.clone(), two.clone()]);
    assert_eq!(images.remove(&one.to_string()).unwrap(), 0);
    assert!(matches!(images.remove(&two.to_string()), Err(RemoveError::InUse { .. })));
    images.release("task").unwrap();
    assert_eq!(images.remove(&pulled.id.to_string()).unwrap(), 5);
}

#[tokio::test]
async fn an_image_is_removed_by_the_beginning_of_its_id() {
    let (layout, (_dir, images)) = (tempfile::tempdir().unwrap(), store(Config::default()));
    let pulled = images.pull(&image("x").write(layout.path(), "one"), None, |_| {}).await.unwrap();
    let hex = pulled.id.digest().hex();
    assert!(matches!(images.remove(&hex[..3]), Err(RemoveError::NotFound(_))), "too short to be meant");
    assert_eq!(images.remove(&hex[..12]).unwrap(), 5);
    assert_eq!(images.list().unwrap().len(), 0);
}

#[tokio::test]
async fn everything_survives_a_restart_and_half_made_things_do_not() {
    let (layout, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = dir.path().join("images");
    let images = Images::open(&root, Config::default()).unwrap();
    assert!(matches!(Images::open(&root, Config::default()), Err(OpenError::Busy(_))));
    let tag = image("x").write(layout.path(), "v1");
    let before = images.pull(&tag, Some("task"), |_| {}).await.unwrap();
    drop(images);
    // A kill while a layer was unpacked, and one between layers and record, or between record and layers of a removal.
    fs::create_dir_all(root.join("ingest/layer-0/half/made")).unwrap();
    let orphan = root.join("layers").join(digest(b"orphan").strip_prefix("sha256:").unwrap());
    fs::create_dir(&orphan).unwrap();
    let images = Images::open(&root, Config::default()).unwrap();
    assert_eq!(fs::read_dir(root.join("ingest")).unwrap().count(), 0);
    let after = images.get(&tag).unwrap().unwrap();
    assert_eq!((&after.id, &after.diff_ids, after.size_bytes), (&before.id, &before.diff_ids, before.size_bytes));
    assert_eq!(after.config.config().as_ref().unwrap().env().as_deref(), Some(&["A=b".to_owned()][..]));
    assert!(matches!(images.remove(&tag.to_string()), Err(RemoveError::InUse { .. })));
    assert_eq!(images.collect_garbage().unwrap().layers, 1);
    assert!(!orphan.exists());
}

#[tokio::test]
async fn what_is_wrong_with_an_image_is_told_and_nothing_of_it_stays() {
    let (dir, images) = store(Config::default());
    let pull = async |made: Made| {
        let layout = tempfile::tempdir().unwrap();
        let reference = made.write(layout.path(), "v1");
        images.pull(&reference, Some("task"), |_| {}).await.unwrap_err()
    };
    let wrong_diff_id = Made::with_diff_ids(vec![Layer::plain(files(&[("a", b"1")]))], &[digest(b"other")]);
    assert!(matches!(*pull(wrong_diff_id).await, PullError::LayerMismatch { .. }));
    let mut damaged = image("x");
    let blob = digest(&damaged.layers[0].blob);
    *damaged.blobs.get_mut(&blob).unwrap().last_mut().unwrap() ^= 1;
    assert!(matches!(*pull(damaged).await, PullError::LayerMismatch { .. }));
    let mut short = image("y");
    let blob = digest(&short.layers[1].blob);
    short.blobs.get_mut(&blob).unwrap().pop();
    assert!(matches!(*pull(short).await, PullError::DigestMismatch { .. }));
    let mut escaping = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..10].copy_from_slice(b"../escaped");
    header.set_size(0);
    header.set_cksum();
    escaping.append(&header, &b""[..]).unwrap();
    let hostile = Made::new(vec![Layer::gzip(escaping.into_inner().unwrap())]);
    assert!(matches!(*pull(hostile).await, PullError::Unpack { .. }));
    // The good layers of bad images may stay until they are collected; no image is here and nothing is half-made.
    assert!(images.list().unwrap().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("images/ingest")).unwrap().count(), 0);
    images.collect_garbage().unwrap();
    assert_eq!(layers_on_disk(&dir), 0);
}

#[tokio::test]
async fn the_platform_is_chosen_from_a_nested_index() {
    let (layout, (_dir, images)) = (tempfile::tempdir().unwrap(), store(Config::default()));
    let made = image("x");
    made.write(layout.path(), "v1");
    let entry = |architecture: &str, bytes: &[u8]| {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(bytes), "size": bytes.len(),
               "platform": {"os": "linux", "architecture": architecture}})
    };
    for (architectures, works) in [(&["s390x", "amd64"][..], true), (&["s390x"][..], false)] {
        let manifests: Vec<_> = architectures.iter().map(|a| entry(a, &made.manifest)).collect();
        let inner = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
        put(&layout.path().join("blobs/sha256").join(&digest(inner.as_bytes())[7..]), inner.as_bytes());
        let outer = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest(inner.as_bytes()), "size": inner.len(),
        }]});
        put(&layout.path().join("index.json"), outer.to_string().as_bytes());
        let reference = format!("oci:{}", layout.path().display()).parse().unwrap();
        match images.pull(&reference, None, |_| {}).await {
            Ok(_) => assert!(works),
            Err(error) => {
                assert!(!works && matches!(&*error, PullError::PlatformMismatch { .. }), "{error:?}");
                let words = "no matching manifest for linux/amd64 in image ";
                assert!(error.to_string().starts_with(words), "{error}");
                assert!(error.to_string().ends_with("which has linux/s390x only"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_layout_with_a_pipe_for_an_index_is_refused() {
    let (layout, (_dir, images)) = (tempfile::tempdir().unwrap(), store(Config::default()));
    let reference = image("x").write(layout.path(), "one");
    let index = layout.path().join("index.json");
    fs::remove_file(&index).unwrap();
    nix::unistd::mkfifo(&index, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let refused = images.pull(&reference, None, |_| {});
    let refused =
        tokio::time::timeout(std::time::Duration::from_secs(60), refused).await.expect("nobody waits for a pipe");
    let words = format!("{:?}", refused.unwrap_err());
    assert!(words.contains("NotAFile"), "{words}");
}

#[tokio::test]
async fn a_damaged_name_hides_no_other_and_is_replaced() {
    let (layout, (dir, images)) = (tempfile::tempdir().unwrap(), store(Config::default()));
    let (sound, damaged) = (image("sound").write(layout.path(), "v1"), image("damaged").write(layout.path(), "v2"));
    images.pull(&sound, None, |_| {}).await.unwrap();
    let names = || fs::read_dir(dir.path().join("images/names")).unwrap().map(|entry| entry.unwrap().path());
    let of_sound: Vec<_> = names().collect();
    let again = images.pull(&damaged, None, |_| {}).await.unwrap();
    let of_damaged = names().find(|path| !of_sound.contains(path)).unwrap();
    fs::OpenOptions::new().write(true).open(of_damaged).unwrap().set_len(3).unwrap();
    assert!(images.get(&sound).unwrap().is_some());
    assert_eq!(images.list().unwrap().len(), 2, "the image itself is sound");
    images.collect_garbage().unwrap();
    assert_eq!(images.pull(&damaged, None, |_| {}).await.unwrap().id, again.id);
    assert!(images.get(&damaged).unwrap().is_some());
    images.remove(&sound.to_string()).unwrap();
}
