//! Names: the instance id that everything global to the kernel carries, task ids and ARNs (ECS, "names and ids").

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::config::IdentityConfig;

/// Eight hex digits of the SHA-256 of the root's real path.
pub fn instance_id(root: &Path) -> io::Result<String> {
    let real = root.canonicalize()?;
    let digest = Sha256::digest(real.as_os_str().as_bytes());
    Ok(digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect())
}

/// The id of a container for the runtime, ECS's `runtimeId`: unique on the host and short enough for a file name.
pub fn runtime_id(task: &str, container: &str) -> String {
    format!("{task}-{}", shortened(container, 200))
}

/// A container's cgroup below its task's: its name, unless cgroup v1 has a file of that name there.
pub fn cgroup_name(container: &str) -> String {
    // No container has a dot in its name.
    if matches!(container, "tasks" | "notify_on_release") { format!("{container}.c") } else { container.to_owned() }
}

/// A container's name, or where that has more than `longest` bytes (over 17) its beginning and a digest of all of it.
pub fn shortened(name: &str, longest: usize) -> String {
    match name.get(..longest - 17) {
        Some(beginning) if name.len() > longest => {
            let digest = Sha256::digest(name);
            let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("{beginning}-{digest}")
        }
        _ => name.to_owned(),
    }
}

/// A task's id: 32 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(String);

impl TaskId {
    /// A new one.
    pub fn random() -> TaskId {
        TaskId(uuid::Uuid::new_v4().simple().to_string())
    }

    /// Takes an id or a task's ARN; None for anything else, so that an id is always safe as a file's name.
    pub fn parse(text: &str) -> Option<TaskId> {
        let id = text.rsplit('/').next().unwrap_or_default();
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (id.len() == 32 && id.bytes().all(hex)).then(|| TaskId(id.to_owned()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes ARNs and reads the names in requests.
#[derive(Debug, Clone)]
pub struct Names {
    identity: IdentityConfig,
}

impl Names {
    /// Names of one region, account and cluster.
    pub fn new(identity: IdentityConfig) -> Names {
        Names { identity }
    }

    /// The cluster's short name.
    pub fn cluster(&self) -> &str {
        &self.identity.cluster
    }

    /// Whether a request's cluster, by name or ARN, is this one. Absent is.
    pub fn is_cluster(&self, given: Option<&str>) -> bool {
        given.is_none_or(|given| given == self.identity.cluster || given == self.cluster_arn())
    }

    /// `…:cluster/NAME`
    pub fn cluster_arn(&self) -> String {
        self.arn(&format!("cluster/{}", self.identity.cluster))
    }

    /// `…:task/CLUSTER/ID`
    pub fn task_arn(&self, task: &TaskId) -> String {
        self.arn(&format!("task/{}/{task}", self.identity.cluster))
    }

    /// The task that a request names, by id or ARN; None for what is none, or is another cluster's.
    pub fn task(&self, text: &str) -> Option<TaskId> {
        let id = TaskId::parse(text)?;
        // Older ARNs name no cluster.
        let (_, resource) = text.split_once(":task/").unwrap_or(("", text));
        let ours = resource == id.as_str() || resource == format!("{}/{id}", self.identity.cluster);
        ours.then_some(id)
    }

    /// `…:container/CLUSTER/TASK/UUID`
    pub fn container_arn(&self, task: &TaskId, container: &str) -> String {
        self.arn(&format!("container/{}/{task}/{container}", self.identity.cluster))
    }

    /// `…:container-instance/CLUSTER/ID`
    pub fn container_instance_arn(&self, id: &str) -> String {
        self.arn(&format!("container-instance/{}/{id}", self.identity.cluster))
    }

    /// `…:task-definition/FAMILY:REVISION`
    pub fn task_definition_arn(&self, family: &str, revision: i32) -> String {
        self.arn(&format!("task-definition/{family}:{revision}"))
    }

    fn arn(&self, resource: &str) -> String {
        format!("arn:aws:ecs:{}:{}:{resource}", self.identity.region, self.identity.account)
    }
}

/// A task definition as requests name it: ARN, `family:revision` or `family`.
pub fn definition_name(text: &str) -> Option<(&str, Option<i32>)> {
    let name = text.rsplit('/').next()?;
    match name.split_once(':') {
        Some((family, revision)) => Some((family, Some(revision.parse().ok()?))),
        None => (!name.is_empty()).then_some((name, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_ids_are_safe_as_names() {
        let id = TaskId::random();
        let names = Names::new(IdentityConfig::default());
        assert_eq!(TaskId::parse(&names.task_arn(&id)), Some(id));
        let of = |text: String| names.task(&text);
        let id = TaskId::random();
        let known = [id.to_string(), names.task_arn(&id), format!("arn:aws:ecs:local:000000000000:task/{id}")];
        assert!(known.into_iter().all(|text| of(text).as_ref() == Some(&id)));
        assert_eq!(of(format!("arn:aws:ecs:local:000000000000:task/other/{id}")), None);
        for hostile in ["", "..", "../../etc", "0123456789abcdef0123456789ABCDEF", "x/../y"] {
            assert_eq!(TaskId::parse(hostile), None, "{hostile}");
        }
    }

    #[test]
    fn definitions_have_three_names() {
        assert_eq!(definition_name("web"), Some(("web", None)));
        assert_eq!(definition_name("web:3"), Some(("web", Some(3))));
        assert_eq!(definition_name("arn:aws:ecs:local:000000000000:task-definition/web:3"), Some(("web", Some(3))));
        assert_eq!(definition_name("web:x"), None);
    }

    #[test]
    fn instance_follows_the_real_path() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(root.path(), &link).unwrap();
        assert_eq!(instance_id(&link).unwrap(), instance_id(root.path()).unwrap());
        assert_eq!(instance_id(root.path()).unwrap().len(), 8);
    }
}
