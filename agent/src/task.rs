//! A task's record: what ECS shows of it, and what the agent must remember besides. `driver` is its only writer.

use definition::task::TaskSpec;
use prost::Message;
use proto::v1::{Task, TaskDefinition};
use rootfs::ImageId;

use crate::identity::TaskId;

pub mod bundle;
pub(crate) mod driver;
pub mod health;
pub mod lifecycle;
pub mod ordering;
pub mod provision;
pub mod restart;

/// A task as it is stored.
#[derive(Clone, PartialEq, Message)]
pub struct TaskRecord {
    /// What clients see.
    #[prost(message, required, tag = "1")]
    pub task: Task,
    /// The revision that it runs, whatever becomes of that.
    #[prost(message, required, tag = "2")]
    pub definition: TaskDefinition,
    /// Which range of host ids its user namespace has; absent without one.
    #[prost(uint32, optional, tag = "3")]
    pub user_slot: Option<u32>,
    /// Whether the host's capacity was given to it.
    #[prost(bool, tag = "4")]
    pub admitted: bool,
    /// By container, in the definition's order: how far it is.
    #[prost(enumeration = "Stage", repeated, tag = "5")]
    pub stages: Vec<i32>,
    /// Whether its files were removed.
    #[prost(bool, tag = "6")]
    pub disks_removed: bool,
    /// By container, in the definition's order: how often it was started again.
    #[prost(uint32, repeated, tag = "7")]
    pub restarts: Vec<u32>,
    /// By container, in the definition's order, once they were pulled: the ids of their images. A tag may move.
    #[prost(string, repeated, tag = "8")]
    pub image_ids: Vec<String>,
    /// It has stopped, and its sandbox could not be removed: its range of ids is not free yet.
    #[prost(bool, tag = "9")]
    pub sandbox_left: bool,
    /// By container, in the definition's order: what its last health check said where it is not healthy; else empty.
    #[prost(string, repeated, tag = "10")]
    pub unhealthy: Vec<String>,
}

/// How far a container is. Only what a restarted agent must tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
pub enum Stage {
    /// Nothing was executed for it.
    Waiting = 0,
    /// A monitor may have been executed.
    Starting = 1,
    /// It ran or runs.
    Running = 2,
    /// It has ended, or will never start.
    Stopped = 3,
}

impl TaskRecord {
    /// The task's id, from its ARN.
    pub fn id(&self) -> Option<TaskId> {
        TaskId::parse(self.task.task_arn())
    }

    /// What is to run: the definition with the overrides. It was sound when the task was accepted.
    pub fn spec(&self) -> TaskSpec {
        definition::accepted(&self.definition, self.task.overrides.as_ref())
    }

    /// The image of the container at `index`, once it was pulled.
    pub fn image_id(&self, index: usize) -> Option<ImageId> {
        self.image_ids.get(index)?.parse().ok()
    }

    /// How far the container at `index` is.
    pub fn stage(&self, index: usize) -> Stage {
        self.stages.get(index).and_then(|stage| Stage::try_from(*stage).ok()).unwrap_or(Stage::Waiting)
    }

    /// Notes how far the container at `index` is.
    pub fn set_stage(&mut self, index: usize, stage: Stage) {
        if let Some(known) = self.stages.get_mut(index) {
            *known = stage as i32;
        }
    }

    /// How often the container at `index` was started again.
    pub fn restarts(&self, index: usize) -> u32 {
        self.restarts.get(index).copied().unwrap_or_default()
    }

    /// Why the container at `index` is not healthy, where that is known.
    pub fn unhealthy(&self, index: usize) -> Option<&str> {
        self.unhealthy.get(index).map(String::as_str).filter(|why| !why.is_empty())
    }

    /// Notes why the container at `index` is not healthy; empty where it is.
    pub fn set_unhealthy(&mut self, index: usize, why: String) {
        if why.is_empty() && self.unhealthy.is_empty() {
            return;
        }
        self.unhealthy.resize(self.stages.len(), String::new());
        if let Some(known) = self.unhealthy.get_mut(index) {
            *known = why;
        }
    }

    /// Counts one more.
    pub fn count_restart(&mut self, index: usize) {
        self.restarts.resize(self.stages.len(), 0);
        if let Some(count) = self.restarts.get_mut(index) {
            *count = count.saturating_add(1);
        }
    }

    /// Whether it is over.
    pub fn is_stopped(&self) -> bool {
        self.task.last_status() == lifecycle::Status::Stopped.as_str()
    }
}
