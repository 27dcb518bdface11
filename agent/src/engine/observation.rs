//! How tasks are doing, beyond their state: what their start took.

use std::time::Duration;

use proto::v1::{GetTimingRequest, GetTimingResponse, TaskPhase};

use super::{Engine, EngineError};
use crate::timing::Phase;

impl Engine {
    /// What a task's start took.
    pub fn timing(&self, request: &GetTimingRequest) -> Result<GetTimingResponse, EngineError> {
        let (id, record) = self.find(request.cluster.as_deref(), request.task.as_deref().unwrap_or_default())?;
        let timing = self.shared.tasks().get(&id).and_then(|handle| handle.timing.clone());
        let timing = timing.ok_or_else(|| EngineError::NotMeasured { task: id.to_string() })?;
        let arrived = timing.arrived();
        let (executed, phases) = timing.told();
        Ok(GetTimingResponse {
            task_arn: record.task.task_arn.clone(),
            arrived_at: Some(arrived.as_secs_f64()),
            milliseconds: executed.map(|executed| milliseconds(arrived, executed)),
            phases: phases.into_iter().map(|phase| told(phase, arrived)).collect(),
        })
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
