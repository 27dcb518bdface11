//! Unpacking of well-formed and hostile tars, checked on the real file system. They need root, as owners and devices do.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use ::tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;
use crate::images::Limits;

/// A tar being written by hand, so that it can hold what no honest tool writes.
struct Hand(Builder<Vec<u8>>);

impl Hand {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn entry(mut self, name: &str, kind: EntryType, link: &str, data: &[u8]) -> Self {
        let mut header = header(name, kind, data.len() as u64);
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.entry(name, EntryType::Regular, "", data.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.entry(name, EntryType::Directory, "", b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Symlink, target, b"")
    }

    fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Link, target, b"")
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn header(mut self, change: impl FnOnce(&mut Header)) -> Self {
        let mut header = header("x", EntryType::Regular, 0);
        change(&mut header);
        header.set_cksum();
        self.0.append(&header, &b""[..]).unwrap();
        self
    }

    fn unpack(self) -> (TempDir, Result<Unpacked, UnpackError>) {
        unpack(&self.0.into_inner().unwrap(), (1 << 20, 1000))
    }

    fn unpack_ok(self) -> TempDir {
        let (dir, unpacked) = self.unpack();
        unpacked.unwrap();
        dir
    }

    fn refused(self) -> EntryError {
        let (dir, unpacked) = self.unpack();
        assert!(!dir.path().parent().unwrap().join("escaped").exists());
        match unpacked {
            Err(UnpackError::Entry { source, .. }) => source,
            other => panic!("not refused for an entry: {other:?}"),
        }
    }
}

fn header(name: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_mtime(1_000_000_000);
    header.set_size(size);
    header.set_cksum();
    header
}

fn unpack(blob: &[u8], (max_image_bytes, max_image_files): (u64, u64)) -> (TempDir, Result<Unpacked, UnpackError>) {
    let budget = Budget::new(&Limits { max_image_bytes, max_image_files, ..Limits::default() });
    let dir = tempfile::tempdir().unwrap();
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(move || {
            for chunk in blob.chunks(1000) {
                if send.blocking_send(Bytes::copy_from_slice(chunk)).is_err() {
                    break;
                }
            }
        });
        run(receive, dir.path(), &budget)
    });
    if outcome.unpacked.is_ok() {
        assert_eq!((outcome.blob, outcome.blob_bytes), (Digest::of(blob), blob.len() as u64));
    }
    (dir, outcome.unpacked)
}

fn text(dir: &TempDir, name: &str) -> String {
    fs::read_to_string(dir.path().join(name)).unwrap()
}

fn is_whiteout(path: &Path) -> bool {
    let meta = fs::symlink_metadata(path).unwrap();
    meta.file_type().is_char_device() && meta.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"]
        .iter()
        .all(|name| ::xattr::get(path, name).unwrap().as_deref() == Some(b"y"))
}

#[test]
fn every_kind_of_entry_arrives_with_its_attributes() {
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let dir = Hand::new()
        .header(|h| {
            h.as_gnu_mut().unwrap().name[..4].copy_from_slice(b"bin/");
            h.set_entry_type(EntryType::Directory);
            h.set_mode(0o1777);
        })
        .header(|h| {
            h.as_gnu_mut().unwrap().name[..6].copy_from_slice(b"bin/su");
            h.set_mode(0o4755);
            h.set_uid(3_000_000);
            h.set_gid(7);
        })
        .pax(&[("SCHILY.xattr.security.capability", &capability), ("mtime", b"1.25"), ("uid", b"65534")])
        .file("bin/ping", "ping")
        .pax(&[("SCHILY.xattr.user.odd", b"a\nb=\0c"), ("SCHILY.xattr.trusted.overlay.redirect", b"/etc")])
        .file("bin/odd", "")
        .pax(&[("path", format!("long/{}", "n".repeat(200)).as_bytes()), ("linkpath", "t".repeat(300).as_bytes())])
        .symlink("cut", "cut")
        .hardlink("bin/pong", "/bin/ping")
        .symlink("abs", "/etc/passwd")
        .header(|h| {
            h.set_entry_type(EntryType::Block);
            h.set_device_major(8).unwrap();
            h.set_device_minor(1).unwrap();
        })
        .entry("fifo", EntryType::Fifo, "", b"")
        .unpack_ok();
    let meta = |name: &str| fs::symlink_metadata(dir.path().join(name)).unwrap();
    assert_eq!((meta("bin").mode() & 0o7777, meta("bin").mtime()), (0o1777, 1_000_000_000));
    assert_eq!((meta("bin/su").mode() & 0o7777, meta("bin/su").uid(), meta("bin/su").gid()), (0o4755, 3_000_000, 7));
    let ping = meta("bin/ping");
    assert_eq!((ping.mtime(), ping.mtime_nsec(), ping.uid(), ping.nlink()), (1, 250_000_000, 65534, 2));
    assert_eq!(ping.ino(), meta("bin/pong").ino());
    let xattr = |name: &str, key: &str| ::xattr::get(dir.path().join(name), key).unwrap();
    assert_eq!(xattr("bin/ping", "security.capability").unwrap(), capability);
    assert_eq!(xattr("bin/odd", "user.odd").unwrap(), b"a\nb=\0c");
    assert_eq!(xattr("bin/odd", "trusted.overlay.redirect"), None);
    let long = dir.path().join("long").join("n".repeat(200));
    assert_eq!(fs::read_link(long).unwrap().as_os_str().len(), 300);
    assert_eq!(fs::read_link(dir.path().join("abs")).unwrap(), Path::new("/etc/passwd"));
    assert!(meta("x").file_type().is_block_device() && meta("x").rdev() == makedev(8, 1));
    assert!(meta("fifo").file_type().is_fifo());
}

#[test]
fn attributes_that_no_file_system_has_are_left_out_and_bad_ones_refused() {
    let with = |name: &str| Hand::new().pax(&[(&format!("SCHILY.xattr.{name}"), b"v")]).file("f", "x");
    assert_eq!(text(&with("nobody.knows").unpack_ok(), "f"), "x");
    let error = with("user.").refused();
    assert!(
        matches!(&error, EntryError::Xattr { source, .. } if source.raw_os_error() == Some(Errno::EINVAL as i32)),
        "{error}"
    );
}

#[test]
fn whiteouts_become_what_overlayfs_understands() {
    let dir = Hand::new()
        .file("a/.wh.gone", "")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/kept", "1")
        .file(".wh..wh.plnk", "")
        // Deleted below and made again here, before and after: the new one counts and shows nothing from below.
        .file(".wh.again", "")
        .file("again/new", "2")
        .dir("before")
        .file(".wh.before", "")
        .file("own", "3")
        .file(".wh.own", "")
        .unpack_ok();
    let path = |name: &str| dir.path().join(name);
    assert!(is_whiteout(&path("a/gone")));
    assert!(is_opaque(&path("opaque")) && is_opaque(&path("again")) && is_opaque(&path("before")));
    assert_eq!(
        (text(&dir, "opaque/kept"), text(&dir, "again/new"), text(&dir, "own")),
        ("1".into(), "2".into(), "3".into())
    );
    assert!(!is_opaque(&path("a")));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
    for bad in [".wh.", "a/.wh..", ".wh..."] {
        assert!(matches!(Hand::new().file(bad, "").refused(), EntryError::Whiteout), "{bad}");
    }
}

#[test]
fn the_later_entry_wins() {
    let dir = Hand::new()
        .file("file-to-dir", "1")
        .dir("file-to-dir")
        .file("file-to-dir/x", "2")
        .file("dir-to-file/deep/x", "3")
        .file("dir-to-file", "4")
        .symlink("link-to-file", "/etc/hostname")
        .file("link-to-file", "5")
        .dir("twice")
        .file("twice/x", "6")
        .dir("twice")
        .file("self", "7")
        .hardlink("self", "./self")
        .unpack_ok();
    let read = ["file-to-dir/x", "dir-to-file", "link-to-file", "twice/x", "self"].map(|name| text(&dir, name));
    assert_eq!(read, ["2", "4", "5", "6", "7"]);
    assert!(matches!(Hand::new().file("f", "").file("f/x", "").refused(), EntryError::Make(Errno::EEXIST)));
}

#[test]
fn names_and_links_cannot_leave_the_layer() {
    for name in ["../escaped", "a/../../escaped", "/../escaped"] {
        assert!(matches!(Hand::new().file(name, "").refused(), EntryError::Outside), "{name}");
        assert!(matches!(Hand::new().hardlink("x", name).refused(), EntryError::Outside), "{name}");
        assert!(matches!(Hand::new().file(&format!("{name}/.wh.x"), "").refused(), EntryError::Outside), "{name}");
    }
    // An absolute name is one below the root.
    assert_eq!(text(&Hand::new().file("/etc/passwd", "mine").unpack_ok(), "etc/passwd"), "mine");
    // A symlink as parent is followed inside the root only: here it leads nowhere, or to the layer's own directory.
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    for link in [target.to_owned(), format!("../../../..{target}")] {
        Hand::new().symlink("a", &link).file("a/escaped", "").refused();
        Hand::new().symlink("a", &link).dir("a/b").refused();
        Hand::new().symlink("a", &link).file("a/.wh.x", "").refused();
        Hand::new().symlink("a", &link).file("a/.wh..wh..opq", "").refused();
    }
    let dir = Hand::new().dir("etc").symlink("a", "/etc").file("a/passwd", "mine").unpack_ok();
    assert_eq!(text(&dir, "etc/passwd"), "mine");
    // Hard links reach neither outside nor through the last symlink, and writing to one afterwards replaces it.
    fs::File::create(outside.path().join("secret")).unwrap();
    let secret = outside.path().join("secret");
    let secret = secret.to_str().unwrap();
    assert!(matches!(Hand::new().hardlink("x", secret).refused(), EntryError::Link { .. }));
    let dir = Hand::new().symlink("a", secret).hardlink("x", "a").file("x", "mine").unpack_ok();
    assert_eq!((text(&dir, "x"), fs::metadata(secret).unwrap().len()), ("mine".to_owned(), 0));
    // Owner, mode and time of what a symlink points at stay as they are.
    let before = fs::metadata(outside.path()).unwrap();
    Hand::new().symlink("a", target).dir("a").unpack_ok();
    Hand::new().dir("a").symlink("a", target).unpack_ok();
    let after = fs::metadata(outside.path()).unwrap();
    assert_eq!((before.mode(), before.mtime(), before.uid()), (after.mode(), after.mtime(), after.uid()));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn symlink_loops_and_depths_end_in_an_error() {
    Hand::new().symlink("a", "b").symlink("b", "a").file("a/x", "").refused();
    let deep = "d/".repeat(600);
    assert!(matches!(Hand::new().pax(&[("path", deep.as_bytes())]).file("x", "").refused(), EntryError::TooDeep));
    // Each link starts where the one before ended, so short names could reach any depth.
    let (mut hand, step) = (Hand::new(), "d/".repeat(200));
    for link in 0..4 {
        let at = if link == 0 { step.clone() } else { format!("l{}/{step}", link - 1) };
        hand = hand.pax(&[("path", at.as_bytes())]).dir("x");
        hand = hand.pax(&[("linkpath", at.as_bytes())]).symlink(&format!("l{link}"), "x");
    }
    assert!(matches!(hand.refused(), EntryError::TooDeep));
}

#[test]
fn odd_names_and_types_are_refused_by_name() {
    assert!(matches!(Hand::new().pax(&[("path", b"a\0b")]).file("x", "").refused(), EntryError::Nul));
    let long = "n".repeat(300);
    let refused = Hand::new().pax(&[("path", long.as_bytes())]).file("x", "").refused();
    assert!(matches!(refused, EntryError::Replace(Errno::ENAMETOOLONG)), "{refused:?}");
    let (_dir, unpacked) = Hand::new().entry("odd", EntryType::new(b'Z'), "", b"").unpack();
    assert!(matches!(unpacked, Err(UnpackError::Tar(TarError::Type { .. }))));
    let (_dir, unpacked) = Hand::new().pax(&[("uid", b"4294967296")]).file("x", "").unpack();
    assert!(matches!(unpacked, Err(UnpackError::Tar(TarError::Field { field: "owner", .. }))));
}

#[test]
fn bombs_are_bounded() {
    let bounds = (100 << 10, 3);
    let mut zeros = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    io::Write::write_all(&mut zeros, header("zeros", EntryType::Regular, 1 << 30).as_bytes()).unwrap();
    io::copy(&mut io::repeat(0).take(64 << 20), &mut zeros).unwrap();
    let (_dir, unpacked) = unpack(&zeros.finish().unwrap(), bounds);
    assert!(matches!(unpacked, Err(UnpackError::Limit(LimitError::Bytes(_)))), "{unpacked:?}");
    let many = Hand::new().dir("a").dir("b").dir("c").dir("d").0.into_inner().unwrap();
    assert!(matches!(unpack(&many, bounds).1, Err(UnpackError::Limit(LimitError::Files(3)))));
}

#[test]
fn compressions_are_told_by_their_first_bytes_and_trailing_data_counts() {
    let mut tar = Hand::new().file("a", "text").0.into_inner().unwrap();
    tar.extend([0; 5000]);
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let members = [gzip(&tar[..700]), gzip(&tar[700..])].concat();
    let frames = [zstd::encode_all(&tar[..700], 1).unwrap(), zstd::encode_all(&tar[700..], 1).unwrap()].concat();
    for blob in [tar.clone(), gzip(&tar), members, frames] {
        let (dir, unpacked) = unpack(&blob, (1 << 20, 10));
        let unpacked = unpacked.unwrap();
        assert_eq!((unpacked.diff_id, unpacked.bytes, unpacked.entries), (Digest::of(&tar), 4, 1));
        assert_eq!(text(&dir, "a"), "text");
    }
    let cut = gzip(&tar);
    assert!(matches!(unpack(&cut[..cut.len() / 2], (1 << 20, 10)).1, Err(UnpackError::Tar(_))));
}

#[test]
fn directories_that_entries_imply_are_counted() {
    let deep = |first: u32| format!("{first}/{}x", "d/".repeat(40));
    let tar = (0..30).fold(Hand::new(), |tar, first| tar.file(&deep(first), ""));
    assert!(matches!(tar.unpack().1, Err(UnpackError::Limit(LimitError::Files(1000)))));
    (0..20).fold(Hand::new(), |tar, first| tar.file(&deep(first), "")).unpack_ok();
}
