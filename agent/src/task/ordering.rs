//! dependsOn: which container may start now, which can never, and who must stop before whom. Pure (ecs-semantics 1.9).

use definition::task::{Condition, TaskSpec};

/// What is known of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Not started.
    Waiting,
    /// Being started.
    Starting,
    /// Runs.
    Running,
    /// Ended by itself or by us.
    Stopped {
        /// Absent when unknown.
        exit_code: Option<i32>,
        /// Whether its program ever ran.
        ran: bool,
    },
}

/// Whether a container may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All its conditions hold.
    Ready,
    /// One may still come to hold.
    Wait,
    /// One can never hold.
    Never,
}

/// Judges the container at `index`.
pub fn verdict(task: &TaskSpec, known: &[Known], index: usize) -> Verdict {
    let mut verdict = Verdict::Ready;
    for dependency in &task.containers[index].depends_on {
        let target = task.containers.iter().position(|container| container.name == dependency.container);
        match target.map_or(Verdict::Never, |target| condition(dependency.condition, known[target])) {
            Verdict::Never => return Verdict::Never,
            Verdict::Wait => verdict = Verdict::Wait,
            Verdict::Ready => {}
        }
    }
    verdict
}

fn condition(condition: Condition, known: Known) -> Verdict {
    match (condition, known) {
        (_, Known::Waiting | Known::Starting) => Verdict::Wait,
        (Condition::Start, Known::Running | Known::Stopped { ran: true, .. }) => Verdict::Ready,
        (Condition::Complete | Condition::Success, Known::Running) => Verdict::Wait,
        (Condition::Complete, Known::Stopped { exit_code: Some(_), ran: true })
        | (Condition::Success, Known::Stopped { exit_code: Some(0), .. }) => Verdict::Ready,
        (_, Known::Stopped { .. }) => Verdict::Never,
    }
}

/// Containers that may be stopped now: those that run and that no running container depends on.
pub fn stoppable(task: &TaskSpec, known: &[Known]) -> Vec<usize> {
    let live = |index: usize| matches!(known[index], Known::Running | Known::Starting);
    let needed = |index: usize| {
        let name = &task.containers[index].name;
        task.containers.iter().enumerate().any(|(other, container)| {
            live(other) && container.depends_on.iter().any(|dependency| dependency.container == *name)
        })
    };
    (0..task.containers.len()).filter(|index| live(*index) && !needed(*index)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> TaskSpec {
        let definition = serde_json::json!({
            "family": "f",
            "containerDefinitions": [
                { "name": "app", "image": "i", "memory": 6, "dependsOn": [
                    { "containerName": "init", "condition": "SUCCESS" }, { "containerName": "side", "condition": "START" } ] },
                { "name": "init", "image": "i", "memory": 6, "essential": false },
                { "name": "side", "image": "i", "memory": 6, "essential": false },
            ],
        });
        definition::check(&serde_json::from_value(definition).unwrap()).unwrap()
    }

    const fn ended(exit_code: i32) -> Known {
        Known::Stopped { exit_code: Some(exit_code), ran: true }
    }

    #[test]
    fn conditions() {
        let task = task();
        let judge = |init, side| verdict(&task, &[Known::Waiting, init, side], 0);
        assert_eq!(judge(Known::Running, Known::Running), Verdict::Wait);
        assert_eq!(judge(ended(0), Known::Starting), Verdict::Wait);
        assert_eq!(judge(ended(0), Known::Running), Verdict::Ready);
        assert_eq!(judge(ended(0), ended(7)), Verdict::Ready, "START holds for what has run");
        assert_eq!(judge(ended(1), Known::Running), Verdict::Never);
        let never = Known::Stopped { exit_code: None, ran: false };
        assert_eq!(judge(ended(0), never), Verdict::Never);
    }

    #[test]
    fn dependants_stop_first() {
        let task = task();
        assert_eq!(stoppable(&task, &[Known::Running, ended(0), Known::Running]), [0]);
        assert_eq!(stoppable(&task, &[ended(0), ended(0), Known::Running]), [2]);
    }
}
