//! Task definitions as tests write them: ECS JSON, with the members that a test does not care about filled in.

use std::path::Path;

use proto::v1::{AwsVpcConfiguration, NetworkConfiguration, RegisterTaskDefinitionRequest};
use serde_json::{Value, json};

/// A definition of a family with these containers and a small memory limit where a container has none.
pub fn task(family: &str, containers: &[Value]) -> Value {
    let containers: Vec<Value> = containers.iter().map(|container| filled(container.clone())).collect();
    json!({ "family": family, "networkMode": "none", "containerDefinitions": containers })
}

/// A container that runs a shell script in `image`.
pub fn shell(name: &str, image: &str, script: &str) -> Value {
    json!({ "name": name, "image": image, "entryPoint": ["/bin/sh", "-c"], "command": [script] })
}

/// `value` with the members of `more` on top.
pub fn with(mut value: Value, more: Value) -> Value {
    if let (Some(members), Value::Object(more)) = (value.as_object_mut(), more) {
        members.extend(more);
    }
    value
}

/// `definition` with every container seeing a directory of the host, such as [`crate::TestHost::gate`], as /gate.
pub fn gated(mut definition: Value, directory: &Path) -> Value {
    for container in definition["containerDefinitions"].as_array_mut().into_iter().flatten() {
        *container =
            with(container.take(), json!({ "mountPoints": [{ "sourceVolume": "gate", "containerPath": "/gate" }] }));
    }
    with(definition, json!({ "volumes": [{ "name": "gate", "host": { "sourcePath": directory } }] }))
}

/// The request that registers a definition.
#[track_caller]
pub fn request(definition: &Value) -> RegisterTaskDefinitionRequest {
    serde_json::from_value(definition.clone()).expect("the test's definition is ECS JSON")
}

/// What RunTask wants of a definition with `networkMode` `awsvpc`.
pub fn network() -> NetworkConfiguration {
    let awsvpc = AwsVpcConfiguration { subnets: vec!["subnet-any".to_owned()], ..AwsVpcConfiguration::default() };
    NetworkConfiguration { awsvpc_configuration: Some(awsvpc) }
}

fn filled(container: Value) -> Value {
    let has_memory = container.get("memory").is_some() || container.get("memoryReservation").is_some();
    if has_memory { container } else { with(container, json!({ "memory": 64 })) }
}
