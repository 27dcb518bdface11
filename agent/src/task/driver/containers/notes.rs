//! What becomes of a container, written into the task's record in ECS's words.

use definition::task::ContainerSpec;
use proto::v1::NetworkBinding;
use runtime::cli::report::chain;
use runtime::monitor::protocol::{ExitRecord, Failure};

use super::{Driver, cut};
use crate::events;
use crate::sandbox::{Sandbox, SandboxError, Took};
use crate::task::Stage;
use crate::task::ordering::Known;
use crate::timing::Phase;

impl<S: Sandbox + Clone> Driver<S> {
    pub(super) fn note_timing(&self, took: Took, container: &str) {
        for phase in took.phases {
            self.timing.note(Phase { container: Some(container.to_owned()), ..phase });
        }
        if let Some(executed) = took.executed {
            self.timing.executed(executed);
        }
    }

    pub(super) fn note_running(&mut self, container: &ContainerSpec, index: usize) {
        self.record.set_stage(index, Stage::Running);
        let view = &mut self.record.task.containers[index];
        view.last_status = Some("RUNNING".to_owned());
        view.network_bindings = container
            .port_mappings
            .iter()
            .map(|mapping| NetworkBinding {
                bind_ip: Some("0.0.0.0".to_owned()),
                // In host mode, the only one with ports, they are one.
                container_port: Some(mapping.host_port.into()),
                host_port: Some(mapping.host_port.into()),
                protocol: Some(mapping.protocol.as_str().to_owned()),
                ..NetworkBinding::default()
            })
            .collect();
    }

    /// A container that could not be started stops its task, essential or not, as in ECS. One that has run before and
    /// could not be started again has merely ended.
    pub(super) async fn note_failure(&mut self, index: usize, failure: &Failure, exit_code: Option<i32>) -> Known {
        let reason = format!("{}: {}", failure.kind, failure.message);
        self.record.set_stage(index, Stage::Stopped);
        let ran = self.record.restarts(index) > 0;
        let view = &mut self.record.task.containers[index];
        view.exit_code = exit_code;
        view.last_status = Some("STOPPED".to_owned());
        if ran {
            tracing::warn!(task = %self.id, container = view.name(), reason, "the container could not be started again");
            view.reason = Some(cut(&reason));
            return Known::Stopped { exit_code, ran };
        }
        self.fail(&reason, Some(index)).await;
        Known::Stopped { exit_code, ran: false }
    }

    /// Tells of the end of a container that will be started again, which its record does not show.
    pub(super) fn tell_end(&mut self, index: usize, exit: Option<&ExitRecord>) {
        if let Some(exit) = exit {
            self.tell_want_of_memory(index, exit);
        }
        let exit_code = exit.and_then(|exit| exit.exit_code);
        self.news.push(events::task::ended_for_now(&self.record, index, exit_code));
    }

    fn tell_want_of_memory(&mut self, index: usize, exit: &ExitRecord) {
        if exit.oom_killed {
            self.shared.metrics.out_of_memory();
            self.news.push(events::task::out_of_memory(&self.record, index));
        }
    }

    pub(super) fn note_exit(&mut self, index: usize, exit: Result<Option<ExitRecord>, SandboxError>) -> Known {
        self.record.set_stage(index, Stage::Stopped);
        if let Ok(Some(exit)) = &exit {
            self.tell_want_of_memory(index, exit);
        }
        let view = &mut self.record.task.containers[index];
        view.last_status = Some("STOPPED".to_owned());
        match exit {
            Ok(Some(exit)) => {
                view.exit_code = exit.exit_code;
                if exit.oom_killed && exit.exit_code == Some(137) {
                    tracing::info!(task = %self.id, container = view.name(), "killed for want of memory");
                    view.reason = Some("OutOfMemoryError: Container killed due to memory usage".to_owned());
                } else if let Some(failure) = &exit.error {
                    view.reason = Some(cut(&format!("{}: {}", failure.kind, failure.message)));
                }
                Known::Stopped { exit_code: exit.exit_code, ran: exit.started_at.is_some() }
            }
            Ok(None) => {
                tracing::warn!(task = %self.id, container = view.name(), "the container's monitor ended without a record; the exit code is lost");
                view.reason =
                    Some("ContainerVanishedError: the container's monitor ended without a record of it".to_owned());
                Known::Stopped { exit_code: None, ran: true }
            }
            Err(error) => {
                tracing::warn!(task = %self.id, container = view.name(), error = chain(&error), "the container's exit cannot be read");
                view.reason = Some(cut(&format!("CannotInspectContainerError: {}", chain(&error))));
                Known::Stopped { exit_code: None, ran: true }
            }
        }
    }
}
