//! Compiles the .proto files without protoc and derives serde on every message, so that its JSON is ECS's JSON.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 5] = [
    "neargate/v1/task_definition.proto",
    "neargate/v1/task.proto",
    "neargate/v1/image.proto",
    "neargate/v1/host.proto",
    "neargate/v1/observation.proto",
];

/// Names that ECS does not spell in plain lower camel case.
const RENAMED: [(&str, &str); 3] = [
    (".neargate.v1.RunTaskRequest.enable_ecs_managed_tags", "enableECSManagedTags"),
    (".neargate.v1.TaskVolumeConfiguration.managed_ebs_volume", "managedEBSVolume"),
    (".neargate.v1.NetworkBinding.bind_ip", "bindIP"),
];

#[expect(clippy::disallowed_methods, reason = "a build product, made again after a crash")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=neargate");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    let mut builder = tonic_prost_build::configure()
        .message_attribute(".", "#[serde_with::skip_serializing_none]")
        .message_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]")
        .message_attribute(".", "#[serde(rename_all = \"camelCase\", deny_unknown_fields, default)]");
    for (field, name) in RENAMED {
        builder = builder.field_attribute(field, format!("#[serde(rename = \"{name}\")]"));
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
