//! RunTask's overrides put over a checked definition.

use proto::v1::{TaskDefinition, TaskOverride};

use crate::check::{across, container, read, size};
use crate::problem::{Problem, Problems};
use crate::registered::request;
use crate::task::TaskSpec;

/// The task with `overrides` applied, checked again as a whole. Fields that are not run are refused by
/// [`crate::check_run_task`].
pub fn with_overrides(task: &TaskSpec, overrides: &TaskOverride) -> Result<TaskSpec, Vec<Problem>> {
    let mut problems = Problems::default();
    let task = apply(&mut problems, task.clone(), overrides);
    across(&mut problems, &task);
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
    for (index, given) in overrides.container_overrides.iter().enumerate() {
        let path = format!("overrides.containerOverrides[{index}]");
        let name = given.name.as_deref().unwrap_or_default();
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
        if given.memory.is_some() {
            spec.memory_mib = container::memory(problems, &format!("{path}.memory"), given.memory);
        }
        if given.memory_reservation.is_some() {
            let path = format!("{path}.memoryReservation");
            spec.memory_reservation_mib = container::memory(problems, &path, given.memory_reservation);
        }
    }
    task
}
