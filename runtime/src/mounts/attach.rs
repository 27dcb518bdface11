//! Child side of mounts: attaches what the runtime prepared and makes the file systems that must belong to the
//! container's own namespaces (proc, sysfs, tmpfs, devpts, mqueue, cgroup).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::options::{Change, Options};
use super::root::{Kind, Root, is_directory, link};
use super::{Plan, PlannedMount, Source, copy_up};
use crate::init::failure::{Context, Failure, Step};
use crate::sys::mount_api::{self, Attributes, FsContext, clone_tree, set_attributes};

/// Mounts everything of the plan; `prepared` are the bind mounts in its order.
pub fn attach_all(root: &Root, plan: &Plan, prepared: Vec<OwnedFd>) -> Result<(), Failure> {
    let binds = plan.mounts.iter().filter(|planned| matches!(planned.source, Source::Bind(_)));
    // Before anything is mounted: what is copied is the image's.
    for (planned, mount) in binds.zip(&prepared).filter(|(planned, _)| planned.copy_up) {
        copy_up::fill(root, &planned.destination, mount)?;
    }
    let mut prepared = prepared.into_iter();
    for planned in &plan.mounts {
        match &planned.source {
            Source::Bind(_) => {
                let mount = prepared.next().ok_or(Errno::EPROTO).at(Step::Channel)?;
                let kind = if is_directory(&mount).at(Step::CopyMount)? { Kind::Directory } else { Kind::File };
                place(root, &mount, &planned.destination, kind)?;
            }
            Source::FileSystem(kind) => attach_file_system(root, kind, planned)?,
            Source::Cgroup => attach_cgroup(root, planned)?,
        }
    }
    Ok(())
}

fn attach_file_system(root: &Root, kind: &CStr, planned: &PlannedMount) -> Result<(), Failure> {
    let mount = new_file_system(kind, &planned.options)?;
    let destination = &planned.destination;
    if matches!(kind.to_bytes(), b"proc" | b"sysfs") {
        // An image could make /proc a link to a place where nobody expects procfs, and so escape what is masked in it.
        root.find_or_make(destination, Kind::Directory)?;
        let target = root.find_plain(destination)?;
        mount_api::attach(&mount, target).on(Step::AttachMount, destination.display())?;
    } else {
        if planned.options.copy_up {
            copy_up::fill(root, destination, &mount)?;
        }
        place(root, &mount, destination, Kind::Directory)?;
    }
    finish(&mount, &planned.options, destination)
}

fn new_file_system(kind: &CStr, options: &Options) -> Result<OwnedFd, Failure> {
    let name = kind.to_string_lossy();
    let context = FsContext::open(kind).on(Step::FileSystem, &name)?;
    context.set_string(c"source", kind).on(Step::FileSystem, &name)?;
    for (key, value) in &options.parameters {
        match value {
            Some(value) => context.set_string(key, value),
            None => context.set_flag(key),
        }
        .on(Step::FileSystemOption, format!("{} of {name}", key.to_string_lossy()))?;
    }
    context.mount(options.attributes.set).on(Step::FileSystem, &name)
}

/// Recursive attributes and propagation, once the mount has its place.
fn finish(mount: &OwnedFd, options: &Options, destination: &Path) -> Result<(), Failure> {
    let Change { set, clear } = options.recursive_attributes;
    if !options.recursive_attributes.is_empty() {
        let attributes = Attributes { set, clear, ..Attributes::default() };
        set_attributes(mount, true, attributes).on(Step::ChangeMount, destination.display())?;
    }
    for (propagation, recursive) in &options.propagation {
        let attributes = Attributes { propagation: *propagation, ..Attributes::default() };
        set_attributes(mount, *recursive, attributes).on(Step::Propagation, destination.display())?;
    }
    Ok(())
}

/// Attaches `mount` at `destination`, which is made where it is missing. EPERM where links of an image lead into procfs.
pub fn place(root: &Root, mount: &OwnedFd, destination: &Path, kind: Kind) -> Result<(), Failure> {
    let target = root.find_or_make(destination, kind)?;
    let on_proc = fstatfs(&target).on(Step::FindTarget, destination.display())?.filesystem_type() == PROC_SUPER_MAGIC;
    // Whoever writes the configuration may want something in /proc; a link in an image may not.
    if on_proc && !destination.starts_with("/proc") {
        return Err(Errno::EPERM).on(Step::ProcTarget, destination.display());
    }
    mount_api::attach(mount, target).on(Step::AttachMount, destination.display())
}

/// cgroup2 as it is; v1 as a tmpfs with one mount per hierarchy and links for co-mounted controllers, as the
/// documentation of cgroups(7) has it.
fn attach_cgroup(root: &Root, planned: &PlannedMount) -> Result<(), Failure> {
    let destination = &planned.destination;
    let text = std::fs::read_to_string("/proc/self/cgroup").on(Step::FileSystem, "cgroup")?;
    let hierarchies: Vec<Hierarchy<'_>> = text.lines().filter_map(Hierarchy::parse).collect();
    if hierarchies.iter().all(|hierarchy| hierarchy.controllers.is_empty()) {
        let path = hierarchies.first().map_or("/", |hierarchy| hierarchy.path);
        let mount = subtree(new_file_system(c"cgroup2", &planned.options)?, path)?;
        place(root, &mount, destination, Kind::Directory)?;
        return finish(&mount, &planned.options, destination);
    }
    let frame = Options {
        attributes: Change { set: planned.options.attributes.set & !mount_api::ATTR_RDONLY, clear: 0 },
        parameters: vec![(c"mode".into(), Some(c"755".into()))],
        ..Options::default()
    };
    let frame = new_file_system(c"tmpfs", &frame)?;
    place(root, &frame, destination, Kind::Directory)?;
    for hierarchy in hierarchies.iter().filter(|hierarchy| !hierarchy.controllers.is_empty()) {
        attach_hierarchy(root, planned, hierarchy)?;
    }
    let read_only = planned.options.attributes.set & mount_api::ATTR_RDONLY;
    let attributes = Attributes { set: read_only, ..Attributes::default() };
    set_attributes(&frame, false, attributes).on(Step::ChangeMount, destination.display())
}

/// A line of /proc/self/cgroup.
struct Hierarchy<'a> {
    /// `cpu,cpuacct`, `name=systemd`, or nothing for v2.
    controllers: &'a str,
    /// As the cgroup namespace shows it.
    path: &'a str,
}

impl Hierarchy<'_> {
    fn parse(line: &str) -> Option<Hierarchy<'_>> {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        Some(Hierarchy { controllers, path })
    }
}

fn attach_hierarchy(root: &Root, planned: &PlannedMount, hierarchy: &Hierarchy<'_>) -> Result<(), Failure> {
    let name = hierarchy.controllers.strip_prefix("name=").unwrap_or(hierarchy.controllers);
    let mut parameters = Vec::new();
    for controller in hierarchy.controllers.split(',') {
        let (key, value) = match controller.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (controller, None),
        };
        let text = |text: &str| CString::new(text).on(Step::FileSystem, controller);
        parameters.push((text(key)?, value.map(text).transpose()?));
    }
    if hierarchy.controllers.starts_with("name=") {
        parameters.insert(0, (c"none".into(), None));
    }
    let options = Options { attributes: planned.options.attributes, parameters, ..Options::default() };
    let mount = subtree(new_file_system(c"cgroup", &options)?, hierarchy.path)?;
    let destination = planned.destination.join(name);
    place(root, &mount, &destination, Kind::Directory)?;
    if name.contains(',') {
        for controller in name.split(',') {
            link(root, &planned.destination.join(controller), name.as_ref())?;
        }
    }
    Ok(())
}

/// Without a cgroup namespace of its own a container must still see no more than its own group.
fn subtree(mount: OwnedFd, path: &str) -> Result<OwnedFd, Failure> {
    let below = path.trim_start_matches('/');
    if below.is_empty() || below.starts_with("..") {
        return Ok(mount);
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let group = openat(mount.as_fd(), below, flags, Mode::empty()).on(Step::FileSystem, path)?;
    clone_tree(group, "", false).on(Step::FileSystem, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_lines() {
        let hierarchy = Hierarchy::parse("4:cpu,cpuacct:/a:b/c").unwrap();
        assert_eq!((hierarchy.controllers, hierarchy.path), ("cpu,cpuacct", "/a:b/c"));
        assert_eq!(Hierarchy::parse("0::/").unwrap().controllers, "");
    }
}
