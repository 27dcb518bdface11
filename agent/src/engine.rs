//! The engine: accepts tasks, finds them, stops them. Each task is driven by its own driver; the engine never waits
//! for one while it holds a lock.
//!
//! `definitions` keeps revisions, `admission` is RunTask, `query` answers questions, `observation` tells how tasks are
//! doing, `restore` is what a restarted agent does first, `retention` forgets what is old, `images` cleans up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use definition::Problem;
use nix::fcntl::Flock;
use proto::v1::{Attribute, ContainerInstance, Task};
use runtime::cli::report::chain;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::capacity::{Demand, Ledger};
use crate::config::Config;
use crate::events::Events;
use crate::identity::{Names, TaskId};
use crate::metrics::Metrics;
use crate::pulls::Pulls;
use crate::sandbox::host::Host;
use crate::sandbox::host::executable::Executable;
use crate::store::{Store, StoreError};
use crate::task::TaskRecord;
use crate::task::driver::Driver;
use crate::task::provision::{Places, USER_SLOTS};
use crate::timing::Timing;

mod admission;
mod definitions;
mod host;
mod images;
mod known;
pub(crate) mod observation;
mod query;
mod restore;
mod retention;

use definitions::Revisions;
use known::{Handle, Known};
pub use query::{ContainerLog, ExecTarget};

/// Commands that a driver has not taken yet; whoever sends more waits.
const COMMANDS: usize = 8;
/// Threads that may hang for want of a file server.
const LOOKS: usize = 4;

/// Why a request cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The request's members are wrong: all of them, each with its path.
    #[error("{}", .problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join(" "))]
    Invalid {
        /// At least one.
        problems: Vec<Problem>,
    },
    /// ECS ClientException.
    #[error("{message}")]
    Client {
        /// ECS's text where it has one.
        message: String,
    },
    /// ECS InvalidParameterException.
    #[error("{message}")]
    InvalidParameter {
        /// The request's member.
        field: &'static str,
        /// ECS's text where it has one.
        message: String,
    },
    /// ECS ClusterNotFoundException.
    #[error("Cluster not found.")]
    ClusterNotFound,
    /// The client token came with another request before.
    #[error("The client token was used with other parameters; it stands for {}.", tasks.join(", "))]
    Conflict {
        /// The tasks it stands for.
        tasks: Vec<String>,
    },
    /// No new tasks are taken.
    #[error("The container instance is DRAINING and takes no new tasks (`neargate host --activate` changes that).")]
    Draining,
    /// The container that a command should run in does not run.
    #[error("The container {container} is not running.")]
    NotRunning {
        /// Its name.
        container: String,
    },
    /// Nothing of the task is left to be measured.
    #[error("The task {task} has stopped: there is nothing to measure any more.")]
    Stopped {
        /// Its id.
        task: String,
    },
    /// The task's start was not measured by this agent.
    #[error("Nothing is known of the start of task {task}: an earlier agent accepted it.")]
    NotMeasured {
        /// Its id.
        task: String,
    },
    /// The store failed; nothing changed.
    #[error("the request could not be stored")]
    Store(#[from] StoreError),
    /// A file of a running container is missing or damaged.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another agent owns this root.
    #[error("{} is in use by another agent (process {holder}): stop it, or choose another --root", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What the file says of its holder.
        holder: String,
    },
    /// A directory or file of the root.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The images.
    #[error("cannot open the images")]
    Images(#[from] rootfs::OpenError),
}

/// The attribute of a task that waits for a part of the host.
const WAITS_FOR: &str = "neargate.waits-for";
/// Before a container's name: the attribute that counts its restarts.
const RESTARTS: &str = "neargate.restarts.";
/// Before a container's name: the attribute that tells why it is not healthy.
const HEALTH: &str = "neargate.health.";

/// What all parts of the engine share.
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) instance: String,
    pub(crate) runtime: Executable,
    pub(crate) names: Names,
    pub(crate) store: Store,
    pub(crate) images: rootfs::Images,
    /// Cancelled when the agent ends.
    pub(crate) ends: CancellationToken,
    /// What happened, in order.
    pub(crate) events: Arc<Events>,
    /// What was counted.
    pub(crate) metrics: Arc<Metrics>,
    /// Counts changes of tasks.
    pub(crate) changes: watch::Sender<u64>,
    ledger: Mutex<Ledger>,
    admissions: Mutex<HashMap<TaskId, oneshot::Sender<()>>>,
    slots: Mutex<UserSlots>,
    /// Tasks whose last change could not be stored, to be tried again.
    unsaved: Mutex<BTreeSet<TaskId>>,
    /// Whether that was told. Once is enough: on a full disk every change of every task fails.
    store_fails: AtomicBool,
    /// Something could be stored again.
    store_works: Notify,
    tasks: Mutex<BTreeMap<TaskId, Known>>,
    revisions: Mutex<Revisions>,
    host: Mutex<ContainerInstance>,
    _lock: Flock<File>,
}

/// Ranges of host ids in use.
#[derive(Debug, Default)]
pub(crate) struct UserSlots(BTreeSet<u32>);

impl UserSlots {
    /// The smallest free one; None when thousands of tasks have taken all.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let free = (0..USER_SLOTS).find(|slot| !self.0.contains(slot))?;
        self.0.insert(free);
        Some(free)
    }

    pub(crate) fn give_back(&mut self, slot: u32) {
        self.0.remove(&slot);
    }
}

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    /// One RunTask at a time decides, so that a token is never taken twice.
    deciding: Arc<tokio::sync::Mutex<()>>,
    /// Looks at file systems that others may serve, at once.
    looks: Arc<Semaphore>,
}

impl Engine {
    /// Takes the root, opens store and images, adopts what an earlier agent left running and removes what it left
    /// half-made.
    pub async fn open(config: Arc<Config>) -> Result<Engine, OpenError> {
        let shared = match tokio::task::spawn_blocking(move || restore::open(config)).await {
            Ok(shared) => Arc::new(shared?),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        let engine = Engine { shared, deciding: Arc::default(), looks: Arc::new(Semaphore::new(LOOKS)) };
        engine.restore().await?;
        tokio::spawn(retention::run(engine.shared.clone()));
        tokio::spawn(images::run(engine.shared.clone()));
        Ok(engine)
    }

    /// Ends the drivers. Containers go on; the next agent finds them.
    pub async fn shutdown(&self) {
        self.shared.ends.cancel();
        let drivers: Vec<_> = self.shared.driven().iter().filter_map(|(id, _)| self.shared.handle(id)).collect();
        for driver in drivers {
            // A driver that has ended has dropped its end.
            driver.commands.closed().await;
        }
        let shared = self.shared.clone();
        let removed = tokio::task::spawn_blocking(move || restore::remove_empty_cgroup(&shared));
        // A panic has been told already.
        let _best_effort = removed.await;
    }

    /// The host's images.
    pub fn images(&self) -> &rootfs::Images {
        &self.shared.images
    }

    /// The way in which they are pulled.
    pub(crate) fn pulls(&self) -> Pulls {
        self.shared.pulls()
    }
}

impl Shared {
    /// The driver of a task that can be found from now on; it waits for what it demands, where it does not have that
    /// already.
    fn driver(
        self: &Arc<Self>,
        id: TaskId,
        record: TaskRecord,
        demand: Option<Demand>,
        timing: Option<Arc<Timing>>,
    ) -> Driver<Host> {
        let (publish, view) = watch::channel(Arc::new(record.clone()));
        let (commands, received) = mpsc::channel(COMMANDS);
        let (admit, admission) = oneshot::channel();
        if let Some(demand) = demand {
            self.queue(id.clone(), demand, admit);
        }
        self.tasks().insert(id.clone(), Known::Driven(Handle { view, commands, timing: timing.clone() }));
        let sandbox = self.sandbox(&id);
        let shared = self.clone();
        let timing = timing.unwrap_or_else(|| Arc::new(Timing::of_earlier(&id)));
        let (unsaved, news) = (false, Vec::new());
        let commands = received;
        Driver { id, shared, sandbox, record, publish, commands, admission, unsaved, timing, news }
    }

    /// One step for [`Shared::admit`]: whoever is in the queue can be told.
    fn queue(&self, task: TaskId, demand: Demand, admit: oneshot::Sender<()>) {
        let mut ledger = self.ledger();
        ledger.wait(task.clone(), demand);
        lock(&self.admissions).insert(task, admit);
    }

    /// Lets waiting tasks in, as far as there is room.
    fn admit(&self) {
        let mut ledger = self.ledger();
        let admitted = ledger.admit();
        let mut admissions = lock(&self.admissions);
        for task in admitted {
            if let Some(admit) = admissions.remove(&task) {
                // A driver that ended meanwhile has released what it was given.
                let _best_effort = admit.send(());
            }
        }
    }

    /// Takes back what a task held of the host.
    pub(crate) fn release(&self, task: &TaskId) {
        {
            let mut ledger = self.ledger();
            ledger.release(task);
            lock(&self.admissions).remove(task);
        }
        self.admit();
    }

    /// Tells watchers that a task changed.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The way in which images are pulled.
    pub(crate) fn pulls(&self) -> Pulls {
        Pulls { images: self.images.clone(), events: self.events.clone(), metrics: self.metrics.clone() }
    }

    /// The isolation around a task. Makes nothing.
    fn sandbox(&self, id: &TaskId) -> Host {
        let places = Places::of(&self.config.root, id);
        Host::new(self.runtime.clone(), &places, self.task_cgroup(id))
    }

    /// The cgroup of a task.
    pub(crate) fn task_cgroup(&self, task: &TaskId) -> String {
        format!("{}/{task}", self.cgroup())
    }

    /// The cgroup of all tasks of this instance.
    pub(crate) fn cgroup(&self) -> String {
        format!("/neargate-{}", self.instance)
    }

    /// A task as clients see it: what ECS's Task has no member for is told as attributes: what it waits for right now, how
    /// often its containers were started again, and why they are not healthy.
    pub(crate) fn shown(&self, id: &TaskId, record: &TaskRecord) -> Task {
        let mut task = record.task.clone();
        let attribute = |name, value| Attribute { name: Some(name), value: Some(value), ..Attribute::default() };
        let lacks = self.ledger().lacks(id);
        task.attributes.extend(lacks.map(|lacks| attribute(WAITS_FOR.to_owned(), lacks)));
        for (container, restarts) in
            record.task.containers.iter().zip(&record.restarts).filter(|(_, count)| **count > 0)
        {
            task.attributes.push(attribute(format!("{RESTARTS}{}", container.name()), restarts.to_string()));
        }
        for (index, container) in record.task.containers.iter().enumerate() {
            let why = record.unhealthy(index);
            task.attributes.extend(why.map(|why| attribute(format!("{HEALTH}{}", container.name()), why.to_owned())));
        }
        task
    }

    /// Takes how the saving of a task's record went; what could not be saved is saved once it can.
    pub(crate) fn saved(&self, task: &TaskId, saved: Result<(), StoreError>) {
        match saved {
            Ok(()) if self.store_fails.load(Ordering::Relaxed) => self.store_works.notify_one(),
            Ok(()) => {}
            Err(error) => {
                self.unsaved().insert(task.clone());
                if !self.store_fails.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        error = chain(&error),
                        "the store cannot be written; tasks go on, and what becomes of them is stored once it can be"
                    );
                }
            }
        }
    }

    pub(crate) fn unsaved(&self) -> MutexGuard<'_, BTreeSet<TaskId>> {
        lock(&self.unsaved)
    }

    pub(crate) fn user_slots(&self) -> MutexGuard<'_, UserSlots> {
        lock(&self.slots)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }
}

/// No code panics while it holds one of these; if one did, its data is whole: each change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
