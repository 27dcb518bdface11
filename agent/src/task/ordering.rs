//! dependsOn: which container may start now, which can never, and who must stop before whom. Pure (ecs-semantics 1.9).

use definition::task::{Condition, TaskSpec};

/// What is known of a container.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Known {
    /// Not started.
    Waiting,
    /// Being started.
    Starting,
    /// Runs.
    Running {
        /// Seconds since the epoch.
        started_at: f64,
        /// Whether its last health check passed.
        healthy: bool,
    },
    /// Ended by itself or by us.
    Stopped {
        /// Absent when unknown.
        exit_code: Option<i32>,
        /// Whether its program ever ran.
        ran: bool,
    },
}

impl Known {
    /// Whether its program runs.
    pub fn runs(&self) -> bool {
        matches!(self, Known::Running { .. })
    }

    /// Whether it runs or is about to.
    pub fn is_live(&self) -> bool {
        self.runs() || *self == Known::Starting
    }
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
        (Condition::Start, Known::Running { .. } | Known::Stopped { ran: true, .. })
        | (Condition::Healthy, Known::Running { healthy: true, .. }) => Verdict::Ready,
        (Condition::Complete | Condition::Success | Condition::Healthy, Known::Running { .. }) => Verdict::Wait,
        (Condition::Complete, Known::Stopped { exit_code: Some(_), ran: true })
        | (Condition::Success, Known::Stopped { exit_code: Some(0), .. }) => Verdict::Ready,
        (_, Known::Stopped { .. }) => Verdict::Never,
    }
}

/// For people: which conditions of the container at `index` do not hold, and why.
pub fn unmet(task: &TaskSpec, known: &[Known], index: usize) -> String {
    let mut told = Vec::new();
    for dependency in &task.containers[index].depends_on {
        let (name, wanted) = (&dependency.container, dependency.condition.as_str());
        let Some(target) = task.containers.iter().position(|container| container.name == *name) else { continue };
        if condition(dependency.condition, known[target]) == Verdict::Ready {
            continue;
        }
        let is = match known[target] {
            Known::Waiting | Known::Starting => "has not started".to_owned(),
            Known::Running { .. } => match task.containers[target].start_timeout_secs {
                Some(seconds) => format!("is not within its startTimeout of {seconds} s"),
                None => "is not yet".to_owned(),
            },
            Known::Stopped { ran: true, exit_code: Some(code) } => format!("ended with exit code {code}"),
            Known::Stopped { ran: true, exit_code: None } => "ended with an exit code that is lost".to_owned(),
            Known::Stopped { ran: false, .. } => "never ran".to_owned(),
        };
        told.push(format!("waits for '{name}' to be {wanted}, which {is}"));
    }
    told.join("; ")
}

/// When the container at `index` will have waited too long (`startTimeout` of what it waits for), in seconds since the
/// epoch: the earliest such moment. START never takes long.
pub fn overdue(task: &TaskSpec, known: &[Known], index: usize) -> Option<f64> {
    let dependencies = task.containers[index].depends_on.iter();
    let moments = dependencies.filter(|dependency| dependency.condition != Condition::Start).filter_map(|dependency| {
        let target = task.containers.iter().position(|container| container.name == dependency.container)?;
        let Known::Running { started_at, .. } = known[target] else { return None };
        if condition(dependency.condition, known[target]) != Verdict::Wait {
            return None;
        }
        Some(started_at + f64::from(task.containers[target].start_timeout_secs?))
    });
    moments.reduce(f64::min)
}

/// Containers that may be stopped now: those that run and that no running container depends on.
pub fn stoppable(task: &TaskSpec, known: &[Known]) -> Vec<usize> {
    let live = |index: usize| known[index].is_live();
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

    const RUNNING: Known = Known::Running { started_at: 100.0, healthy: false };

    const fn ended(exit_code: i32) -> Known {
        Known::Stopped { exit_code: Some(exit_code), ran: true }
    }

    #[test]
    fn conditions() {
        let task = task();
        let judge = |init, side| verdict(&task, &[Known::Waiting, init, side], 0);
        assert_eq!(judge(RUNNING, RUNNING), Verdict::Wait);
        assert_eq!(judge(ended(0), Known::Starting), Verdict::Wait);
        assert_eq!(judge(ended(0), RUNNING), Verdict::Ready);
        assert_eq!(judge(ended(0), ended(7)), Verdict::Ready, "START holds for what has run");
        assert_eq!(judge(ended(1), RUNNING), Verdict::Never);
        let never = Known::Stopped { exit_code: None, ran: false };
        assert_eq!(judge(ended(0), never), Verdict::Never);
    }

    #[test]
    fn dependants_stop_first() {
        let task = task();
        assert_eq!(stoppable(&task, &[RUNNING, ended(0), RUNNING]), [0]);
        assert_eq!(stoppable(&task, &[ended(0), ended(0), RUNNING]), [2]);
    }

    #[test]
    fn health_is_waited_for_but_not_for_ever() {
        let definition = serde_json::json!({
            "family": "f",
            "containerDefinitions": [
                { "name": "app", "image": "i", "memory": 6, "dependsOn": [{ "containerName": "db", "condition": "HEALTHY" }] },
                { "name": "db", "image": "i", "memory": 6, "startTimeout": 5, "healthCheck": { "command": ["true"] } },
            ],
        });
        let task = definition::check(&serde_json::from_value(definition).unwrap()).unwrap();
        let well = Known::Running { started_at: 100.0, healthy: true };
        let judge = |db| (verdict(&task, &[Known::Waiting, db], 0), overdue(&task, &[Known::Waiting, db], 0));
        assert_eq!(judge(Known::Starting), (Verdict::Wait, None));
        assert_eq!(judge(RUNNING), (Verdict::Wait, Some(105.0)));
        assert_eq!(judge(well), (Verdict::Ready, None));
        assert_eq!(judge(ended(0)), (Verdict::Never, None));
    }
}
