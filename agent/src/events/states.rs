//! The stream of WatchTasks: whoever watches is told that some task changed and looks at the tasks themselves, so that
//! a slow one sees the newest state and misses nothing that lasts.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::Stream;
use proto::v1::Task;
use tokio::sync::watch;

use crate::engine::Shared;
use crate::identity::TaskId;

/// Each wanted task as it is, then after each change. With no `wanted`, every task, those to come included; otherwise
/// the stream ends once all of them have stopped.
pub(crate) fn tasks(shared: Arc<Shared>, wanted: Vec<TaskId>) -> impl Stream<Item = Task> + Send + 'static {
    let mut changes: watch::Receiver<u64> = shared.changes.subscribe();
    async_stream::stream! {
        let mut seen: BTreeMap<TaskId, Seen> = BTreeMap::new();
        loop {
            changes.mark_unchanged();
            let mut versions = shared.versions(&wanted);
            seen.retain(|id, _| versions.contains_key(id));
            versions.retain(|id, version| seen.get(id).is_none_or(|seen| seen.version != *version));
            for id in versions.into_keys() {
                if let Some(record) = shared.record(&id) {
                    seen.insert(id.clone(), Seen { version: record.task.version(), stopped: record.is_stopped() });
                    yield shared.shown(&id, &record);
                }
            }
            // One that is forgotten has stopped.
            let is_over = |id| seen.get(id).is_none_or(|seen| seen.stopped);
            if (!wanted.is_empty() && wanted.iter().all(is_over)) || changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// What was last told of a task.
struct Seen {
    version: i32,
    stopped: bool,
}
