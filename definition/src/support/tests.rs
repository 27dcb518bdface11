//! The table against the schema.

use std::collections::BTreeSet;

use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

use super::*;

fn message(name: &str) -> MessageDescriptor {
    let pool = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    pool.get_message_by_name(&format!("neargate.v1.{name}")).unwrap()
}

/// Paths of all members, those of refused ones left out.
fn paths(table: &[Row], message: &MessageDescriptor, prefix: &str, found: &mut BTreeSet<String>) {
    for field in message.fields() {
        let path = format!("{prefix}{}", field.json_name());
        found.insert(path.clone());
        if table.iter().any(|(known, support)| *known == path && matches!(support, Refused(_))) {
            continue;
        }
        if let Kind::Message(inner) = field.kind()
            && !field.is_map()
        {
            let item = if field.is_list() { "[]." } else { "." };
            paths(table, &inner, &format!("{path}{item}"), found);
        }
    }
}

fn assert_complete(table: &[Row], name: &str) {
    let mut schema = BTreeSet::new();
    paths(table, &message(name), "", &mut schema);
    let told: BTreeSet<String> = table.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(told.len(), table.len(), "a path is told twice");
    assert_eq!(schema.difference(&told).collect::<Vec<_>>(), Vec::<&String>::new(), "not in the table");
    assert_eq!(told.difference(&schema).collect::<Vec<_>>(), Vec::<&String>::new(), "not in the schema");
}

#[test]
fn every_member_of_a_task_definition_is_in_the_table() {
    assert_complete(TASK_DEFINITION, "RegisterTaskDefinitionRequest");
}

#[test]
fn every_member_of_run_task_is_in_the_table() {
    assert_complete(RUN_TASK, "RunTaskRequest");
}

#[test]
fn readme_holds_the_table() {
    let readme = include_str!("../../../README.md");
    let told = readme.split("<!-- fields: begin -->\n").nth(1).unwrap().split("<!-- fields: end -->").next().unwrap();
    assert_eq!(told, markdown_table(), "put this between the README's field marks:\n{}", markdown_table());
}

#[test]
fn refused_members_are_named_with_their_path() {
    let value = serde_json::json!({
        "proxyConfiguration": { "containerName": "p" },
        "tags": [],
        "containerDefinitions": [{}, { "firelensConfiguration": { "type": "fluentbit" }, "interactive": false, "links": null }],
    });
    let mut problems = Problems::default();
    refuse(TASK_DEFINITION, &value, "", &mut problems);
    let paths: Vec<_> = problems.0.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["proxyConfiguration", "containerDefinitions[1].firelensConfiguration"]);
}
