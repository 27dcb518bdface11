//! The overlay of `rootfs.json`, built by host root from detached mounts: nothing of it is ever seen in a mount table
//! but the container's own.
//!
//! With `idMap` every layer is an id-mapped mount, so that layers on disk keep their ids (0 … 65535) and are shared by
//! containers with different user namespaces.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use caps::{CapSet, CapsHashSet};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::bundle::OverlayRecord;
use crate::init::failure::{Context, Failure, Step};
use crate::sys::mount_api::{Attributes, FsContext, clone_tree, set_attributes};

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
    let context = FsContext::open(c"overlay").at(Step::OverlayMount)?;
    context.set_string(c"source", c"overlay").at(Step::OverlayMount)?;
    let mut layers = Vec::with_capacity(overlay.lower.len());
    for layer in &overlay.lower {
        layers.push(layer_mount(layer, id_map)?);
    }
    for (mount, path) in layers.iter().zip(&overlay.lower) {
        set_layer(&context, c"lowerdir+", mount, path)?;
    }
    // Both must be on one mount, and two clones are two mounts.
    let base = common_ancestor(&overlay.upper, &overlay.work);
    let writable = layer_mount(&base, id_map)?;
    for (key, path) in [(c"upperdir", &overlay.upper), (c"workdir", &overlay.work)] {
        let below = path.strip_prefix(&base).unwrap_or(path);
        let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory = openat(&writable, below, flags, Mode::empty()).on(Step::OverlayLayer, path.display())?;
        set_layer(&context, key, &directory, path)?;
    }
    let mount = match id_map {
        Some(id_map) => as_container_root(id_map, || context.mount(0))?,
        None => context.mount(0),
    }
    .at(Step::OverlayMount)?;
    let private = Attributes { propagation: libc::MS_PRIVATE, ..Attributes::default() };
    set_attributes(&mount, false, private).at(Step::OverlayMount)?;
    Ok(mount)
}

fn layer_mount(path: &Path, id_map: Option<IdMap<'_>>) -> Result<OwnedFd, Failure> {
    let mount = clone_tree(AT_FDCWD, path, false).on(Step::OverlayLayer, path.display())?;
    if let Some(IdMap { namespace, .. }) = id_map {
        let attributes = Attributes { id_map: Some(namespace), ..Attributes::default() };
        set_attributes(&mount, false, attributes).on(Step::MapMount, path.display())?;
    }
    Ok(mount)
}

fn set_layer(context: &FsContext, key: &CStr, layer: impl AsFd, path: &Path) -> Result<(), Failure> {
    match context.set_descriptor(key, layer) {
        // Before 6.13 overlayfs takes no descriptors, and a path cannot name a detached mount.
        Err(Errno::EINVAL) => {
            Err(Errno::EINVAL).on(Step::OverlayLayer, format!("{} by descriptor (needs Linux 6.13)", path.display()))
        }
        other => other.on(Step::OverlayLayer, path.display()),
    }
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

    #[test]
    fn many_layers_and_nothing_in_the_mount_table() {
        let directory = tempfile::tempdir().unwrap();
        let layer = |name: &str| {
            let path = directory.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let lower: Vec<PathBuf> = (0..64).map(|index| layer(&format!("layer{index}"))).collect();
        std::fs::File::create(lower[63].join("bottom")).unwrap();
        let overlay = OverlayRecord { lower, upper: layer("upper"), work: layer("work"), id_map: false };
        let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = build(&overlay, None).unwrap();
        assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
        let file = openat(&mount, "bottom", OFlag::O_RDONLY, Mode::empty()).unwrap();
        assert_eq!(std::fs::File::from(file).metadata().unwrap().uid(), 0);
    }
}
