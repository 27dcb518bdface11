//! When a container starts, whether it is well and whether it starts again: `dependsOn`, `healthCheck`, `restartPolicy`.

use proto::v1::{ContainerDefinition, ContainerRestartPolicy, HealthCheck as WireHealthCheck};

use super::arguments;
use crate::problem::Problems;
use crate::task::{Condition, Dependency, HealthCheck, RestartPolicy};

pub(super) fn depends_on(problems: &mut Problems, path: &str, definition: &ContainerDefinition) -> Vec<Dependency> {
    let mut dependencies = Vec::new();
    for (index, dependency) in definition.depends_on.iter().enumerate() {
        let path = format!("{path}.dependsOn[{index}].condition");
        let condition = match dependency.condition.as_deref() {
            Some("START") => Condition::Start,
            Some("COMPLETE") => Condition::Complete,
            Some("SUCCESS") => Condition::Success,
            Some("HEALTHY") => Condition::Healthy,
            other => {
                let given = other.unwrap_or("null");
                problems
                    .client(&path, format!("Invalid condition '{given}': use START, COMPLETE, SUCCESS or HEALTHY."));
                continue;
            }
        };
        dependencies.push(Dependency { container: dependency.container_name.clone().unwrap_or_default(), condition });
    }
    dependencies
}

/// Seconds, and how many; ECS's bounds and defaults.
pub(crate) const HEALTH_INTERVAL: i32 = 30;
pub(crate) const HEALTH_TIMEOUT: i32 = 5;
pub(crate) const HEALTH_RETRIES: i32 = 3;
const RESTART_PERIOD: i32 = 300;
const MAX_IGNORED_EXIT_CODES: usize = 50;

pub(super) fn health_check(
    problems: &mut Problems,
    path: &str,
    given: Option<&WireHealthCheck>,
) -> Option<HealthCheck> {
    let given = given.filter(|given| **given != WireHealthCheck::default())?;
    let path = format!("{path}.healthCheck");
    arguments(problems, &format!("{path}.command"), &given.command);
    let command = match given.command.split_first() {
        Some((first, rest)) if first == "CMD-SHELL" && !rest.is_empty() => {
            vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.join(" ")]
        }
        Some((first, rest)) if first == "CMD" && !rest.is_empty() => rest.to_vec(),
        Some((first, _)) if first != "CMD" && first != "CMD-SHELL" => given.command.clone(),
        _ => {
            problems.client(format!("{path}.command"), format!("{path}.command should not be null or empty."));
            Vec::new()
        }
    };
    let mut bounded = |member: &str, value: Option<i32>, default: i32, bounds: std::ops::RangeInclusive<i32>| {
        let value = value.unwrap_or(default);
        if !bounds.contains(&value) {
            let (first, last) = bounds.into_inner();
            problems.client(format!("{path}.{member}"), format!("{path}.{member} must be {first} to {last}."));
        }
        value.unsigned_abs()
    };
    Some(HealthCheck {
        command,
        interval_secs: bounded("interval", given.interval, HEALTH_INTERVAL, 5..=300),
        timeout_secs: bounded("timeout", given.timeout, HEALTH_TIMEOUT, 2..=60),
        retries: bounded("retries", given.retries, HEALTH_RETRIES, 1..=10),
        start_period_secs: bounded("startPeriod", given.start_period, 0, 0..=300),
    })
}

pub(super) fn restart_policy(
    problems: &mut Problems,
    path: &str,
    given: Option<&ContainerRestartPolicy>,
) -> Option<RestartPolicy> {
    let given = given.filter(|given| **given != ContainerRestartPolicy::default())?;
    let path = format!("{path}.restartPolicy");
    if given.enabled.is_none() {
        problems.client(format!("{path}.enabled"), format!("{path}.enabled should not be null or empty."));
    }
    if given.ignored_exit_codes.len() > MAX_IGNORED_EXIT_CODES {
        problems.client(
            format!("{path}.ignoredExitCodes"),
            format!("{path}.ignoredExitCodes must be {MAX_IGNORED_EXIT_CODES} at most."),
        );
    }
    let period = given.restart_attempt_period.unwrap_or(RESTART_PERIOD);
    if !(60..=1800).contains(&period) {
        problems.client(
            format!("{path}.restartAttemptPeriod"),
            format!("{path}.restartAttemptPeriod must be 60 to 1800 seconds."),
        );
    }
    let policy = RestartPolicy {
        ignored_exit_codes: given.ignored_exit_codes.clone(),
        attempt_period_secs: period.unsigned_abs(),
    };
    given.enabled.unwrap_or(false).then_some(policy)
}
