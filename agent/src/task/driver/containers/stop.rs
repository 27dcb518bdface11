//! Ending containers: the stop signal to what nothing depends on any more, SIGKILL to what has had its time.

use std::time::Duration;

use nix::sys::signal::Signal;
use runtime::cli::report::chain;
use tokio::time::Instant;

use super::{Containers, Driver};
use crate::sandbox::Sandbox;
use crate::task::ordering;
use crate::trace;

/// A container that is to stop.
pub(super) struct Stopping {
    /// Whether it was told: not while it is being started.
    signalled: bool,
    kill_at: Instant,
    killed: bool,
}

impl Stopping {
    /// When it is to be killed; None once it was.
    pub(super) fn kill_at(&self) -> Option<Instant> {
        (!self.killed).then_some(self.kill_at)
    }
}

impl<S: Sandbox + Clone> Driver<S> {
    /// Signals what nothing depends on any more. What is still being started has the same time to come that far.
    pub(super) async fn stop_ready(&mut self, run: &mut Containers<'_>) {
        for index in ordering::stoppable(run.spec, &run.known) {
            let runs = run.known[index].runs();
            if run.stopping.get(&index).is_some_and(|stopping| stopping.signalled || !runs) {
                continue;
            }
            let container = &run.spec.containers[index];
            if runs {
                trace::step(&self.id, Some(&container.name), "signal");
                let signal = self.stop_signal(run, index);
                self.signal(run, index, signal).await;
            }
            let seconds = container.stop_timeout_secs.unwrap_or(self.shared.config.tasks.stop_timeout_secs);
            let kill_at = Instant::now() + Duration::from_secs(u64::from(seconds));
            run.stopping.insert(index, Stopping { signalled: runs, kill_at, killed: false });
        }
    }

    /// Its image's STOPSIGNAL, or SIGTERM.
    fn stop_signal(&self, run: &Containers<'_>, index: usize) -> i32 {
        let of_image = match run.images.get(index) {
            Some(image) => image.config.config().clone(),
            // A restarted agent that only stops the task has not looked its images up.
            None => {
                self.image(&run.spec.containers[index].image, index).and_then(|image| image.config.config().clone())
            }
        };
        let name = of_image.and_then(|config| config.stop_signal().clone());
        name.map_or(Signal::SIGTERM as i32, |name| stop_signal(&name))
    }

    fn image(&self, reference: &str, index: usize) -> Option<rootfs::Image> {
        let (reference, id) = (reference.parse().ok()?, self.record.image_id(index)?);
        self.shared.images.get_by_id(&id, &reference).ok()?
    }

    pub(super) async fn kill_overdue(&mut self, run: &mut Containers<'_>) {
        let now = Instant::now();
        let overdue = |stopping: &Stopping| stopping.kill_at().is_some_and(|at| at <= now);
        let indexes: Vec<usize> =
            run.stopping.iter().filter(|(_, stopping)| overdue(stopping)).map(|(index, _)| *index).collect();
        for index in indexes {
            if run.known[index].runs() {
                self.signal(run, index, Signal::SIGKILL as i32).await;
            } else {
                self.abandon(run, index);
            }
            if let Some(stopping) = run.stopping.get_mut(&index) {
                stopping.killed = true;
            }
        }
    }

    /// Ends a start that takes too long; whoever waits for that start is told that it failed.
    fn abandon(&self, run: &Containers<'_>, index: usize) {
        let (sandbox, bundle) = (self.sandbox.clone(), run.bundle(index));
        let (task, container) = (self.id.clone(), run.spec.containers[index].name.clone());
        tokio::spawn(async move {
            if let Err(error) = sandbox.abandon(&bundle).await {
                tracing::error!(%task, container, error = chain(&error), "a start that hangs could not be ended");
            }
        });
    }

    async fn signal(&self, run: &Containers<'_>, index: usize, signal: i32) {
        let container = &run.spec.containers[index].name;
        if let Err(error) = self.sandbox.signal(&run.places.bundle(container), signal).await {
            tracing::warn!(task = %self.id, container, signal, error = chain(&error), "the container could not be signalled");
        }
    }
}

/// An image's STOPSIGNAL: a name with or without SIG, or a number. What is none of these is SIGTERM, as in docker.
fn stop_signal(name: &str) -> i32 {
    let upper = name.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>()
        && (1..=64).contains(&number)
    {
        return number;
    }
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    name.parse::<Signal>().map_or(Signal::SIGTERM as i32, |signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_as_images_write_them() {
        assert_eq!(["SIGQUIT", "quit", "3", "SIGNONSENSE", "99"].map(stop_signal), [3, 3, 3, 15, 15]);
    }
}
