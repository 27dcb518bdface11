//! Health checks: the definition's command, executed in the running container again and again.

use std::time::Duration;

use definition::task::TaskSpec;
use runtime::cli::report::chain;
use tokio_util::task::AbortOnDropHandle;

use super::{Containers, Driver, Report};
use crate::sandbox::Sandbox;
use crate::task::health::{Check, Checks, Health, of_task};
use crate::task::ordering::Known;
use crate::trace::now;

impl<S: Sandbox + Clone> Driver<S> {
    /// Begins to check a container that runs, where its definition says how.
    pub(super) fn probe(&self, run: &mut Containers<'_>, index: usize) {
        let container = &run.spec.containers[index];
        let (Some(policy), Known::Running { started_at, .. }) = (container.health_check.clone(), run.known[index])
        else {
            return;
        };
        let before = Health::parse(self.record.task.containers[index].health_status());
        let (task, name) = (self.id.clone(), container.name.clone());
        let (sandbox, reports, bundle) = (self.sandbox.clone(), run.reports.clone(), run.bundle(index));
        let probing = async move {
            let mut checks = Checks::new(&policy, before);
            loop {
                tokio::time::sleep(Duration::from_secs(policy.interval_secs.into())).await;
                let timeout = Duration::from_secs(policy.timeout_secs.into());
                // Given up, the command is killed.
                let check = match tokio::time::timeout(timeout, sandbox.check(&bundle, &policy.command)).await {
                    Ok(Ok(checked)) => Check::Ended(checked),
                    Ok(Err(error)) => {
                        tracing::debug!(%task, container = name, error = chain(&error), "the health check could not run");
                        Check::NotRun(chain(&error))
                    }
                    Err(_) => Check::TimedOut(policy.timeout_secs),
                };
                let health = checks.take(check.passed(), now() - started_at);
                let why = (health == Health::Unhealthy).then(|| check.reason());
                if reports.send(Report::Health(index, health, why)).is_err() {
                    return;
                }
            }
        };
        run.probes.insert(index, AbortOnDropHandle::new(tokio::spawn(probing)));
    }

    /// Whether that is news. Of a container that is not healthy, `why` is what the check said that made it so: one that
    /// says something else each time does not write to the store each time.
    pub(super) fn note_health(&mut self, spec: &TaskSpec, index: usize, health: Health, why: Option<String>) -> bool {
        let container = &mut self.record.task.containers[index];
        if container.health_status() == health.as_str() {
            return false;
        }
        if health == Health::Unhealthy {
            // Debug, as the container's words may hold what acts on a terminal.
            tracing::warn!(task = %self.id, container = container.name(), reason = ?why.as_deref().unwrap_or_default(), "the container is unhealthy");
        }
        container.health_status = Some(health.as_str().to_owned());
        self.record.set_unhealthy(index, why.unwrap_or_default());
        let containers = &self.record.task.containers;
        let of_task = of_task(spec, |index| Health::parse(containers[index].health_status()));
        self.record.task.health_status = Some(of_task.as_str().to_owned());
        true
    }
}
