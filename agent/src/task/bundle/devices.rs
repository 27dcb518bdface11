//! Which device nodes and rules a container gets: docker's defaults, or for a privileged one all that the host has.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use definition::task::DeviceSpec;
use nix::sys::stat::{major, minor};
use serde_json::{Value, json};

use super::BundleError;

/// Below /dev: what every container has of its own.
const OWN: [&str; 5] = ["console", "mqueue", "ptmx", "pts", "shm"];
/// Bits of a mode that chmod sets.
const PERMISSIONS: u32 = 0o7777;

/// Null, zero, full, random, urandom, tty, console, ptmx and the terminals; making nodes is allowed, using others not.
fn default_rules() -> Value {
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    for kind in ["c", "b"] {
        rules.push(json!({ "allow": true, "type": kind, "access": "m" }));
    }
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" }));
    }
    rules.push(json!({ "allow": true, "type": "c", "major": 136, "access": "rwm" }));
    Value::Array(rules)
}

/// The defaults and what the definition names.
pub(super) fn rules(devices: &[DeviceSpec]) -> Result<Value, BundleError> {
    let mut rules = default_rules();
    for device in devices {
        let node = of_node(device)?;
        let (kind, major, minor) = (&node["type"], &node["major"], &node["minor"]);
        let rule = json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": device.access });
        rules.as_array_mut().into_iter().for_each(|rules| rules.push(rule.clone()));
    }
    Ok(rules)
}

/// OCI `linux.devices` for what the definition names.
pub(super) fn configured(devices: &[DeviceSpec]) -> Result<Vec<Value>, BundleError> {
    devices.iter().map(of_node).collect()
}

fn of_node(device: &DeviceSpec) -> Result<Value, BundleError> {
    let path = Path::new(&device.host_path);
    let failed = |source| BundleError::NoDevice { path: device.host_path.clone(), source };
    let metadata = fs::metadata(path).map_err(failed)?;
    node(Path::new(&device.container_path), &metadata)
        .ok_or_else(|| failed(io::Error::from_raw_os_error(nix::libc::ENODEV)))
}

/// None for what is no device.
fn node(path: &Path, metadata: &Metadata) -> Option<Value> {
    let kind = metadata.file_type();
    let letter = match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => "c",
        (_, true) => "b",
        _ => return None,
    };
    Some(json!({
        "path": path,
        "type": letter,
        "major": major(metadata.rdev()),
        "minor": minor(metadata.rdev()),
        "fileMode": metadata.mode() & PERMISSIONS,
        "uid": metadata.uid(),
        "gid": metadata.gid(),
    }))
}

/// Every device is allowed.
pub(super) fn all_rules() -> Value {
    json!([{ "allow": true, "access": "rwm" }])
}

/// OCI `linux.devices` for all nodes below `directory`, the host's /dev.
pub(super) fn of_host(directory: &Path) -> io::Result<Vec<Value>> {
    let mut devices = Vec::new();
    collect(directory, Path::new("/dev"), &mut devices)?;
    Ok(devices)
}

fn collect(directory: &Path, inside: &Path, devices: &mut Vec<Value>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let own = inside == Path::new("/dev") && OWN.iter().any(|own| entry.file_name() == **own);
        let metadata = match entry.metadata() {
            // Devices come and go.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        let (kind, path) = (metadata.file_type(), inside.join(entry.file_name()));
        if own {
            continue;
        }
        if kind.is_dir() {
            collect(&entry.path(), &path, devices)?;
        } else {
            devices.extend(node(&path, &metadata));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_nodes_but_not_the_containers_own() {
        let devices = of_host(Path::new("/dev")).unwrap();
        let null = devices.iter().find(|device| device["path"] == "/dev/null").unwrap();
        assert_eq!((&null["type"], &null["major"], &null["minor"]), (&json!("c"), &json!(1), &json!(3)));
        for own in ["/dev/ptmx", "/dev/console", "/dev/pts/0"] {
            assert!(devices.iter().all(|device| device["path"] != own), "{own}");
        }
    }
}
