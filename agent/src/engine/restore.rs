//! What an agent does first: takes the root, reads what the last one knew, drives on what lives, removes what nobody
//! knows.

use std::collections::HashSet;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use runtime::cgroup::Cgroup;
use runtime::cli::report::chain;
use runtime::process::ProcessRef;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::definitions::Revisions;
use super::{Engine, OpenError, Shared, UserSlots, host, images};
use crate::capacity::{Demand, Ledger};
use crate::config::Config;
use crate::events::{Events, REMEMBERED};
use crate::identity::{Names, TaskId, instance_id};
use crate::metrics::Metrics;
use crate::sandbox::Sandbox as _;
use crate::sandbox::host::executable::Executable;
use crate::sandbox::host::{Host, remove_tree};
use crate::store::Store;
use crate::task::provision::Places;

const LOCK: &str = "neargated.lock";
/// How long a killed agent's children may take from fork to exec, and how often that is looked at.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Opens all that is on disk. Blocks.
pub(super) fn open(config: Arc<Config>) -> Result<Shared, OpenError> {
    let root = &config.root;
    fs::create_dir_all(root).map_err(|source| OpenError::File { path: root.clone(), source })?;
    let lock = lock(root)?;
    make_directories(root)?;
    let instance = instance_id(root).map_err(|source| OpenError::File { path: root.clone(), source })?;
    let store = Store::open(&root.join("neargate.redb"))?;
    let names = Names::new(config.identity.clone());
    let images = rootfs::Images::open(&root.join("images"), images::settings(&config))?;
    let known = match store.instance()? {
        Some(known) => known,
        None => {
            let first = host::first(&names);
            store.put_instance(&first)?;
            first
        }
    };
    let revisions = Revisions::of(store.definitions()?);
    Ok(Shared {
        ledger: Mutex::new(Ledger::new(host::total(&config))),
        runtime: Executable::new(config.runtime.clone()),
        config,
        instance,
        names,
        metrics: Arc::new(Metrics::new(store.writes())),
        store,
        images,
        ends: CancellationToken::new(),
        events: Arc::new(Events::new(REMEMBERED)),
        changes: watch::Sender::new(0),
        admissions: Mutex::default(),
        slots: Mutex::new(UserSlots::default()),
        unsaved: Mutex::default(),
        store_fails: AtomicBool::new(false),
        store_works: Notify::new(),
        tasks: Mutex::default(),
        revisions: Mutex::new(revisions),
        host: Mutex::new(known),
        _lock: lock,
    })
}

/// Definitions hold secrets, and a container's root may leave programs with set-user-id: nobody but root passes into
/// what tasks own, whatever the umask or an earlier version said. The socket is everybody's to find.
fn make_directories(root: &Path) -> Result<(), OpenError> {
    for (name, mode) in [("run", 0o711), ("tasks", 0o700), ("volumes", 0o700)] {
        let path = root.join(name);
        fs::create_dir_all(&path)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode)))
            .map_err(|source| OpenError::File { path, source })?;
    }
    Ok(())
}

/// The kernel drops the lock with the process, however that ends: at once, unless a child of an agent that was killed
/// has not come to execute its program yet and so still has the descriptor. That takes a moment, so a holder that is
/// gone is waited for.
fn lock(root: &Path) -> Result<Flock<fs::File>, OpenError> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match try_lock(root) {
            Err(OpenError::Locked { holder, .. }) if !is_process(&holder) && Instant::now() < deadline => {
                std::thread::sleep(LOCK_POLL);
            }
            other => return other,
        }
    }
}

fn is_process(pid: &str) -> bool {
    pid.parse().is_ok_and(|pid| ProcessRef::of(pid).is_ok_and(|process| process.is_alive()))
}

fn try_lock(root: &Path) -> Result<Flock<fs::File>, OpenError> {
    let path = root.join(LOCK);
    let failed = |source: io::Error| OpenError::File { path: path.clone(), source };
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let told = lock
                .set_len(0)
                .and_then(|()| lock.rewind())
                .and_then(|()| lock.write_all(std::process::id().to_string().as_bytes()));
            told.map_err(failed).map(|()| lock)
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(failed)?;
            Err(OpenError::Locked { path, holder })
        }
        Err((_, errno)) => Err(failed(errno.into())),
    }
}

/// Removes the instance's own cgroup where no task is left in it.
pub(super) fn remove_empty_cgroup(shared: &Shared) {
    let Ok(cgroup) = Cgroup::open(&shared.cgroup()) else { return };
    if cgroup.exists()
        && cgroup.children().is_ok_and(|children| children.is_empty())
        && let Err(error) = cgroup.delete()
    {
        tracing::warn!(error = chain(&error), "the empty cgroup of this agent could not be removed");
    }
}

impl Engine {
    /// Drives on every task that has not stopped and keeps the others.
    pub(super) async fn restore(&self) -> Result<(), OpenError> {
        let shared = &self.shared;
        let mut live = Vec::new();
        let mut known = HashSet::new();
        for record in shared.store.tasks(shared.names.cluster())? {
            let Some(id) = record.id() else { continue };
            known.insert(id.clone());
            if record.is_stopped() {
                // Only a sandbox that could not be removed still holds one.
                if let Some(slot) = record.user_slot {
                    shared.user_slots().0.insert(slot);
                }
                shared.keep(id, &record);
            } else {
                live.push((id, record));
            }
        }
        let owners: HashSet<String> = live.iter().map(|(id, _)| id.to_string()).collect();
        if let Err(error) = shared.images.retain_owners(&owners) {
            tracing::error!(error = chain(&error), "leases of tasks that are gone could not be dropped");
        }
        for (id, record) in &live {
            images::lease_again(&shared.images, id, record);
        }
        self.remove_unknown(&known, &owners).await;
        // Oldest first, as they came.
        live.sort_by(|(_, a), (_, b)| a.task.created_at().total_cmp(&b.task.created_at()));
        let mut drivers = Vec::new();
        for (id, record) in live {
            if let Some(slot) = record.user_slot {
                shared.user_slots().0.insert(slot);
            }
            let mut demand = Some(Demand::of(&record.spec()));
            if record.admitted
                && let Some(held) = demand.take()
            {
                shared.ledger().hold(id.clone(), held);
            }
            drivers.push((id, record, demand));
        }
        // Not before all is known that is taken: the first to end lets others in.
        for (id, record, demand) in drivers {
            tokio::spawn(shared.driver(id, record, demand, None).run());
        }
        shared.admit();
        Ok(())
    }

    /// Namespaces, cgroups, bundles and disks that no live task has.
    async fn remove_unknown(&self, known: &HashSet<TaskId>, live: &HashSet<String>) {
        let shared = &self.shared;
        let mut left: HashSet<TaskId> = directories(&shared.config.root.join("run"));
        let groups = Cgroup::open(&shared.cgroup()).and_then(|cgroup| cgroup.children()).unwrap_or_default();
        left.extend(groups.iter().filter_map(|name| TaskId::parse(name)));
        left.retain(|id| !live.contains(id.as_str()));
        for id in left {
            let places = Places::of(&shared.config.root, &id);
            let sandbox = Host::new(shared.runtime.clone(), &places, shared.task_cgroup(&id));
            if let Err(error) = sandbox.destroy().await {
                tracing::error!(task = %id, error = chain(&error), "what an earlier agent left could not be removed");
            }
        }
        for id in directories(&shared.config.root.join("tasks")) {
            let places = Places::of(&shared.config.root, &id);
            if !known.contains(&id)
                && let Err(error) = remove_tree(&places.task)
            {
                tracing::error!(task = %id, error = chain(&error), "what an earlier agent left could not be removed");
            }
        }
    }
}

/// Directories that are named as tasks are.
fn directories(parent: &Path) -> HashSet<TaskId> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.filter_map(|entry| TaskId::parse(&entry.file_name().to_string_lossy())).collect()
}
