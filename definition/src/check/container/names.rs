//! Names by which the container is known and knows others: `hostname`, `extraHosts`.

use std::net::IpAddr;

use proto::v1::HostEntry;

use crate::problem::Problems;
use crate::task::NetworkMode;

/// hostname(7) and the kernel's bound of a node name.
const MAX_HOSTNAME: usize = 63;

/// Letters, digits, `-`, `_` and `.`, not longer than the kernel takes.
fn is_host_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.chars().all(allowed) && !name.starts_with(['-', '.'])
}

pub(super) fn hostname(
    problems: &mut Problems,
    path: &str,
    hostname: Option<&str>,
    mode: NetworkMode,
) -> Option<String> {
    let hostname = hostname.filter(|hostname| !hostname.is_empty())?;
    let path = format!("{path}.hostname");
    if mode == NetworkMode::Awsvpc {
        problems.client(&path, format!("{path} is not supported with networkMode awsvpc."));
    }
    if !is_host_name(hostname) || hostname.len() > MAX_HOSTNAME {
        problems.client(&path, format!("{path} must be 1 to {MAX_HOSTNAME} letters, digits, -, _ and dots."));
    }
    Some(hostname.to_owned())
}

pub(super) fn extra_hosts(
    problems: &mut Problems,
    path: &str,
    entries: &[HostEntry],
    mode: NetworkMode,
) -> Vec<(IpAddr, String)> {
    let path = format!("{path}.extraHosts");
    if mode == NetworkMode::Awsvpc && !entries.is_empty() {
        problems.client(&path, "Extra hosts are not supported when networkMode=awsvpc.");
    }
    let mut checked = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let name = entry.hostname.clone().unwrap_or_default();
        if !is_host_name(&name) || name.len() > 255 {
            problems.client(format!("{path}.hostname"), format!("{path}.hostname must be a host name."));
        }
        match entry.ip_address.as_deref().unwrap_or_default().parse() {
            Ok(address) => checked.push((address, name)),
            Err(_) => problems
                .client(format!("{path}.ipAddress"), format!("{path}.ipAddress must be an IPv4 or IPv6 address.")),
        }
    }
    checked
}
