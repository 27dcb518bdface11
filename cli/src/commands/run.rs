//! `neargate run`: registers the definition where its content is new, starts tasks of it, follows one where asked to.

use std::path::{Path, PathBuf};

use proto::v1::{DescribeTasksResponse, Failure, RunTaskRequest, RunTaskResponse, TaskDefinition};

use super::{DONE, definitions, register};
use crate::{
    args::{Globals, Run},
    client::Client,
    error::{Error, FAILED},
    follow, json_argument, output, text,
};

/// Runs tasks; exits with 1 where some were not placed.
pub(super) async fn run(globals: &Globals, args: Run) -> Result<u8, Error> {
    if args.follow && args.count > 1 {
        return Err(Error::Usage(
            "--follow follows one task: leave out --count, or --follow and use `neargate logs -f TASK`",
        ));
    }
    let follows = args.follow;
    // Everything that is wrong on this side is told before anything happens on the other.
    let (mut request, named) = request(args)?;
    let (client, definition) = match registered_name(&named) {
        Some(name) => {
            let client = Client::connect(&globals.socket).await?;
            let definition = definitions::find(&client, name).await?;
            (client, definition)
        }
        None => {
            let definition = register::read(&named)?;
            let client = Client::connect(&globals.socket).await?;
            let definition = register::register_if_new(&client, definition).await?;
            (client, definition)
        }
    };
    request.task_definition = definition.task_definition_arn.clone();
    let doing = Error::refused("cannot run the task");
    let mut answer = client.tasks().run_task(request).await.map_err(doing)?.into_inner();
    for failure in &answer.failures {
        output::note(&format!("neargate: no task was started: {}", explained(failure)));
    }
    let code = if answer.failures.is_empty() { DONE } else { FAILED };
    if follows && code == DONE && !answer.tasks.is_empty() {
        return follow_task(globals, &client, answer.tasks.remove(0), &definition).await;
    }
    print(globals, &answer, &definition)?;
    Ok(code)
}

/// FAMILY, FAMILY:REVISION or an ARN. A file of that name goes before it.
fn registered_name(named: &Path) -> Option<&str> {
    let name = named.to_str().filter(|name| *name != "-" && !named.exists())?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':');
    (name.starts_with("arn:") || name.chars().all(allowed)).then_some(name)
}

fn request(args: Run) -> Result<(RunTaskRequest, PathBuf), Error> {
    let overrides = args.overrides.as_deref().map(|text| json_argument::parse("--overrides", text)).transpose()?;
    let network = args
        .network_configuration
        .as_deref()
        .map(|text| json_argument::parse("--network-configuration", text))
        .transpose()?;
    let request = RunTaskRequest {
        count: Some(args.count),
        cluster: args.cluster,
        group: args.group,
        launch_type: args.launch_type.map(|launch_type| launch_type.as_str().to_owned()),
        network_configuration: network,
        overrides,
        started_by: args.started_by,
        ..Default::default()
    };
    Ok((request, args.definition))
}

async fn follow_task(
    globals: &Globals,
    client: &Client,
    task: proto::v1::Task,
    definition: &TaskDefinition,
) -> Result<u8, Error> {
    let followed = follow::follow(client, task, definition, globals.json).await?;
    if globals.json {
        let answer = DescribeTasksResponse { tasks: vec![followed.task], failures: Vec::new() };
        output::json(&answer).map_err(Error::Output)?;
    }
    Ok(followed.exit_code)
}

fn print(globals: &Globals, answer: &RunTaskResponse, definition: &TaskDefinition) -> Result<(), Error> {
    if globals.json {
        return output::json(answer).map_err(Error::Output);
    }
    let name = text::definition(definition.task_definition_arn.as_deref().unwrap_or_default());
    for task in &answer.tasks {
        let id = text::plain(text::id(task.task_arn.as_deref().unwrap_or_default()));
        let status = text::plain(task.last_status.as_deref().unwrap_or_default());
        output::line(&format!("{id} {name} {status}")).map_err(Error::Output)?;
    }
    Ok(())
}

/// ECS's reason word, what it means and what to do.
fn explained(failure: &Failure) -> String {
    let reason = failure.reason.as_deref().unwrap_or_default();
    let meaning = match reason {
        "RESOURCE:CPU" => "the task asks for more CPU than this host has; see `neargate host`",
        "RESOURCE:MEMORY" => "the task asks for more memory than this host has; see `neargate host`",
        "RESOURCE:PORTS" => "the task asks for a host port that this host does not give away; see `neargate host`",
        "RESOURCE:GPU" => "the task asks for GPUs that this host does not have",
        "RESOURCE:ENI" => "no network interface is left for the task",
        "ATTRIBUTE" => "the host lacks an attribute that the task requires; `neargate host` lists what it has",
        "AGENT" => "the agent is not connected",
        "LOCATION" => "the host is not where the task may run",
        "MISSING" => "there is no such thing",
        "INACTIVE" => "it is not active any more",
        _ => "",
    };
    let mut told = text::plain(reason);
    for more in [meaning, &text::plain(failure.detail.as_deref().unwrap_or_default())] {
        if !more.is_empty() {
            told.push_str(": ");
            told.push_str(more);
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_files_are_told_apart() {
        assert_eq!(registered_name(Path::new("web:3")), Some("web:3"));
        assert_eq!(registered_name(Path::new("arn:aws:ecs:local:0:task-definition/web:3")).map(str::len), Some(41));
        for file in ["-", "web.json", "./web", "/etc/web", "."] {
            assert_eq!(registered_name(Path::new(file)), None, "{file}");
        }
    }

    #[test]
    fn failures_are_explained() {
        let failure = Failure {
            reason: Some("RESOURCE:MEMORY".into()),
            detail: Some("64 GiB\x07 of 4".into()),
            ..Default::default()
        };
        assert_eq!(
            explained(&failure),
            "RESOURCE:MEMORY: the task asks for more memory than this host has; see `neargate host`: 64 GiB\\x07 of 4"
        );
        let failure = Failure { reason: Some("NEW WORD".into()), ..Default::default() };
        assert_eq!(explained(&failure), "NEW WORD");
    }
}
