//! Forgets what is old: disks of stopped tasks after hours, their records after days. Both are configuration.

use std::sync::Arc;
use std::time::Duration;

use runtime::cli::report::chain;

use super::Shared;
use crate::identity::TaskId;
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
            _ = ticks.tick() => {}
        }
        let looking = shared.clone();
        // A panic has been told already; the next look is a new try.
        let _best_effort = tokio::task::spawn_blocking(move || look(&looking)).await;
    }
}

fn look(shared: &Shared) {
    let now = now();
    let history = &shared.config.history;
    let mut forgotten = Vec::new();
    for (id, record) in shared.records(&[]) {
        if !record.is_stopped() {
            continue;
        }
        let age = now - record.task.stopped_at();
        // A task that is forgotten sooner than its disks must not leave them behind.
        if age > history.disk_keep().min(history.keep()).as_secs_f64() && !record.disks_removed {
            remove(shared, &id, &record);
        }
        if age > history.keep().as_secs_f64() {
            forgotten.push(id);
        }
    }
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

fn remove(shared: &Shared, id: &TaskId, record: &TaskRecord) {
    let places = Places::of(&shared.config.root, id);
    if let Err(error) = remove_disks(&places) {
        tracing::error!(task = %id, error = chain(&error), "the disks of a stopped task could not be removed");
        return;
    }
    let removed = TaskRecord { disks_removed: true, ..record.clone() };
    match shared.store.put_task(shared.names.cluster(), id, &removed) {
        Ok(()) => shared.keep(id.clone(), removed),
        Err(error) => tracing::error!(task = %id, error = chain(&error), "a stopped task could not be saved"),
    }
}
