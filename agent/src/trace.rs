//! The engine's steps as lines of a file, where `NEARGATE_TRACE_FILE` names one: a test proves by it at which step an
//! agent was killed. Nothing is written otherwise.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::identity::TaskId;

/// Variable that names the file.
pub const VARIABLE: &str = "NEARGATE_TRACE_FILE";

static TRACE: OnceLock<Option<File>> = OnceLock::new();

/// Notes that a task, or one of its containers, comes to `step`.
pub fn step(task: &TaskId, container: Option<&str>, step: &str) {
    tracing::debug!(task = %task, container, step);
    let trace = TRACE.get_or_init(|| {
        let path = std::env::var_os(VARIABLE)?;
        OpenOptions::new().append(true).create(true).open(path).ok()
    });
    if let Some(mut file) = trace.as_ref() {
        let line = format!("{:.6} {task} {} {step}\n", now(), container.unwrap_or("-"));
        // Only tests read it, and they notice what is missing.
        let _best_effort = file.write_all(line.as_bytes());
    }
}

/// Seconds since the epoch, as ECS's timestamps are.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
