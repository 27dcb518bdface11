//! `neargate ps`: the host's tasks, newest first.

use proto::v1::{Container, Task};

use super::{DONE, describe_tasks};
use crate::{
    args::{Globals, Ps},
    client::Client,
    error::Error,
    output,
    table::table,
    task_name, text, time,
};

/// Characters of a reason that fit beside the other columns; `neargate describe` shows all of it.
const REASON: usize = 60;

/// ECS's reason for the most usual end.
const ESSENTIAL_EXITED: &str = "Essential container in task exited";

/// Lists tasks: those that have not stopped, or all.
pub(super) async fn ps(globals: &Globals, args: &Ps) -> Result<u8, Error> {
    if globals.json && args.quiet {
        return Err(Error::Usage("--json does not go with --quiet, which prints ids only"));
    }
    let client = Client::connect(&globals.socket).await?;
    let mut arns = task_name::list(&client, "RUNNING").await?;
    // A task that is being stopped is not to run any more, yet it does.
    arns.extend(task_name::list(&client, "STOPPED").await?);
    let mut answer = describe_tasks(&client, &arns).await?;
    // Removed between the list and the question.
    answer.failures.clear();
    if !args.all {
        answer.tasks.retain(|task| task.last_status.as_deref() != Some("STOPPED"));
    }
    answer.tasks.sort_by(|a, b| b.created_at.unwrap_or(0.0).total_cmp(&a.created_at.unwrap_or(0.0)));
    if args.quiet {
        for task in &answer.tasks {
            let id = text::short_id(task.task_arn.as_deref().unwrap_or_default());
            output::line(&id).map_err(Error::Output)?;
        }
    } else if globals.json {
        output::json(&answer).map_err(Error::Output)?;
    } else {
        output::line(&listing(&answer.tasks, time::now())).map_err(Error::Output)?;
    }
    Ok(DONE)
}

fn listing(tasks: &[Task], now: f64) -> String {
    let rows: Vec<_> = tasks.iter().map(|task| row(task, now)).collect();
    table(["TASK", "DEFINITION", "STATUS", "CONTAINERS", "CREATED", "EXIT/REASON"], &rows)
}

fn row(task: &Task, now: f64) -> [String; 6] {
    let running = task.containers.iter().filter(|c| c.last_status.as_deref() == Some("RUNNING")).count();
    [
        text::short_id(task.task_arn.as_deref().unwrap_or_default()),
        text::definition(task.task_definition_arn.as_deref().unwrap_or_default()),
        status(task),
        format!("{running}/{}", task.containers.len()),
        task.created_at.map(|created| time::ago(now, created)).unwrap_or_default(),
        ending(task),
    ]
}

/// The task's status, and its health where something asks for it.
fn status(task: &Task) -> String {
    let status = text::plain(task.last_status.as_deref().unwrap_or_default());
    match task.health_status.as_deref() {
        Some(health @ ("HEALTHY" | "UNHEALTHY")) if status == "RUNNING" => {
            format!("{status} ({})", health.to_ascii_lowercase())
        }
        _ => status,
    }
}

/// The containers' exit codes and why the task ended.
fn ending(task: &Task) -> String {
    let is_alone = task.containers.len() == 1;
    let code = |container: &Container| {
        let code = container.exit_code?;
        let name = container.name.as_deref().map(text::plain).unwrap_or_default();
        Some(if is_alone { code.to_string() } else { format!("{name}={code}") })
    };
    let codes: Vec<String> = task.containers.iter().filter_map(code).collect();
    let mut parts = Vec::new();
    if !codes.is_empty() {
        parts.push(codes.join(","));
    }
    if let Some(reason) = task.stopped_reason.as_deref().filter(|reason| !reason.is_empty()) {
        parts.push(text::cut(&text::plain(reason), REASON));
    }
    let of_container = |container: &Container| container.reason.clone().filter(|reason| !reason.is_empty());
    if let Some(reason) = task.containers.iter().find_map(of_container)
        && task.stopped_reason.as_deref() == Some(ESSENTIAL_EXITED)
    {
        // Its first word says more than that something has exited.
        parts.push(format!("({})", text::plain(reason.split(':').next().unwrap_or_default())));
    }
    parts.extend(text::waits_for(task).map(|waits| text::cut(&waits, REASON)));
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use proto::v1::Attribute;

    use super::*;

    #[test]
    fn a_row_tells_what_a_person_looks_for() {
        let container = |name: &str, exit_code| Container {
            name: Some(name.into()),
            last_status: Some("STOPPED".into()),
            exit_code,
            ..Default::default()
        };
        let task = Task {
            task_arn: Some("arn:aws:ecs:local:000000000000:task/default/0123456789abcdef0123456789abcdef".into()),
            task_definition_arn: Some("arn:aws:ecs:local:000000000000:task-definition/web:3".into()),
            last_status: Some("STOPPED".into()),
            created_at: Some(1000.0),
            stopped_reason: Some("Essential container in\x1b task exited".into()),
            containers: vec![container("a\x07", Some(42)), container("b", None), container("c", Some(0))],
            ..Default::default()
        };
        assert_eq!(
            listing(&[task], 1301.0),
            "TASK           DEFINITION   STATUS    CONTAINERS   CREATED         EXIT/REASON\n\
             0123456789ab   web:3        STOPPED   0/3          5 minutes ago   a\\x07=42,c=0 Essential container in\\x1b task exited"
        );
    }

    #[test]
    fn a_task_that_waits_says_for_what() {
        let attribute = |value: &str| Attribute {
            name: Some(text::WAITS_FOR.into()),
            value: Some(value.into()),
            ..Default::default()
        };
        let task = Task { attributes: vec![attribute("host port 80/tcp")], ..Default::default() };
        assert_eq!(ending(&task), "waits for host port 80/tcp");
    }

    #[test]
    fn an_empty_list_is_its_header() {
        assert_eq!(listing(&[], 0.0), "TASK   DEFINITION   STATUS   CONTAINERS   CREATED   EXIT/REASON");
    }
}
