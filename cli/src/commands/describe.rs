//! `neargate describe`: everything about tasks, for people. `timing` is `describe --timing`.

mod timing;

use proto::v1::{Container, DescribeTasksResponse, Task};

use super::{DONE, describe_tasks};
use crate::{
    args::{Describe, Globals},
    client::Client,
    error::{self, Error, FAILED},
    output, task_name, text, time,
};

/// Describes tasks; exits with 1 where one is not there.
pub(super) async fn describe(globals: &Globals, args: &Describe) -> Result<u8, Error> {
    let client = Client::connect(&globals.socket).await?;
    let (mut tasks, mut code) = (Vec::new(), DONE);
    for name in &args.tasks {
        match task_name::resolve(&client, name).await {
            Ok(task) => tasks.push(task),
            // One that is not there does not keep the others.
            Err(error @ Error::Name(_)) => {
                output::note(&format!("neargate: {}", error::chain(&error)));
                code = FAILED;
            }
            Err(error) => return Err(error),
        }
    }
    if args.timing {
        return Ok(code.max(timing::show(globals, &client, &tasks).await?));
    }
    let answer = match &tasks[..] {
        [] => DescribeTasksResponse::default(),
        tasks => describe_tasks(&client, tasks).await?,
    };
    if globals.json {
        output::json(&answer).map_err(Error::Output)?;
    } else if !answer.tasks.is_empty() {
        let now = time::now();
        let descriptions: Vec<String> = answer.tasks.iter().map(|task| description(task, now)).collect();
        output::line(&descriptions.join("\n\n")).map_err(Error::Output)?;
    }
    for failure in &answer.failures {
        let arn = text::plain(failure.arn.as_deref().unwrap_or_default());
        let reason = text::plain(failure.reason.as_deref().unwrap_or_default());
        output::note(&format!(
            "neargate: cannot describe {arn}: {reason}; `neargate ps -a` lists the tasks of this host"
        ));
    }
    Ok(if answer.failures.is_empty() { code } else { FAILED })
}

fn description(task: &Task, now: f64) -> String {
    let mut lines = Lines(Vec::new());
    lines.word("Task", task.task_arn.as_deref());
    lines.word("Definition", task.task_definition_arn.as_deref());
    let status = task.last_status.as_deref().unwrap_or_default();
    match task.desired_status.as_deref() {
        Some(desired) if desired != status => lines.add("Status", &format!("{status}, to be {desired}")),
        _ => lines.add("Status", status),
    }
    lines.word("Stop code", task.stop_code.as_deref());
    lines.word("Reason", task.stopped_reason.as_deref());
    lines.word("Launch type", task.launch_type.as_deref());
    lines.word("CPU", task.cpu.as_deref());
    lines.word("Memory", task.memory.as_deref());
    let disk = task.ephemeral_storage.map(|disk| format!("{} GiB", disk.size_in_gi_b()));
    lines.word("Storage", disk.as_deref());
    lines.word("Group", task.group.as_deref());
    lines.word("Started by", task.started_by.as_deref());
    for (name, at) in [
        ("Created", task.created_at),
        ("Pull began", task.pull_started_at),
        ("Pull ended", task.pull_stopped_at),
        ("Started", task.started_at),
        ("Stopping", task.stopping_at),
        ("Stopped", task.stopped_at),
    ] {
        if let Some(at) = at {
            lines.add(name, &format!("{} ({})", time::rfc3339(at), time::ago(now, at)));
        }
    }
    lines.health("Health", task.health_status.as_deref());
    for tag in &task.tags {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        lines.add("Tag", &format!("{}={}", part(&tag.key), part(&tag.value)));
    }
    let of_health = |name: &str| name.starts_with(text::HEALTH);
    for attribute in task.attributes.iter().filter(|attribute| !of_health(attribute.name())) {
        let name = attribute.name.as_deref().unwrap_or_default();
        let value = attribute.value.as_deref().filter(|value| !value.is_empty());
        lines.add("Attribute", &value.map_or_else(|| name.to_owned(), |value| format!("{name}={value}")));
    }
    for container in &task.containers {
        describe_container(&mut lines, task, container);
    }
    lines.0.join("\n")
}

fn describe_container(lines: &mut Lines, task: &Task, container: &Container) {
    lines.0.push(String::new());
    lines.word("Container", container.name.as_deref());
    lines.word("  Status", container.last_status.as_deref());
    lines.health("  Health", container.health_status.as_deref());
    let of_health = format!("{}{}", text::HEALTH, container.name());
    let why = task.attributes.iter().find(|attribute| attribute.name() == of_health);
    lines.word("  Because", why.and_then(|why| why.value.as_deref()));
    if let Some(code) = container.exit_code {
        lines.add("  Exit code", &code.to_string());
    }
    lines.word("  Reason", container.reason.as_deref());
    lines.word("  Image", container.image.as_deref());
    lines.word("  Digest", container.image_digest.as_deref());
    lines.word("  CPU", container.cpu.as_deref());
    lines.word("  Memory", container.memory.as_deref());
    for binding in &container.network_bindings {
        let port = |port: Option<i32>| port.map_or_else(|| "-".to_owned(), |port| port.to_string());
        let host = format!("{}:{}", binding.bind_ip.as_deref().unwrap_or_default(), port(binding.host_port));
        let protocol = binding.protocol.as_deref().unwrap_or("tcp");
        lines.add("  Port", &format!("{host} → {}/{protocol}", port(binding.container_port)));
    }
}

/// `Name        value` lines; values come from elsewhere.
struct Lines(Vec<String>);

impl Lines {
    fn add(&mut self, name: &str, value: &str) {
        self.0.push(format!("{name:<13} {}", text::plain(value)));
    }

    /// One that nobody asks about is not told.
    fn health(&mut self, name: &str, status: Option<&str>) {
        self.word(name, status.filter(|status| *status != "UNKNOWN"));
    }

    fn word(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.add(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::Attribute;

    use super::*;

    #[test]
    fn a_task_is_described_without_what_it_lacks() {
        let task = Task {
            task_arn: Some("arn:t/1".into()),
            last_status: Some("RUNNING".into()),
            desired_status: Some("STOPPED".into()),
            created_at: Some(0.0),
            containers: vec![Container {
                name: Some("a".into()),
                exit_code: Some(137),
                health_status: Some("UNHEALTHY".into()),
                reason: Some("OutOfMemoryError\x1b".into()),
                ..Default::default()
            }],
            attributes: vec![Attribute {
                name: Some("neargate.health.a".into()),
                value: Some("exit code 1: no\x1b".into()),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(
            description(&task, 60.0),
            "Task          arn:t/1\n\
             Status        RUNNING, to be STOPPED\n\
             Created       1970-01-01T00:00:00.000000Z (1 minute ago)\n\
             \n\
             Container     a\n\
             \u{20} Health      UNHEALTHY\n\
             \u{20} Because     exit code 1: no\\x1b\n\
             \u{20} Exit code   137\n\
             \u{20} Reason      OutOfMemoryError\\x1b"
        );
    }
}
