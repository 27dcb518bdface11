//! `restartPolicy`: a container that ends starts again in its own bundle, with its files, its log and its volumes.

use definition::task::ContainerSpec;
use runtime::cli::report::chain;
use runtime::monitor::protocol::{ExitRecord, Failure};

use super::{Containers, Driver};
use crate::sandbox::Sandbox;
use crate::task::Stage;
use crate::task::health::Health;
use crate::task::ordering::Known;
use crate::task::restart::starts_again;

impl<S: Sandbox + Clone> Driver<S> {
    /// Whether the container that ended so is to be started again.
    pub(super) fn starts_again(&self, container: &ContainerSpec, index: usize, exit: Option<&ExitRecord>) -> bool {
        // One that was killed before it was known to run is judged by its start, which may be missing.
        let policy = container.restart_policy.as_ref().filter(|_| !self.is_stopping());
        let again = policy.zip(exit).is_some_and(|(policy, exit)| starts_again(policy, exit));
        if again {
            let (name, exit_code) = (&container.name, exit.and_then(|exit| exit.exit_code));
            tracing::info!(task = %self.id, container = name, exit_code, restarts = self.record.restarts(index), "restarting");
        }
        again
    }

    /// Starts a container in the bundle that it has had before; the task goes on running meanwhile.
    pub(super) async fn start_over(&mut self, run: &mut Containers<'_>, index: usize) {
        run.known[index] = Known::Starting;
        self.record.set_stage(index, Stage::Starting);
        self.note_health(run.spec, index, Health::Unknown, None);
        // Durable before the old records go: a restarted agent that finds none starts it.
        self.save().await;
        let bundle = run.bundle(index);
        match self.sandbox.forget(&bundle).await {
            Ok(()) => self.start(run, index),
            Err(error) => {
                let failure = Failure { kind: "CannotStartContainerError".to_owned(), message: chain(&error) };
                run.known[index] = self.note_failure(index, &failure, None).await;
            }
        }
    }
}
