//! Whether a container that ended is started again. Pure (ecs-semantics 1.10).

use definition::task::RestartPolicy;
use runtime::monitor::protocol::ExitRecord;

/// Judges an end that nobody asked for.
pub fn starts_again(policy: &RestartPolicy, exit: &ExitRecord) -> bool {
    let (Some(exit_code), Some(started_at)) = (exit.exit_code, exit.started_at) else { return false };
    let ran_secs = exit.finished_at - started_at;
    !policy.ignored_exit_codes.contains(&exit_code) && ran_secs >= f64::from(policy.attempt_period_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ran_long_enough_and_ended_with_a_code_that_counts() {
        let policy = RestartPolicy { ignored_exit_codes: vec![0, 3], attempt_period_secs: 60 };
        let exit = |exit_code, ran: Option<f64>| ExitRecord {
            format: 1,
            exit_code,
            signal: None,
            oom_killed: false,
            started_at: ran.map(|ran| 1000.0 - ran),
            finished_at: 1000.0,
            error: None,
        };
        for (exit_code, ran, again) in [
            (Some(1), Some(60.0), true),
            (Some(137), Some(600.0), true),
            (Some(1), Some(59.9), false),
            (Some(0), Some(60.0), false),
            (Some(3), Some(60.0), false),
            (None, Some(60.0), false),
            (Some(127), None, false),
        ] {
            assert_eq!(starts_again(&policy, &exit(exit_code, ran)), again, "{exit_code:?} {ran:?}");
        }
    }
}
