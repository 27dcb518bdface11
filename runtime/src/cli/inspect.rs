//! `features` and `spec`: what this runtime can do, and a bundle's configuration to begin with. Nothing runs.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::commands::{Outcome, print};
use crate::capabilities;
use crate::container::state::OCI_VERSION;
use crate::mounts::{options, protect};
use crate::namespaces;
use crate::seccomp;

const CONFIG: &str = "config.json";
/// The oldest specification whose configurations we read.
const OLDEST_OCI_VERSION: &str = "1.0.0";
/// OCI config, "POSIX-platform hooks".
const HOOKS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

#[derive(Debug, thiserror::Error)]
enum SpecError {
    #[error("{0} exists already; move it away first")]
    Exists(PathBuf),
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
}

#[derive(Debug, Args)]
pub(super) struct Spec {
    /// Where to write config.json
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
}

/// `features`: the [OCI features structure](https://github.com/opencontainers/runtime-spec/blob/main/features-linux.md).
pub(super) fn features() -> Outcome {
    let kinds: Vec<&str> = namespaces::KINDS.iter().map(|(name, _)| oci_name(name)).collect();
    let features = json!({
        "ociVersionMin": OLDEST_OCI_VERSION,
        "ociVersionMax": OCI_VERSION,
        "hooks": HOOKS,
        "mountOptions": options::known(),
        "linux": {
            "namespaces": kinds,
            "capabilities": capabilities::known(),
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": seccomp::ACTIONS,
                "operators": seccomp::OPERATORS,
                "archs": seccomp::architectures(),
                "knownFlags": seccomp::FLAGS,
                "supportedFlags": seccomp::FLAGS,
            },
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
        },
        "annotations": {"neargate.version": env!("CARGO_PKG_VERSION")},
    });
    print(&serde_json::to_string_pretty(&features)?)?;
    Ok(ExitCode::SUCCESS)
}

/// OCI's name of what /proc/PID/ns calls `name`.
fn oci_name(name: &str) -> &str {
    match name {
        "mnt" => "mount",
        "net" => "network",
        other => other,
    }
}

/// `spec`: a shell below `rootfs`, confined as docker would.
pub(super) fn spec(args: &Spec) -> Outcome {
    let path = args.bundle.join(CONFIG);
    let failed = |source| SpecError::Write { path: path.clone(), source };
    let text = serde_json::to_string_pretty(&configuration())?;
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(SpecError::Exists(path).into()),
        other => other.map_err(failed)?,
    };
    writeln!(file, "{text}").map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

fn configuration() -> Value {
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({"type": kind}));
    let capabilities = capabilities::DEFAULT;
    json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "neargate",
        "mounts": mounts(),
        "linux": {
            "namespaces": namespaces,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "seccomp": seccomp::default_profile(&capabilities),
            "maskedPaths": protect::DEFAULT_MASKED,
            "readonlyPaths": protect::DEFAULT_READ_ONLY,
        },
    })
}

fn mounts() -> Value {
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
         "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
    ])
}
