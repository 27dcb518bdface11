//! RunTask's overrides put over a checked definition.

use std::collections::BTreeSet;

use proto::v1::{TaskDefinition, TaskOverride};

use crate::check::{across, container, ephemeral_storage, read, size};
use crate::problem::{Problem, Problems};
use crate::registered::request;
use crate::task::TaskSpec;

/// The task with `overrides` applied, checked again as a whole. Fields that are not run are refused by
/// [`crate::check_run_task`].
pub fn with_overrides(task: &TaskSpec, overrides: &TaskOverride) -> Result<TaskSpec, Vec<Problem>> {
    let mut problems = Problems::default();
    let task = apply(&mut problems, task.clone(), overrides);
    let of_overrides = problems.0.len();
    across(&mut problems, &task);
    for problem in &mut problems.0[of_overrides..] {
        if let Some(path) = overridden(&problem.path, &task, overrides) {
            problem.path = path;
        }
    }
    if problems.0.is_empty() { Ok(task) } else { Err(problems.0) }
}

/// What a task runs that was accepted earlier, perhaps by a version with other rules: it is not judged again.
pub fn accepted(definition: &TaskDefinition, overrides: Option<&TaskOverride>) -> TaskSpec {
    let mut not_told = Problems::default();
    let task = read(&mut not_told, &request(definition));
    match overrides {
        Some(overrides) => apply(&mut not_told, task, overrides),
        None => task,
    }
}

fn apply(problems: &mut Problems, mut task: TaskSpec, overrides: &TaskOverride) -> TaskSpec {
    if overrides.cpu.is_some() {
        task.cpu_units = size::task_cpu(problems, "overrides.cpu", overrides.cpu.as_deref());
    }
    if overrides.memory.is_some() {
        task.memory_mib = size::task_memory(problems, "overrides.memory", overrides.memory.as_deref());
    }
    if overrides.ephemeral_storage.is_some() {
        let (path, given) = ("overrides.ephemeralStorage", overrides.ephemeral_storage.as_ref());
        task.ephemeral_storage_gib = ephemeral_storage(problems, path, given).or(task.ephemeral_storage_gib);
    }
    let mut names = BTreeSet::new();
    for (index, given) in overrides.container_overrides.iter().enumerate() {
        let path = format!("overrides.containerOverrides[{index}]");
        let name = given.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            problems.parameter(format!("{path}.name"), format!("{path}.name should not be null or empty."));
            continue;
        }
        if !names.insert(name) {
            problems.parameter(format!("{path}.name"), format!("Container '{name}' is overridden more than once."));
        }
        let Some(spec) = task.containers.iter_mut().find(|container| container.name == name) else {
            problems.parameter(
                format!("{path}.name"),
                format!("Override for container named {name} is not a container in the TaskDefinition."),
            );
            continue;
        };
        if let Some(command) = container::arguments(problems, &format!("{path}.command"), &given.command) {
            spec.command = Some(command);
        }
        for (key, value) in container::environment(problems, &path, &given.environment) {
            spec.environment.retain(|(known, _)| *known != key);
            spec.environment.push((key, value));
        }
        if let Some(cpu) = given.cpu {
            spec.set_cpu(u32::try_from(cpu).unwrap_or_else(|_| {
                problems.parameter(format!("{path}.cpu"), format!("{path}.cpu must not be negative."));
                0
            }));
        }
        // 0 is absent, as in a definition: it replaces nothing.
        let memory = container::memory(problems, &format!("{path}.memory"), given.memory);
        spec.memory_mib = memory.or(spec.memory_mib);
        let reservation = container::memory(problems, &format!("{path}.memoryReservation"), given.memory_reservation);
        spec.memory_reservation_mib = reservation.or(spec.memory_reservation_mib);
    }
    task
}

/// Which override has brought about a problem that the definition alone did not have.
fn overridden(path: &str, task: &TaskSpec, overrides: &TaskOverride) -> Option<String> {
    let of_task = |member: &str| match member {
        "memory" | "memoryReservation" => overrides.memory.as_ref().map(|_| "overrides.memory".to_owned()),
        "cpu" => overrides.cpu.as_ref().map(|_| "overrides.cpu".to_owned()),
        _ => None,
    };
    let given = &overrides.container_overrides;
    let Some(rest) = path.strip_prefix("containerDefinitions[") else {
        let of_container = || given.iter().position(|given| path == "cpu" && given.cpu.is_some());
        return of_task(path).or_else(|| of_container().map(|nth| format!("overrides.containerOverrides[{nth}].cpu")));
    };
    let (index, member) = rest.split_once("].")?;
    let name = &task.containers.get(index.parse::<usize>().ok()?)?.name;
    let of_container = given.iter().position(|given| given.name.as_ref() == Some(name)).filter(|nth| match member {
        "memory" => given[*nth].memory.is_some(),
        "memoryReservation" => given[*nth].memory_reservation.is_some() || given[*nth].memory.is_some(),
        _ => false,
    });
    of_container.map(|nth| format!("overrides.containerOverrides[{nth}].{member}")).or_else(|| of_task(member))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{Code, check};

    fn task() -> TaskSpec {
        let definition = json!({
            "family": "f", "cpu": "256", "memory": "64",
            "containerDefinitions": [
                { "name": "a", "image": "i", "cpu": 128, "memory": 32, "memoryReservation": 16 },
                { "name": "b", "image": "i", "cpu": 128 },
            ],
        });
        check(&serde_json::from_value(definition).unwrap()).unwrap()
    }

    fn with(overrides: Value) -> Result<TaskSpec, Vec<Problem>> {
        with_overrides(&task(), &serde_json::from_value(overrides).unwrap())
    }

    fn container(members: Value) -> Value {
        let mut container = json!({ "name": "a" });
        container.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        json!({ "containerOverrides": [container] })
    }

    #[test]
    fn rules_hold_after_overriding_and_blame_the_override() {
        for (overrides, path, text) in [
            (
                container(json!({ "memory": 128 })),
                "overrides.containerOverrides[0].memory",
                "The 'memory' setting for container 'a' is greater than for the task.",
            ),
            (
                json!({ "memory": "16" }),
                "overrides.memory",
                "The 'memory' setting for container 'a' is greater than for the task.",
            ),
            (
                container(json!({ "memoryReservation": 48 })),
                "overrides.containerOverrides[0].memoryReservation",
                "Invalid setting for container 'a'. 'memory' must be greater than or equal to 'memoryReservation'.",
            ),
            (
                container(json!({ "cpu": 512 })),
                "overrides.containerOverrides[0].cpu",
                "The containers ask for 640 CPU units, more than the task's 256.",
            ),
            (
                json!({ "cpu": "128" }),
                "overrides.cpu",
                "The containers ask for 256 CPU units, more than the task's 128.",
            ),
        ] {
            let problems = with(overrides).unwrap_err();
            assert_eq!((problems[0].path.as_str(), problems[0].message.as_str()), (path, text));
        }
    }

    #[test]
    fn bad_overrides_are_told_with_their_path() {
        for (overrides, path) in [
            (json!({ "cpu": "lots" }), "overrides.cpu"),
            (json!({ "memory": "3" }), "overrides.memory"),
            (json!({ "ephemeralStorage": { "sizeInGiB": 20 } }), "overrides.ephemeralStorage.sizeInGiB"),
            (json!({ "ephemeralStorage": { "sizeInGiB": 201 } }), "overrides.ephemeralStorage.sizeInGiB"),
            (json!({ "containerOverrides": [{ "command": ["x"] }] }), "overrides.containerOverrides[0].name"),
            (json!({ "containerOverrides": [{ "name": "x" }] }), "overrides.containerOverrides[0].name"),
            (
                json!({ "containerOverrides": [{ "name": "a" }, { "name": "a" }] }),
                "overrides.containerOverrides[1].name",
            ),
            (container(json!({ "cpu": -1 })), "overrides.containerOverrides[0].cpu"),
            (container(json!({ "memory": 5 })), "overrides.containerOverrides[0].memory"),
            (container(json!({ "memoryReservation": -1 })), "overrides.containerOverrides[0].memoryReservation"),
            (container(json!({ "command": ["a\u{0}"] })), "overrides.containerOverrides[0].command[0]"),
            (
                container(json!({ "environment": [{ "name": "", "value": "x" }] })),
                "overrides.containerOverrides[0].environment[0].name",
            ),
        ] {
            let problems = with(overrides.clone()).unwrap_err();
            assert_eq!(problems[0].path, path, "{overrides}");
        }
        let unknown = with(json!({ "containerOverrides": [{ "name": "x" }] })).unwrap_err();
        assert_eq!(unknown[0].message, "Override for container named x is not a container in the TaskDefinition.");
        assert_eq!(unknown[0].code, Code::InvalidParameterException);
    }

    #[test]
    fn what_says_nothing_replaces_nothing() {
        let nothing = container(json!({ "command": [], "environment": [], "memory": 0, "memoryReservation": 0 }));
        assert_eq!(with(nothing).unwrap(), task());
        assert_eq!(with(json!({ "ephemeralStorage": {} })).unwrap(), task());
        let storage = with(json!({ "ephemeralStorage": { "sizeInGiB": 200 } })).unwrap();
        assert_eq!(storage.ephemeral_storage_gib, Some(200));
    }
}
