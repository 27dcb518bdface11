//! What DescribeTaskDefinition answers: what was registered plus ECS's defaults, nothing else (its echo rule), and
//! whether two definitions say the same.

use proto::v1::{RegisterTaskDefinitionRequest, TaskDefinition};

use crate::check::container::order;
use crate::check::size;

/// The definition as stored. The engine adds its ARN, revision, status and times.
pub fn registered(request: &RegisterTaskDefinitionRequest) -> TaskDefinition {
    let given = request.clone();
    let network_mode = given.network_mode.unwrap_or_else(|| "bridge".to_owned());
    let mut containers = given.container_definitions;
    for container in &mut containers {
        container.essential.get_or_insert(true);
        container.cpu.get_or_insert(0);
        if let Some(check) = &mut container.health_check {
            check.interval.get_or_insert(order::HEALTH_INTERVAL);
            check.timeout.get_or_insert(order::HEALTH_TIMEOUT);
            check.retries.get_or_insert(order::HEALTH_RETRIES);
        }
        for port in &mut container.port_mappings {
            port.protocol.get_or_insert_with(|| "tcp".to_owned());
            let default = if network_mode == "bridge" { Some(0) } else { port.container_port };
            port.host_port = port.host_port.or(default);
        }
    }
    TaskDefinition {
        family: given.family,
        task_role_arn: given.task_role_arn,
        execution_role_arn: given.execution_role_arn,
        network_mode: Some(network_mode),
        container_definitions: containers,
        volumes: given.volumes,
        placement_constraints: given.placement_constraints,
        requires_compatibilities: given.requires_compatibilities,
        cpu: given.cpu.map(|text| size::parse_cpu(&text).map_or(text, |units| units.to_string())),
        memory: given.memory.map(|text| size::parse_memory(&text).map_or(text, |mib| mib.to_string())),
        pid_mode: given.pid_mode,
        ipc_mode: given.ipc_mode,
        proxy_configuration: given.proxy_configuration,
        inference_accelerators: given.inference_accelerators,
        ephemeral_storage: given.ephemeral_storage,
        runtime_platform: given.runtime_platform,
        enable_fault_injection: given.enable_fault_injection,
        ..TaskDefinition::default()
    }
}

/// The request that registers `definition` again.
pub fn request(definition: &TaskDefinition) -> RegisterTaskDefinitionRequest {
    let given = definition.clone();
    RegisterTaskDefinitionRequest {
        family: given.family,
        task_role_arn: given.task_role_arn,
        execution_role_arn: given.execution_role_arn,
        network_mode: given.network_mode,
        container_definitions: given.container_definitions,
        volumes: given.volumes,
        placement_constraints: given.placement_constraints,
        requires_compatibilities: given.requires_compatibilities,
        cpu: given.cpu,
        memory: given.memory,
        tags: Vec::new(),
        pid_mode: given.pid_mode,
        ipc_mode: given.ipc_mode,
        proxy_configuration: given.proxy_configuration,
        inference_accelerators: given.inference_accelerators,
        ephemeral_storage: given.ephemeral_storage,
        runtime_platform: given.runtime_platform,
        enable_fault_injection: given.enable_fault_injection,
    }
}

/// Whether two definitions ask for the same, whatever their revisions, times and the order of environment variables.
pub fn content_equal(a: &TaskDefinition, b: &TaskDefinition) -> bool {
    content(a) == content(b)
}

fn content(definition: &TaskDefinition) -> TaskDefinition {
    let mut content = TaskDefinition {
        task_definition_arn: None,
        revision: None,
        status: None,
        requires_attributes: Vec::new(),
        compatibilities: Vec::new(),
        registered_at: None,
        registered_by: None,
        deregistered_at: None,
        delete_requested_at: None,
        ..definition.clone()
    };
    for container in &mut content.container_definitions {
        container.environment.sort_by(|a, b| a.name.cmp(&b.name));
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: serde_json::Value) -> RegisterTaskDefinitionRequest {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn defaults_are_ecs_own() {
        let definition = registered(&request(serde_json::json!({
            "family": "f", "cpu": ".5 vCPU", "memory": "1 GB", "networkMode": "host",
            "containerDefinitions": [{ "name": "c", "image": "i", "portMappings": [{ "containerPort": 80 }] }],
        })));
        let container = &definition.container_definitions[0];
        assert_eq!((definition.cpu.as_deref(), definition.memory.as_deref()), (Some("512"), Some("1024")));
        assert_eq!((container.essential, container.cpu), (Some(true), Some(0)));
        assert_eq!(container.port_mappings[0].host_port, Some(80));
        assert_eq!(container.port_mappings[0].protocol.as_deref(), Some("tcp"));
    }

    #[test]
    fn order_of_environment_is_no_content() {
        let with = |environment: serde_json::Value| {
            registered(&request(serde_json::json!({
                "family": "f", "containerDefinitions": [{ "name": "c", "image": "i", "environment": environment }],
            })))
        };
        let a = with(serde_json::json!([{ "name": "A", "value": "1" }, { "name": "B", "value": "2" }]));
        let mut b = with(serde_json::json!([{ "name": "B", "value": "2" }, { "name": "A", "value": "1" }]));
        b.revision = Some(7);
        assert!(content_equal(&a, &b));
        assert!(!content_equal(&a, &with(serde_json::json!([{ "name": "A", "value": "3" }]))));
    }
}
