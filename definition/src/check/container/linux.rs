//! What the kernel gives the container: `linuxParameters`, `ulimits`, `systemControls`, `dockerSecurityOptions`.

use std::collections::BTreeMap;

use proto::v1::{Device, KernelCapabilities, LinuxParameters, SystemControl, Tmpfs, Ulimit};

use super::non_negative;
use crate::check::volumes::{absolute, below_root};
use crate::problem::Problems;
use crate::task::{DeviceSpec, NetworkMode, TmpfsSpec};

/// Words of `tmpfs[].mountOptions` in ECS's list that a new tmpfs can take.
const TMPFS_WORDS: [&str; 30] = [
    "defaults",
    "ro",
    "rw",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "sync",
    "async",
    "dirsync",
    "mand",
    "nomand",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "unbindable",
    "runbindable",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
];
/// Those that have a value.
const TMPFS_KEYS: [&str; 6] = ["mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"];

/// ECS's list.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];
/// capabilities(7), without the prefix.
#[rustfmt::skip]
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "CHOWN", "DAC_OVERRIDE",
    "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE", "LINUX_IMMUTABLE", "MAC_ADMIN",
    "MAC_OVERRIDE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW", "PERFMON", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT", "SYS_MODULE", "SYS_NICE",
    "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "WAKE_ALARM",
];

pub(super) fn capabilities(
    problems: &mut Problems,
    path: &str,
    capabilities: &KernelCapabilities,
) -> (Vec<String>, Vec<String>) {
    let mut checked = |member: &str, names: &[String]| -> Vec<String> {
        let path = format!("{path}.linuxParameters.capabilities.{member}");
        let mut checked = Vec::new();
        for (index, given) in names.iter().enumerate() {
            let upper = given.to_ascii_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if bare == "ALL" {
                checked.push("ALL".to_owned());
            } else if CAPABILITIES.contains(&bare) {
                checked.push(format!("CAP_{bare}"));
            } else {
                problems.client(format!("{path}[{index}]"), format!("'{given}' is not a Linux capability."));
            }
        }
        checked
    };
    (checked("add", &capabilities.add), checked("drop", &capabilities.drop))
}

pub(super) fn ulimits(problems: &mut Problems, path: &str, limits: &[Ulimit]) -> BTreeMap<String, (u64, u64)> {
    let mut checked = BTreeMap::new();
    for (index, limit) in limits.iter().enumerate() {
        let path = format!("{path}.ulimits[{index}]");
        let limit_name = limit.name.clone().unwrap_or_default();
        if !ULIMITS.contains(&limit_name.as_str()) {
            problems.client(format!("{path}.name"), format!("'{limit_name}' is not a resource limit."));
        }
        // -1 is docker's and ECS's word for no limit.
        let amount = |value: Option<i32>| match value.unwrap_or(0) {
            -1 => Some(u64::MAX),
            value => u64::try_from(value).ok(),
        };
        let (Some(soft), Some(hard)) = (amount(limit.soft_limit), amount(limit.hard_limit)) else {
            problems.client(&path, format!("{path}: limits must be -1 or more."));
            continue;
        };
        if soft > hard {
            problems.client(format!("{path}.softLimit"), format!("{path}.softLimit is greater than its hardLimit."));
        }
        if checked.insert(limit_name.clone(), (soft, hard)).is_some() {
            problems.client(format!("{path}.name"), format!("The limit '{limit_name}' is given more than once."));
        }
    }
    checked
}

/// Swap beyond memory in MiB, and swappiness where that is given.
pub(super) fn swap(problems: &mut Problems, path: &str, linux: &LinuxParameters) -> (Option<u32>, Option<u8>) {
    let path = format!("{path}.linuxParameters");
    let max_swap = non_negative(problems, &format!("{path}.maxSwap"), linux.max_swap);
    let swappiness = linux.swappiness.map(|value| u8::try_from(value).ok().filter(|value| *value <= 100));
    if swappiness == Some(None) {
        problems.client(format!("{path}.swappiness"), format!("{path}.swappiness must be 0 to 100."));
    }
    // ECS ignores it where no swap is given.
    (max_swap, swappiness.flatten().filter(|_| max_swap.is_some()))
}

pub(super) fn shared_memory(problems: &mut Problems, path: &str, size: Option<i32>) -> Option<u32> {
    let path = format!("{path}.linuxParameters.sharedMemorySize");
    non_negative(problems, &path, size).filter(|size| *size > 0)
}

pub(super) fn devices(problems: &mut Problems, path: &str, devices: &[Device]) -> Vec<DeviceSpec> {
    let mut checked = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        let path = format!("{path}.linuxParameters.devices[{index}]");
        let host_path = device.host_path.clone().unwrap_or_default();
        absolute(problems, &format!("{path}.hostPath"), &host_path);
        let container_path = device.container_path.clone().filter(|given| !given.is_empty());
        let container_path = container_path.unwrap_or_else(|| host_path.clone());
        below_root(problems, &format!("{path}.containerPath"), &container_path);
        let mut access = String::new();
        for (nth, permission) in device.permissions.iter().enumerate() {
            match permission.as_str() {
                "read" => access.push('r'),
                "write" => access.push('w'),
                "mknod" => access.push('m'),
                other => problems.client(
                    format!("{path}.permissions[{nth}]"),
                    format!("Invalid permission '{other}': use read, write or mknod."),
                ),
            }
        }
        if access.is_empty() {
            "rwm".clone_into(&mut access);
        }
        checked.push(DeviceSpec { host_path, container_path, access });
    }
    checked
}

pub(super) fn tmpfs(problems: &mut Problems, path: &str, mounts: &[Tmpfs]) -> Vec<TmpfsSpec> {
    let mut checked = Vec::new();
    for (index, tmpfs) in mounts.iter().enumerate() {
        let path = format!("{path}.linuxParameters.tmpfs[{index}]");
        let container_path = tmpfs.container_path.clone().unwrap_or_default();
        below_root(problems, &format!("{path}.containerPath"), &container_path);
        let size_mib = tmpfs.size.and_then(|size| u32::try_from(size).ok()).filter(|size| *size > 0);
        if size_mib.is_none() {
            problems.client(format!("{path}.size"), format!("{path}.size must be 1 MiB or more."));
        }
        for (nth, option) in tmpfs.mount_options.iter().enumerate() {
            let known = match option.split_once('=') {
                Some((key, value)) => TMPFS_KEYS.contains(&key) && !value.is_empty() && !value.contains([',', '\0']),
                None => TMPFS_WORDS.contains(&option.as_str()),
            };
            if !known {
                problems.client(
                    format!("{path}.mountOptions[{nth}]"),
                    format!("'{option}' is not a mount option of a tmpfs."),
                );
            }
        }
        let options = tmpfs.mount_options.clone();
        checked.push(TmpfsSpec { container_path, size_mib: size_mib.unwrap_or_default(), options });
    }
    checked
}

/// Only what a namespace of the container keeps from the host (ecs-semantics 1.3).
pub(super) fn system_controls(
    problems: &mut Problems,
    path: &str,
    controls: &[SystemControl],
    mode: NetworkMode,
) -> BTreeMap<String, String> {
    const IPC: [&str; 4] = ["kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue."];
    let mut checked = BTreeMap::new();
    for (index, control) in controls.iter().enumerate() {
        let path = format!("{path}.systemControls[{index}]");
        let name = control.namespace.clone().unwrap_or_default();
        let value = control.value.clone().unwrap_or_default();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
        let of_network = name.starts_with("net.");
        // A slash stands for a dot within a part of the name, as in sysctl(8): no part may be one or two dots.
        let leads_away = name.split('.').any(|part| matches!(part, "" | "/" | "//"));
        if leads_away || !name.chars().all(allowed) || !(of_network || IPC.iter().any(|p| name.starts_with(p))) {
            problems.client(
                format!("{path}.namespace"),
                format!("'{name}' is not a namespaced kernel parameter: use kernel.msg*, kernel.sem, kernel.shm*, fs.mqueue.* or net.*."),
            );
        } else if of_network && mode == NetworkMode::Host {
            problems.client(
                format!("{path}.namespace"),
                format!("'{name}' cannot be set with networkMode host: it would be the host's."),
            );
        }
        problems.no_nul(&format!("{path}.value"), &value);
        if value.is_empty() {
            problems.client(format!("{path}.value"), format!("{path}.value should not be null or empty."));
        }
        if checked.insert(name.clone(), value).is_some() {
            problems.client(format!("{path}.namespace"), format!("'{name}' is given more than once."));
        }
    }
    checked
}

/// Whether no_new_privs is asked for.
pub(super) fn security_options(problems: &mut Problems, path: &str, options: &[String]) -> bool {
    let mut no_new_privileges = false;
    for (index, option) in options.iter().enumerate() {
        let path = format!("{path}.dockerSecurityOptions[{index}]");
        match option.as_str() {
            "no-new-privileges" | "no-new-privileges:true" => no_new_privileges = true,
            "no-new-privileges:false" => {}
            other => problems.client(
                &path,
                format!("{path} '{other}' is not supported: no-new-privileges is, security modules and gMSA are not."),
            ),
        }
    }
    no_new_privileges
}
