//! What a change of a task's record means, as events. Pure.

use proto::v1::Event;

use crate::task::{Stage, TaskRecord};

/// An event of a task.
fn of(record: &TaskRecord, kind: &str) -> Event {
    Event {
        r#type: Some(kind.to_owned()),
        task_arn: record.task.task_arn.clone(),
        task_definition_arn: record.task.task_definition_arn.clone(),
        ..Event::default()
    }
}

/// An event of one of its containers.
fn of_container(record: &TaskRecord, index: usize, kind: &str) -> Event {
    let container = record.task.containers.get(index);
    Event {
        container: container.and_then(|container| container.name.clone()),
        image: container.and_then(|container| container.image.clone()),
        ..of(record, kind)
    }
}

/// The task as it is.
pub(crate) fn status(record: &TaskRecord) -> Event {
    Event {
        status: record.task.last_status.clone(),
        stop_code: record.task.stop_code.clone(),
        reason: record.task.stopped_reason.clone(),
        ..of(record, "TASK_STATUS")
    }
}

/// A container's bundle is written.
pub(crate) fn created(record: &TaskRecord, index: usize) -> Event {
    of_container(record, index, "CONTAINER_CREATED")
}

/// A container was killed for want of memory.
pub(crate) fn out_of_memory(record: &TaskRecord, index: usize) -> Event {
    of_container(record, index, "CONTAINER_OOM")
}

/// A container ended that will be started again.
pub(crate) fn ended_for_now(record: &TaskRecord, index: usize, exit_code: Option<i32>) -> Event {
    Event { exit_code, ..of_container(record, index, "CONTAINER_EXITED") }
}

/// What lies between two versions of a record: first what its containers did, then its own status.
pub(crate) fn between(before: &TaskRecord, after: &TaskRecord) -> Vec<Event> {
    let mut events = Vec::new();
    for (index, (was, is)) in before.task.containers.iter().zip(&after.task.containers).enumerate() {
        let event = |kind| of_container(after, index, kind);
        if after.restarts(index) > before.restarts(index) {
            let restarts = Some(i32::try_from(after.restarts(index)).unwrap_or(i32::MAX));
            events.push(Event { restarts, ..event("CONTAINER_RESTARTED") });
        }
        if was.last_status != is.last_status {
            match is.last_status() {
                "RUNNING" => events.push(event("CONTAINER_STARTED")),
                // One that nobody ever tried to start has not ended.
                "STOPPED" if before.stage(index) != Stage::Waiting || is.reason.is_some() => {
                    let (exit_code, reason) = (is.exit_code, is.reason.clone());
                    events.push(Event { exit_code, reason, ..event("CONTAINER_EXITED") });
                }
                _ => {}
            }
        }
        if was.health_status != is.health_status && ["HEALTHY", "UNHEALTHY"].contains(&is.health_status()) {
            let (status, reason) = (is.health_status.clone(), after.unhealthy(index).map(str::to_owned));
            events.push(Event { status, reason, ..event("CONTAINER_HEALTH") });
        }
    }
    if before.task.last_status != after.task.last_status {
        events.push(status(after));
    }
    events
}

#[cfg(test)]
mod tests {
    use proto::v1::{Container, Task};

    use super::*;

    fn record(status: &str, containers: &[(&str, Stage, Option<i32>)]) -> TaskRecord {
        let container = |(last_status, _, exit_code): &(&str, Stage, Option<i32>)| Container {
            last_status: Some((*last_status).to_owned()),
            exit_code: *exit_code,
            ..Container::default()
        };
        let task = Task {
            last_status: Some(status.to_owned()),
            containers: containers.iter().map(container).collect(),
            ..Task::default()
        };
        let stages = containers.iter().map(|(_, stage, _)| *stage as i32).collect();
        TaskRecord { task, stages, ..TaskRecord::default() }
    }

    fn kinds(before: &TaskRecord, after: &TaskRecord) -> Vec<String> {
        let told = |event: &Event| format!("{} {}", event.r#type(), event.exit_code.map_or(-1, i64::from));
        between(before, after).iter().map(told).collect()
    }

    #[test]
    fn containers_come_before_their_task_and_what_was_never_started_has_not_ended() {
        let starting = record("ACTIVATING", &[("PENDING", Stage::Starting, None), ("PENDING", Stage::Waiting, None)]);
        let running = record("ACTIVATING", &[("RUNNING", Stage::Running, None), ("PENDING", Stage::Waiting, None)]);
        assert_eq!(kinds(&starting, &running), ["CONTAINER_STARTED -1"]);
        let over = record("DEPROVISIONING", &[("STOPPED", Stage::Stopped, Some(3)), ("STOPPED", Stage::Stopped, None)]);
        assert_eq!(kinds(&running, &over), ["CONTAINER_EXITED 3", "TASK_STATUS -1"]);
        assert_eq!(kinds(&over, &over), Vec::<String>::new());
    }
}
