//! Volumes of the task and where containers mount them.

use std::collections::BTreeSet;

use proto::v1::Volume;

use super::name;
use crate::problem::Problems;
use crate::task::{TaskSpec, VolumeSource, VolumeSpec};

pub(super) fn check(problems: &mut Problems, volumes: &[Volume]) -> Vec<VolumeSpec> {
    let mut checked = Vec::new();
    let mut names = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = format!("volumes[{index}]");
        let volume_name = volume.name.clone().unwrap_or_default();
        name(problems, &format!("{path}.name"), "Volume name", &volume_name);
        if !volume_name.is_empty() && !names.insert(volume_name.clone()) {
            problems.client(format!("{path}.name"), format!("Volume name '{volume_name}' is used more than once."));
        }
        let source_path = volume.host.as_ref().and_then(|host| host.source_path.clone());
        let source = match source_path.filter(|source| !source.is_empty()) {
            None => VolumeSource::Task,
            Some(source) => {
                let path = format!("{path}.host.sourcePath");
                absolute(problems, &path, &source);
                VolumeSource::Host(source)
            }
        };
        checked.push(VolumeSpec { name: volume_name, source });
    }
    checked
}

/// A path that stays where it says: absolute, without `..`.
pub(super) fn absolute(problems: &mut Problems, path: &str, value: &str) {
    problems.no_nul(path, value);
    if !value.starts_with('/') || value.split('/').any(|part| part == "..") {
        problems.client(path, format!("{path} must be an absolute path without '..'."));
    }
}

pub(super) fn across(problems: &mut Problems, task: &TaskSpec) {
    for (index, container) in task.containers.iter().enumerate() {
        let mut places = BTreeSet::new();
        for (mount, point) in container.mount_points.iter().enumerate() {
            let path = format!("containerDefinitions[{index}].mountPoints[{mount}]");
            if !task.volumes.iter().any(|volume| volume.name == point.source_volume) {
                problems.client(
                    format!("{path}.sourceVolume"),
                    format!("Invalid volume referenced: {}", point.source_volume),
                );
            }
            if !places.insert(point.container_path.trim_end_matches('/')) {
                problems.client(
                    format!("{path}.containerPath"),
                    format!("{path}.containerPath '{}' has a volume already.", point.container_path),
                );
            }
        }
    }
}
