//! Bombs, and disks that fill up: a clear error that names the limit, room left, nothing half-made, and the next pull
//! works.

use std::io::Write;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;
use rootfs::{Config, Images, LimitError, Limits, PullError, Reference, UnpackError};

use crate::harness::{Layer, Made, files, layers_on_disk, noise, store};

const MIB: u64 = 1 << 20;

/// A file system of that many MiB, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(mib: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={mib}m,mode=700");
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(dir)
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

/// A layer of `mib` MiB of zeros in one file: some hundred times its blob.
fn bomb(mib: u64) -> Layer {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(mib * MIB);
    tar.append_data(&mut header, "zeros", std::io::Read::take(std::io::repeat(0), mib * MIB)).unwrap();
    let tar = tar.into_inner().unwrap();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&tar).unwrap();
    let blob = encoder.finish().unwrap();
    assert!(tar.len() > 100 * blob.len());
    Layer { tar, blob, media_type: "application/vnd.oci.image.layer.v1.tar+gzip" }
}

async fn pull(images: &Images, made: &Made, layout: &Path) -> Result<rootfs::Image, std::sync::Arc<PullError>> {
    let reference: Reference = made.write(layout, "v1");
    images.pull(&reference, None, |_| {}).await
}

fn limit(error: &PullError) -> LimitError {
    match error {
        PullError::Unpack { source: UnpackError::Limit(limit), .. } => *limit,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_ends_at_the_limit_of_the_whole_image() {
    let limits = Limits { max_image_bytes: 10 * MIB, ..Limits::default() };
    let layout = tempfile::tempdir().unwrap();
    let (dir, images) = store(Config { limits, ..Config::default() });
    let error = pull(&images, &Made::new(vec![bomb(64)]), layout.path()).await.unwrap_err();
    assert_eq!(limit(&error), LimitError::Bytes(10 * MIB));
    assert_eq!(limit(&error).to_string(), "it is larger when unpacked than the 10 MiB of max_image_mib");
    assert_eq!((layers_on_disk(&dir), images.list().unwrap().len()), (0, 0));
    // Each of these would do, both together do not, and the first does not stay.
    let made = Made::new(vec![Layer::gzip(files(&[("a", &noise(6 << 20))])), bomb(6)]);
    let error = pull(&images, &made, layout.path()).await.unwrap_err();
    assert_eq!((limit(&error), layers_on_disk(&dir)), (LimitError::Bytes(10 * MIB), 0));
    pull(&images, &Made::new(vec![bomb(6)]), layout.path()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_has_no_more_files_than_it_may() {
    let limits = Limits { max_image_files: 100, ..Limits::default() };
    let (layout, (dir, images)) = (tempfile::tempdir().unwrap(), store(Config { limits, ..Config::default() }));
    let names: Vec<String> = (0..60).map(|number| format!("file-{number}")).collect();
    let many = |from: usize| files(&names[from..].iter().map(|name| (name.as_str(), &b""[..])).collect::<Vec<_>>());
    let error = pull(&images, &Made::new(vec![Layer::gzip(many(0)), Layer::zstd(many(1))]), layout.path()).await;
    assert_eq!(limit(&error.unwrap_err()), LimitError::Files(100));
    assert_eq!(layers_on_disk(&dir), 0);
    pull(&images, &Made::new(vec![Layer::gzip(many(0))]), layout.path()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_leaves_the_room_on_the_disk_that_it_has_to() {
    let (disk, layout) = (SmallDisk::new(48), tempfile::tempdir().unwrap());
    let limits = Limits { low_disk_bytes: 16 * MIB, ..Limits::default() };
    let images = Images::open(&disk.0.path().join("images"), Config { limits, ..Config::default() }).unwrap();
    let error = pull(&images, &Made::new(vec![bomb(64)]), layout.path()).await.unwrap_err();
    assert_eq!(limit(&error), LimitError::LowDisk(16 * MIB));
    assert!(limit(&error).to_string().ends_with("16 MiB of low_disk_mib"));
    assert!(disk.free() > 46 * MIB, "{} bytes free", disk.free());
    pull(&images, &Made::new(vec![bomb(20)]), layout.path()).await.unwrap();
    // 28 are free now.
    assert!(pull(&images, &Made::new(vec![bomb(21)]), layout.path()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_leaves_nothing_and_the_next_pull_works() {
    let (disk, layout) = (SmallDisk::new(16), tempfile::tempdir().unwrap());
    let images = Images::open(&disk.0.path().join("images"), Config::default()).unwrap();
    let before = disk.free();
    // Its first layer fits.
    let made = Made::new(vec![Layer::gzip(files(&[("fits", &noise(2 << 20))])), bomb(64)]);
    let error = pull(&images, &made, layout.path()).await.unwrap_err();
    // Whichever of the two comes upon it first.
    let PullError::Unpack { source: UnpackError::Entry { source, .. }, .. } = &*error else { panic!("{error:?}") };
    let words = std::error::Error::source(source).unwrap().to_string();
    assert_eq!(words, "No space left on device (os error 28)");
    assert!(images.list().unwrap().is_empty());
    assert!(before - disk.free() < 64 << 10, "{} of {before} bytes free", disk.free());
    let image = pull(&images, &Made::new(vec![bomb(8)]), layout.path()).await.unwrap();
    assert_eq!(std::fs::metadata(images.layers(&image)[0].join("zeros")).unwrap().len(), 8 * MIB);
}
