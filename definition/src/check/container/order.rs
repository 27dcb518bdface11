//! When a container starts, whether it is well and whether it starts again: `dependsOn`, `healthCheck`, `restartPolicy`.

use proto::v1::ContainerDefinition;

use crate::problem::Problems;
use crate::task::{Condition, Dependency};

pub(super) fn depends_on(problems: &mut Problems, path: &str, definition: &ContainerDefinition) -> Vec<Dependency> {
    let mut dependencies = Vec::new();
    for (index, dependency) in definition.depends_on.iter().enumerate() {
        let path = format!("{path}.dependsOn[{index}].condition");
        let condition = match dependency.condition.as_deref() {
            Some("START") => Condition::Start,
            Some("COMPLETE") => Condition::Complete,
            Some("SUCCESS") => Condition::Success,
            Some("HEALTHY") => {
                problems.client(&path, format!("{path} HEALTHY is not supported: health checks are not run yet."));
                continue;
            }
            other => {
                let given = other.unwrap_or("null");
                problems.client(&path, format!("Invalid condition '{given}': use START, COMPLETE or SUCCESS."));
                continue;
            }
        };
        dependencies.push(Dependency { container: dependency.container_name.clone().unwrap_or_default(), condition });
    }
    dependencies
}
