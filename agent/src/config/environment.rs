//! ECS's agent variables (ecs-semantics 1.18), so that an existing `ecs.config` is understood. Owns their spelling
//! and units; what they mean is `config`'s.

use std::time::Duration;

use super::{Config, ImagesConfig, Invalid, Problem, PullBehavior};

/// Known names whose absence of effect harms nobody: they are told, not refused.
const NO_EFFECT: [&str; 14] = [
    "ECS_RESERVED_PORTS_UDP",
    "ECS_CONTAINER_START_TIMEOUT",
    "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION_JITTER",
    // Every image here was pulled by Neargate.
    "ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP",
    "NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE",
    "ECS_AVAILABLE_LOGGING_DRIVERS",
    "ECS_INSTANCE_ATTRIBUTES",
    "ECS_ENABLE_TASK_IAM_ROLE",
    "ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST",
    "ECS_TASK_METADATA_RPS_LIMIT",
    "ECS_DYNAMIC_HOST_PORT_RANGE",
    "ECS_CGROUP_CPU_PERIOD",
    "ECS_ENGINE_AUTH_TYPE",
    "ECS_ENGINE_AUTH_DATA",
];

/// Names that restrict what tasks may do: to ignore them would give tasks more than the operator wants.
const REFUSED: [&str; 2] = ["ECS_DISABLE_PRIVILEGED", "ECS_AWSVPC_BLOCK_IMDS"];

/// Keys of the configuration that a variable sets, for range problems.
const SETS: [(&str, &str); 13] = [
    ("identity.cluster", "ECS_CLUSTER"),
    ("capacity.reserved_memory_mib", "ECS_RESERVED_MEMORY"),
    ("capacity.reserved_ports", "ECS_RESERVED_PORTS"),
    ("tasks.stop_timeout_secs", "ECS_CONTAINER_STOP_TIMEOUT"),
    ("tasks.pids_limit", "ECS_TASK_PIDS_LIMIT"),
    ("images.pull_timeout_secs", "ECS_IMAGE_PULL_TIMEOUT"),
    ("images.inactivity_timeout_secs", "ECS_IMAGE_PULL_INACTIVITY_TIMEOUT"),
    ("images.cleanup", "ECS_DISABLE_IMAGE_CLEANUP"),
    ("images.cleanup_age_hours", "ECS_IMAGE_MINIMUM_CLEANUP_AGE"),
    ("images.cleanup_interval_minutes", "ECS_IMAGE_CLEANUP_INTERVAL"),
    ("images.cleanup_per_cycle", "ECS_NUM_IMAGES_DELETE_PER_CYCLE"),
    ("images.keep", "ECS_EXCLUDE_UNTRACKED_IMAGE"),
    ("history.disk_keep_hours", "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION"),
];

/// Sets what the variables say; names those without effect.
pub(super) fn apply(
    config: &mut Config,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<&'static str>, Invalid> {
    // An empty variable counts as absent, as in ECS.
    let get = |name: &str| variable(name).filter(|value| !value.is_empty());
    let mut problems = Vec::new();
    let mut problem = |name: &str, message: String| {
        problems.push(Problem { line: None, key: name.to_owned(), message });
    };

    if let Some(cluster) = get("ECS_CLUSTER") {
        config.identity.cluster = cluster;
    }
    if let Some(text) = get("ECS_RESERVED_MEMORY") {
        match text.parse() {
            Ok(mib) => config.capacity.reserved_memory_mib = mib,
            Err(_) => problem("ECS_RESERVED_MEMORY", format!("\"{text}\" is not a number of MiB")),
        }
    }
    if let Some(text) = get("ECS_RESERVED_PORTS") {
        match serde_json::from_str(&text) {
            Ok(ports) => config.capacity.reserved_ports = ports,
            Err(_) => problem("ECS_RESERVED_PORTS", format!("{text} is not a JSON array of ports, such as [22, 80]")),
        }
    }
    if let Some(text) = get("ECS_CONTAINER_STOP_TIMEOUT") {
        match duration(&text).map(|duration| u32::try_from(duration.as_secs())) {
            Some(Ok(seconds)) => config.tasks.stop_timeout_secs = seconds,
            _ => problem("ECS_CONTAINER_STOP_TIMEOUT", not_a_duration(&text)),
        }
    }
    if let Some(text) = get("ECS_TASK_PIDS_LIMIT") {
        match text.parse() {
            Ok(limit) => config.tasks.pids_limit = limit,
            Err(_) => problem("ECS_TASK_PIDS_LIMIT", format!("\"{text}\" is not a number")),
        }
    }
    if let Some(text) = get("ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION") {
        match duration(&text) {
            Some(duration) => config.history.disk_keep_hours = duration.as_secs_f64() / 3_600.0,
            None => problem("ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION", not_a_duration(&text)),
        }
    }
    images(&mut config.images, get, &mut problem);
    // The values that mean "not restricted" ask for nothing.
    for name in REFUSED {
        if get(name).is_some_and(|value| value != "false" && value != "0") {
            problem(name, "is not supported yet".to_owned());
        }
    }
    // The file's own values were checked before, so what is out of range now came from a variable.
    for (path, message) in config.out_of_range() {
        let key = path.join(".");
        let name = SETS.iter().find(|(set, _)| *set == key).map_or(key.as_str(), |(_, name)| name);
        problem(name, message);
    }

    if problems.is_empty() {
        Ok(NO_EFFECT.into_iter().filter(|name| get(name).is_some()).collect())
    } else {
        Err(Invalid(problems))
    }
}

/// What the variables say of images.
fn images(config: &mut ImagesConfig, get: impl Fn(&str) -> Option<String>, problem: &mut impl FnMut(&str, String)) {
    let mut duration_of = |name: &str, take: &mut dyn FnMut(Duration) -> Option<()>| {
        if let Some(text) = get(name)
            && duration(&text).and_then(take).is_none()
        {
            problem(name, not_a_duration(&text));
        }
    };
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).ok();
    duration_of("ECS_IMAGE_PULL_TIMEOUT", &mut |d| seconds(d).map(|secs| config.pull_timeout_secs = secs));
    duration_of("ECS_IMAGE_PULL_INACTIVITY_TIMEOUT", &mut |d| {
        seconds(d).map(|secs| config.inactivity_timeout_secs = secs)
    });
    duration_of("ECS_IMAGE_MINIMUM_CLEANUP_AGE", &mut |d| {
        config.cleanup_age_hours = d.as_secs_f64() / 3_600.0;
        Some(())
    });
    duration_of("ECS_IMAGE_CLEANUP_INTERVAL", &mut |d| {
        config.cleanup_interval_minutes = d.as_secs_f64() / 60.0;
        Some(())
    });
    if let Some(text) = get("ECS_IMAGE_PULL_BEHAVIOR") {
        match PullBehavior::parse(&text) {
            Some(behavior) => config.pull_behavior = behavior,
            None => {
                let message = format!("\"{text}\" is none of default, always, once and prefer-cached");
                problem("ECS_IMAGE_PULL_BEHAVIOR", message);
            }
        }
    }
    if let Some(text) = get("ECS_NUM_IMAGES_DELETE_PER_CYCLE") {
        match text.parse() {
            Ok(count) => config.cleanup_per_cycle = count,
            Err(_) => problem("ECS_NUM_IMAGES_DELETE_PER_CYCLE", format!("\"{text}\" is not a number")),
        }
    }
    if let Some(text) = get("ECS_DISABLE_IMAGE_CLEANUP") {
        match text.parse::<bool>() {
            Ok(disabled) => config.cleanup = !disabled,
            Err(_) => problem("ECS_DISABLE_IMAGE_CLEANUP", format!("\"{text}\" is neither true nor false")),
        }
    }
    if let Some(text) = get("ECS_EXCLUDE_UNTRACKED_IMAGE") {
        config.keep = text.split(',').map(|name| name.trim().to_owned()).collect();
    }
}

fn not_a_duration(text: &str) -> String {
    format!("\"{text}\" is not a duration, such as 30s, 1m30s or 3h")
}

/// A duration as Go writes it, the form of ECS's variables: numbers with units, largest first by custom only.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(|byte| !byte.is_ascii_digit() && *byte != b'.').count();
        let (unit, after) = after.split_at(letters);
        let seconds = match unit {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(variables: &[(&str, &str)]) -> Result<(Config, Vec<&'static str>), Invalid> {
        let mut config = Config::default();
        let lookup =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        apply(&mut config, lookup).map(|ignored| (config, ignored))
    }

    #[test]
    fn names_with_a_meaning_are_taken() {
        let (config, ignored) = applied(&[
            ("ECS_CLUSTER", "blue"),
            ("ECS_RESERVED_MEMORY", "256"),
            ("ECS_RESERVED_PORTS", "[22, 8080]"),
            ("ECS_CONTAINER_STOP_TIMEOUT", "1m30s"),
            ("ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION", "30m"),
            ("ECS_TASK_PIDS_LIMIT", "100"),
            ("ECS_IMAGE_PULL_BEHAVIOR", "once"),
            ("ECS_IMAGE_PULL_TIMEOUT", "1h"),
            ("ECS_IMAGE_PULL_INACTIVITY_TIMEOUT", "90s"),
            ("ECS_IMAGE_CLEANUP_INTERVAL", "15m"),
            ("ECS_IMAGE_MINIMUM_CLEANUP_AGE", "30m"),
            ("ECS_NUM_IMAGES_DELETE_PER_CYCLE", "7"),
            ("ECS_DISABLE_IMAGE_CLEANUP", "true"),
            ("ECS_EXCLUDE_UNTRACKED_IMAGE", "busybox, my/app:v1"),
            ("NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE", "2h"),
            ("ECS_ENABLE_TASK_IAM_ROLE", "true"),
            ("ECS_DISABLE_PRIVILEGED", "false"),
            ("ECS_TASK_METADATA_RPS_LIMIT", ""),
        ])
        .unwrap();
        assert_eq!(config.identity.cluster, "blue");
        assert_eq!(config.capacity.reserved_memory_mib, 256);
        assert_eq!(config.capacity.reserved_ports, [22, 8080]);
        assert_eq!((config.tasks.stop_timeout_secs, config.tasks.pids_limit), (90, 100));
        assert_eq!(config.history.disk_keep(), Duration::from_secs(1_800));
        let keep = vec!["busybox".to_owned(), "my/app:v1".to_owned()];
        let images = ImagesConfig {
            pull_behavior: PullBehavior::Once,
            pull_timeout_secs: 3_600,
            inactivity_timeout_secs: 90,
            cleanup_interval_minutes: 15.0,
            cleanup_age_hours: 0.5,
            cleanup_per_cycle: 7,
            cleanup: false,
            keep,
            ..ImagesConfig::default()
        };
        assert_eq!(config.images, images);
        assert_eq!(ignored, ["NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE", "ECS_ENABLE_TASK_IAM_ROLE"]);
    }

    #[test]
    fn wrong_values_name_the_variable() {
        let problems = applied(&[
            ("ECS_CLUSTER", "no spaces"),
            ("ECS_RESERVED_MEMORY", "1GB"),
            ("ECS_RESERVED_PORTS", "22"),
            ("ECS_CONTAINER_STOP_TIMEOUT", "0s"),
            ("ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION", "3 hours"),
            ("ECS_DISABLE_PRIVILEGED", "true"),
            ("ECS_IMAGE_CLEANUP_INTERVAL", "0s"),
            ("ECS_IMAGE_PULL_TIMEOUT", "soon"),
            ("ECS_IMAGE_PULL_BEHAVIOR", "never"),
            ("ECS_DISABLE_IMAGE_CLEANUP", "maybe"),
            ("ECS_EXCLUDE_UNTRACKED_IMAGE", "Busy Box"),
        ])
        .unwrap_err();
        let names: Vec<_> = problems.0.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(
            names,
            [
                "ECS_RESERVED_MEMORY",
                "ECS_RESERVED_PORTS",
                "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION",
                "ECS_IMAGE_PULL_TIMEOUT",
                "ECS_IMAGE_PULL_BEHAVIOR",
                "ECS_DISABLE_IMAGE_CLEANUP",
                "ECS_DISABLE_PRIVILEGED",
                "ECS_CLUSTER",
                "ECS_CONTAINER_STOP_TIMEOUT",
                "ECS_IMAGE_CLEANUP_INTERVAL",
                "ECS_EXCLUDE_UNTRACKED_IMAGE",
            ]
        );
        assert!(problems.to_string().starts_with("ECS_RESERVED_MEMORY: \"1GB\" is not a number of MiB"));
    }

    #[test]
    fn durations() {
        assert_eq!(duration("1h15m30.5s"), Some(Duration::from_millis(4_530_500)));
        assert_eq!(duration("100ms"), Some(Duration::from_millis(100)));
        for bad in ["", "30", "s", "1x", "-1s", "1..5s", "1e300h", "5 s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
