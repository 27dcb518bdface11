//! Parent side of mounts: sources that need host root's rights, as detached mounts in the order of the plan, the root
//! file system first. Their paths are below directories that a container's root could not even traverse.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;

use super::options::{Change, Options};
use super::overlay::{self, IdMap};
use super::{BindSource, Ids, Plan, RootSource, Source};
use crate::init::failure::{Context, Failure, Step};
use crate::namespaces;
use crate::sys::mount_api::{Attributes, clone_tree, set_attributes};

/// Prepares the root file system and every bind mount of `plan`.
pub fn prepare(plan: &Plan, id_map: Option<IdMap<'_>>) -> Result<Vec<OwnedFd>, Failure> {
    let mut prepared = vec![prepare_root(plan, id_map)?];
    for mount in &plan.mounts {
        if let Source::Bind(source) = &mount.source {
            prepared.push(prepare_bind(source, &mount.options, id_map)?);
        }
    }
    Ok(prepared)
}

fn prepare_root(plan: &Plan, id_map: Option<IdMap<'_>>) -> Result<OwnedFd, Failure> {
    match &plan.root {
        RootSource::Overlay(record) if record.id_map => {
            let id_map = id_map.ok_or(Errno::EINVAL).on(Step::MapMount, "overlay, as there is no user namespace")?;
            overlay::build(record, Some(id_map))
        }
        RootSource::Overlay(record) => overlay::build(record, None),
        RootSource::Directory(path) => {
            let mount = clone_tree(AT_FDCWD, path, true).on(Step::CopyMount, path.display())?;
            // A slave of the host's mount has to become one before its tie to that is cut; the rest is for later.
            let slave = plan.propagation.filter(|(propagation, _)| *propagation == libc::MS_SLAVE);
            match slave {
                Some((_, true)) => set_propagation(&mount, libc::MS_SLAVE, true, path)?,
                Some((_, false)) => set_propagation(&mount, libc::MS_SLAVE, false, path)?,
                None => set_propagation(&mount, libc::MS_PRIVATE, true, path)?,
            }
            Ok(mount)
        }
    }
}

fn prepare_bind(source: &BindSource, options: &Options, id_map: Option<IdMap<'_>>) -> Result<OwnedFd, Failure> {
    let path = &source.path;
    let mount = clone_tree(AT_FDCWD, path, source.recursive).on(Step::CopyMount, path.display())?;
    match &source.ids {
        Ids::Unmapped => {}
        Ids::Container { recursive } => {
            let id_map = id_map.ok_or(Errno::EINVAL).on(Step::MapMount, path.display())?;
            map_ids(&mount, *recursive, id_map.namespace, path)?;
        }
        Ids::Explicit { recursive, uid, gid } => {
            let namespace = namespaces::user::with_mappings(uid, gid)?;
            map_ids(&mount, *recursive, namespace, path)?;
        }
    }
    change(&mount, false, options.attributes, path)?;
    change(&mount, true, options.recursive_attributes, path)?;
    if options.propagation.is_empty() {
        set_propagation(&mount, libc::MS_PRIVATE, true, path)?;
    }
    for (propagation, recursive) in &options.propagation {
        set_propagation(&mount, *propagation, *recursive, path)?;
    }
    Ok(mount)
}

fn map_ids(mount: &OwnedFd, recursive: bool, namespace: impl AsFd, path: &Path) -> Result<(), Failure> {
    let attributes = Attributes { id_map: Some(namespace.as_fd()), ..Attributes::default() };
    set_attributes(mount, recursive, attributes).on(Step::MapMount, path.display())
}

fn change(mount: &OwnedFd, recursive: bool, change: Change, path: &Path) -> Result<(), Failure> {
    if change.is_empty() {
        return Ok(());
    }
    let attributes = Attributes { set: change.set, clear: change.clear, ..Attributes::default() };
    set_attributes(mount, recursive, attributes).on(Step::ChangeMount, path.display())
}

fn set_propagation(mount: &OwnedFd, propagation: u64, recursive: bool, path: &Path) -> Result<(), Failure> {
    let attributes = Attributes { propagation, ..Attributes::default() };
    set_attributes(mount, recursive, attributes).on(Step::Propagation, path.display())
}
