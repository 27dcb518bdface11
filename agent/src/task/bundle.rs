//! A container's definition and its image's configuration to an OCI bundle: `config.json` and `rootfs.json`. Docker's
//! defaults where ECS is silent. Pure but for the last step, which writes the files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use definition::task::{ContainerSpec, IpcMode, NetworkMode, PidMode, TaskSpec, TmpfsSpec, VolumeSource};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::Spec;
use runtime::bundle::RootfsRecord;
use runtime::capabilities;
use runtime::mounts::protect;
use serde_json::{Value, json};

use super::provision::{self, USER_IDS};

mod devices;

/// docker's PATH for images without one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// docker's /dev/shm, bytes.
pub(super) const SHM_BYTES: u64 = 64 << 20;
/// Why no bundle can be made of a definition and an image.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Neither names a program.
    #[error("no command specified: neither the definition nor the image {image} has an entry point or a command")]
    NoCommand {
        /// As in the definition.
        image: String,
    },
    /// The host's capabilities cannot be read.
    #[error("cannot tell the host's capabilities")]
    Capabilities(#[from] capabilities::CapabilityError),
    /// A device that the definition names is none.
    #[error("{path} is not a device of this host")]
    NoDevice {
        /// As in the definition.
        path: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The host's devices cannot be listed.
    #[error("cannot list the host's devices")]
    Devices(#[source] io::Error),
    /// What was made is no OCI configuration.
    #[error("cannot express the container as an OCI bundle")]
    Oci(#[from] serde_json::Error),
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// What a container gets beside its definition and its image.
#[derive(Debug, Clone)]
pub struct Surroundings<'a> {
    /// Name inside, from UTS and in HOSTNAME.
    pub hostname: &'a str,
    /// `/neargate-<instance>/<task>/<container>`
    pub cgroup: String,
    /// Where the task's namespaces are pinned.
    pub namespaces: PathBuf,
    /// First host id of the task's user namespaces, where it has them.
    pub user_base: Option<u32>,
    /// The host's directory of each volume.
    pub volumes: &'a BTreeMap<String, PathBuf>,
    /// Holds hosts, hostname and resolv.conf.
    pub etc: PathBuf,
    /// Open files of a container that asks for no number.
    pub open_files: u64,
}

/// The container's `config.json`.
pub fn config(
    task: &TaskSpec,
    container: &ContainerSpec,
    image: &ImageConfiguration,
    around: &Surroundings<'_>,
) -> Result<Spec, BundleError> {
    let capabilities = capability_names(container)?;
    let names: Vec<&str> = capabilities.iter().map(String::as_str).collect();
    let mut linux = json!({
        "namespaces": namespaces(task, around),
        "cgroupsPath": around.cgroup,
        "resources": resources(container, around)?,
        "sysctl": container.system_controls,
    });
    if let Some(base) = around.user_base {
        // Unused where the namespace is joined; it has the same ones then.
        let ids = json!([{ "containerID": 0, "hostID": base, "size": USER_IDS }]);
        linux["uidMappings"] = ids.clone();
        linux["gidMappings"] = ids;
    }
    let mut nodes = devices::configured(&container.devices)?;
    if container.privileged {
        nodes.extend(devices::of_host(Path::new("/dev")).map_err(BundleError::Devices)?);
    }
    linux["devices"] = Value::Array(nodes);
    if !container.privileged {
        linux["maskedPaths"] = json!(protect::DEFAULT_MASKED);
        linux["readonlyPaths"] = json!(protect::DEFAULT_READ_ONLY);
        linux["seccomp"] = serde_json::to_value(runtime::seccomp::default_profile(&names))?;
    }
    Ok(serde_json::from_value(json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs", "readonly": container.readonly_root_filesystem },
        "hostname": around.hostname,
        "process": process(container, image, &capabilities, around)?,
        "mounts": mounts(task, container, around),
        "annotations": container.labels,
        "linux": linux,
    }))?)
}

/// Writes `config.json`, `rootfs.json` and the empty directory that the root is mounted on. Nothing here has to
/// survive a crash of the host: no container does.
pub fn write(directory: &Path, config: &Spec, rootfs: &RootfsRecord) -> Result<(), BundleError> {
    let failed = |path: PathBuf| move |source| BundleError::Write { path, source };
    let root = directory.join("rootfs");
    std::fs::create_dir_all(&root).map_err(failed(root.clone()))?;
    for (name, bytes) in [("config.json", serde_json::to_vec(config)?), ("rootfs.json", serde_json::to_vec(rootfs)?)] {
        let path = directory.join(name);
        File::create(&path).and_then(|mut open| open.write_all(&bytes)).map_err(failed(path))?;
    }
    Ok(())
}

/// docker's rules: an entry point of the definition drops the image's command.
fn arguments(container: &ContainerSpec, image: &ImageConfiguration) -> Result<Vec<String>, BundleError> {
    let of_image = image.config().as_ref();
    let image_entry = of_image.and_then(|config| config.entrypoint().clone()).unwrap_or_default();
    let image_command = of_image.and_then(|config| config.cmd().clone()).unwrap_or_default();
    let (mut arguments, command) = match &container.entry_point {
        Some(entry) => (entry.clone(), container.command.clone().unwrap_or_default()),
        None => (image_entry, container.command.clone().unwrap_or(image_command)),
    };
    arguments.extend(command);
    if arguments.is_empty() {
        return Err(BundleError::NoCommand { image: container.image.clone() });
    }
    Ok(arguments)
}

fn environment(container: &ContainerSpec, image: &ImageConfiguration, hostname: &str) -> Vec<String> {
    let mut variables: Vec<(String, String)> =
        vec![("PATH".to_owned(), DEFAULT_PATH.to_owned()), ("HOSTNAME".to_owned(), hostname.to_owned())];
    if container.pseudo_terminal {
        variables.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let of_image = image.config().as_ref().and_then(|config| config.env().clone()).unwrap_or_default();
    let of_image = of_image.iter().filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()));
    for (name, value) in of_image.chain(container.environment.iter().cloned()) {
        match variables.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => variables.push((name, value)),
        }
    }
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn process(
    container: &ContainerSpec,
    image: &ImageConfiguration,
    capabilities: &[String],
    around: &Surroundings<'_>,
) -> Result<Value, BundleError> {
    let of_image = image.config().as_ref();
    let nonempty = |text: &String| !text.is_empty();
    let user = container.user.clone().or_else(|| of_image.and_then(|config| config.user().clone()).filter(nonempty));
    let directory = container
        .working_directory
        .clone()
        .or_else(|| of_image.and_then(|config| config.working_dir().clone()).filter(nonempty))
        .unwrap_or_else(|| "/".to_owned());
    let mut limits: BTreeMap<&str, (u64, u64)> = BTreeMap::from([("nofile", (around.open_files, around.open_files))]);
    limits.extend(container.ulimits.iter().map(|(name, limit)| (name.as_str(), *limit)));
    let limits: Vec<Value> = limits
        .iter()
        .map(|(name, (soft, hard))| {
            json!({ "type": format!("RLIMIT_{}", name.to_ascii_uppercase()), "soft": soft, "hard": hard })
        })
        .collect();
    Ok(json!({
        "args": arguments(container, image)?,
        "env": environment(container, image, around.hostname),
        "cwd": directory,
        // Names are looked up inside the container, by the runtime.
        "user": { "uid": 0, "gid": 0, "username": user.unwrap_or_else(|| "0".to_owned()) },
        "rlimits": limits,
        "terminal": container.pseudo_terminal,
        "noNewPrivileges": container.no_new_privileges,
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            "inheritable": [], "ambient": [],
        },
    }))
}

fn capability_names(container: &ContainerSpec) -> Result<Vec<String>, BundleError> {
    let all = |names: &[String]| names.iter().any(|name| name == "ALL");
    if container.privileged || all(&container.capabilities_add) {
        let mut names = capabilities::available()?;
        names.retain(|name| container.privileged || !container.capabilities_drop.contains(name));
        return Ok(names);
    }
    let mut names: Vec<String> = if all(&container.capabilities_drop) {
        Vec::new()
    } else {
        capabilities::DEFAULT.iter().map(ToString::to_string).collect()
    };
    names.retain(|name| !container.capabilities_drop.contains(name));
    names.extend(container.capabilities_add.iter().cloned());
    names.sort();
    names.dedup();
    Ok(names)
}

fn namespaces(task: &TaskSpec, around: &Surroundings<'_>) -> Vec<Value> {
    let mut namespaces: Vec<Value> = ["mount", "uts", "cgroup"].iter().map(|kind| json!({ "type": kind })).collect();
    match task.pid_mode {
        PidMode::Private => namespaces.push(json!({ "type": "pid" })),
        PidMode::Task => namespaces.push(json!({ "type": "pid", "path": around.namespaces.join("pid") })),
        PidMode::Host => {}
    }
    match task.ipc_mode {
        IpcMode::Private | IpcMode::None => namespaces.push(json!({ "type": "ipc" })),
        IpcMode::Task => namespaces.push(json!({ "type": "ipc", "path": around.namespaces.join("ipc") })),
        IpcMode::Host => {}
    }
    if around.user_base.is_some() {
        let shared = provision::shared(task, around.user_base).names().contains(&"user");
        let path = shared.then(|| around.namespaces.join("user"));
        namespaces.push(json!({ "type": "user", "path": path }));
    }
    match task.network_mode {
        NetworkMode::Host => {}
        NetworkMode::None => namespaces.push(json!({ "type": "network" })),
        NetworkMode::Bridge | NetworkMode::Awsvpc => {
            namespaces.push(json!({ "type": "network", "path": around.namespaces.join("net") }));
        }
    }
    namespaces
}

fn resources(container: &ContainerSpec, around: &Surroundings<'_>) -> Result<Value, BundleError> {
    let mebibytes = |amount: u32| u64::from(amount) << 20;
    let mut resources = json!({ "cpu": { "shares": container.cpu_shares } });
    let mut memory = serde_json::Map::new();
    if let Some(limit) = container.memory_mib {
        // The kernel counts memory and swap together: without a word of it there is no swap beyond the limit.
        let both = mebibytes(limit) + mebibytes(container.max_swap_mib.unwrap_or(0));
        memory.extend([("limit".into(), json!(mebibytes(limit))), ("swap".into(), json!(both))]);
    }
    if let Some(swappiness) = container.swappiness.filter(|_| !runtime::cgroup::is_v2()) {
        memory.insert("swappiness".into(), json!(swappiness));
    }
    if let Some(reservation) = container.memory_reservation_mib {
        memory.insert("reservation".into(), json!(mebibytes(reservation)));
    }
    resources["memory"] = Value::Object(memory);
    // Inside a user namespace no device can be made, but an image or a volume may hold nodes that others have made. On
    // v2, where rules cost a program in the kernel, no mount of such a task lets devices be opened.
    if around.user_base.is_none() || !runtime::cgroup::is_v2() {
        resources["devices"] =
            if container.privileged { devices::all_rules() } else { devices::rules(&container.devices)? };
    }
    Ok(resources)
}

fn mounts(task: &TaskSpec, container: &ContainerSpec, around: &Surroundings<'_>) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    let system = if container.privileged { "rw" } else { "ro" };
    let shm = format!("size={}", container.shared_memory_mib.map_or(SHM_BYTES, |mib| u64::from(mib) << 20));
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", system]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", system]),
    ];
    let no_exec = ["nosuid", "noexec", "nodev"];
    let of_task = around.namespaces.join("shm").to_string_lossy().into_owned();
    match task.ipc_mode {
        IpcMode::Private => {
            mounts.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]));
        }
        IpcMode::Task => mounts.push(mount("/dev/shm", "bind", &of_task, &["bind", "nosuid", "noexec", "nodev"])),
        IpcMode::Host => mounts.push(mount("/dev/shm", "bind", "/dev/shm", &["bind", "nosuid", "noexec", "nodev"])),
        IpcMode::None => {}
    }
    // Of the ipc namespace that the container is in.
    mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &no_exec));
    let bind = |destination: &str, source: &Path, read_only: bool| {
        let mut options = vec!["rbind", "rprivate"];
        // Both: what is mounted below is as read-only as the rest.
        options.extend(if read_only { ["ro", "rro"].as_slice() } else { &["rw"] });
        if !container.privileged {
            options.push("rnodev");
        }
        if around.user_base.is_some() {
            options.push("idmap");
        }
        mount(destination, "bind", &source.to_string_lossy(), &options)
    };
    for name in ["hosts", "hostname", "resolv.conf"] {
        mounts.push(bind(&format!("/etc/{name}"), &around.etc.join(name), false));
    }
    for point in &container.mount_points {
        // Every mount point's volume is known: the definition was checked.
        if let Some(source) = around.volumes.get(&point.source_volume) {
            mounts.push(bind(&point.container_path, source, point.read_only));
        }
    }
    mounts.extend(container.tmpfs.iter().map(tmpfs));
    // As docker does: what is mounted below another place comes after it, however the definition lists them.
    mounts.sort_by_key(|mount| mount["destination"].as_str().map_or(0, |path| Path::new(path).components().count()));
    mounts
}

/// docker's defaults, then what the definition says; the last word wins.
fn tmpfs(tmpfs: &TmpfsSpec) -> Value {
    let mut options: Vec<String> = ["nosuid", "nodev", "noexec", "relatime"].map(str::to_owned).to_vec();
    options.push(format!("size={}k", u64::from(tmpfs.size_mib) << 10));
    options.extend(tmpfs.options.iter().cloned());
    json!({ "destination": tmpfs.container_path, "type": "tmpfs", "source": "tmpfs", "options": options })
}

/// Where containers mount volumes that begin with what the image has there: all but the host's own directories.
pub fn copy_up(task: &TaskSpec, container: &ContainerSpec) -> Vec<PathBuf> {
    let of_host = |name: &String| {
        let volume = task.volumes.iter().find(|volume| volume.name == *name);
        volume.is_none_or(|volume| matches!(volume.source, VolumeSource::Host(_)))
    };
    let points = container.mount_points.iter().filter(|point| !of_host(&point.source_volume));
    points.map(|point| PathBuf::from(&point.container_path)).collect()
}

/// The host's directory of each volume; task-scoped ones are below `scratch`, shared ones below `shared`.
pub fn volume_directories(task: &TaskSpec, scratch: &Path, shared: &Path) -> BTreeMap<String, PathBuf> {
    let directory = |source: &VolumeSource, name: &str| match source {
        VolumeSource::Task => scratch.join(name),
        VolumeSource::Host(path) => PathBuf::from(path),
        VolumeSource::Shared { .. } => shared.join(name),
    };
    task.volumes.iter().map(|volume| (volume.name.clone(), directory(&volume.source, &volume.name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(container: Value, image: Value) -> Result<Value, BundleError> {
        let mut base = json!({ "name": "c", "image": "i", "memory": 64 });
        for (name, value) in container.as_object().unwrap() {
            base[name] = value.clone();
        }
        let definition = json!({ "family": "f", "volumes": [{ "name": "v" }], "containerDefinitions": [base] });
        let task = definition::check(&serde_json::from_value(definition).unwrap()).unwrap();
        let image = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] }, "config": image });
        let volumes = volume_directories(&task, Path::new("/volumes"), Path::new("/shared"));
        let around = Surroundings {
            hostname: "h",
            cgroup: "/g".to_owned(),
            namespaces: "/ns".into(),
            user_base: Some(1 << 29),
            volumes: &volumes,
            etc: "/etc-of".into(),
            open_files: 1024,
        };
        let spec = config(&task, &task.containers[0], &serde_json::from_value(image).unwrap(), &around)?;
        Ok(serde_json::to_value(spec).unwrap())
    }

    #[test]
    fn entry_points_and_commands_follow_docker() {
        let image = json!({ "Entrypoint": ["/e"], "Cmd": ["c"] });
        let arguments = |container: Value| bundle(container, image.clone()).unwrap()["process"]["args"].clone();
        assert_eq!(arguments(json!({})), json!(["/e", "c"]));
        assert_eq!(arguments(json!({ "command": ["x"] })), json!(["/e", "x"]));
        assert_eq!(arguments(json!({ "entryPoint": ["/n"] })), json!(["/n"]), "the image's command is dropped");
        assert!(matches!(bundle(json!({}), json!({})), Err(BundleError::NoCommand { .. })));
    }

    #[test]
    fn the_definitions_environment_wins() {
        let spec = bundle(
            json!({ "command": ["x"], "environment": [{ "name": "A", "value": "definition" }] }),
            json!({ "Env": ["A=image", "PATH=/bin"] }),
        );
        let spec = spec.unwrap();
        let environment: Vec<_> = spec["process"]["env"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
        assert_eq!(environment, ["PATH=/bin", "HOSTNAME=h", "A=definition"]);
    }

    #[test]
    fn volumes_are_id_mapped_and_limits_are_bytes() {
        let points = json!([{ "sourceVolume": "v", "containerPath": "/data", "readOnly": true }]);
        let spec = bundle(json!({ "command": ["x"], "mountPoints": points }), json!({})).unwrap();
        let mount = spec["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == "/data").unwrap();
        assert_eq!(mount["source"], "/volumes/v");
        assert_eq!(mount["options"], json!(["rbind", "rprivate", "ro", "rro", "rnodev", "idmap"]));
        assert_eq!(spec["linux"]["resources"]["memory"]["limit"], 64 << 20);
    }

    #[test]
    fn capabilities_are_dockers_with_changes() {
        let with = |capabilities: Value| {
            let linux = json!({ "capabilities": capabilities });
            let spec = bundle(json!({ "command": ["x"], "linuxParameters": linux }), json!({})).unwrap();
            spec["process"]["capabilities"]["bounding"].as_array().unwrap().len()
        };
        assert_eq!(with(json!({})), 14);
        assert_eq!(with(json!({ "drop": ["ALL"], "add": ["CHOWN"] })), 1);
        assert_eq!(with(json!({ "drop": ["CHOWN"] })), 13);
        assert!(with(json!({ "add": ["ALL"] })) > 30);
    }
}
