//! Volumes of the task and where containers mount them.

use std::collections::BTreeSet;

use proto::v1::{ContainerDefinition, DockerVolumeConfiguration, Volume, VolumeFrom};

use super::name;
use crate::problem::Problems;
use crate::task::{ContainerSpec, MountPoint, TaskSpec, VolumeSource, VolumeSpec, VolumesFrom};

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
        let docker = volume.docker_volume_configuration.as_ref();
        let docker = docker.filter(|docker| **docker != DockerVolumeConfiguration::default());
        let source = match source_path.filter(|source| !source.is_empty()) {
            None => docker.map_or(VolumeSource::Task, |docker| docker_volume(problems, &path, docker)),
            Some(source) => {
                let path = format!("{path}.host.sourcePath");
                absolute(problems, &path, &source);
                if docker.is_some() {
                    problems
                        .client(&path, format!("Volume '{volume_name}' is given both as host and as docker volume."));
                }
                VolumeSource::Host(source)
            }
        };
        checked.push(VolumeSpec { name: volume_name, source });
    }
    checked
}

fn docker_volume(problems: &mut Problems, path: &str, docker: &DockerVolumeConfiguration) -> VolumeSource {
    let path = format!("{path}.dockerVolumeConfiguration");
    if docker.driver.as_deref().is_some_and(|driver| !driver.is_empty() && driver != "local") {
        let driver = docker.driver();
        problems.client(format!("{path}.driver"), format!("{path}.driver '{driver}' is not supported: only local is."));
    }
    let autoprovision = docker.autoprovision.unwrap_or(false);
    match docker.scope.as_deref() {
        Some("shared") => VolumeSource::Shared { autoprovision },
        None | Some("" | "task") => {
            if autoprovision {
                problems.client(
                    format!("{path}.autoprovision"),
                    format!("{path}.autoprovision goes with the scope 'shared' only."),
                );
            }
            VolumeSource::Task
        }
        Some(other) => {
            problems.client(format!("{path}.scope"), format!("Invalid scope '{other}': use task or shared."));
            VolumeSource::Task
        }
    }
}

/// A path that stays where it says: absolute, without `..`.
pub(super) fn absolute(problems: &mut Problems, path: &str, value: &str) {
    problems.no_nul(path, value);
    if !value.starts_with('/') || value.split('/').any(|part| part == "..") {
        problems.client(path, format!("{path} must be an absolute path without '..'."));
    }
}

/// `volumesFrom` as it is written.
pub(super) fn from(definition: &ContainerDefinition) -> Vec<VolumesFrom> {
    let from = |from: &VolumeFrom| VolumesFrom {
        container: from.source_container.clone().unwrap_or_default(),
        read_only: from.read_only.unwrap_or(false),
    };
    definition.volumes_from.iter().map(from).collect()
}

/// Adds to each container the mounts of those it names in `volumesFrom`, and of those that they name. What a container
/// mounts itself stays.
pub(super) fn inherit(problems: &mut Problems, containers: &mut [ContainerSpec]) {
    let own: Vec<Vec<MountPoint>> = containers.iter().map(|container| container.mount_points.clone()).collect();
    let edges: Vec<Vec<VolumesFrom>> = containers.iter().map(|container| container.volumes_from.clone()).collect();
    let names: Vec<String> = containers.iter().map(|container| container.name.clone()).collect();
    for (index, container) in containers.iter_mut().enumerate() {
        let mut seen = BTreeSet::from([index]);
        let mut todo: Vec<(usize, bool)> = Vec::new();
        for (nth, from) in container.volumes_from.iter().enumerate() {
            let path = format!("containerDefinitions[{index}].volumesFrom[{nth}].sourceContainer");
            match names.iter().position(|name| *name == from.container) {
                Some(source) => todo.push((source, from.read_only)),
                None => problems
                    .client(path, format!("could not find volume source container with name {}", from.container)),
            }
        }
        // Breadth first: the nearest container's mount wins; a circle ends where it began.
        let mut next = 0;
        while let Some(&(source, read_only)) = todo.get(next) {
            next += 1;
            if !seen.insert(source) {
                continue;
            }
            for point in &own[source] {
                let taken = |known: &MountPoint| same_place(&known.container_path, &point.container_path);
                if !container.mount_points.iter().any(taken) {
                    container
                        .mount_points
                        .push(MountPoint { read_only: point.read_only || read_only, ..point.clone() });
                }
            }
            for from in &edges[source] {
                let further = names.iter().position(|name| *name == from.container);
                todo.extend(further.map(|further| (further, read_only || from.read_only)));
            }
        }
    }
}

fn same_place(a: &str, b: &str) -> bool {
    a.trim_end_matches('/') == b.trim_end_matches('/')
}

/// A place in a container that something is mounted on.
pub(super) fn below_root(problems: &mut Problems, path: &str, value: &str) {
    absolute(problems, path, value);
    if value.split('/').all(|part| part.is_empty() || part == ".") {
        problems.client(path, format!("{path} must not be the root directory."));
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
        for (nth, tmpfs) in container.tmpfs.iter().enumerate() {
            if !places.insert(tmpfs.container_path.trim_end_matches('/')) {
                let path = format!("containerDefinitions[{index}].linuxParameters.tmpfs[{nth}].containerPath");
                let text = format!("{path} '{}' has a volume or a tmpfs already.", tmpfs.container_path);
                problems.client(path, text);
            }
        }
    }
}
