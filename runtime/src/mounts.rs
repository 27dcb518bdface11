//! The container's mount table: a plan read from the configuration, sources prepared by the runtime as host root
//! ([`prepare`]), everything attached by init in its own mount namespace ([`attach`]), then hidden or write-protected
//! parts ([`protect`]) and the change of root here. Descriptors all the way: no path is looked up twice.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, fchdir, pivot_root};
use oci_spec::runtime::{LinuxIdMapping, Mount};

use crate::bundle::{Bundle, OverlayRecord};
use crate::init::failure::{Context, Failure, Step};
use crate::sys::mount_api::{self, Attributes, set_attributes};
use options::Options;

pub mod attach;
mod copy_up;
pub mod options;
pub mod overlay;
pub mod prepare;
pub mod protect;
pub mod root;

/// Everything about mounts that the configuration says.
#[derive(Debug)]
pub struct Plan {
    /// Where the root file system comes from.
    pub root: RootSource,
    /// In the order of the configuration.
    pub mounts: Vec<PlannedMount>,
    /// `linux.rootfsPropagation`.
    pub propagation: Option<(u64, bool)>,
    /// `root.readonly`.
    pub read_only: bool,
    /// `linux.maskedPaths`.
    pub masked: Vec<PathBuf>,
    /// `linux.readonlyPaths`.
    pub read_only_paths: Vec<PathBuf>,
}

/// Where the root file system comes from.
#[derive(Debug)]
pub enum RootSource {
    /// `root.path`, bound.
    Directory(PathBuf),
    /// `rootfs.json`.
    Overlay(OverlayRecord),
}

/// One entry of `mounts`.
#[derive(Debug)]
pub struct PlannedMount {
    /// As the container sees it.
    pub destination: PathBuf,
    /// What to mount.
    pub source: Source,
    /// How.
    pub options: Options,
    /// While the source is an empty directory, what the image has at the destination is copied into it.
    pub copy_up: bool,
}

/// What a [`PlannedMount`] mounts.
#[derive(Debug)]
pub enum Source {
    /// A file or directory of the host, prepared by the runtime.
    Bind(BindSource),
    /// A new instance of a file system, made by init.
    FileSystem(CString),
    /// The cgroup hierarchies, whichever version the host has.
    Cgroup,
}

/// Source of a bind mount.
#[derive(Debug)]
pub struct BindSource {
    /// On the host.
    pub path: PathBuf,
    /// `rbind`.
    pub recursive: bool,
    /// How its ids are mapped.
    pub ids: Ids,
}

/// Id mapping of a bind mount.
#[derive(Debug)]
pub enum Ids {
    /// As they are.
    Unmapped,
    /// By the container's user namespace.
    Container {
        /// `ridmap`.
        recursive: bool,
    },
    /// By mappings of its own.
    Explicit {
        /// `ridmap`.
        recursive: bool,
        /// `uidMappings`.
        uid: Vec<LinuxIdMapping>,
        /// `gidMappings`.
        gid: Vec<LinuxIdMapping>,
    },
}

impl Plan {
    /// Reads the plan; nothing is touched.
    pub fn from_bundle(bundle: &Bundle) -> Result<Plan, Failure> {
        let root = match &bundle.overlay {
            Some(overlay) => RootSource::Overlay(overlay.clone()),
            None => RootSource::Directory(bundle.rootfs.clone()),
        };
        let config = &bundle.config;
        let mounts = config.mounts().iter().flatten();
        let linux = config.linux().as_ref();
        let paths = |list: Option<&Vec<String>>| list.into_iter().flatten().map(PathBuf::from).collect();
        let propagation = linux
            .and_then(|linux| linux.rootfs_propagation().as_deref())
            .filter(|word| !word.is_empty())
            .map(|word| options::propagation(word).ok_or(Errno::EINVAL).on(Step::Propagation, word))
            .transpose()?;
        Ok(Plan {
            root,
            mounts: mounts.map(|mount| plan_mount(bundle, mount)).collect::<Result<_, _>>()?,
            propagation,
            read_only: config.root().as_ref().is_some_and(|root| root.readonly().unwrap_or(false)),
            masked: paths(linux.and_then(|linux| linux.masked_paths().as_ref())),
            read_only_paths: paths(linux.and_then(|linux| linux.readonly_paths().as_ref())),
        })
    }

    /// Whether the host's /dev is bound into the container, whose nodes we must then not touch.
    pub fn binds_dev(&self) -> bool {
        let is_dev = |mount: &&PlannedMount| mount.destination.components().eq(PathBuf::from("/dev").components());
        self.mounts.iter().filter(is_dev).any(|mount| matches!(mount.source, Source::Bind(_)))
    }
}

fn plan_mount(bundle: &Bundle, mount: &Mount) -> Result<PlannedMount, Failure> {
    let destination = mount.destination().clone();
    let options = Options::parse(mount.options().as_deref().unwrap_or_default())?;
    let kind = mount.typ().as_deref().unwrap_or_default();
    let bind = options.bind.or_else(|| matches!(kind, "bind" | "none").then_some(kind == "none"));
    let source = match (bind, kind) {
        (Some(recursive), _) => {
            let given = mount.source().as_ref().ok_or(Errno::EINVAL).on(Step::OpenSource, destination.display())?;
            if let Some((key, _)) = options.parameters.first() {
                return Err(Errno::EINVAL).on(Step::UnknownOption, key.to_string_lossy());
            }
            if options.copy_up {
                return Err(Errno::EINVAL).on(Step::UnknownOption, "tmpcopyup");
            }
            let ids = plan_ids(mount, &options)?;
            Source::Bind(BindSource { path: bundle.directory.join(given), recursive, ids })
        }
        (None, _) if options.id_map.is_some() || mount.uid_mappings().is_some() || mount.gid_mappings().is_some() => {
            // A new file system belongs to the container's own ids.
            return Err(Errno::ENOTSUP)
                .on(Step::MapMount, format!("{}, which is no bind mount", destination.display()));
        }
        (None, kind) if options.copy_up && kind != "tmpfs" => {
            return Err(Errno::EINVAL).on(Step::UnknownOption, "tmpcopyup");
        }
        (None, "cgroup" | "cgroup2") => Source::Cgroup,
        (None, kind) => Source::FileSystem(CString::new(kind).on(Step::FileSystem, destination.display())?),
    };
    let writable = (options.attributes.set | options.recursive_attributes.set) & mount_api::ATTR_RDONLY == 0;
    let copy_up = writable && bundle.copy_up.contains(&destination);
    Ok(PlannedMount { destination, source, options, copy_up })
}

fn plan_ids(mount: &Mount, options: &Options) -> Result<Ids, Failure> {
    let recursive = options.id_map.unwrap_or(false);
    match (mount.uid_mappings(), mount.gid_mappings()) {
        (None, None) if options.id_map.is_some() => Ok(Ids::Container { recursive }),
        (None, None) => Ok(Ids::Unmapped),
        (Some(uid), Some(gid)) => Ok(Ids::Explicit { recursive, uid: uid.clone(), gid: gid.clone() }),
        _ => Err(Errno::EINVAL).on(Step::MapMount, mount.destination().display()),
    }
}

/// Cuts every tie of propagation to the host: must come first in the new mount namespace.
pub fn isolate() -> Result<(), Failure> {
    let host_root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).on(Step::Propagation, "/")?;
    let private = Attributes { propagation: libc::MS_PRIVATE, ..Attributes::default() };
    set_attributes(host_root, true, private).on(Step::Propagation, "/")
}

/// Puts the prepared root file system over `/`, where paths of the host still win until [`enter`]: looking `/` up does
/// not follow what is mounted on it.
pub fn attach_root(mount: OwnedFd) -> Result<root::Root, Failure> {
    let over = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).on(Step::FindTarget, "/")?;
    mount_api::attach(&mount, over).on(Step::AttachMount, "/")?;
    Ok(root::Root::new(mount))
}

/// Makes `root` the root directory, with this propagation, and detaches the host's.
pub fn enter(root: &root::Root, propagation: Option<(u64, bool)>) -> Result<(), Failure> {
    let host_root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).at(Step::PivotRoot)?;
    fchdir(root).at(Step::PivotRoot)?;
    pivot_root(".", ".").at(Step::PivotRoot)?;
    // The host's root now lies over ours; leave through its descriptor, as paths are ambiguous here.
    fchdir(&host_root).at(Step::PivotRoot)?;
    umount2(".", MntFlags::MNT_DETACH).at(Step::PivotRoot)?;
    chdir("/").at(Step::PivotRoot)?;
    if let Some((propagation, recursive)) = propagation {
        let attributes = Attributes { propagation, ..Attributes::default() };
        set_attributes(root.as_fd(), recursive, attributes).on(Step::Propagation, "/")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
