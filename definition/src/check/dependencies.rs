//! `dependsOn`: who waits for whom, and that it can end.

use std::collections::BTreeMap;

use crate::problem::Problems;
use crate::task::{Condition, ContainerSpec, TaskSpec};

pub(super) fn across(problems: &mut Problems, task: &TaskSpec) {
    let by_name: BTreeMap<&str, usize> =
        task.containers.iter().enumerate().map(|(index, container)| (container.name.as_str(), index)).collect();
    let mut edges = vec![Vec::new(); task.containers.len()];
    for (index, container) in task.containers.iter().enumerate() {
        for (nth, dependency) in container.depends_on.iter().enumerate() {
            let path = format!("containerDefinitions[{index}].dependsOn[{nth}]");
            let Some(&target) = by_name.get(dependency.container.as_str()) else {
                problems.client(
                    format!("{path}.containerName"),
                    format!(
                        "Container '{}' depends on '{}', which is not a container of the task definition.",
                        container.name, dependency.container
                    ),
                );
                continue;
            };
            if dependency.condition == Condition::Healthy && task.containers[target].health_check.is_none() {
                problems.client(
                    format!("{path}.condition"),
                    format!(
                        "Container '{}' waits for '{}' to be HEALTHY, which has no healthCheck in the task definition.",
                        container.name, dependency.container
                    ),
                );
            }
            let waits_for_end = matches!(dependency.condition, Condition::Complete | Condition::Success);
            if task.containers[target].essential && waits_for_end {
                problems.client(
                    format!("{path}.condition"),
                    format!(
                        "Container '{}' waits for the end of '{}', which is essential: its end would stop the task.",
                        container.name, dependency.container
                    ),
                );
            }
            edges[index].push(target);
        }
    }
    volumes_from(problems, task, &by_name);
    if let Some(cycle) = cycle(&edges) {
        let names: Vec<_> = cycle.iter().map(|index| task.containers[*index].name.as_str()).collect();
        problems.client(
            format!("containerDefinitions[{}].dependsOn", cycle[0]),
            format!("The dependencies of containers form a cycle: {}.", names.join(" -> ")),
        );
    }
}

/// Volumes must come from somewhere in the end.
fn volumes_from(problems: &mut Problems, task: &TaskSpec, by_name: &BTreeMap<&str, usize>) {
    let sources = |container: &ContainerSpec| {
        container.volumes_from.iter().filter_map(|from| by_name.get(from.container.as_str()).copied()).collect()
    };
    let edges: Vec<Vec<usize>> = task.containers.iter().map(sources).collect();
    if let Some(cycle) = cycle(&edges) {
        let names: Vec<_> = cycle.iter().map(|index| task.containers[*index].name.as_str()).collect();
        problems.client(
            format!("containerDefinitions[{}].volumesFrom", cycle[0]),
            format!("The containers take volumes from each other in a circle: {}.", names.join(" -> ")),
        );
    }
}

/// Indexes along the first cycle, its start repeated at the end.
fn cycle(edges: &[Vec<usize>]) -> Option<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        OnPath,
        Done,
    }
    fn visit(at: usize, edges: &[Vec<usize>], marks: &mut [Mark], path: &mut Vec<usize>) -> Option<Vec<usize>> {
        marks[at] = Mark::OnPath;
        path.push(at);
        for &next in &edges[at] {
            match marks[next] {
                Mark::OnPath => {
                    let start = path.iter().position(|index| *index == next).unwrap_or_default();
                    let mut cycle = path[start..].to_vec();
                    cycle.push(next);
                    return Some(cycle);
                }
                Mark::New => {
                    if let Some(cycle) = visit(next, edges, marks, path) {
                        return Some(cycle);
                    }
                }
                Mark::Done => {}
            }
        }
        path.pop();
        marks[at] = Mark::Done;
        None
    }
    let mut marks = vec![Mark::New; edges.len()];
    (0..edges.len()).find_map(|start| {
        if marks[start] == Mark::New { visit(start, edges, &mut marks, &mut Vec::new()) } else { None }
    })
}
