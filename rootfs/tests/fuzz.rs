//! Damaged and hostile layers, archives and references by the thousand: whatever a tar says, unpacking ends in a layer
//! or an error and touches nothing beside it; a reference that is taken means what it says. `FUZZ_SECONDS` says for how long (default 2), `SEED` with what; a failure prints the seed.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic there is the report")]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use rootfs::{Config, Digest, Images, Limits, Reference};
use serde_json::json;
use tar::{EntryType, Header};

/// xorshift64*, enough to choose with and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(value).unwrap() % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

const NAMES: [&str; 12] = [
    "a",
    "b",
    "a/b",
    "b/a",
    "a/b/c",
    "../escaped",
    "/escaped",
    "a/../../escaped",
    ".wh.a",
    "a/.wh..wh..opq",
    "./",
    ".wh.",
];
const TARGETS: [&str; 8] = ["a", "b", "/", "..", "../../..", "/tmp", "a/b", "b/../a"];

fn hostile_tar(random: &mut Random) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for _ in 0..=random.below(12) {
        let mut header = Header::new_gnu();
        let name = random.pick(&NAMES);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        let kind = random.pick(b"0123456715xLK");
        header.set_entry_type(EntryType::new(kind));
        let target = random.pick(&TARGETS);
        header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_mode(0o7755);
        let data = vec![b'1'; if matches!(kind, b'0' | b'7' | b'x' | b'L' | b'K') { random.below(700) } else { 0 }];
        header.set_size(data.len() as u64);
        if random.below(8) == 0 {
            let at = random.below(512);
            header.as_mut_bytes()[at] = u8::try_from(random.below(256)).unwrap();
        }
        header.set_cksum();
        builder.append(&header, &data[..]).unwrap();
    }
    let mut tar = builder.into_inner().unwrap();
    if random.below(4) == 0 {
        tar.truncate(random.below(tar.len()));
    }
    tar
}

fn put(directory: &Path, name: &str, bytes: &[u8]) {
    File::create(directory.join(name)).unwrap().write_all(bytes).unwrap();
}

/// A layout whose only layer is that tar.
fn layout(directory: &Path, tar: &[u8]) -> Reference {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let blob = |bytes: &[u8], kind: &str| {
        let digest = Digest::of(bytes);
        put(&blobs, digest.hex(), bytes);
        json!({"mediaType": kind, "digest": digest.to_string(), "size": bytes.len()})
    };
    let layer = blob(tar, "application/vnd.oci.image.layer.v1.tar");
    let rootfs = json!({"type": "layers", "diff_ids": [layer["digest"]]});
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).to_string();
    let config = blob(config.as_bytes(), "application/vnd.oci.image.config.v1+json");
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string();
    let manifest = blob(manifest.as_bytes(), "application/vnd.oci.image.manifest.v1+json");
    put(directory, "index.json", json!({"schemaVersion": 2, "manifests": [manifest]}).to_string().as_bytes());
    format!("oci:{}", directory.display()).parse().unwrap()
}

#[tokio::test]
async fn hostile_layers_end_in_a_layer_or_an_error() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("SEED").unwrap_or(1);
    let until = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(2));
    let mut random = Random(seed | 1);
    let dir = tempfile::tempdir().unwrap();
    let (root, source) = (dir.path().join("images"), dir.path().join("layout"));
    let limits = Limits { max_image_bytes: 1 << 20, max_image_files: 100, ..Limits::default() };
    let images = Images::open(&root, Config { limits, ..Config::default() }).unwrap();
    let (mut good, mut bad) = (0, 0);
    while Instant::now() < until {
        fs::remove_dir_all(&source).ok();
        let reference = layout(&source, &hostile_tar(&mut random));
        match images.pull(&reference, None, |_| {}).await {
            Ok(_) => {
                good += 1;
                images.remove(&reference.to_string()).unwrap();
            }
            Err(_) => bad += 1,
        }
        let left = |area: &str| fs::read_dir(root.join(area)).unwrap().count();
        assert_eq!((left("layers"), left("ingest")), (0, 0), "seed {seed}, after {good} good and {bad} bad layers");
        // The store's own areas and nothing else: `escaped` would lie among them or above.
        assert_eq!(
            (fs::read_dir(&root).unwrap().count(), fs::read_dir(dir.path()).unwrap().count()),
            (8, 2),
            "seed {seed}"
        );
    }
    println!("seed {seed}: {good} layers unpacked, {bad} refused");
    assert!(good > 0 && bad > 0, "the generator makes one kind only");
}

const REFERENCES: [&str; 9] = [
    "busybox",
    "python:3-slim",
    "docker.io/library/busybox:latest",
    "127.0.0.1:5000/a/b_c.d-e/f:Tag.1-x_y",
    "[::1]:5000/image",
    "ghcr.io/o/i@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "r/i:t@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "oci:/var/lib/layout:tag",
    "docker-archive:/var/lib/image.tar",
];
const PIECES: [&str; 16] =
    [":", "@", "/", "//", "..", ".", "-", "_", "__", "sha256:", "[", "]", "é", "\u{0}", " ", "A"];

#[test]
fn damaged_references_are_refused_or_mean_what_they_say() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("SEED").unwrap_or(1);
    let until = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(1));
    let mut random = Random(seed | 1);
    let (mut good, mut bad) = (0_u64, 0_u64);
    while Instant::now() < until {
        let mut text: Vec<char> = random.pick(&REFERENCES).chars().collect();
        for _ in 0..random.below(5) {
            let at = random.below(text.len() + 1);
            match random.below(3) {
                0 => drop(text.splice(at..at, random.pick(&PIECES).chars())),
                1 => drop(text.drain(at..(at + random.below(8)).min(text.len()))),
                _ => {
                    let from = random.below(text.len() + 1);
                    let piece = text[from..(from + random.below(90)).min(text.len())].to_vec();
                    drop(text.splice(at..at, piece));
                }
            }
        }
        let text: String = text.into_iter().collect();
        let Ok(reference) = text.parse::<Reference>() else {
            bad += 1;
            continue;
        };
        good += 1;
        // A layout's directory may end in a colon and a word: it can be named, but not by its printed form.
        let Reference::Registry { host, .. } = &reference else { continue };
        let printed = reference.to_string();
        let again = printed.parse::<Reference>();
        assert!(again.as_ref() == Ok(&reference), "seed {seed}: {text:?} is {reference} and then {again:?}");
        // What becomes part of a URL has nothing in it that would end or leave that.
        assert!(!host.contains(['/', '@', '?', '#', ' ']), "seed {seed}: {text:?}");
        assert!(!printed.split('/').any(|part| part == ".."), "seed {seed}: {text:?} is {reference}");
    }
    println!("seed {seed}: {good} references taken, {bad} refused");
    assert!(good > 0 && bad > 0, "the generator makes one kind only");
}
