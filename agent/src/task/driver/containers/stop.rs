//! Ending containers: the stop signal to what nothing depends on any more, SIGKILL to what has had its time.

use std::time::Duration;

use nix::sys::signal::Signal;
use runtime::cli::report::chain;
use tokio::time::Instant;

use super::{Containers, Driver};
use crate::sandbox::Sandbox;
use crate::task::ordering;
use crate::trace;

/// A container that was told to stop.
pub(super) struct Stopping {
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
    /// Signals what nothing depends on any more.
    pub(super) async fn stop_ready(&mut self, run: &mut Containers<'_>) {
        for index in ordering::stoppable(run.spec, &run.known) {
            if !run.known[index].runs() || run.stopping.contains_key(&index) {
                continue;
            }
            let container = &run.spec.containers[index];
            trace::step(&self.id, Some(&container.name), "signal");
            let of_image = run.images.get(index).and_then(|image| image.config.config().as_ref());
            let signal = match of_image.and_then(|config| config.stop_signal().clone()) {
                Some(name) => stop_signal(&name),
                // A restarted agent that only stops the task has not looked its images up.
                None => self.stop_signal_of_cached(&container.image),
            };
            self.signal(run, index, signal).await;
            let seconds = container.stop_timeout_secs.unwrap_or(self.shared.config.tasks.stop_timeout_secs);
            let kill_at = Instant::now() + Duration::from_secs(u64::from(seconds));
            run.stopping.insert(index, Stopping { kill_at, killed: false });
        }
    }

    fn stop_signal_of_cached(&self, image: &str) -> i32 {
        let reference = image.parse().ok();
        let image = reference.and_then(|reference| self.shared.images.get(&reference).ok().flatten());
        let name = image.and_then(|image| image.config.config().as_ref()?.stop_signal().clone());
        name.map_or(Signal::SIGTERM as i32, |name| stop_signal(&name))
    }

    pub(super) async fn kill_overdue(&mut self, run: &mut Containers<'_>) {
        let now = Instant::now();
        let overdue = |stopping: &Stopping| stopping.kill_at().is_some_and(|at| at <= now);
        let indexes: Vec<usize> =
            run.stopping.iter().filter(|(_, stopping)| overdue(stopping)).map(|(index, _)| *index).collect();
        for index in indexes {
            self.signal(run, index, Signal::SIGKILL as i32).await;
            if let Some(stopping) = run.stopping.get_mut(&index) {
                stopping.killed = true;
            }
        }
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
