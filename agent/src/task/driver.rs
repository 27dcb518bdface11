//! The one tokio task that owns one ECS task, from its acceptance to its end: it alone changes the record, and it does
//! so by `lifecycle`'s table, each change durable before it is seen. Everybody else watches or sends commands.
//!
//! `begin` waits for capacity and provides; `containers` is the loop while containers run; `end` takes all back.

use std::sync::Arc;

use definition::task::TaskSpec;
use runtime::cli::report::chain;
use tokio::sync::{mpsc, oneshot, watch};

use super::lifecycle::{self, Event, Next, Status};
use super::ordering::Known;
use super::provision::{self, Parts, Places, ProvisionError};
use super::{Stage, TaskRecord};
use crate::engine::Shared;
use crate::events;
use crate::identity::TaskId;
use crate::sandbox::Sandbox;
use crate::timing::Timing;
use crate::trace::{self, now};

mod containers;

use containers::Recalled;

/// Reasons are cut there, as ECS does.
const MAX_REASON: usize = 1024;

/// What the engine may ask of a driver.
#[derive(Debug)]
pub(crate) enum Command {
    /// Stop, for this reason.
    Stop {
        /// ECS `stopCode`.
        code: &'static str,
        /// ECS `stoppedReason`.
        reason: String,
        /// Told once it is durable.
        done: oneshot::Sender<()>,
    },
}

pub(crate) struct Driver<S> {
    pub(crate) id: TaskId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) sandbox: S,
    pub(crate) record: TaskRecord,
    pub(crate) publish: watch::Sender<Arc<TaskRecord>>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) admission: oneshot::Receiver<()>,
    /// The record has changed since it was saved.
    pub(crate) unsaved: bool,
    pub(crate) timing: Arc<Timing>,
    /// What the next version of the record does not tell by itself.
    pub(crate) news: Vec<proto::v1::Event>,
}

/// Why a task goes no further than it is: it is to stop, or the agent ends.
enum Halt {
    Stop,
    AgentEnds,
}

impl<S: Sandbox + Clone> Driver<S> {
    /// Drives the task to its end, or leaves it as it is when the agent ends.
    pub(crate) async fn run(mut self) {
        let shared = self.shared.clone();
        let ends = shared.ends.clone();
        tokio::select! {
            biased;
            // The containers go on; the next agent finds them.
            () = ends.cancelled() => {}
            () = self.live() => {}
        }
        if self.record.is_stopped() {
            shared.keep(self.id, &self.record);
        }
    }

    async fn live(&mut self) {
        let places = Places::of(&self.shared.config.root, &self.id);
        let spec = self.record.spec();
        let Recalled { known, again } = self.recall(&spec, &places).await;
        self.transit(Event::Begin).await;
        let mut images = Vec::new();
        // A task whose containers all run already needs nothing that is not there.
        if !self.is_stopping() && known.contains(&Known::Waiting) {
            match self.begin(&spec, &places).await {
                Ok(provided) => images = provided,
                Err(Halt::Stop) => {}
                Err(Halt::AgentEnds) => return,
            }
        }
        let live = known.iter().any(Known::is_live);
        if live || !self.is_stopping() {
            if !self.is_stopping() {
                // Saved with the containers that start first.
                self.unsaved |= self.change(Event::Provisioned);
            }
            if let Err(Halt::AgentEnds) = self.containers(&spec, &places, &images, Recalled { known, again }).await {
                return;
            }
        }
        self.end().await;
    }

    /// Waits for capacity, then for images, namespaces and volumes.
    async fn begin(&mut self, spec: &TaskSpec, places: &Places) -> Result<Vec<rootfs::Image>, Halt> {
        let timing = self.timing.clone();
        while !self.record.admitted {
            let waiting = timing.phase("capacity", None);
            tokio::select! {
                command = self.commands.recv() => self.obey(command).await?,
                admitted = &mut self.admission => {
                    drop(waiting);
                    if admitted.is_err() {
                        return Err(Halt::AgentEnds);
                    }
                    self.record.admitted = true;
                    if !self.shared.give_user_namespace(&mut self.record) {
                        self.fail("ResourceInitializationError: every range of user ids is taken", None).await;
                        return Err(Halt::Stop);
                    }
                    self.record.task.pull_started_at.get_or_insert(now());
                    self.save().await;
                }
            }
        }
        let (id, shared, sandbox) = (self.id.clone(), self.shared.clone(), self.sandbox.clone());
        let user_base = self.record.user_slot.map(|slot| provision::user_base(&shared.instance, slot));
        let pids_limit = shared.config.tasks.pids_limit;
        let image_ids: Vec<_> = (0..spec.containers.len()).map(|index| self.record.image_id(index)).collect();
        let (image_ids, pulls) = (&image_ids, &shared.pulls());
        let (timing, sandbox) = (&timing, &sandbox);
        let pull_behavior = shared.config.images.pull_behavior;
        let parts =
            Parts { pids_limit, id: &id, spec, places, user_base, sandbox, pulls, pull_behavior, image_ids, timing };
        let provisioning = provision::provision(parts);
        tokio::pin!(provisioning);
        let provided = loop {
            tokio::select! {
                command = self.commands.recv() => self.obey(command).await?,
                provided = &mut provisioning => break provided,
            }
        };
        self.record.task.pull_stopped_at.get_or_insert(now());
        match provided {
            Ok(images) => {
                for (container, image) in self.record.task.containers.iter_mut().zip(&images) {
                    container.image_digest = Some(image.manifest_digest.to_string());
                }
                self.record.image_ids = images.iter().map(|image| image.id.to_string()).collect();
                Ok(images)
            }
            Err(error) => {
                let container = match &error {
                    ProvisionError::Pull { container, .. } => Some(*container),
                    ProvisionError::Directory { .. }
                    | ProvisionError::NoVolume { .. }
                    | ProvisionError::Limits(_)
                    | ProvisionError::Sandbox(_) => None,
                };
                self.fail(&chain(&error), container).await;
                Err(Halt::Stop)
            }
        }
    }

    async fn obey(&mut self, command: Option<Command>) -> Result<(), Halt> {
        let Some(Command::Stop { code, reason, done }) = command else { return Err(Halt::AgentEnds) };
        self.stop(code, &reason).await;
        // Whoever asked may have gone.
        let _best_effort = done.send(());
        Err(Halt::Stop)
    }

    /// Takes everything back. A step that fails is told and leaves the others to be done; a sandbox that could not be
    /// removed keeps its range of ids, and `engine::retention` tries again.
    async fn end(&mut self) {
        trace::step(&self.id, None, "stop");
        let task = &mut self.record.task;
        task.stopping_at.get_or_insert_with(now);
        let never_began = task.pull_started_at.is_none().then(|| {
            let arn = task.task_arn();
            format!("TaskStoppedBeforePullBeginError: Task stopped before image pull could begin for task: {arn}")
        });
        if never_began.is_none() {
            // Nothing of a task that began executes any more, whether or not it came as far as a container.
            task.execution_stopped_at.get_or_insert_with(now);
        }
        for container in &mut task.containers {
            container.last_status = Some("STOPPED".to_owned());
            container.reason = container.reason.take().or_else(|| never_began.clone());
        }
        for stage in &mut self.record.stages {
            *stage = Stage::Stopped as i32;
        }
        for event in [Event::Stop, Event::Deregistered, Event::Down] {
            self.change(event);
        }
        self.save().await;
        if let Err(error) = self.sandbox.destroy().await {
            tracing::error!(task = %self.id, error = chain(&error), "the task's sandbox could not be removed yet");
            self.record.sandbox_left = true;
        }
        let (images, owner) = (self.shared.images.clone(), self.id.to_string());
        let released = tokio::task::spawn_blocking(move || images.release(&owner)).await;
        if let Ok(Err(error)) = released {
            tracing::error!(task = %self.id, error = chain(&error), "the task's images could not be released");
        }
        if !self.record.sandbox_left
            && let Some(slot) = self.record.user_slot.take()
        {
            self.shared.user_slots().give_back(slot);
        }
        self.record.admitted = false;
        self.record.task.stopped_at = Some(now());
        self.transit(Event::TornDown).await;
        self.shared.release(&self.id);
    }

    /// The task is to stop. The first reason stays.
    async fn stop(&mut self, code: &str, reason: &str) {
        if self.is_stopping() {
            return;
        }
        self.timing.close();
        let task = &mut self.record.task;
        task.desired_status = Some("STOPPED".to_owned());
        task.stop_code = Some(code.to_owned());
        task.stopped_reason = Some(cut(reason));
        task.stopping_at = Some(now());
        self.transit(Event::Stop).await;
    }

    /// The task cannot run.
    async fn fail(&mut self, reason: &str, container: Option<usize>) {
        let container = container.and_then(|index| self.record.task.containers.get_mut(index));
        let name = container.as_ref().map(|container| container.name().to_owned());
        let reason = &cut(reason);
        tracing::warn!(task = %self.id, container = name, reason, "task failed to start");
        if let Some(container) = container {
            container.reason = Some(reason.clone());
        }
        self.stop("TaskFailedToStart", reason).await;
    }

    fn status(&self) -> Status {
        Status::parse(self.record.task.last_status()).unwrap_or(Status::Provisioning)
    }

    fn is_stopping(&self) -> bool {
        self.record.task.desired_status() == "STOPPED"
    }

    async fn transit(&mut self, event: Event) {
        if self.change(event) {
            self.save().await;
        }
    }

    fn change(&mut self, event: Event) -> bool {
        match lifecycle::next(self.status(), event) {
            Next::To(status) => {
                self.record.task.last_status = Some(status.as_str().to_owned());
                true
            }
            Next::Same => false,
            Next::Denied => {
                tracing::error!(task = %self.id, ?event, status = self.status().as_str(), "impossible transition");
                false
            }
        }
    }

    /// Makes the record durable, then visible.
    async fn save(&mut self) {
        self.unsaved = false;
        self.record.task.version = Some(self.record.task.version().saturating_add(1));
        let (shared, id, record) = (self.shared.clone(), self.id.clone(), self.record.clone());
        let storing = self.timing.phase("store", None);
        let saved =
            tokio::task::spawn_blocking(move || shared.store.put_task(shared.names.cluster(), &id, &record)).await;
        drop(storing);
        let before = self.publish.borrow().clone();
        // Before it is seen: whoever sees it may look at the figures next.
        self.shared.metrics.changed(&before, &self.record);
        self.publish.send_replace(Arc::new(self.record.clone()));
        for event in self.news.drain(..).chain(events::task::between(&before, &self.record)) {
            self.shared.events.tell(event);
        }
        // The task goes on: what runs is worth more than the record.
        if let Ok(saved) = saved {
            self.shared.saved(&self.id, saved);
        }
        self.shared.changed();
    }
}

fn cut(reason: &str) -> String {
    reason.chars().take(MAX_REASON).collect()
}
