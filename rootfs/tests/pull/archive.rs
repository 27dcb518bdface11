//! Archives as docker save and skopeo write them, and as nobody honest does.

use std::io::Write;
use std::path::Path;

use rootfs::{ArchiveError, Config, Limits, PullError, Reference, SourceError, UnpackError};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::harness::{Layer, Made, digest, files, layers_on_disk, noise, put, run, store};

/// A tar being written by hand.
struct Archive(Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn file(mut self, name: &str, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        self.0.append_data(&mut header, name, data).unwrap();
        self
    }

    fn link(mut self, name: &str, kind: EntryType, target: &str) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        self.0.append_link(&mut header, name, target).unwrap();
        self
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn manifest(self, entries: &[Value]) -> Self {
        let text = json!(entries).to_string();
        self.file("manifest.json", text.as_bytes())
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn entry(made: &Made, tags: &[&str], layers: &[&str]) -> Value {
    json!({"Config": format!("{}.json", &digest(&made.config)[7..]), "RepoTags": tags, "Layers": layers})
}

fn config_name(made: &Made) -> String {
    format!("{}.json", &digest(&made.config)[7..])
}

fn image(content: &[u8]) -> Made {
    Made::new(vec![Layer::plain(files(&[("base", b"shared")])), Layer::plain(files(&[("own", content)]))])
}

/// As docker before 25 saves it; the second layer, which others have too, is a link.
fn legacy(made: &Made, tags: &[&str]) -> Vec<u8> {
    Archive::new()
        .file("a/VERSION", b"1.0")
        .file("a/layer.tar", &made.layers[0].tar)
        .file("x/layer.tar", &made.layers[1].tar)
        .link("b/layer.tar", EntryType::Symlink, "../x/layer.tar")
        .file(&config_name(made), &made.config)
        .manifest(&[entry(made, tags, &["a/layer.tar", "b/layer.tar"])])
        .bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Writes the archive and answers how it is called.
fn saved(directory: &Path, bytes: &[u8]) -> Reference {
    let file = directory.join("image.tar");
    put(&file, bytes);
    format!("docker-archive:{}", file.display()).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_docker_saved_is_loaded_plain_and_compressed() {
    let (made, directory) = (image(&noise(300_000)), tempfile::tempdir().unwrap());
    let plain = legacy(&made, &["app:v1"]);
    let mut manifests = Vec::new();
    for bytes in [plain.clone(), gzip(&plain), zstd::encode_all(&plain[..], 1).unwrap()] {
        let (_dir, images) = store(Config::default());
        let image = images.pull(&saved(directory.path(), &bytes), None, |_| {}).await.unwrap();
        assert_eq!(image.id.to_string(), digest(&made.config));
        let layers = images.layers(&image);
        assert_eq!(std::fs::read(layers[0].join("own")).unwrap(), noise(300_000));
        assert_eq!(std::fs::read(layers[1].join("base")).unwrap(), b"shared");
        manifests.push(image.manifest_digest);
    }
    assert!(manifests.windows(2).all(|pair| pair[0] == pair[1]), "{manifests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn extension_headers_are_read_in_every_compression() {
    let (made, directory) = (image(b"x"), tempfile::tempdir().unwrap());
    let plain = Archive::new()
        .pax(&[("mtime", b"1.5"), ("path", b"base")])
        .file("a", &made.layers[0].tar)
        .pax(&[("SCHILY.xattr.user.large", &noise(200_000))])
        .file("own", &made.layers[1].tar)
        .file(&config_name(&made), &made.config)
        .manifest(&[entry(&made, &["app:v1"], &["base", "own"])])
        .bytes();
    for bytes in [plain.clone(), gzip(&plain), zstd::encode_all(&plain[..], 1).unwrap()] {
        let (_dir, images) = store(Config::default());
        images.pull(&saved(directory.path(), &bytes), None, |_| {}).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_skopeo_and_one_with_an_oci_layout_in_it_are_loaded() {
    let (layout, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let made = Made::new(vec![Layer::gzip(files(&[("a", b"1")])), Layer::gzip(files(&[("b", b"2")]))]);
    let local = made.write(layout.path(), "v1");
    let file = directory.path().join("skopeo.tar");
    let target = format!("docker-archive:{}:registry.example:5000/team/app:v1", file.display());
    run("skopeo", &["copy", "--insecure-policy", &local.to_string(), &target]);
    let (dir, images) = store(Config::default());
    let skopeo = images.pull(&target.parse().unwrap(), None, |_| {}).await.unwrap();
    assert_eq!(images.layers(&skopeo).len(), 2);
    // As docker 25 and later save it: blobs by digest, the layers as they were pulled.
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", &digest(bytes)[7..]);
    let layers: Vec<String> = made.layers.iter().map(|layer| blob(&layer.blob)).collect();
    let layered = Archive::new()
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file(&layers[0], &made.layers[0].blob)
        .file(&layers[1], &made.layers[1].blob)
        .file(&blob(&made.config), &made.config)
        .manifest(&[json!({"Config": blob(&made.config), "RepoTags": ["app:v1"], "Layers": layers})])
        .bytes();
    let (_dir, fresh) = store(Config::default());
    let reference = saved(directory.path(), &layered);
    let image = fresh.pull(&reference, None, |_| {}).await.unwrap();
    assert_eq!(std::fs::read(fresh.layers(&image)[0].join("b")).unwrap(), b"2");
    assert_eq!(image.diff_ids, skopeo.diff_ids);
    // The same layers, whatever wraps them.
    images.pull(&reference, None, |_| {}).await.unwrap();
    assert_eq!(layers_on_disk(&dir), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_images_the_named_one_is_loaded() {
    let (one, two, directory) = (image(b"1"), image(b"2"), tempfile::tempdir().unwrap());
    let several = Archive::new()
        .file("base", &one.layers[0].tar)
        .file("one", &one.layers[1].tar)
        .file("two", &two.layers[1].tar)
        .file(&config_name(&one), &one.config)
        .file(&config_name(&two), &two.config)
        .manifest(&[
            entry(&one, &["app:v1", "localhost:5000/app:Old"], &["base", "one"]),
            entry(&two, &["app:latest"], &["base", "two"]),
        ])
        .bytes();
    let (_dir, images) = store(Config::default());
    let file = saved(directory.path(), &several);
    for (name, expected) in [
        ("", &two),
        (":v1", &one),
        (":app:v1", &one),
        (":app", &two),
        (":localhost:5000/app:Old", &one),
        (":Old", &one),
        (":latest", &two),
    ] {
        let reference: Reference = format!("{file}{name}").parse().unwrap();
        let image = images.pull(&reference, None, |_| {}).await.unwrap();
        assert_eq!(image.id.to_string(), digest(&expected.config), "{reference}");
    }
    let error = images.pull(&format!("{file}:v2").parse().unwrap(), None, |_| {}).await.unwrap_err();
    assert!(matches!(*error, PullError::NotFound { .. }), "{error:?}");
    let words = std::error::Error::source(&*error).unwrap().source().unwrap().to_string();
    assert!(words.ends_with("has no image \"v2\", only app:v1, localhost:5000/app:Old, app:latest"), "{words}");
}

fn archive_error(error: &PullError) -> &ArchiveError {
    match error {
        PullError::Source { source, .. }
        | PullError::NotFound { source, .. }
        | PullError::DigestMismatch { source, .. } => match &**source {
            SourceError::Archive(error) => error,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_lie_or_are_damaged_are_refused_and_leave_nothing() {
    type Told = fn(&PullError) -> bool;
    let made = image(b"x");
    let (base, own, config) = (&made.layers[0].tar, &made.layers[1].tar, &made.config);
    let name = config_name(&made);
    let with = |archive: Archive, layers: &[&str]| {
        archive.file("base", base).file(&name, config).manifest(&[entry(&made, &["a:b"], layers)]).bytes()
    };
    let whole = legacy(&made, &["a:b"]);
    let missing: Told = |e| matches!(archive_error(e), ArchiveError::Member { .. });
    let cases: Vec<(&str, Vec<u8>, Told)> = vec![
        ("no tar", b"#!/bin/sh\n".repeat(100), |e| matches!(archive_error(e), ArchiveError::Tar(..))),
        ("empty", Vec::new(), missing),
        ("no manifest", Archive::new().file("a", b"1").bytes(), missing),
        ("a manifest that is none", Archive::new().file("manifest.json", b"{}").bytes(), |e| {
            matches!(archive_error(e), ArchiveError::Document { .. })
        }),
        ("a manifest of gigabytes", Archive::new().file("manifest.json", &vec![b' '; 5 << 20]).bytes(), |e| {
            matches!(archive_error(e), ArchiveError::TooLarge { .. })
        }),
        ("no images", Archive::new().manifest(&[]).bytes(), |e| matches!(e, PullError::NotFound { .. })),
        ("a missing layer", with(Archive::new(), &["base", "gone"]), missing),
        ("too few layers", with(Archive::new(), &["base"]), |e| {
            matches!(archive_error(e), ArchiveError::Document { .. })
        }),
        (
            "links in a circle",
            with(Archive::new().link("p", EntryType::Symlink, "q").link("q", EntryType::Symlink, "p"), &["base", "p"]),
            missing,
        ),
        (
            "a link out of it",
            with(Archive::new().link("p", EntryType::Symlink, "/../../etc/passwd"), &["base", "p"]),
            missing,
        ),
        ("another layer", with(Archive::new().file("own", &files(&[("own", b"y")])), &["base", "own"]), |e| {
            matches!(e, PullError::LayerMismatch { .. })
        }),
        ("no layer", with(Archive::new().file("own", b"no tar at all, and no 512 bytes"), &["base", "own"]), |e| {
            matches!(e, PullError::Unpack { .. })
        }),
        (
            "another configuration",
            Archive::new()
                .file("base", base)
                .file("own", own)
                .file(&name, b"{}")
                .manifest(&[entry(&made, &["a:b"], &["base", "own"])])
                .bytes(),
            |e| matches!(e, PullError::DigestMismatch { .. }),
        ),
        ("cut off", whole[..whole.len() / 2].to_vec(), |e| {
            matches!(archive_error(e), ArchiveError::Member { .. } | ArchiveError::Tar(..))
        }),
        (
            "cut off and compressed",
            {
                let z = gzip(&whole);
                z[..z.len() / 2].to_vec()
            },
            |e| matches!(archive_error(e), ArchiveError::Read(..) | ArchiveError::Tar(..)),
        ),
    ];
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes, told) in cases {
        let (dir, images) = store(Config::default());
        let pulled = images.pull(&saved(directory.path(), &bytes), Some("task"), |_| {}).await;
        let error = pulled.expect_err(name);
        assert!(told(&error), "{name}: {error:?}");
        images.collect_garbage().unwrap();
        assert_eq!((layers_on_disk(&dir), images.list().unwrap().len()), (0, 0), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_refused_and_a_bomb_in_it_ends_at_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { max_image_bytes: 1 << 20, ..Limits::default() };
    let (dir, images) = store(Config { limits, ..Config::default() });
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, is_there) in [(pipe, true), (directory.path().to_owned(), true), ("/nonexistent/a.tar".into(), false)] {
        let reference = format!("docker-archive:{}", path.display()).parse().unwrap();
        let pulled = tokio::time::timeout(std::time::Duration::from_secs(60), images.pull(&reference, None, |_| {}));
        let error = pulled.await.expect("nobody waits for a pipe").unwrap_err();
        let expected = if is_there { "NotAFile" } else { "NotFound" };
        assert!(format!("{:?}", archive_error(&error)).starts_with(expected), "{error:?}");
    }
    // Compressed twice: the archive, and the layer in it.
    let zeros = Made::new(vec![Layer::gzip(files(&[("zeros", &vec![0; 16 << 20])]))]);
    let bomb = Archive::new()
        .file("layer", &zeros.layers[0].blob)
        .file(&config_name(&zeros), &zeros.config)
        .manifest(&[entry(&zeros, &[], &["layer"])])
        .bytes();
    let error = images.pull(&saved(directory.path(), &gzip(&bomb)), None, |_| {}).await.unwrap_err();
    assert!(matches!(*error, PullError::Unpack { source: UnpackError::Limit(_), .. }), "{error:?}");
    assert_eq!(layers_on_disk(&dir), 0);
}

/// What the archive's failure says, with all its causes.
fn words(error: &PullError) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words += &format!(": {error}");
        cause = error.source();
    }
    words
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_takes_no_more_memory_and_bytes_than_it_may() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { max_image_bytes: 64 << 20, ..Limits::default() };
    let (_dir, images) = store(Config { limits, ..Config::default() });
    let long = |number: usize| format!("{number:05}/{}", "n".repeat(4000));
    let names = (0..4500).fold(Archive::new(), |archive, number| archive.file(&long(number), b"")).bytes();
    let targets =
        |archive: Archive, number: usize| archive.link(&number.to_string(), EntryType::Symlink, &long(number));
    let targets = (0..4500).fold(Archive::new(), targets).bytes();
    let path = Archive::new().file(&"n".repeat(5000), b"").bytes();
    let zeros = Archive::new().file("zeros", &vec![0; 80 << 20]).bytes();
    for (bytes, expected) in [(names, "Names"), (targets, "Names"), (path, "Tar"), (zeros, "Limit")] {
        let bytes = zstd::encode_all(&bytes[..], 1).unwrap();
        let error = images.pull(&saved(directory.path(), &bytes), None, |_| {}).await.unwrap_err();
        assert!(format!("{:?}", archive_error(&error)).starts_with(expected), "{expected}: {}", words(&error));
    }
}

#[test]
fn a_scan_ends_with_the_pull() {
    let directory = tempfile::tempdir().unwrap();
    // One thread that can block: it is free when the scan has ended.
    let runtime = tokio::runtime::Builder::new_multi_thread().max_blocking_threads(1).enable_all().build().unwrap();
    let limits = Limits { max_image_bytes: u64::MAX, ..Limits::default() };
    let (_dir, images) = store(Config { limits, ..Config::default() });
    let mut header = Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    // 256 GiB of zeros.
    let frame = zstd::encode_all(&vec![0; 16 << 20][..], 1).unwrap();
    let bomb = [zstd::encode_all(&header.as_bytes()[..], 1).unwrap(), frame.repeat(16 << 10)].concat();
    let reference = saved(directory.path(), &bomb);
    let is_free = runtime.block_on(async {
        let pull = images.pull(&reference, None, |_| {});
        let pulled = tokio::time::timeout(std::time::Duration::from_millis(300), pull).await;
        assert!(pulled.is_err(), "{pulled:?}");
        let next = tokio::task::spawn_blocking(|| ());
        tokio::time::timeout(std::time::Duration::from_secs(5), next).await.is_ok()
    });
    runtime.shutdown_background();
    assert!(is_free, "the archive is still read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_shows_the_beginning_of_what_an_image_says() {
    let (made, directory) = (image(b"x"), tempfile::tempdir().unwrap());
    let long = "n".repeat(1 << 20);
    let tags: Vec<String> = (0..1000).map(|number| format!("app:{number}")).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let document = |text: Value| Archive::new().file("manifest.json", text.to_string().as_bytes()).bytes();
    for (what, bytes) in [
        ("a tag", Archive::new().manifest(&[entry(&made, &[&long], &[])]).bytes()),
        ("tags", Archive::new().manifest(&[entry(&made, &tags, &[])]).bytes()),
        ("a configuration", document(json!([{"Config": long, "RepoTags": ["a:v2"], "Layers": []}]))),
        ("something else", document(json!([long]))),
        ("a name", Archive::new().pax(&[("path", "n".repeat(4000).as_bytes()), ("uid", b"x")]).file("x", b"").bytes()),
    ] {
        let (_dir, images) = store(Config::default());
        let file = saved(directory.path(), &bytes);
        let error = images.pull(&format!("{file}:v2").parse().unwrap(), None, |_| {}).await.unwrap_err();
        let words = words(&error);
        assert!(words.len() < 1000, "{what}: {} bytes", words.len());
        assert!(what != "tags" || words.ends_with("app:18, app:19, and 980 more"), "{words}");
    }
}
