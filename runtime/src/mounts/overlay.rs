//! The overlay of `rootfs.json`, built by host root from detached mounts: nothing of it is ever seen in a mount table
//! but the container's own.
//!
//! With `idMap` every layer is an id-mapped mount, so that layers on disk keep their ids (0 … 65535) and are shared by
//! containers with different user namespaces.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use caps::{CapSet, CapsHashSet};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::bundle::OverlayRecord;
use crate::init::failure::{Context, Failure, Step};
use crate::sys::mount_api::{ATTR_NODEV, Attributes, FsContext, clone_tree, set_attributes};

mod by_path;

/// Whose ids an overlay shows, and who does its own writes.
#[derive(Debug, Clone, Copy)]
pub struct IdMap<'a> {
    /// The container's user namespace.
    pub namespace: BorrowedFd<'a>,
    /// Host uid of its root.
    pub uid: u32,
    /// Host gid of its root.
    pub gid: u32,
}

/// Mounts the overlay, detached and private.
pub fn build(overlay: &OverlayRecord, id_map: Option<IdMap<'_>>) -> Result<OwnedFd, Failure> {
    let layers = Layers::open(overlay, id_map)?;
    let mount = match layers.by_descriptor(id_map)? {
        Some(mount) => mount,
        None => by_path::build(&layers.lower, &layers.writable, layers.upper, layers.work, id_map)?,
    };
    // Layers may hold device nodes, and they were made by host root: whoever has ids of its own may open none of them.
    let set = if id_map.is_some() { ATTR_NODEV } else { 0 };
    let attributes = Attributes { set, propagation: libc::MS_PRIVATE, ..Attributes::default() };
    set_attributes(&mount, false, attributes).at(Step::OverlayMount)?;
    Ok(mount)
}

/// The mounts an overlay is made of.
struct Layers<'a> {
    record: &'a OverlayRecord,
    /// Top first.
    lower: Vec<OwnedFd>,
    /// Holds both writable directories: they must be on one mount, and two clones are two mounts.
    writable: OwnedFd,
    /// Relative to `writable`.
    upper: &'a Path,
    work: &'a Path,
}

impl<'a> Layers<'a> {
    fn open(record: &'a OverlayRecord, id_map: Option<IdMap<'_>>) -> Result<Layers<'a>, Failure> {
        let base = common_ancestor(&record.upper, &record.work);
        let below = |path: &'a Path| match path.strip_prefix(&base) {
            Ok(below) if !below.as_os_str().is_empty() => below,
            _ => Path::new("."),
        };
        Ok(Layers {
            record,
            lower: record.lower.iter().map(|layer| layer_mount(layer, id_map)).collect::<Result<_, _>>()?,
            writable: layer_mount(&base, id_map)?,
            upper: below(&record.upper),
            work: below(&record.work),
        })
    }

    /// None from kernels before 6.13, whose overlayfs takes no descriptors.
    fn by_descriptor(&self, id_map: Option<IdMap<'_>>) -> Result<Option<OwnedFd>, Failure> {
        let context = FsContext::open(c"overlay").at(Step::OverlayMount)?;
        context.set_string(c"source", c"overlay").at(Step::OverlayMount)?;
        for (mount, path) in self.lower.iter().zip(&self.record.lower) {
            match context.set_descriptor(c"lowerdir+", mount) {
                Err(Errno::EINVAL) => return Ok(None),
                other => other.on(Step::OverlayLayer, path.display())?,
            }
        }
        for (key, below) in [(c"upperdir", self.upper), (c"workdir", self.work)] {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let directory = openat(&self.writable, below, flags, Mode::empty());
            let directory = directory.on(Step::OverlayLayer, below.display())?;
            context.set_descriptor(key, &directory).on(Step::OverlayLayer, below.display())?;
        }
        match id_map {
            Some(id_map) => as_container_root(id_map, || context.mount(0))?,
            None => context.mount(0),
        }
        .at(Step::OverlayMount)
        .map(Some)
    }
}

fn layer_mount(path: &Path, id_map: Option<IdMap<'_>>) -> Result<OwnedFd, Failure> {
    let mount = clone_tree(AT_FDCWD, path, false).on(Step::OverlayLayer, path.display())?;
    if let Some(IdMap { namespace, .. }) = id_map {
        let attributes = Attributes { id_map: Some(namespace), ..Attributes::default() };
        set_attributes(&mount, false, attributes).on(Step::MapMount, path.display())?;
    }
    Ok(mount)
}

/// overlayfs writes with the credentials of its mounter: on id-mapped layers host root has no id, so the mounter must
/// be the container's root, with the file capabilities that a change of the fs uid takes away given back.
fn as_container_root<T>(id_map: IdMap<'_>, mount: impl FnOnce() -> T) -> Result<T, Failure> {
    let effective = |_| Failure { step: Step::OverlayMount, subject: Some("capabilities".into()), errno: Errno::EPERM };
    let before: CapsHashSet = caps::read(None, CapSet::Effective).map_err(effective)?;
    setfsgid(Gid::from_raw(id_map.gid));
    setfsuid(Uid::from_raw(id_map.uid));
    let result = caps::set(None, CapSet::Effective, &before).map(|()| mount());
    setfsuid(Uid::effective());
    setfsgid(Gid::effective());
    caps::set(None, CapSet::Effective, &before).map_err(effective)?;
    result.map_err(effective)
}

fn common_ancestor(one: &Path, other: &Path) -> PathBuf {
    one.components().zip(other.components()).take_while(|(a, b)| a == b).map(|(component, _)| component).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn ancestor_of_siblings_is_their_directory() {
        assert_eq!(common_ancestor(Path::new("/a/b/upper"), Path::new("/a/b/work")), Path::new("/a/b"));
        assert_eq!(common_ancestor(Path::new("/a/b"), Path::new("/a/b")), Path::new("/a/b"));
    }

    /// An overlay of 64 empty layers but the lowest, which holds `bottom`.
    fn record(directory: &Path) -> OverlayRecord {
        let layer = |name: &str| {
            let path = directory.join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let lower: Vec<PathBuf> = (0..64).map(|index| layer(&format!("layer{index}"))).collect();
        std::fs::File::create(lower[63].join("bottom")).unwrap();
        OverlayRecord { lower, upper: layer("upper, and more"), work: layer("work"), id_map: false }
    }

    /// Shows the lowest layer, keeps what is written in the upper one.
    fn check(mount: &OwnedFd, record: &OverlayRecord) {
        let file = openat(mount, "bottom", OFlag::O_RDONLY, Mode::empty()).unwrap();
        assert_eq!(std::fs::File::from(file).metadata().unwrap().uid(), 0);
        openat(mount, "new", OFlag::O_CREAT | OFlag::O_WRONLY, Mode::S_IRUSR).unwrap();
        assert!(record.upper.join("new").is_file());
    }

    #[test]
    fn many_layers_and_nothing_in_the_mount_table() {
        let directory = tempfile::tempdir().unwrap();
        let record = record(directory.path());
        let before = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let mount = build(&record, None).unwrap();
        assert_eq!(std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap(), before);
        check(&mount, &record);
    }

    #[test]
    fn kernels_that_take_paths_only_show_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let record = record(directory.path());
        let place =
            || (std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap(), std::env::current_dir().unwrap());
        let before = place();
        let layers = Layers::open(&record, None).unwrap();
        let mount = by_path::build(&layers.lower, &layers.writable, layers.upper, layers.work, None).unwrap();
        assert_eq!(place(), before);
        check(&mount, &record);
    }
}
