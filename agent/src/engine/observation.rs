//! How tasks are doing, beyond their state: what their start took, what they use, what happens to them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use proto::v1::{
    ContainerStats, Event, GetStatsRequest, GetStatsResponse, GetTimingRequest, GetTimingResponse, TaskPhase,
    TaskStats, Usage, WatchEventsRequest,
};
use runtime::cli::report::chain;
use tokio::time::MissedTickBehavior;

use super::{Engine, EngineError, Shared};
use crate::events::{self, Begin, Filter};
use crate::identity::TaskId;
use crate::sandbox::{Sandbox as _, TaskUse, Use};
use crate::task::TaskRecord;
use crate::task::provision::Places;
use crate::timing::{Phase, Timing};
use crate::trace::now;

/// Seconds between two measurements: without a wish, at least, at most.
const INTERVAL: f64 = 1.0;
const INTERVALS: std::ops::RangeInclusive<f64> = 0.1..=3600.0;

/// What an event may be.
const KINDS: [&str; 9] = [
    "TASK_STATUS",
    "CONTAINER_CREATED",
    "CONTAINER_STARTED",
    "CONTAINER_EXITED",
    "CONTAINER_RESTARTED",
    "CONTAINER_OOM",
    "CONTAINER_HEALTH",
    "IMAGE_PULLED",
    "IMAGE_REMOVED",
];

/// A task of which a container runs, as measured.
pub(crate) struct Measured {
    pub(crate) id: TaskId,
    pub(crate) record: Arc<TaskRecord>,
    /// Of its containers, the indexes of those that run.
    pub(crate) running: Vec<usize>,
    /// `containers` are those of `running`.
    pub(crate) used: TaskUse,
}

impl Engine {
    /// What a task's start took.
    pub fn timing(&self, request: &GetTimingRequest) -> Result<GetTimingResponse, EngineError> {
        let (id, record) = self.find(request.cluster.as_deref(), request.task.as_deref().unwrap_or_default())?;
        let start = self.shared.start(&id).ok_or_else(|| EngineError::NotMeasured { task: id.to_string() })?;
        Ok(GetTimingResponse { task_arn: record.task.task_arn.clone(), ..start })
    }

    /// What happens, in order.
    pub fn watch_events(
        &self,
        request: WatchEventsRequest,
    ) -> Result<impl Stream<Item = Event> + Send + 'static + use<>, EngineError> {
        self.check_cluster(request.cluster.as_deref())?;
        let mut tasks = Vec::new();
        for name in &request.tasks {
            let (_, record) = self.find(request.cluster.as_deref(), name)?;
            tasks.push(record.task.task_arn().to_owned());
        }
        if let Some(unknown) = request.types.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
            let message = format!("Invalid type '{unknown}': use {}.", KINDS.join(", "));
            return Err(EngineError::InvalidParameter { field: "types", message });
        }
        for (field, time) in [("since", request.since), ("until", request.until)] {
            if time.is_some_and(|time| !time.is_finite()) {
                let message = format!("{field} must be a time in seconds.");
                return Err(EngineError::InvalidParameter { field, message });
            }
        }
        let (containers, families, types, images) =
            (request.containers, request.families, request.types, request.images);
        let filter = Filter { tasks, containers, families, types, images };
        let from = match (request.after, request.since) {
            (Some(position), since) => Begin::After { position, since },
            (None, Some(since)) => Begin::Since(since),
            (None, None) => Begin::Now,
        };
        let shared = self.shared.clone();
        let states = move |since: Option<f64>| {
            let lately = |record: &TaskRecord| since.is_some_and(|since| record.task.stopped_at() >= since);
            let wanted = shared.records().filter(|(_, record)| !record.is_stopped() || lately(record));
            wanted.map(|(_, record)| events::task::status(&record)).collect()
        };
        Ok(events::read(self.shared.events.clone(), filter, from, request.until, states))
    }

    /// Figures for Prometheus, as text.
    pub async fn metrics(&self) -> String {
        let driven = self.shared.driven();
        let over = self.shared.count_over();
        let measured = self.shared.measure(driven.clone()).await;
        self.shared.metrics.text(&driven, over, &measured)
    }

    /// What tasks use, measured again and again. Ends when all that were asked for have stopped.
    pub fn stats(
        &self,
        request: &GetStatsRequest,
    ) -> Result<impl Stream<Item = GetStatsResponse> + Send + 'static + use<>, EngineError> {
        self.check_cluster(request.cluster.as_deref())?;
        let seconds = request.interval.unwrap_or(INTERVAL);
        if !INTERVALS.contains(&seconds) {
            let message = format!("interval must be {} to {} seconds.", INTERVALS.start(), INTERVALS.end());
            return Err(EngineError::InvalidParameter { field: "interval", message });
        }
        let mut wanted = Vec::new();
        for name in &request.tasks {
            let (id, record) = self.find(request.cluster.as_deref(), name)?;
            if record.is_stopped() {
                return Err(EngineError::Stopped { task: id.to_string() });
            }
            wanted.push(id);
        }
        let shared = self.shared.clone();
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(seconds));
        // A client that reads slowly gets fewer measurements, none of them late.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(async_stream::stream! {
            let mut before = HashMap::new();
            loop {
                ticks.tick().await;
                let records = shared.wanted(&wanted);
                if !wanted.is_empty() && records.iter().all(|(_, record)| record.is_stopped()) {
                    return;
                }
                let timestamp = Some(now());
                let measured = shared.measure(records).await;
                let tasks = measured.iter().map(|measured| task_stats(measured, &before)).collect();
                before = measured.iter().flat_map(uses).collect();
                yield GetStatsResponse { timestamp, tasks };
            }
        })
    }
}

impl Shared {
    /// The tasks that are asked for, or all that are not over.
    fn wanted(&self, wanted: &[TaskId]) -> Vec<(TaskId, Arc<TaskRecord>)> {
        if wanted.is_empty() {
            return self.driven();
        }
        wanted.iter().filter_map(|id| Some((id.clone(), self.record(id)?))).collect()
    }

    /// Measures those of which a container runs, oldest first. What cannot be measured is told and left out.
    pub(crate) async fn measure(&self, mut records: Vec<(TaskId, Arc<TaskRecord>)>) -> Vec<Measured> {
        records.sort_by(|(_, a), (_, b)| a.task.created_at().total_cmp(&b.task.created_at()));
        let mut measured = Vec::new();
        for (id, record) in records {
            let containers = &record.task.containers;
            let running: Vec<usize> =
                (0..containers.len()).filter(|index| containers[*index].last_status() == "RUNNING").collect();
            if running.is_empty() {
                continue;
            }
            let places = Places::of(&self.config.root, &id);
            let bundles = running.iter().map(|index| places.bundle(containers[*index].name())).collect();
            match self.sandbox(&id).stats(bundles).await {
                Ok(used) => measured.push(Measured { id, record, running, used }),
                Err(error) => {
                    tracing::warn!(task = %id, error = chain(&error), "what the task uses cannot be measured");
                }
            }
        }
        measured
    }
}

/// By task and container (None for the whole task).
type Uses = HashMap<(TaskId, Option<usize>), Use>;

fn uses(measured: &Measured) -> impl Iterator<Item = ((TaskId, Option<usize>), Use)> {
    let of_containers = measured.running.iter().map(|index| Some(*index)).zip(&measured.used.containers);
    let all = std::iter::once((None, &measured.used.task)).chain(of_containers);
    all.filter_map(|(index, used)| Some(((measured.id.clone(), index), (*used)?)))
}

fn task_stats(measured: &Measured, before: &Uses) -> TaskStats {
    let task = &measured.record.task;
    let of_task = measured.used.task.unwrap_or_default();
    let limits = (cpu_limit_percent(task.cpu()), of_task.memory_limit_bytes);
    let earlier = |index| before.get(&(measured.id.clone(), index));
    let containers = measured.running.iter().zip(&measured.used.containers).filter_map(|(index, used)| {
        let usage = usage(used.as_ref()?, earlier(Some(*index)), limits);
        Some(ContainerStats { name: task.containers[*index].name.clone(), usage: Some(usage) })
    });
    TaskStats {
        task_arn: task.task_arn.clone(),
        task_definition_arn: task.task_definition_arn.clone(),
        // On v1 the task's own group counts no dead of those below it.
        usage: measured.used.task.map(|used| Usage { oom_kills: None, ..usage(&used, earlier(None), limits) }),
        containers: containers.collect(),
    }
}

/// Percent of one processor that a task's cpu units allow; without any there is no limit.
fn cpu_limit_percent(units: &str) -> Option<f64> {
    Some(units.parse::<f64>().ok()? / 1024.0 * 100.0)
}

fn usage(used: &Use, before: Option<&Use>, (cpu_limit_percent, of_task): (Option<f64>, Option<u64>)) -> Usage {
    let count = |number: u64| i32::try_from(number).unwrap_or(i32::MAX);
    // A container that was started again counts from 0.
    let cpu_percent = before.and_then(|before| {
        let elapsed = used.at.checked_sub(before.at).filter(|elapsed| !elapsed.is_zero())?;
        Some(used.cpu.checked_sub(before.cpu)?.as_secs_f64() / elapsed.as_secs_f64() * 100.0)
    });
    let memory_limit = [used.memory_limit_bytes, of_task].into_iter().flatten().min();
    Usage {
        cpu_seconds: Some(used.cpu.as_secs_f64()),
        cpu_percent,
        cpu_limit_percent,
        memory_bytes: Some(bytes(used.memory_bytes)),
        memory_limit_bytes: memory_limit.map(bytes),
        memory_cache_bytes: Some(bytes(used.memory_cache_bytes)),
        block_read_bytes: used.block_bytes.map(|(read, _)| bytes(read)),
        block_written_bytes: used.block_bytes.map(|(_, written)| bytes(written)),
        pids: used.pids.map(count),
        pids_limit: used.pids_limit.map(count),
        oom_kills: Some(count(used.oom_kills)),
    }
}

/// Numbers of bytes are doubles on the wire, exact up to 8 PiB.
#[expect(clippy::cast_precision_loss, reason = "as told")]
pub(crate) fn bytes(number: u64) -> f64 {
    number as f64
}

/// What a task's start took, without the task.
pub(super) fn start(timing: &Timing) -> GetTimingResponse {
    let arrived = timing.arrived();
    let (executed, phases) = timing.told();
    GetTimingResponse {
        task_arn: None,
        arrived_at: Some(arrived.as_secs_f64()),
        milliseconds: executed.map(|executed| milliseconds(arrived, executed)),
        phases: phases.into_iter().map(|phase| told(phase, arrived)).collect(),
    }
}

fn told(phase: Phase, arrived: Duration) -> TaskPhase {
    TaskPhase {
        phase: Some(phase.name.to_owned()),
        part_of: phase.part_of.map(str::to_owned),
        container: phase.container,
        begins_at: Some(milliseconds(arrived, phase.begins)),
        milliseconds: Some(milliseconds(phase.begins, phase.ends)),
    }
}

/// From one moment to a later one.
fn milliseconds(from: Duration, to: Duration) -> f64 {
    to.saturating_sub(from).as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(at: u64, cpu: u64) -> Use {
        Use { at: Duration::from_secs(at), cpu: Duration::from_secs(cpu), ..Use::default() }
    }

    #[test]
    fn percents_are_of_one_processor_since_the_last_measurement() {
        let limits = (cpu_limit_percent("512"), None);
        let second = usage(&used(14, 9), Some(&used(10, 3)), limits);
        assert_eq!((second.cpu_percent, second.cpu_limit_percent), (Some(150.0), Some(50.0)));
        assert_eq!(usage(&used(14, 9), None, limits).cpu_percent, None);
        assert_eq!(usage(&used(14, 1), Some(&used(10, 3)), limits).cpu_percent, None, "started again");
        assert_eq!(usage(&used(10, 3), Some(&used(10, 3)), limits).cpu_percent, None, "no time has passed");
        assert_eq!(cpu_limit_percent(""), None);
    }

    #[test]
    fn the_lower_limit_counts() {
        let own = Use { memory_limit_bytes: Some(5), ..Use::default() };
        let limit = |used: &Use, of_task| usage(used, None, (None, of_task)).memory_limit_bytes;
        assert_eq!(limit(&own, Some(3)), Some(3.0));
        assert_eq!(limit(&own, Some(7)), Some(5.0));
        assert_eq!(limit(&Use::default(), Some(7)), Some(7.0));
        assert_eq!(limit(&Use::default(), None), None);
    }
}
