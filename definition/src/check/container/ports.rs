//! `portMappings`.

use std::collections::BTreeSet;

use proto::v1::PortMapping as WirePort;

use crate::problem::Problems;
use crate::task::{NetworkMode, PortMapping, Protocol};

pub(super) fn check(problems: &mut Problems, path: &str, ports: &[WirePort], mode: NetworkMode) -> Vec<PortMapping> {
    let path = format!("{path}.portMappings");
    if ports.is_empty() {
        return Vec::new();
    }
    if mode != NetworkMode::Host {
        problems.client(
            &path,
            format!("{path} is not supported outside networkMode host: addresses and ports come later."),
        );
        return Vec::new();
    }
    let mut checked = Vec::new();
    let mut taken = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let container_port = port.container_port.unwrap_or(0);
        let number = u16::try_from(container_port).ok().filter(|number| *number > 0);
        let Some(host_port) = number else {
            problems.client(format!("{path}.containerPort"), format!("{path}.containerPort must be 1 to 65535."));
            continue;
        };
        if port.host_port.is_some_and(|host| host != 0 && host != container_port) {
            problems.client(
                format!("{path}.hostPort"),
                "When networkMode=host, the host ports and container ports in port mappings must match.",
            );
        }
        let protocol = match port.protocol.as_deref() {
            None | Some("tcp") => Protocol::Tcp,
            Some("udp") => Protocol::Udp,
            Some(other) => {
                problems.client(format!("{path}.protocol"), format!("Invalid protocol '{other}': use tcp or udp."));
                continue;
            }
        };
        let mapping = PortMapping { host_port, protocol };
        if !taken.insert(mapping) {
            problems.client(&path, format!("{path} maps port {host_port} a second time."));
        }
        checked.push(mapping);
    }
    checked
}
