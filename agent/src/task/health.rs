//! How a container's health follows from its checks, and the task's from its containers'. Pure (ecs-semantics 1.3).

use definition::task::{HealthCheck, TaskSpec};

use crate::sandbox::Checked;

/// Characters of a check's output or of an error that are told.
const MAX_OUTPUT: usize = 200;

/// ECS `healthStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Not known yet.
    Unknown,
    /// The last check that counts passed.
    Healthy,
    /// As many checks as `retries` says failed one after the other.
    Unhealthy,
}

impl Health {
    /// ECS's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Unknown => "UNKNOWN",
            Health::Healthy => "HEALTHY",
            Health::Unhealthy => "UNHEALTHY",
        }
    }

    /// Reads ECS's word; what is none is unknown.
    pub fn parse(word: &str) -> Health {
        [Health::Healthy, Health::Unhealthy]
            .into_iter()
            .find(|health| health.as_str() == word)
            .unwrap_or(Health::Unknown)
    }
}

/// How one check ended.
#[derive(Debug)]
pub enum Check {
    /// By itself.
    Ended(Checked),
    /// It was killed after as many seconds.
    TimedOut(u32),
    /// It could not be executed.
    NotRun(String),
}

impl Check {
    /// Whether it says that the container is well.
    pub fn passed(&self) -> bool {
        matches!(self, Check::Ended(Checked { exit_code: 0, .. }))
    }

    /// For people: what a check that did not pass says. The output is the container's and may hold any character.
    pub fn reason(&self) -> String {
        match self {
            Check::Ended(Checked { exit_code, output }) => {
                let output: String = String::from_utf8_lossy(output).trim().chars().take(MAX_OUTPUT).collect();
                let separator = if output.is_empty() { "" } else { ": " };
                format!("exit code {exit_code}{separator}{output}")
            }
            Check::TimedOut(seconds) => format!("timed out after {seconds}s"),
            Check::NotRun(message) => {
                format!("could not be executed: {}", message.chars().take(MAX_OUTPUT).collect::<String>())
            }
        }
    }
}

/// What the checks of one container have come to.
#[derive(Debug)]
pub struct Checks<'a> {
    policy: &'a HealthCheck,
    health: Health,
    failures: u32,
}

impl<'a> Checks<'a> {
    /// Of a container that is known to be so.
    pub fn new(policy: &'a HealthCheck, health: Health) -> Checks<'a> {
        Checks { policy, health, failures: 0 }
    }

    /// Takes the result of a check that ended `age_secs` after the container's start. Failures within the start period
    /// do not count, until a check has passed.
    pub fn take(&mut self, passed: bool, age_secs: f64) -> Health {
        if passed {
            self.failures = 0;
            self.health = Health::Healthy;
        } else if self.health != Health::Unknown || age_secs >= f64::from(self.policy.start_period_secs) {
            self.failures += 1;
            if self.failures >= self.policy.retries {
                self.health = Health::Unhealthy;
            }
        }
        self.health
    }
}

/// The task's: of its essential containers that have a check.
pub fn of_task(task: &TaskSpec, health: impl Fn(usize) -> Health) -> Health {
    let judged = task.containers.iter().enumerate().filter(|(_, container)| container.essential);
    let judged = judged.filter(|(_, container)| container.health_check.is_some());
    let found: Vec<Health> = judged.map(|(index, _)| health(index)).collect();
    if found.contains(&Health::Unhealthy) {
        Health::Unhealthy
    } else if found.is_empty() || found.contains(&Health::Unknown) {
        Health::Unknown
    } else {
        Health::Healthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> HealthCheck {
        HealthCheck {
            command: vec!["true".into()],
            interval_secs: 5,
            timeout_secs: 2,
            retries: 2,
            start_period_secs: 10,
        }
    }

    #[test]
    fn failures_count_after_the_start_period_and_in_a_row() {
        let policy = policy();
        let mut checks = Checks::new(&policy, Health::Unknown);
        let seen =
            [(false, 5.0), (false, 9.9), (false, 10.0), (true, 15.0), (false, 20.0), (true, 25.0), (false, 30.0)];
        let seen = seen.map(|(passed, age)| checks.take(passed, age));
        assert_eq!(seen[..3], [Health::Unknown; 3]);
        assert_eq!(seen[3..], [Health::Healthy; 4], "one failure of two is none");
        assert_eq!([(); 2].map(|()| checks.take(false, 40.0)), [Health::Unhealthy; 2]);
        assert_eq!(checks.take(true, 50.0), Health::Healthy);
    }

    #[test]
    fn a_check_tells_why_it_did_not_pass() {
        let ended = |exit_code, output: &[u8]| Check::Ended(Checked { exit_code, output: output.to_vec() });
        assert!(ended(0, b"fine").passed());
        for (check, reason) in [
            (ended(1, b" \n"), "exit code 1".to_owned()),
            (ended(7, b"curl: (7) \xff\n"), "exit code 7: curl: (7) \u{fffd}".to_owned()),
            (ended(1, "\u{e4}".repeat(500).as_bytes()), format!("exit code 1: {}", "\u{e4}".repeat(200))),
            (Check::TimedOut(5), "timed out after 5s".to_owned()),
            (Check::NotRun("x".repeat(300)), format!("could not be executed: {}", "x".repeat(200))),
        ] {
            assert!(!check.passed());
            assert_eq!(check.reason(), reason);
        }
    }

    #[test]
    fn once_well_the_start_period_is_over() {
        let policy = policy();
        let mut checks = Checks::new(&policy, Health::Unknown);
        assert_eq!(checks.take(true, 1.0), Health::Healthy);
        assert_eq!([2.0, 3.0].map(|age| checks.take(false, age)), [Health::Healthy, Health::Unhealthy]);
    }

    #[test]
    fn a_task_is_as_well_as_its_essential_containers() {
        let check = serde_json::json!({ "command": ["true"] });
        let container = |name: &str, essential: bool, check: Option<&serde_json::Value>| serde_json::json!({ "name": name, "image": "i", "memory": 6, "essential": essential, "healthCheck": check });
        let containers = [
            container("a", true, Some(&check)),
            container("b", true, Some(&check)),
            container("c", false, Some(&check)),
            container("d", true, None),
        ];
        let definition = serde_json::json!({ "family": "f", "containerDefinitions": containers });
        let task = definition::check(&serde_json::from_value(definition).unwrap()).unwrap();
        use Health::{Healthy, Unhealthy, Unknown};
        for (a, b, expected) in [
            (Healthy, Healthy, Healthy),
            (Healthy, Unknown, Unknown),
            (Unknown, Unhealthy, Unhealthy),
            (Healthy, Unhealthy, Unhealthy),
        ] {
            assert_eq!(of_task(&task, |index| [a, b, Unhealthy, Unknown][index]), expected);
        }
    }
}
