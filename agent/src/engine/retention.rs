//! What is done now and then: forgets what is old (disks of stopped tasks after hours, their records after days, both are
//! configuration), and saves what could not be saved.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use runtime::cli::report::chain;

use super::Shared;
use crate::identity::TaskId;
use crate::sandbox::Sandbox as _;
use crate::sandbox::host::Host;
use crate::task::TaskRecord;
use crate::task::provision::{Places, remove_disks};
use crate::trace::now;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(10);

/// Looks until the agent ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            () = shared.ends.cancelled() => return,
            () = shared.store_works.notified() => {}
            _ = ticks.tick() => {}
        }
        remove_left_sandboxes(&shared).await;
        let looking = shared.clone();
        // A panic has been told already; the next look is a new try.
        let _best_effort = tokio::task::spawn_blocking(move || look(&looking)).await;
    }
}

/// What could not be removed when its task stopped, such as a process that was stuck in the kernel.
async fn remove_left_sandboxes(shared: &Shared) {
    for id in shared.over(|past| past.sandbox_left) {
        let Some(record) = shared.record(&id) else { continue };
        let places = Places::of(&shared.config.root, &id);
        let sandbox = Host::new(shared.runtime.clone(), &places, shared.task_cgroup(&id));
        if let Err(error) = sandbox.destroy().await {
            tracing::warn!(task = %id, error = chain(&error), "the stopped task's sandbox still cannot be removed");
            continue;
        }
        let mut removed = TaskRecord { sandbox_left: false, ..(*record).clone() };
        if let Some(slot) = removed.user_slot.take() {
            shared.user_slots().give_back(slot);
        }
        shared.keep(id.clone(), &removed);
        // Saved with what else could not be.
        shared.unsaved().insert(id);
    }
}

fn look(shared: &Shared) {
    save_again(shared);
    let now = now();
    let history = &shared.config.history;
    // A task that is forgotten sooner than its disks must not leave them behind. What is left of a sandbox may hold the
    // task's disk: it goes first.
    let disks_due = now - history.disk_keep().min(history.keep()).as_secs_f64();
    for id in shared.over(|past| past.stopped_at < disks_due && !past.disks_removed && !past.sandbox_left) {
        remove(shared, &id);
    }
    let due = now - history.keep().as_secs_f64();
    let forgotten = shared.over(|past| past.stopped_at < due && past.disks_removed && !past.sandbox_left);
    if forgotten.is_empty() {
        return;
    }
    match shared.store.remove_tasks(shared.names.cluster(), &forgotten) {
        Ok(()) => {
            let mut tasks = shared.tasks();
            for id in &forgotten {
                tasks.remove(id);
            }
        }
        Err(error) => tracing::error!(error = chain(&error), "old tasks could not be forgotten"),
    }
}

/// The store keeps the later version where a driver saves meanwhile.
fn save_again(shared: &Shared) {
    let unsaved: Vec<TaskId> = shared.unsaved().iter().cloned().collect();
    for id in unsaved {
        // Before it is saved: a driver that fails to save meanwhile puts it back.
        shared.unsaved().remove(&id);
        if let Some(record) = shared.record(&id)
            && let Err(error) = shared.store.put_task(shared.names.cluster(), &id, &record)
        {
            // The others would fail as well.
            return shared.saved(&id, Err(error));
        }
    }
    if shared.unsaved().is_empty() && shared.store_fails.swap(false, Ordering::Relaxed) {
        tracing::info!("the store can be written again; nothing was lost");
    }
}

/// Removes the disks of a task that is over.
fn remove(shared: &Shared, id: &TaskId) {
    let places = Places::of(&shared.config.root, id);
    if let Err(error) = remove_disks(&places) {
        tracing::error!(task = %id, error = chain(&error), "the disks of a stopped task could not be removed");
        return;
    }
    let Some(record) = shared.record(id) else { return };
    let removed = TaskRecord { disks_removed: true, ..(*record).clone() };
    match shared.store.put_task(shared.names.cluster(), id, &removed) {
        Ok(()) => shared.keep(id.clone(), &removed),
        Err(error) => tracing::error!(task = %id, error = chain(&error), "a stopped task could not be saved"),
    }
}
