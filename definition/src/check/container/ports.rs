//! `portMappings`.

use std::collections::BTreeMap;

use proto::v1::PortMapping as WirePort;

use crate::problem::Problems;
use crate::task::{NetworkMode, PortMapping, Protocol, TaskSpec};

pub(super) fn check(problems: &mut Problems, path: &str, ports: &[WirePort], mode: NetworkMode) -> Vec<PortMapping> {
    let path = format!("{path}.portMappings");
    if ports.is_empty() {
        return Vec::new();
    }
    for (index, port) in ports.iter().enumerate().filter(|_| mode == NetworkMode::Awsvpc) {
        if port.host_port.is_some_and(|host| host != 0 && Some(host) != port.container_port) {
            problems.client(
                format!("{path}[{index}].hostPort"),
                "When networkMode=awsvpc, the host ports and container ports in port mappings must match.",
            );
        }
    }
    if mode != NetworkMode::Host {
        problems.client(&path, format!("{path} is not supported yet but with \"networkMode\": \"host\"."));
        return Vec::new();
    }
    let mut checked = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Some(container_port) = port.container_port else {
            problems.client(&path, format!("{path}.containerPort is missing."));
            continue;
        };
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
        checked.push(PortMapping { host_port, protocol });
    }
    checked
}

/// Nobody shares a host port, the containers of one task neither.
pub(in crate::check) fn across(problems: &mut Problems, task: &TaskSpec) {
    let mut holders = BTreeMap::new();
    for (index, container) in task.containers.iter().enumerate() {
        for mapping in &container.port_mappings {
            if let Some(holder) = holders.insert(*mapping, &container.name) {
                let (port, protocol) = (mapping.host_port, mapping.protocol.as_str());
                problems.client(
                    format!("containerDefinitions[{index}].portMappings"),
                    format!("Container '{}' maps host port {port}/{protocol}, which '{holder}' has.", container.name),
                );
            }
        }
    }
}
