//! What is known about a container between two commands: `STATE_ROOT/ID/state.json`, written by temporary file and
//! rename. The record says what was last done; whether the init still lives is looked at with each load.
//!
//! ```text
//! STATE_ROOT/ID/state.json   Record
//! STATE_ROOT/ID/start.sock   where a parked init waits for `start`
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{ContainerState, State};
use serde::{Deserialize, Serialize};

use crate::process::ProcessRef;

const FORMAT: u32 = 1;
/// The version of the OCI runtime specification that we report.
pub const OCI_VERSION: &str = "1.2.0";
/// Ids become names of files and cgroups.
const MAX_ID_LENGTH: usize = 1024;

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Status {
    /// Being made; there is an init only in the memory of whoever makes it.
    Creating,
    /// The init waits before execve.
    Created {
        /// The container's pid 1.
        init: ProcessRef,
    },
    /// The user's program runs.
    Running {
        /// The container's pid 1.
        init: ProcessRef,
        /// Seconds since the epoch.
        started_at: f64,
    },
    /// The init has ended.
    Stopped,
}

impl Status {
    /// OCI's word.
    pub fn name(&self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created { .. } => "created",
            Status::Running { .. } => "running",
            Status::Stopped => "stopped",
        }
    }

    /// The init, where there is one.
    pub fn init(&self) -> Option<ProcessRef> {
        match self {
            Status::Created { init } | Status::Running { init, .. } => Some(*init),
            Status::Creating | Status::Stopped => None,
        }
    }
}

/// Content of `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    format: u32,
    /// Container id.
    pub id: String,
    /// Real path of the bundle.
    pub bundle: PathBuf,
    /// Path below each cgroup hierarchy.
    pub cgroup: String,
    /// Seconds since the epoch.
    pub created_at: f64,
    /// As of the last command.
    #[serde(flatten)]
    pub status: Status,
    /// `annotations` of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<std::collections::HashMap<String, String>>,
}

impl Record {
    /// A record of the current format, of now.
    pub fn new(id: &str, bundle: &Path, cgroup: &str, status: Status) -> Record {
        Record {
            format: FORMAT,
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            cgroup: cgroup.to_owned(),
            created_at: now(),
            status,
            annotations: None,
        }
    }

    /// As the OCI `state` command shows it.
    pub fn to_oci(&self) -> State {
        let mut state = State::default();
        state
            .set_version(OCI_VERSION.to_owned())
            .set_id(self.id.clone())
            .set_status(match self.status {
                Status::Creating => ContainerState::Creating,
                Status::Created { .. } => ContainerState::Created,
                Status::Running { .. } => ContainerState::Running,
                Status::Stopped => ContainerState::Stopped,
            })
            .set_pid(self.status.init().map(|init| init.pid))
            .set_bundle(self.bundle.clone())
            .set_annotations(self.annotations.clone());
        state
    }
}

/// Seconds since the epoch.
pub fn now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// Why a container's state cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StateError {
    #[error("container id {id:?} is not made of letters, digits and -_+.")]
    Id { id: String },
    #[error("container {id} exists already")]
    Exists { id: String },
    #[error("container {id} does not exist")]
    NotFound { id: String },
    #[error("cannot make {path}")]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot parse {path}")]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("{path} has format {format}, this runtime reads {FORMAT}")]
    Format { path: PathBuf, format: u32 },
    #[error("cannot save {path}")]
    Save { path: PathBuf, source: io::Error },
    #[error("cannot remove {path}")]
    Remove { path: PathBuf, source: io::Error },
}

/// `STATE_ROOT/ID`.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes the directory, and with it claims the id.
    pub fn make(state_root: &Path, id: &str) -> Result<Directory, StateError> {
        check_id(id)?;
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Make { path, source }
        };
        builder.recursive(true).create(state_root).map_err(failed(state_root))?;
        let path = state_root.join(id);
        match builder.recursive(false).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(StateError::Exists { id: id.to_owned() }),
            other => other.map_err(failed(&path)).map(|()| Directory { path }),
        }
    }

    /// The directory of a container that exists.
    pub fn open(state_root: &Path, id: &str) -> Result<Directory, StateError> {
        check_id(id)?;
        let path = state_root.join(id);
        if path.is_dir() { Ok(Directory { path }) } else { Err(StateError::NotFound { id: id.to_owned() }) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the record; a container whose init has ended meanwhile is stopped.
    pub fn load(&self) -> Result<Record, StateError> {
        let path = self.path.join("state.json");
        let text = fs::read(&path).map_err(|source| StateError::Read { path: path.clone(), source })?;
        let mut record: Record =
            serde_json::from_slice(&text).map_err(|source| StateError::Parse { path: path.clone(), source })?;
        if record.format != FORMAT {
            return Err(StateError::Format { path, format: record.format });
        }
        if record.status.init().is_some_and(|init| !init.is_alive()) {
            record.status = Status::Stopped;
        }
        Ok(record)
    }

    /// The cgroup that a record names which is damaged elsewhere: written by us, its member is one string without
    /// escapes.
    pub fn salvage_cgroup(&self) -> Option<String> {
        let bytes = fs::read(self.path.join("state.json")).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let (_, value) = text.split_once(r#""cgroup":""#)?;
        let (path, _) = value.split_once('"')?;
        (!path.contains(['\\', char::REPLACEMENT_CHARACTER])).then(|| path.to_owned())
    }

    /// Replaces the record.
    pub fn save(&self, record: &Record) -> Result<(), StateError> {
        let path = self.path.join("state.json");
        let temporary = self.path.join(".state.json");
        let failed = |source| StateError::Save { path: path.clone(), source };
        let text = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        // No fsync: no record outlives its container's processes, and no process a crash of the host.
        let mut file = File::create(&temporary).map_err(failed)?;
        file.write_all(&text).and_then(|()| fs::rename(&temporary, &path)).map_err(failed)
    }

    /// Removes everything, so that the id is free again.
    pub fn remove(self) -> Result<(), StateError> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|source| StateError::Remove { path: self.path, source }),
        }
    }
}

fn check_id(id: &str) -> Result<(), StateError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_+.".contains(&byte);
    if id.is_empty() || id.len() > MAX_ID_LENGTH || matches!(id, "." | "..") || !id.bytes().all(allowed) {
        return Err(StateError::Id { id: id.to_owned() });
    }
    Ok(())
}

/// What is below a state root.
#[derive(Debug, Default)]
pub struct Listed {
    /// Records that can be read, by id.
    pub records: Vec<Record>,
    /// What is wrong with the others.
    pub damaged: Vec<StateError>,
}

/// All records below `state_root`. One that is just being made or removed is left out.
pub fn list(state_root: &Path) -> Result<Listed, StateError> {
    let failed = |source| StateError::Read { path: state_root.to_owned(), source };
    let entries = match fs::read_dir(state_root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Listed::default()),
        other => other.map_err(failed)?,
    };
    let mut listed = Listed::default();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        match (Directory { path: entry.path() }).load() {
            Ok(record) => listed.records.push(record),
            Err(StateError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => listed.damaged.push(error),
        }
    }
    listed.records.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_is_loaded_and_a_dead_init_is_stopped() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::make(root.path(), "a").unwrap();
        let own = ProcessRef::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let mut record = Record::new("a", Path::new("/b"), "/c", Status::Running { init: own, started_at: 1.5 });
        // A moment whose last bit is lost when a parser only nearly rounds.
        record.created_at = 1_795_472_390.955_449_3;
        directory.save(&record).unwrap();
        assert_eq!(directory.load().unwrap(), record);
        record.status = Status::Created { init: ProcessRef { start_time: 1, ..own } };
        directory.save(&record).unwrap();
        assert_eq!(directory.load().unwrap().status, Status::Stopped);
        assert!(matches!(Directory::make(root.path(), "a"), Err(StateError::Exists { .. })));
    }

    #[test]
    fn ids_are_no_paths() {
        for id in ["", ".", "..", "a/b", "a b", "../x", "ä"] {
            assert!(matches!(check_id(id), Err(StateError::Id { .. })), "{id}");
        }
        check_id("a-b_c+d.e9").unwrap();
    }
}
