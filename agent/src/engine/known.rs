//! The tasks that the agent knows: those that a driver drives, and those that are over and only remembered. Owns no
//! change of a task: `task::driver` makes them, `retention` forgets.
//!
//! A task that is over is remembered for days, so a busy host remembers thousands of them. Each is kept as the bytes of
//! its record, about 1 KiB, which is a tenth of what a driven one takes.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};

use prost::Message as _;
use proto::v1::GetTimingResponse;
use tokio::sync::{mpsc, watch};

use super::{Shared, lock, observation};
use crate::identity::TaskId;
use crate::task::TaskRecord;
use crate::task::driver::Command;
use crate::timing::Timing;

/// A task as the engine knows it.
pub(super) enum Known {
    Driven(Handle),
    Over(Past),
}

/// A task that has a driver.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) view: watch::Receiver<Arc<TaskRecord>>,
    pub(super) commands: mpsc::Sender<Command>,
    /// Absent where an earlier agent has accepted it.
    pub(super) timing: Option<Arc<Timing>>,
}

/// A task that is over.
pub(super) struct Past {
    record: Arc<[u8]>,
    start: Option<Box<[u8]>>,
    version: i32,
    /// Seconds since the epoch.
    pub(super) stopped_at: f64,
    pub(super) sandbox_left: bool,
    pub(super) disks_removed: bool,
}

impl Past {
    fn of(record: &TaskRecord, start: Option<Box<[u8]>>) -> Past {
        let (version, stopped_at) = (record.task.version(), record.task.stopped_at());
        let TaskRecord { sandbox_left, disks_removed, .. } = *record;
        Past { record: record.encode_to_vec().into(), start, version, stopped_at, sandbox_left, disks_removed }
    }
}

/// The bytes never left this process.
fn unpacked(record: &[u8]) -> Arc<TaskRecord> {
    Arc::new(TaskRecord::decode(record).expect("what was encoded here"))
}

/// A record that is unpacked where it is looked at, outside the lock.
enum Packed {
    No(Arc<TaskRecord>),
    Yes(Arc<[u8]>),
}

impl Known {
    fn record(&self) -> Arc<TaskRecord> {
        match self {
            Known::Driven(handle) => handle.view.borrow().clone(),
            Known::Over(past) => unpacked(&past.record),
        }
    }

    fn version(&self) -> i32 {
        match self {
            Known::Driven(handle) => handle.view.borrow().task.version(),
            Known::Over(past) => past.version,
        }
    }

    /// What its start took, where this agent has seen that.
    fn start(&self) -> Option<GetTimingResponse> {
        match self {
            Known::Driven(handle) => handle.timing.as_deref().map(observation::start),
            Known::Over(past) => {
                past.start.as_ref().map(|start| GetTimingResponse::decode(&**start).expect("what was encoded here"))
            }
        }
    }
}

impl Shared {
    /// Remembers a task that is over, to be described.
    pub(crate) fn keep(&self, id: TaskId, record: &TaskRecord) {
        let mut tasks = self.tasks();
        let start = tasks.get(&id).and_then(Known::start);
        let start = start.map(|start| start.encode_to_vec().into());
        tasks.insert(id, Known::Over(Past::of(record, start)));
    }

    /// A task.
    pub(crate) fn record(&self, id: &TaskId) -> Option<Arc<TaskRecord>> {
        self.tasks().get(id).map(Known::record)
    }

    /// All tasks, those that are over included: as many as are remembered, one unpacked at a time.
    pub(crate) fn records(&self) -> impl Iterator<Item = (TaskId, Arc<TaskRecord>)> + use<> {
        let packed = |known: &Known| match known {
            Known::Driven(handle) => Packed::No(handle.view.borrow().clone()),
            Known::Over(past) => Packed::Yes(past.record.clone()),
        };
        let all: Vec<_> = self.tasks().iter().map(|(id, known)| (id.clone(), packed(known))).collect();
        all.into_iter().map(|(id, packed)| match packed {
            Packed::No(record) => (id, record),
            Packed::Yes(bytes) => (id, unpacked(&bytes)),
        })
    }

    /// The tasks that have a driver.
    pub(crate) fn driven(&self) -> Vec<(TaskId, Arc<TaskRecord>)> {
        let tasks = self.tasks();
        let driven = tasks.iter().filter(|(_, known)| matches!(known, Known::Driven(_)));
        driven.map(|(id, known)| (id.clone(), known.record())).collect()
    }

    /// How many tasks are over.
    pub(crate) fn count_over(&self) -> usize {
        self.tasks().values().filter(|known| matches!(known, Known::Over(_))).count()
    }

    /// Of the tasks that are over, those for which it holds.
    pub(super) fn over(&self, holds: impl Fn(&Past) -> bool) -> Vec<TaskId> {
        let tasks = self.tasks();
        let over = tasks.iter().filter(|(_, known)| matches!(known, Known::Over(past) if holds(past)));
        over.map(|(id, _)| id.clone()).collect()
    }

    /// The version of each wanted task's record, of every task's where none is named.
    pub(crate) fn versions(&self, wanted: &[TaskId]) -> BTreeMap<TaskId, i32> {
        let tasks = self.tasks();
        if wanted.is_empty() {
            return tasks.iter().map(|(id, known)| (id.clone(), known.version())).collect();
        }
        wanted.iter().filter_map(|id| Some((id.clone(), tasks.get(id)?.version()))).collect()
    }

    /// The driver of a task, to be told or watched.
    pub(super) fn handle(&self, id: &TaskId) -> Option<Handle> {
        match self.tasks().get(id) {
            Some(Known::Driven(handle)) => Some(handle.clone()),
            Some(Known::Over(_)) | None => None,
        }
    }

    /// What a task's start took, where this agent has seen that.
    pub(super) fn start(&self, id: &TaskId) -> Option<GetTimingResponse> {
        self.tasks().get(id).and_then(Known::start)
    }

    pub(super) fn tasks(&self) -> MutexGuard<'_, BTreeMap<TaskId, Known>> {
        lock(&self.tasks)
    }
}
