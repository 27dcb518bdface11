//! The host as ECS's container instance: who it is, what it has, whether it takes tasks.

use std::collections::BTreeSet;

use definition::task::Protocol;
use proto::v1::{Attribute, ContainerInstance, Resource, VersionInfo};

use super::definitions::blocking;
use super::{Engine, EngineError, lock};
use crate::capacity::{Demand, Port};
use crate::config::Config;
use crate::identity::Names;
use crate::trace::now;

const ACTIVE: &str = "ACTIVE";
const DRAINING: &str = "DRAINING";

/// A new record, for the first start.
pub(super) fn first(names: &Names) -> ContainerInstance {
    let attribute = |name: &str, value: &str| Attribute {
        name: Some(name.to_owned()),
        value: Some(value.to_owned()),
        ..Attribute::default()
    };
    ContainerInstance {
        container_instance_arn: Some(names.container_instance_arn(&uuid::Uuid::new_v4().simple().to_string())),
        status: Some(ACTIVE.to_owned()),
        agent_connected: Some(true),
        version: Some(1),
        version_info: Some(VersionInfo {
            agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            ..VersionInfo::default()
        }),
        attributes: vec![attribute("ecs.os-type", "linux"), attribute("ecs.cpu-architecture", std::env::consts::ARCH)],
        registered_at: Some(now()),
        ..ContainerInstance::default()
    }
}

/// What tasks may have of this host: processors and memory as the kernel tells, less what is reserved.
pub(super) fn total(config: &Config) -> Demand {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    let mebibytes = kibibytes.unwrap_or_default() / 1024;
    Demand {
        cpu_units: u64::try_from(processors).unwrap_or(1) * 1024,
        memory_mib: mebibytes.saturating_sub(config.capacity.reserved_memory_mib),
        ports: config
            .capacity
            .reserved_ports
            .iter()
            .flat_map(|port| [(Protocol::Tcp, *port), (Protocol::Udp, *port)])
            .collect(),
    }
}

impl Engine {
    /// The host as it is now.
    pub fn container_instance(&self) -> ContainerInstance {
        let mut instance = lock(&self.shared.host).clone();
        let ledger = self.shared.ledger();
        instance.registered_resources = resources(ledger.registered(), ledger.reserved_ports());
        instance.remaining_resources = resources(ledger.remaining(), &ledger.taken_ports());
        drop(ledger);
        let count = |wanted: fn(&str) -> bool| {
            let records = self.shared.driven();
            i32::try_from(records.iter().filter(|(_, record)| wanted(record.task.last_status())).count())
                .unwrap_or(i32::MAX)
        };
        instance.running_tasks_count = Some(count(|status| status == "RUNNING"));
        instance.pending_tasks_count =
            Some(count(|status| matches!(status, "PROVISIONING" | "PENDING" | "ACTIVATING")));
        instance
    }

    /// ACTIVE or DRAINING, kept over restarts.
    pub async fn set_state(&self, status: &str) -> Result<ContainerInstance, EngineError> {
        if ![ACTIVE, DRAINING].contains(&status) {
            let message = format!("Invalid status '{status}': use {ACTIVE} or {DRAINING}.");
            return Err(EngineError::InvalidParameter { field: "status", message });
        }
        let (shared, status) = (self.shared.clone(), status.to_owned());
        blocking(move || {
            let mut host = lock(&shared.host);
            let mut changed = host.clone();
            changed.status = Some(status);
            changed.version = Some(changed.version().saturating_add(1));
            shared.store.put_instance(&changed)?;
            *host = changed;
            Ok(())
        })
        .await?;
        Ok(self.container_instance())
    }

    pub(super) fn is_draining(&self) -> bool {
        lock(&self.shared.host).status() == DRAINING
    }
}

/// ECS's way: amounts, and for ports those that are taken.
fn resources((cpu_units, memory_mib): (u64, u64), ports: &BTreeSet<Port>) -> Vec<Resource> {
    let integer = |name: &str, amount: u64| Resource {
        name: Some(name.to_owned()),
        r#type: Some("INTEGER".to_owned()),
        integer_value: Some(i32::try_from(amount).unwrap_or(i32::MAX)),
        ..Resource::default()
    };
    let set = |name: &str, protocol: Protocol| Resource {
        name: Some(name.to_owned()),
        r#type: Some("STRINGSET".to_owned()),
        string_set_value: ports.iter().filter(|port| port.0 == protocol).map(|port| port.1.to_string()).collect(),
        ..Resource::default()
    };
    vec![
        integer("CPU", cpu_units),
        integer("MEMORY", memory_mib),
        set("PORTS", Protocol::Tcp),
        set("PORTS_UDP", Protocol::Udp),
    ]
}
