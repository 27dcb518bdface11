//! The overlay for kernels before 6.13, whose overlayfs takes layers by path and not by descriptor. The paths exist for
//! the length of one mount(2), in a mount namespace that nobody else sees: a tmpfs with a directory per layer, named so
//! briefly that the 128 layers of an image fit into the one page that mount(2) takes.
//!
//! Owns the namespace and the option text; layers and the right to write come from the parent module.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{chroot, fchdir};

use super::{IdMap, as_container_root};
use crate::init::failure::{Context, Failure, Step};
use crate::mounts;
use crate::sys::mount_api::{self, FsContext, clone_tree};

/// Where the overlay itself is mounted in the tmpfs.
const MERGED: &str = "m";
/// Where the mount with the writable directories is.
const WRITABLE: &str = "w";

/// Mounts the overlay of `layers`, top first, detached. `upper` and `work` are relative to `writable`.
pub(super) fn build(
    layers: &[OwnedFd],
    writable: &OwnedFd,
    upper: &Path,
    work: &Path,
    id_map: Option<IdMap<'_>>,
) -> Result<OwnedFd, Failure> {
    let outside = Outside::remember()?;
    unshare(CloneFlags::CLONE_NEWNS).on(Step::NewNamespace, "mnt")?;
    let result = in_namespace(layers, writable, &options(layers.len(), upper, work), id_map);
    outside.come_back()?;
    result
}

fn in_namespace(
    layers: &[OwnedFd],
    writable: &OwnedFd,
    options: &OsString,
    id_map: Option<IdMap<'_>>,
) -> Result<OwnedFd, Failure> {
    mounts::isolate()?;
    let frame = FsContext::open(c"tmpfs").and_then(|context| context.mount(0)).on(Step::FileSystem, "tmpfs")?;
    let over = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).on(Step::FindTarget, "/")?;
    mount_api::attach(&frame, over).on(Step::AttachMount, "/")?;
    fchdir(&frame).at(Step::OverlayMount)?;
    for (index, layer) in layers.iter().enumerate() {
        place(&frame, layer, &index.to_string())?;
    }
    place(&frame, writable, WRITABLE)?;
    mkdirat(&frame, MERGED, Mode::from_bits_truncate(0o755)).at(Step::OverlayMount)?;
    let overlay = || mount(Some("overlay"), MERGED, Some("overlay"), MsFlags::empty(), Some(options.as_os_str()));
    match id_map {
        Some(id_map) => as_container_root(id_map, overlay)?,
        None => overlay(),
    }
    .at(Step::OverlayMount)?;
    clone_tree(AT_FDCWD, MERGED, false).on(Step::CopyMount, "overlay")
}

fn place(frame: &OwnedFd, mount: impl AsFd, name: &str) -> Result<(), Failure> {
    mkdirat(frame, name, Mode::from_bits_truncate(0o755)).on(Step::OverlayLayer, name)?;
    let target = nix::fcntl::openat(frame, name, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    mount_api::attach(mount, target.on(Step::OverlayLayer, name)?).on(Step::OverlayLayer, name)
}

fn options(layers: usize, upper: &Path, work: &Path) -> OsString {
    let lower: Vec<String> = (0..layers).map(|index| index.to_string()).collect();
    let mut text = OsString::from(format!("lowerdir={}", lower.join(":")));
    for (key, below) in [("upperdir", upper), ("workdir", work)] {
        text.push(format!(",{key}="));
        text.push(escaped(&Path::new(WRITABLE).join(below)));
    }
    text
}

/// overlayfs splits its options at commas that no backslash stands before.
fn escaped(path: &Path) -> OsString {
    let mut bytes = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b',' | b'\\') {
            bytes.push(b'\\');
        }
        bytes.push(*byte);
    }
    OsString::from_vec(bytes)
}

/// What setns(2) into a mount namespace changes.
struct Outside {
    namespace: OwnedFd,
    root: OwnedFd,
    directory: OwnedFd,
}

impl Outside {
    fn remember() -> Result<Outside, Failure> {
        let open = |path: &str, flags| open(path, flags | OFlag::O_CLOEXEC, Mode::empty());
        let namespace = "/proc/thread-self/ns/mnt";
        Ok(Outside {
            namespace: open(namespace, OFlag::O_RDONLY).on(Step::OpenNamespace, namespace)?,
            root: open("/", OFlag::O_PATH).on(Step::FindTarget, "/")?,
            directory: open(".", OFlag::O_PATH).on(Step::FindTarget, ".")?,
        })
    }

    fn come_back(self) -> Result<(), Failure> {
        let back = || -> Result<(), Errno> {
            setns(&self.namespace, CloneFlags::CLONE_NEWNS)?;
            fchdir(&self.root)?;
            chroot(".")?;
            fchdir(&self.directory)
        };
        back().on(Step::JoinNamespace, "mnt")
    }
}
