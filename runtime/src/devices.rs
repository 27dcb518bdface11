//! Device nodes below the container's /dev: the defaults of the OCI specification (config-linux, "default devices") and
//! `linux.devices`. Owns of the device rules only which the default nodes need; the rest belongs to `cgroup`.
//!
//! Outside a user namespace nodes are made by mknod; inside one the kernel refuses that, so the host's own nodes are
//! bound, each verified to be the device that was asked for.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstat, makedev, mknodat};
use nix::unistd::{Gid, Uid, fchownat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use crate::init::failure::{Context, Failure, Step};
use crate::mounts::root::{Root, entry_stat, file_type, link, remove_entry};
use crate::sys::mount_api;

/// A node to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    path: PathBuf,
    kind: SFlag,
    /// Major and minor number; none for a fifo.
    number: u64,
    mode: Mode,
    uid: u32,
    gid: u32,
}

/// Path, major, minor.
const DEFAULTS: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// What a container under device rules may use all the same: the default nodes, its terminals, and the making of any
/// node, which is not its use. As in runc; the specification wants the nodes to be there.
pub fn default_rules() -> Vec<LinuxDeviceCgroup> {
    let rule = |kind, major: Option<u64>, minor: Option<u64>, access: &str| {
        let mut rule = LinuxDeviceCgroup::default();
        let number = |number: Option<u64>| number.and_then(|number| i64::try_from(number).ok());
        rule.set_allow(true).set_typ(Some(kind)).set_access(Some(access.to_owned()));
        rule.set_major(number(major)).set_minor(number(minor));
        rule
    };
    let numbers = DEFAULTS.iter().map(|(_, major, minor)| (*major, Some(*minor)));
    let used = numbers.chain([(5, Some(1)), (5, Some(2)), (136, None)]);
    let nodes = [LinuxDeviceType::C, LinuxDeviceType::B].map(|kind| rule(kind, None, None, "m"));
    nodes.into_iter().chain(used.map(|(major, minor)| rule(LinuxDeviceType::C, Some(major), minor, "rwm"))).collect()
}

const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
];

/// The default nodes and those of the configuration, which win.
pub fn plan(configured: &[LinuxDevice]) -> Result<Vec<Device>, Failure> {
    let configured = configured.iter().map(planned).collect::<Result<Vec<_>, _>>()?;
    let defaults = DEFAULTS.iter().map(|(path, major, minor)| Device {
        path: PathBuf::from(path),
        kind: SFlag::S_IFCHR,
        number: makedev(*major, *minor),
        mode: Mode::from_bits_truncate(0o666),
        uid: 0,
        gid: 0,
    });
    let mut devices: Vec<Device> =
        defaults.filter(|default| configured.iter().all(|device| device.path != default.path)).collect();
    devices.extend(configured);
    Ok(devices)
}

fn planned(device: &LinuxDevice) -> Result<Device, Failure> {
    let path = device.path();
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::A => return Err(Errno::EINVAL).on(Step::Device, path.display()),
    };
    let part = |number: i64| u64::try_from(number).map_err(|_| Errno::EINVAL).on(Step::Device, path.display());
    let number = if kind == SFlag::S_IFIFO { 0 } else { makedev(part(device.major())?, part(device.minor())?) };
    Ok(Device {
        path: path.clone(),
        kind,
        number,
        mode: Mode::from_bits_truncate(device.file_mode().unwrap_or(0o666) & 0o7777),
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// Makes the nodes and the usual links; `bind` inside a user namespace.
pub fn make_all(root: &Root, devices: &[Device], bind: bool) -> Result<(), Failure> {
    for device in devices {
        if bind && device.kind != SFlag::S_IFIFO {
            device.bind(root)?;
        } else {
            match device.make(root) {
                // A host that is itself confined may not make nodes either.
                Err(Failure { errno: Errno::EPERM, .. }) => device.bind(root)?,
                other => other?,
            }
        }
    }
    for (path, target) in LINKS {
        link(root, Path::new(path), target.as_ref())?;
    }
    make_ptmx(root)
}

/// /dev/ptmx must be that of the container's own devpts, never a node from the image, which would be the host's.
fn make_ptmx(root: &Root) -> Result<(), Failure> {
    if root.find(Path::new("/dev/pts/ptmx")).is_err() {
        return Ok(());
    }
    let path = Path::new("/dev/ptmx");
    let (parent, name) = root.parent(path)?;
    match remove_entry(&parent, &name) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno).on(Step::Device, path.display()),
    }
    link(root, path, "pts/ptmx".as_ref())
}

impl Device {
    fn make(&self, root: &Root) -> Result<(), Failure> {
        let (parent, name) = root.parent(&self.path)?;
        let on = |result: Result<(), Errno>| result.on(Step::Device, self.path.display());
        match entry_stat(&parent, &name) {
            Ok(stat) if file_type(&stat) == self.kind && stat.st_rdev == self.number => return Ok(()),
            Ok(_) => on(remove_entry(&parent, &name))?,
            Err(Errno::ENOENT) => {}
            Err(errno) => on(Err(errno))?,
        }
        on(mknodat(&parent, name.as_os_str(), self.kind, self.mode, self.number))?;
        // mknod applies the umask.
        on(fchmodat(&parent, name.as_os_str(), self.mode, FchmodatFlags::FollowSymlink))?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        on(fchownat(&parent, name.as_os_str(), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW))
    }

    fn bind(&self, root: &Root) -> Result<(), Failure> {
        let on = |result: Result<OwnedFd, Errno>| result.on(Step::Device, self.path.display());
        let node = on(open(&self.path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()))?;
        verify(&node, self.kind, self.number, &self.path)?;
        let (parent, name) = root.parent(&self.path)?;
        let look = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        if entry_stat(&parent, &name).is_ok_and(|stat| file_type(&stat) == SFlag::S_IFLNK) {
            remove_entry(&parent, &name).on(Step::Device, self.path.display())?;
        }
        let create = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&parent, name.as_os_str(), create, Mode::from_bits_truncate(0o666)) {
            Ok(_) | Err(Errno::EEXIST) => {}
            Err(errno) => on(Err(errno)).map(drop)?,
        }
        let target = on(openat(&parent, name.as_os_str(), look, Mode::empty()))?;
        let mount = on(mount_api::clone_tree(&node, "", false))?;
        mount_api::attach(&mount, &target).on(Step::Device, self.path.display())
    }
}

/// The host's null device, verified.
pub fn host_null() -> Result<OwnedFd, Failure> {
    let path = Path::new("/dev/null");
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let node = open(path, flags, Mode::empty()).on(Step::Device, path.display())?;
    verify(&node, SFlag::S_IFCHR, makedev(1, 3), path)?;
    Ok(node)
}

fn verify(node: &OwnedFd, kind: SFlag, number: u64, path: &Path) -> Result<(), Failure> {
    let stat = fstat(node).on(Step::Device, path.display())?;
    if file_type(&stat) != kind || stat.st_rdev != number {
        return Err(Errno::EINVAL).on(Step::DeviceMismatch, path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxDeviceBuilder;

    use super::*;

    #[test]
    fn configured_devices_replace_defaults() {
        let device = LinuxDeviceBuilder::default()
            .path("/dev/null")
            .typ(LinuxDeviceType::C)
            .major(1)
            .minor(3)
            .file_mode(0o600u32)
            .build()
            .unwrap();
        let devices = plan(&[device]).unwrap();
        assert_eq!(devices.len(), DEFAULTS.len());
        let null = devices.iter().find(|device| device.path == Path::new("/dev/null")).unwrap();
        assert_eq!(null.mode.bits(), 0o600);
    }

    #[test]
    fn the_hosts_null_is_null() {
        host_null().unwrap();
    }
}
