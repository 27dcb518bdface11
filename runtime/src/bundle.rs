//! The bundle directory: OCI `config.json`, and our `rootfs.json` that describes an overlay to be built as root
//! filesystem. Read and checked once, before anything is made. Owns no mounting.
//!
//! ```text
//! BUNDLE/config.json   OCI runtime specification 1.2
//! BUNDLE/rootfs.json   optional: RootfsRecord
//! BUNDLE/rootfs/       root.path, empty where rootfs.json is used
//! ```

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};
use serde::{Deserialize, Serialize};

/// Format number of [`RootfsRecord`] that this version writes and reads.
pub const ROOTFS_FORMAT: u32 = 1;

/// Content of `rootfs.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RootfsRecord {
    /// [`ROOTFS_FORMAT`].
    pub format: u32,
    /// The overlay to mount on `root.path`.
    pub overlay: OverlayRecord,
    /// Destinations of bind mounts of directories: one that is empty gets what the image has in its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copy_up: Vec<PathBuf>,
}

/// An overlayfs over plain directories, all paths absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OverlayRecord {
    /// Read-only layers, the top one first.
    pub lower: Vec<PathBuf>,
    /// The writable layer.
    pub upper: PathBuf,
    /// overlayfs' work directory, on the file system of `upper`.
    pub work: PathBuf,
    /// Map the ids of all layers by the container's user namespace, so that they stay unshifted on disk.
    pub id_map: bool,
}

impl RootfsRecord {
    /// A record of the current format.
    pub fn new(overlay: OverlayRecord, copy_up: Vec<PathBuf>) -> RootfsRecord {
        RootfsRecord { format: ROOTFS_FORMAT, overlay, copy_up }
    }
}

/// A bundle that can be run: parsed, and every part that is not supported refused.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Real path of the bundle directory.
    pub directory: PathBuf,
    /// `config.json`.
    pub config: Spec,
    /// Absolute `root.path`.
    pub rootfs: PathBuf,
    /// From `rootfs.json`, when there is one.
    pub overlay: Option<OverlayRecord>,
    /// From `rootfs.json` too.
    pub copy_up: Vec<PathBuf>,
}

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BundleError {
    #[error("cannot open bundle {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot parse {path}")]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("{path} has no {field}")]
    Missing { path: PathBuf, field: &'static str },
    #[error("{path} has format {format}, this runtime reads {ROOTFS_FORMAT}")]
    Format { path: PathBuf, format: u32 },
    #[error("{path}: overlay path {layer} is not absolute")]
    RelativeLayer { path: PathBuf, layer: PathBuf },
    #[error("{path}: the overlay has no lower layer")]
    NoLayer { path: PathBuf },
    #[error("{path}: {field} is not supported")]
    Unsupported { path: PathBuf, field: &'static str },
    #[error("{path}: process.cwd {cwd} is not absolute")]
    RelativeCwd { path: PathBuf, cwd: PathBuf },
    #[error("{path}: process.rlimits has {kind} twice")]
    RlimitTwice { path: PathBuf, kind: String },
    #[error("{path}: the path of a hook, {hook}, is not absolute")]
    RelativeHook { path: PathBuf, hook: PathBuf },
    #[error("{path}: the timeout of hook {hook} is not above 0")]
    HookTimeout { path: PathBuf, hook: PathBuf },
}

impl Bundle {
    /// Reads and checks the bundle in `directory`.
    pub fn load(directory: &Path) -> Result<Bundle, BundleError> {
        let directory =
            directory.canonicalize().map_err(|source| BundleError::Open { path: directory.to_owned(), source })?;
        let path = directory.join("config.json");
        let config: Spec = parse(&path, &read(&path)?)?;
        check(&path, &config)?;
        let root = config.root().as_ref().ok_or(BundleError::Missing { path, field: "root" })?;
        let rootfs = directory.join(root.path());
        let record = read_rootfs(&directory.join("rootfs.json"))?;
        let (overlay, copy_up) = record.map_or_else(Default::default, |record| (Some(record.overlay), record.copy_up));
        Ok(Bundle { directory, config, rootfs, overlay, copy_up })
    }
}

fn read(path: &Path) -> Result<String, BundleError> {
    std::fs::read_to_string(path).map_err(|source| BundleError::Read { path: path.to_owned(), source })
}

fn parse<T: for<'a> Deserialize<'a>>(path: &Path, text: &str) -> Result<T, BundleError> {
    serde_json::from_str(text).map_err(|source| BundleError::Parse { path: path.to_owned(), source })
}

fn read_rootfs(path: &Path) -> Result<Option<RootfsRecord>, BundleError> {
    let text = match read(path) {
        Err(BundleError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let record: RootfsRecord = parse(path, &text)?;
    if record.format != ROOTFS_FORMAT {
        return Err(BundleError::Format { path: path.to_owned(), format: record.format });
    }
    let overlay = &record.overlay;
    if overlay.lower.is_empty() {
        return Err(BundleError::NoLayer { path: path.to_owned() });
    }
    for layer in overlay.lower.iter().chain([&overlay.upper, &overlay.work]) {
        if !layer.is_absolute() {
            return Err(BundleError::RelativeLayer { path: path.to_owned(), layer: layer.clone() });
        }
    }
    Ok(Some(record))
}

/// What we cannot do is refused by name, before the first side effect: silently ignoring it could cost isolation.
fn check(path: &Path, config: &Spec) -> Result<(), BundleError> {
    let unsupported = |field| Err(BundleError::Unsupported { path: path.to_owned(), field });
    let missing = |field| BundleError::Missing { path: path.to_owned(), field };
    let process = config.process().as_ref().ok_or_else(|| missing("process"))?;
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(missing("process.args"));
    }
    if !process.cwd().is_absolute() {
        return Err(BundleError::RelativeCwd { path: path.to_owned(), cwd: process.cwd().clone() });
    }
    check_rlimits(path, process)?;
    check_hooks(path, config)?;
    let linux = config.linux().as_ref().ok_or_else(|| missing("linux"))?;
    if linux.intel_rdt().is_some() {
        return unsupported("linux.intelRdt");
    }
    if linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        return unsupported("linux.netDevices");
    }
    if linux.memory_policy().is_some() {
        return unsupported("linux.memoryPolicy");
    }
    if linux.mount_label().as_ref().is_some_and(|label| !label.is_empty()) {
        return unsupported("linux.mountLabel");
    }
    Ok(())
}

fn check_rlimits(path: &Path, process: &Process) -> Result<(), BundleError> {
    let mut seen = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let kind = limit.typ().to_string();
        if seen.contains(&kind) {
            return Err(BundleError::RlimitTwice { path: path.to_owned(), kind });
        }
        seen.push(kind);
    }
    Ok(())
}

/// Of all stages: one that fails only when the container has ended would be found too late.
fn check_hooks(path: &Path, config: &Spec) -> Result<(), BundleError> {
    let Some(hooks) = config.hooks() else { return Ok(()) };
    let stages = [
        hooks.prestart(),
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
        hooks.poststart(),
        hooks.poststop(),
    ];
    for hook in stages.into_iter().flat_map(|stage| stage.iter().flatten()) {
        let (path, hook_path) = (path.to_owned(), hook.path().clone());
        if !hook.path().is_absolute() {
            return Err(BundleError::RelativeHook { path, hook: hook_path });
        }
        if hook.timeout().is_some_and(|seconds| seconds <= 0) {
            return Err(BundleError::HookTimeout { path, hook: hook_path });
        }
    }
    Ok(())
}
