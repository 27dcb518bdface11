//! What became of a followed task: its states as lines for people, and the exit code that stands for it. Pure.

use std::collections::HashSet;

use proto::v1::{Container, Task, TaskDefinition};

use crate::text;

/// Exit code of a task whose essential containers never started, as docker has it for a container.
const NEVER_STARTED: u8 = 125;
/// Exit codes that stopping a task by SIGTERM or SIGKILL gives its other containers.
const STOPPED_BY_SIGNAL: [i32; 2] = [143, 137];

/// A followed task as last seen.
#[derive(Debug)]
pub(super) struct Outcome {
    task: Task,
    essential: HashSet<String>,
    /// The essential container that ended first, as far as was seen.
    decided: Option<i32>,
}

impl Outcome {
    pub(super) fn new(definition: &TaskDefinition, task: Task) -> Outcome {
        let essential = definition
            .container_definitions
            .iter()
            .filter(|container| container.essential.unwrap_or(true))
            .filter_map(|container| container.name.clone())
            .collect();
        let mut outcome = Outcome { task, essential, decided: None };
        outcome.decide();
        outcome
    }

    /// The state in which the task was when following began.
    pub(super) fn first_line(&self) -> Option<String> {
        Some(self.line(&shown(&self.task)?))
    }

    /// Takes the task's new state; a line if it is another one.
    pub(super) fn update(&mut self, task: Task) -> Option<String> {
        let (old, old_shown) = (status(&self.task), shown(&self.task));
        let (new, new_shown) = (status(&task), shown(&task)?);
        let waits = text::waits_for(&task);
        self.task = task;
        self.decide();
        match old {
            // What was waited for has come: the next state says so.
            Some(_) if old_shown.as_ref() == Some(&new_shown) || (old == new && waits.is_none()) => None,
            Some(old) if Some(&old) != new.as_ref() => Some(self.line(&format!("{old} → {new_shown}"))),
            _ => Some(self.line(&new_shown)),
        }
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.task.last_status.as_deref() == Some("STOPPED")
    }

    /// Why the task stopped and what each container ended with.
    pub(super) fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(reason) = self.task.stopped_reason.as_deref() {
            lines.push(self.line(&text::plain(reason)));
        }
        lines.extend(self.task.containers.iter().map(|container| self.line(&ending(container))));
        lines
    }

    /// The exit code of the essential container that ended first.
    pub(super) fn exit_code(&self) -> u8 {
        // A process ends with 8 bits; anything else comes from an agent that errs.
        self.decided.map_or(NEVER_STARTED, |code| u8::try_from(code & 0xff).unwrap_or(NEVER_STARTED))
    }

    pub(super) fn into_task(self) -> Task {
        self.task
    }

    fn line(&self, text: &str) -> String {
        format!("[{}] {text}", text::short_id(self.task.task_arn.as_deref().unwrap_or_default()))
    }

    /// Where several essential containers are first seen ended at once, one that ended by itself goes before those
    /// that its end stopped.
    fn decide(&mut self) {
        if self.decided.is_some() {
            return;
        }
        let codes: Vec<i32> = self
            .task
            .containers
            .iter()
            .filter(|container| container.name.as_ref().is_some_and(|name| self.essential.contains(name)))
            .filter_map(|container| container.exit_code)
            .collect();
        self.decided = codes.iter().find(|code| !STOPPED_BY_SIGNAL.contains(code)).or_else(|| codes.first()).copied();
    }
}

fn status(task: &Task) -> Option<String> {
    task.last_status.as_deref().map(text::plain)
}

/// The status, and what the task waits for.
fn shown(task: &Task) -> Option<String> {
    let status = status(task)?;
    Some(text::waits_for(task).map_or(status.clone(), |waits| format!("{status}, {waits}")))
}

/// `job: exit code 42`, with the reason where there is one.
fn ending(container: &Container) -> String {
    let name = text::plain(container.name.as_deref().unwrap_or_default());
    let code = match container.exit_code {
        Some(code) => format!("exit code {code}"),
        None => "no exit code".to_owned(),
    };
    match container.reason.as_deref().filter(|reason| !reason.is_empty()) {
        Some(reason) => format!("{name}: {code}, {}", text::plain(reason)),
        None => format!("{name}: {code}"),
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::ContainerDefinition;

    use super::*;

    fn definition(containers: &[(&str, Option<bool>)]) -> TaskDefinition {
        let container = |(name, essential): &(&str, Option<bool>)| ContainerDefinition {
            name: Some((*name).into()),
            essential: *essential,
            ..Default::default()
        };
        TaskDefinition { container_definitions: containers.iter().map(container).collect(), ..Default::default() }
    }

    fn task(status: &str, codes: &[(&str, Option<i32>)]) -> Task {
        let container = |(name, exit_code): &(&str, Option<i32>)| Container {
            name: Some((*name).into()),
            exit_code: *exit_code,
            ..Default::default()
        };
        Task {
            task_arn: Some("arn:aws:ecs:local:0:task/default/0123456789abcdef".into()),
            last_status: Some(status.into()),
            containers: codes.iter().map(container).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn each_state_is_told_once() {
        let mut outcome = Outcome::new(&definition(&[("a", None)]), task("PROVISIONING", &[]));
        assert_eq!(outcome.first_line().unwrap(), "[0123456789ab] PROVISIONING");
        assert_eq!(outcome.update(task("PENDING", &[])).unwrap(), "[0123456789ab] PROVISIONING → PENDING");
        assert_eq!(outcome.update(task("PENDING", &[])), None);
        assert!(!outcome.has_stopped());
        outcome.update(task("STOPPED", &[]));
        assert!(outcome.has_stopped());
    }

    #[test]
    fn the_first_essential_end_decides() {
        let definition = definition(&[("side", Some(false)), ("a", None), ("b", Some(true))]);
        let mut outcome = Outcome::new(&definition, task("RUNNING", &[("side", Some(1)), ("a", None), ("b", None)]));
        outcome.update(task("DEPROVISIONING", &[("side", Some(1)), ("a", None), ("b", Some(137))]));
        outcome.update(task("STOPPED", &[("side", Some(1)), ("a", Some(0)), ("b", Some(137))]));
        assert_eq!(outcome.exit_code(), 137);
    }

    #[test]
    fn ends_seen_at_once_leave_out_what_the_stop_ended() {
        let definition = definition(&[("a", None), ("b", None)]);
        let code = |codes: &[(&str, Option<i32>)]| Outcome::new(&definition, task("STOPPED", codes)).exit_code();
        assert_eq!(code(&[("a", Some(143)), ("b", Some(0))]), 0);
        assert_eq!(code(&[("a", Some(143)), ("b", Some(143))]), 143);
        assert_eq!(code(&[("a", None), ("b", None)]), 125);
        assert_eq!(code(&[("a", None), ("b", Some(42))]), 42);
    }

    #[test]
    fn the_end_tells_reason_and_codes() {
        let mut task = task("STOPPED", &[("a", Some(42)), ("b", None)]);
        task.stopped_reason = Some("Essential container in task exited".into());
        task.containers[1].reason = Some("CannotPullContainerError: no\x1b".into());
        let outcome = Outcome::new(&definition(&[("a", None)]), task);
        assert_eq!(
            outcome.summary(),
            [
                "[0123456789ab] Essential container in task exited",
                "[0123456789ab] a: exit code 42",
                "[0123456789ab] b: no exit code, CannotPullContainerError: no\\x1b"
            ]
        );
    }
}
