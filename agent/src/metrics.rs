//! Figures for Prometheus: the counters and histograms that the agent keeps, and one text of them and of what is
//! measured when somebody asks. `http` is the door, `process` the agent's own figures. Owns every metric's name.
//!
//! Names end in their unit (seconds, bytes, or total for what only grows). Labels are of small fixed sets, but for those
//! of running containers, which are measured per scrape and so gone with their containers.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::engine::observation::{Measured, bytes};
use crate::sandbox::Use;
use crate::task::TaskRecord;
use crate::task::lifecycle;
use crate::timing::Timing;

pub mod http;
mod process;

/// Leads the names of all but the agent's own process figures, whose names are everybody's.
const PREFIX: &str = "neargate";

type Labels = Vec<(&'static str, String)>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;
type Amounts = Family<Labels, Gauge<f64, AtomicU64>>;
type Totals = Family<Labels, Counter<f64, AtomicU64>>;

/// 100 µs to 105 s.
pub(crate) fn durations() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 4.0, 11))
}

/// What the agent counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    starts: Counter,
    stops: Family<Labels, Counter>,
    start: Histogram,
    phases: Histograms,
    restarts: Counter,
    out_of_memory: Counter,
    pulls: Family<Labels, Counter>,
    pulled_bytes: Counter,
    pull: Histogram,
}

impl Metrics {
    /// All at 0. `stores` times the store's transactions.
    pub(crate) fn new(stores: Histogram) -> Metrics {
        let metrics = Metrics {
            registry: Registry::with_prefix(PREFIX),
            starts: Counter::default(),
            stops: Family::default(),
            start: durations(),
            phases: Family::new_with_constructor(durations),
            restarts: Counter::default(),
            out_of_memory: Counter::default(),
            pulls: Family::default(),
            pulled_bytes: Counter::default(),
            pull: durations(),
        };
        metrics.registered(stores)
    }

    fn registered(mut self, stores: Histogram) -> Metrics {
        let of = &mut self.registry;
        of.register("task_starts", "Tasks that came to RUNNING", self.starts.clone());
        of.register("task_stops", "Tasks that came to STOPPED, by ECS stopCode", self.stops.clone());
        let help = "From the arrival of RunTask to the execve of the last container";
        of.register_with_unit("task_start", help, Unit::Seconds, self.start.clone());
        let help = "Phases of a task's start, by the names of `neargate describe --timing`";
        of.register_with_unit("task_start_phase", help, Unit::Seconds, self.phases.clone());
        of.register("container_restarts", "Containers started again by their restartPolicy", self.restarts.clone());
        let help = "Containers of which the kernel killed a process for want of memory, counted as they ended";
        of.register("container_ooms", help, self.out_of_memory.clone());
        of.register("image_pulls", "Pulls of images, by outcome", self.pulls.clone());
        let help = "Compressed bytes of layers that were transferred";
        of.register_with_unit("image_pulled", help, Unit::Bytes, self.pulled_bytes.clone());
        of.register_with_unit("image_pull", "Pulls that came to their end", Unit::Seconds, self.pull.clone());
        of.register_with_unit("store_transaction", "Durable changes of the store", Unit::Seconds, stores);
        self
    }

    /// A task's start is over.
    pub(crate) fn started(&self, timing: &Timing) {
        let (executed, phases) = timing.told();
        if let Some(executed) = executed {
            self.start.observe(executed.saturating_sub(timing.arrived()).as_secs_f64());
        }
        for phase in phases {
            let seconds = phase.ends.saturating_sub(phase.begins).as_secs_f64();
            self.phases.get_or_create(&vec![("phase", phase.name.to_owned())]).observe(seconds);
        }
    }

    /// A task's record has changed.
    pub(crate) fn changed(&self, before: &TaskRecord, after: &TaskRecord) {
        for index in 0..after.task.containers.len() {
            self.restarts.inc_by(after.restarts(index).saturating_sub(before.restarts(index)).into());
        }
        if before.task.last_status == after.task.last_status {
            return;
        }
        match lifecycle::Status::parse(after.task.last_status()) {
            Some(lifecycle::Status::Running) => {
                self.starts.inc();
            }
            Some(lifecycle::Status::Stopped) => {
                self.stops.get_or_create(&vec![("stop_code", after.task.stop_code().to_owned())]).inc();
            }
            _ => {}
        }
    }

    /// A container that ended had been short of memory.
    pub(crate) fn out_of_memory(&self) {
        self.out_of_memory.inc();
    }

    /// A pull has ended.
    pub(crate) fn pulled(&self, took: Duration, transferred_bytes: u64, succeeded: bool) {
        let outcome = if succeeded { "success" } else { "failure" };
        self.pulls.get_or_create(&vec![("outcome", outcome.to_owned())]).inc();
        self.pulled_bytes.inc_by(transferred_bytes);
        self.pull.observe(took.as_secs_f64());
    }

    /// Everything as text: what was counted, the tasks by status, what runs as measured, the agent's own process.
    pub(crate) fn text(&self, driven: &[TaskRecordView], over: usize, measured: &[Measured]) -> String {
        let mut text = String::new();
        for registry in [&self.registry, &tasks(driven, over), &containers(measured), &process::registry()] {
            // Writing to a String does not fail.
            let _infallible = prometheus_text::encode(&mut text, registry);
        }
        text
    }
}

/// A task as the engine has it.
pub(crate) type TaskRecordView = (crate::identity::TaskId, std::sync::Arc<TaskRecord>);

/// `over` counts those that have stopped, beside the driven.
fn tasks(driven: &[TaskRecordView], over: usize) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    let tasks = Family::<Labels, Gauge>::default();
    for status in lifecycle::ALL {
        tasks.get_or_create(&vec![("status", status.as_str().to_owned())]).set(0);
    }
    let stopped = vec![("status", lifecycle::Status::Stopped.as_str().to_owned())];
    tasks.get_or_create(&stopped).set(i64::try_from(over).unwrap_or(i64::MAX));
    for (_, record) in driven {
        tasks.get_or_create(&vec![("status", record.task.last_status().to_owned())]).inc();
    }
    registry.register("tasks", "Tasks that the agent knows, by lastStatus", tasks);
    registry
}

/// What is measured of a running container, by task and container.
#[derive(Default)]
struct OfContainers {
    cpu: Totals,
    memory: Amounts,
    memory_limit: Amounts,
    read: Totals,
    written: Totals,
    pids: Amounts,
    pids_limit: Amounts,
    ooms: Totals,
}

impl OfContainers {
    fn take(&self, labels: &Labels, used: &Use, of_task: Option<u64>) {
        let set = |amounts: &Amounts, value: Option<u64>| {
            if let Some(value) = value {
                amounts.get_or_create(labels).set(bytes(value));
            }
        };
        let count = |totals: &Totals, value: Option<f64>| {
            if let Some(value) = value {
                totals.get_or_create(labels).inc_by(value);
            }
        };
        count(&self.cpu, Some(used.cpu.as_secs_f64()));
        set(&self.memory, Some(used.memory_bytes));
        set(&self.memory_limit, [used.memory_limit_bytes, of_task].into_iter().flatten().min());
        count(&self.read, used.block_bytes.map(|(read, _)| bytes(read)));
        count(&self.written, used.block_bytes.map(|(_, written)| bytes(written)));
        set(&self.pids, used.pids);
        set(&self.pids_limit, used.pids_limit);
        count(&self.ooms, Some(bytes(used.oom_kills)));
    }

    fn registry(self) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        let of = &mut registry;
        of.register_with_unit("container_cpu", "Processor time since the start", Unit::Seconds, self.cpu);
        let help = "Memory in use without the file cache that is given up first";
        of.register_with_unit("container_memory", help, Unit::Bytes, self.memory);
        let help = "The container's limit of memory or its task's, whichever is lower";
        of.register_with_unit("container_memory_limit", help, Unit::Bytes, self.memory_limit);
        of.register_with_unit("container_block_read", "Read from block devices", Unit::Bytes, self.read);
        of.register_with_unit("container_block_written", "Written to block devices", Unit::Bytes, self.written);
        of.register("container_pids", "Processes and threads", self.pids);
        of.register("container_pids_limit", "Processes and threads that it may have", self.pids_limit);
        of.register("container_oom_kills", "Processes that the kernel killed for want of memory", self.ooms);
        registry
    }
}

fn containers(measured: &[Measured]) -> Registry {
    let figures = OfContainers::default();
    for task in measured {
        let of_task = task.used.task.and_then(|used| used.memory_limit_bytes);
        for (index, used) in task.running.iter().zip(&task.used.containers) {
            let (Some(used), container) = (used, &task.record.task.containers[*index]) else { continue };
            let labels = vec![("task", task.id.to_string()), ("container", container.name().to_owned())];
            figures.take(&labels, used, of_task);
        }
    }
    figures.registry()
}

#[cfg(test)]
mod tests;
