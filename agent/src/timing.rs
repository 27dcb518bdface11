//! What a task's start takes, phase by phase, from the arrival of RunTask to the execve of its programs. Owns the
//! clock, the list of phases and their spans; who measures what is the engine's, the driver's and the sandbox'.
//!
//! A phase is a `tracing` span below its task's, and a row of `neargate describe --timing`. Kept in memory, as long as
//! the agent and the task's record live.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime::container::moments;
use tracing::Span;

use crate::identity::TaskId;

/// Phases kept of one task: those of ten containers that all wait for one another. What is beyond is not kept.
const MOST_PHASES: usize = 256;

/// Time since boot on CLOCK_BOOTTIME, which the monitors tell theirs in too.
pub fn since_boot() -> Duration {
    Duration::from_nanos(moments::since_boot())
}

/// A part of a task's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// The phase that it is a part of.
    pub part_of: Option<&'static str>,
    /// Whose it is; None for the whole task's.
    pub container: Option<String>,
    /// Since boot.
    pub begins: Duration,
    /// Since boot.
    pub ends: Duration,
}

/// The phases of one task's start.
#[derive(Debug)]
pub struct Timing {
    arrived: Duration,
    span: Span,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    phases: Vec<Phase>,
    executed: Option<Duration>,
    closed: bool,
}

impl Timing {
    /// Of a task whose RunTask arrived then, since boot.
    pub fn new(task: &TaskId, arrived: Duration) -> Timing {
        let span = tracing::debug_span!(parent: None, "task", id = %task);
        Timing { arrived, span, noted: Mutex::default() }
    }

    /// Of a task whose beginning an earlier agent has seen: notes nothing.
    pub fn of_earlier(task: &TaskId) -> Timing {
        let timing = Timing::new(task, since_boot());
        timing.close();
        timing
    }

    /// When RunTask arrived, since boot.
    pub fn arrived(&self) -> Duration {
        self.arrived
    }

    /// Begins a phase, which ends when the answer is dropped.
    pub fn phase(&self, name: &'static str, container: Option<&str>) -> Running<'_> {
        Running { timing: self, name, container: container.map(str::to_owned), begins: since_boot() }
    }

    /// Adds a phase that is over.
    pub fn note(&self, phase: Phase) {
        let mut noted = self.noted();
        if noted.closed || noted.phases.len() >= MOST_PHASES {
            return;
        }
        let milliseconds = phase.ends.saturating_sub(phase.begins).as_secs_f64() * 1e3;
        let container = phase.container.as_deref();
        let span = tracing::debug_span!(
            parent: &self.span, "phase", phase = phase.name, part_of = phase.part_of, container
        );
        tracing::debug!(parent: &span, milliseconds, "took");
        noted.phases.push(phase);
    }

    /// A container's program was executed then, since boot.
    pub fn executed(&self, at: Duration) {
        let mut noted = self.noted();
        if !noted.closed {
            noted.executed = noted.executed.max(Some(at));
        }
    }

    /// The task runs or never will: what comes now is not its start.
    pub fn close(&self) {
        self.noted().closed = true;
    }

    /// When the last container was executed that was started, and all phases in the order in which they began.
    pub fn told(&self) -> (Option<Duration>, Vec<Phase>) {
        let noted = self.noted();
        let mut phases = noted.phases.clone();
        phases.sort_by_key(|phase| (phase.begins, phase.part_of.is_some()));
        (noted.executed, phases)
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A phase that goes on.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Running<'a> {
    timing: &'a Timing,
    name: &'static str,
    container: Option<String>,
    begins: Duration,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let (name, container, begins) = (self.name, self.container.take(), self.begins);
        self.timing.note(Phase { name, part_of: None, container, begins, ends: since_boot() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_told_as_they_began_and_only_those_of_the_start() {
        let timing = Timing::new(&TaskId::random(), since_boot());
        {
            let _outer = timing.phase("execute", Some("c"));
            drop(timing.phase("store", None));
        }
        timing.executed(Duration::from_secs(2));
        timing.executed(Duration::from_secs(1));
        timing.close();
        drop(timing.phase("late", None));
        timing.executed(Duration::from_secs(3));
        let (executed, phases) = timing.told();
        assert_eq!(executed, Some(Duration::from_secs(2)));
        let names: Vec<_> = phases.iter().map(|phase| phase.name).collect();
        assert_eq!(names, ["execute", "store"]);
        assert!(phases[0].ends >= phases[1].ends && phases[0].begins <= phases[1].begins);
    }

    #[test]
    fn a_task_that_never_ends_to_start_takes_no_more_memory() {
        let timing = Timing::new(&TaskId::random(), since_boot());
        for _ in 0..2 * MOST_PHASES {
            drop(timing.phase("store", None));
        }
        assert_eq!(timing.told().1.len(), MOST_PHASES);
    }
}
