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
        let mut seen: BTreeMap<TaskId, i32> = BTreeMap::new();
        loop {
            changes.mark_unchanged();
            let records: Vec<_> = if wanted.is_empty() {
                shared.records()
            } else {
                wanted.iter().filter_map(|id| Some((id.clone(), shared.record(id)?))).collect()
            };
            let all_stopped = !wanted.is_empty() && records.iter().all(|(_, record)| record.is_stopped());
            for (id, record) in records {
                let version = record.task.version();
                if seen.insert(id.clone(), version) != Some(version) {
                    yield shared.shown(&id, &record);
                }
            }
            if all_stopped || changes.changed().await.is_err() {
                return;
            }
        }
    }
}
