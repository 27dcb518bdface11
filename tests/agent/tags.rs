//! Tags of definitions and tasks.

use proto::v1::{DescribeTaskDefinitionRequest, DescribeTasksRequest, RunTaskRequest, Tag};
use serde_json::json;
use system_tests::TestHost;
use system_tests::definition::{shell, task, with};
use tonic::Code;

#[test]
fn tags_are_kept_propagated_and_told_where_they_are_asked_for() {
    let host = TestHost::start();
    let tag = |key: &str, value: &str| Tag { key: Some(key.into()), value: Some(value.into()) };
    let container = shell("c", &host.image("base"), "exit 0");
    let tagged = json!({ "tags": [{ "key": "team", "value": "a" }, { "key": "stage", "value": "test" }] });
    let registered = host.register(&with(task("tagged", &[container]), tagged)).unwrap();
    let describe = |include: Vec<String>| {
        let task_definition = registered.task_definition_arn.clone();
        let request = DescribeTaskDefinitionRequest { task_definition, include };
        host.wait(async { host.tasks().await?.describe_task_definition(request).await })
            .map(|answer| answer.into_inner())
    };
    assert_eq!(describe(vec![]).unwrap().tags, []);
    assert_eq!(describe(vec!["TAGS".into()]).unwrap().tags, [tag("team", "a"), tag("stage", "test")]);
    assert_eq!(describe(vec!["ALL".into()]).unwrap_err().code(), Code::InvalidArgument);
    let request = RunTaskRequest {
        task_definition: registered.task_definition_arn.clone(),
        tags: vec![tag("stage", "mine")],
        propagate_tags: Some("TASK_DEFINITION".into()),
        enable_ecs_managed_tags: Some(true),
        ..Default::default()
    };
    let wanted = [tag("stage", "mine"), tag("team", "a"), tag("aws:ecs:clusterName", "default")];
    let made = host.run_task(request.clone()).unwrap().tasks.remove(0);
    assert_eq!(made.tags, wanted);
    assert_eq!(host.describe(made.task_arn()).tags, [], "not asked for");
    let asked = DescribeTasksRequest {
        tasks: vec![made.task_arn().into()],
        include: vec!["TAGS".into()],
        ..Default::default()
    };
    let told = host.wait(async { host.tasks().await?.describe_tasks(asked).await }).unwrap().into_inner();
    assert_eq!(told.tasks[0].tags, wanted);
    let reserved = RunTaskRequest { tags: vec![tag("aws:x", "")], ..request };
    assert_eq!(host.run_task(reserved).unwrap_err().code(), Code::InvalidArgument);
}
