//! CPU and memory: the forms ECS takes, their bounds, and how containers and the task fit together.

use crate::problem::Problems;
use crate::task::TaskSpec;

/// ECS's bounds for a task on EC2, CPU units.
const TASK_CPU: std::ops::RangeInclusive<u32> = 128..=196_608;
/// docker refuses less; also ECS's minimum, MiB.
pub(super) const MIN_MEMORY_MIB: i32 = 6;

const TROUBLESHOOTING: &str =
    "For more information, see the Troubleshooting section of the Amazon ECS Developer Guide.";

/// `256`, `.25 vCPU`, `1 vcpu` to CPU units.
pub(crate) fn parse_cpu(text: &str) -> Option<u32> {
    let lower = text.trim().to_ascii_lowercase();
    match lower.strip_suffix("vcpu") {
        Some(number) => scaled(number.trim(), 1024.0),
        None => lower.parse().ok(),
    }
}

/// `512`, `0.5GB`, `1 gb` to MiB.
pub(crate) fn parse_memory(text: &str) -> Option<u32> {
    let lower = text.trim().to_ascii_lowercase();
    match lower.strip_suffix("gb") {
        Some(number) => scaled(number.trim(), 1024.0),
        None => lower.parse().ok(),
    }
}

/// A decimal number times `factor`, where that is a whole number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked just before")]
fn scaled(number: &str, factor: f64) -> Option<u32> {
    if !number.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let value = number.parse::<f64>().ok()? * factor;
    (value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value)).then_some(value as u32)
}

/// The task's `cpu` member.
pub(crate) fn task_cpu(problems: &mut Problems, path: &str, text: Option<&str>) -> Option<u32> {
    let text = text?;
    let units = parse_cpu(text).filter(|units| TASK_CPU.contains(units));
    if units.is_none() {
        let (first, last) = (TASK_CPU.start(), TASK_CPU.end());
        let forms = format!("'{text}' is not {first} to {last} CPU units ('256') or the same in vCPU ('.25 vCPU')");
        problems.client(path, format!("Invalid 'cpu' setting for task. {TROUBLESHOOTING} {forms}."));
    }
    units
}

/// The task's `memory` member.
pub(crate) fn task_memory(problems: &mut Problems, path: &str, text: Option<&str>) -> Option<u32> {
    let text = text?;
    let mib = parse_memory(text).filter(|mib| *mib >= MIN_MEMORY_MIB.unsigned_abs());
    if mib.is_none() {
        let forms = format!("'{text}' is not at least {MIN_MEMORY_MIB} MiB ('512') or a number of GB ('0.5 GB')");
        problems.client(path, format!("Invalid 'memory' setting for task. {TROUBLESHOOTING} {forms}."));
    }
    mib
}

pub(super) fn across(problems: &mut Problems, task: &TaskSpec) {
    for (index, container) in task.containers.iter().enumerate() {
        let path = format!("containerDefinitions[{index}]");
        let name = &container.name;
        match (container.memory_mib, container.memory_reservation_mib, task.memory_mib) {
            (None, None, None) => problems.client(
                format!("{path}.memory"),
                format!(
                    "Invalid setting for container '{name}'. At least one of 'memory' or 'memoryReservation' must be \
                     specified."
                ),
            ),
            (Some(memory), _, Some(limit)) if memory > limit => problems.client(
                format!("{path}.memory"),
                format!("The 'memory' setting for container '{name}' is greater than for the task."),
            ),
            (_, Some(reservation), Some(limit)) if reservation > limit => problems.client(
                format!("{path}.memoryReservation"),
                format!("The 'memoryReservation' setting for container '{name}' is greater than for the task."),
            ),
            _ => {}
        }
        if container.max_swap_mib.is_some() && container.memory_mib.is_none() {
            let path = format!("{path}.linuxParameters.maxSwap");
            let message = format!("{path} is swap beyond the container's 'memory', which is not given.");
            problems.client(path, message);
        }
        if let (Some(memory), Some(reservation)) = (container.memory_mib, container.memory_reservation_mib)
            && reservation > memory
        {
            problems.client(
                format!("{path}.memoryReservation"),
                format!(
                    "Invalid setting for container '{name}'. 'memory' must be greater than or equal to \
                     'memoryReservation'."
                ),
            );
        }
    }
    let units: u64 = task.containers.iter().map(|container| u64::from(container.cpu_units)).sum();
    if let Some(limit) = task.cpu_units
        && units > u64::from(limit)
    {
        problems.client("cpu", format!("The containers ask for {units} CPU units, more than the task's {limit}."));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_cpu_and_memory() {
        let cpu = ["256", ".25 vCPU", "1 vcpu", "0.5vCPU", "x", "", "-1", "1e3 vcpu", "inf vcpu", "0.0001 vcpu"];
        assert_eq!(
            cpu.map(parse_cpu),
            [Some(256), Some(256), Some(1024), Some(512), None, None, None, Some(1_024_000), None, None]
        );
        assert_eq!(["512", "0.5GB", "1 GB", "1g"].map(parse_memory), [Some(512), Some(512), Some(1024), None]);
    }
}
