//! The loop while a task's containers run: start what may start, note what ended, stop what must, in order.

use std::collections::BTreeMap;
use std::time::Duration;

use definition::task::{ContainerSpec, TaskSpec};
use nix::sys::signal::Signal;
use rootfs::Image;
use runtime::bundle::{OverlayRecord, RootfsRecord};
use runtime::cli::report::chain;
use runtime::monitor::protocol::{ExitRecord, Failure};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Driver, Halt, cut};
use crate::identity::cgroup_name;
use crate::sandbox::{Found, Log, Sandbox, SandboxError, Start, Supervision};
use crate::task::Stage;
use crate::task::bundle::{self, BundleError, Surroundings};
use crate::task::lifecycle::Event;
use crate::task::ordering::{self, Known, Verdict};
use crate::task::provision::{self, Places};
use crate::trace::{self, now};

/// What an attempt to start or a wait came to.
enum Report {
    Started(usize, Result<Start, SandboxError>),
    Ended(usize, Result<Option<ExitRecord>, SandboxError>),
}

/// A container that was told to stop.
struct Stopping {
    kill_at: Instant,
    killed: bool,
}

impl<S: Sandbox + Clone> Driver<S> {
    /// What an earlier agent left of the containers.
    pub(super) async fn recall(&mut self, spec: &TaskSpec, places: &Places) -> Vec<Known> {
        let mut known = Vec::new();
        for (index, container) in spec.containers.iter().enumerate() {
            let stage = self.record.stage(index);
            let recalled = match stage {
                Stage::Waiting => Known::Waiting,
                Stage::Stopped => {
                    let view = &self.record.task.containers[index];
                    Known::Stopped { exit_code: view.exit_code, ran: view.exit_code.is_some() }
                }
                Stage::Starting | Stage::Running => {
                    let bundle = places.bundle(&container.name);
                    match self.sandbox.find(&bundle).await {
                        Ok(Found::Running { .. }) => Known::Running,
                        Ok(Found::Ended(ExitRecord { error: Some(failure), started_at: None, exit_code, .. })) => {
                            self.note_failure(index, &failure, exit_code).await
                        }
                        Ok(Found::Ended(exit)) => self.note_exit(index, Ok(Some(exit))),
                        Ok(Found::Nothing) if stage == Stage::Starting => Known::Waiting,
                        Ok(Found::Nothing | Found::Lost) => self.note_exit(index, Ok(None)),
                        Err(error) => self.note_exit(index, Err(error)),
                    }
                }
            };
            match recalled {
                Known::Waiting => self.record.set_stage(index, Stage::Waiting),
                Known::Running => self.note_running(index),
                Known::Starting | Known::Stopped { .. } => {}
            }
            known.push(recalled);
        }
        known
    }

    /// Runs until no container does.
    pub(super) async fn containers(
        &mut self,
        spec: &TaskSpec,
        places: &Places,
        images: &[Image],
        known: &mut [Known],
    ) -> Result<(), Halt> {
        let (reports, mut reported) = mpsc::unbounded_channel();
        let mut stopping: BTreeMap<usize, Stopping> = BTreeMap::new();
        for (index, _) in known.iter().enumerate().filter(|(_, known)| **known == Known::Running) {
            self.wait(index, spec, places, &reports);
        }
        loop {
            self.judge(spec, known).await;
            if !self.is_stopping() {
                self.start_ready(spec, places, images, known, &reports).await;
            } else {
                self.transit(Event::Deregistered).await;
                self.stop_ready(spec, places, images, known, &mut stopping).await;
            }
            let live = known.iter().any(|known| matches!(known, Known::Starting | Known::Running));
            if !live && (self.is_stopping() || !known.contains(&Known::Waiting)) {
                return Ok(());
            }
            let next_kill =
                stopping.values().filter(|stopping| !stopping.killed).map(|stopping| stopping.kill_at).min();
            tokio::select! {
                Some(report) = reported.recv() => self.take(report, spec, places, known, &reports).await,
                command = self.commands.recv() => {
                    if let Err(Halt::AgentEnds) = self.obey(command).await {
                        return Err(Halt::AgentEnds);
                    }
                }
                () = sleep_until(next_kill) => self.kill_overdue(spec, places, &mut stopping).await,
            }
        }
    }

    async fn take(
        &mut self,
        report: Report,
        spec: &TaskSpec,
        places: &Places,
        known: &mut [Known],
        reports: &mpsc::UnboundedSender<Report>,
    ) {
        match report {
            Report::Started(index, Ok(Start::Running { .. })) => {
                known[index] = Known::Running;
                self.note_running(index);
                self.wait(index, spec, places, reports);
            }
            Report::Started(index, Ok(Start::Failed(failure))) => {
                let exit = self.sandbox.wait(&places.bundle(&spec.containers[index].name)).await;
                known[index] =
                    self.note_failure(index, &failure, exit.ok().flatten().and_then(|exit| exit.exit_code)).await;
            }
            Report::Started(index, Err(error)) => {
                let failure = Failure { kind: "CannotCreateContainerError".to_owned(), message: chain(&error) };
                known[index] = self.note_failure(index, &failure, None).await;
            }
            Report::Ended(index, exit) => {
                trace::step(&self.id, Some(&spec.containers[index].name), "exit");
                known[index] = self.note_exit(index, exit);
            }
        }
        self.save().await;
    }

    /// Draws the task's conclusions from its containers' states.
    async fn judge(&mut self, spec: &TaskSpec, known: &[Known]) {
        let over = |index: &usize| matches!(known[*index], Known::Stopped { .. });
        if let Some(essential) = (0..known.len()).filter(over).find(|index| spec.containers[*index].essential) {
            self.record.task.execution_stopped_at.get_or_insert(now());
            let oom = self.record.task.containers[essential].reason().starts_with("OutOfMemoryError");
            let reason = "Essential container in task exited";
            if oom {
                tracing::info!(task = %self.id, container = spec.containers[essential].name, "out of memory");
            }
            self.stop("EssentialContainerExited", reason).await;
            return;
        }
        let never =
            |index: &usize| known[*index] == Known::Waiting && ordering::verdict(spec, known, *index) == Verdict::Never;
        if (0..known.len()).any(|index| never(&index)) && !self.is_stopping() {
            let arn = self.record.task.task_arn().to_owned();
            let reason = format!("TaskDependencyError: Task dependencies cannot be resolved, taskArn: {arn}");
            self.fail(&reason, (0..known.len()).find(|index| never(index))).await;
            return;
        }
        let up = |known: &Known| matches!(known, Known::Running | Known::Stopped { ran: true, .. });
        if known.iter().all(up) && !self.is_stopping() {
            self.record.task.started_at.get_or_insert(now());
            self.transit(Event::Up).await;
        }
    }

    async fn start_ready(
        &mut self,
        spec: &TaskSpec,
        places: &Places,
        images: &[Image],
        known: &mut [Known],
        reports: &mpsc::UnboundedSender<Report>,
    ) {
        let ready: Vec<usize> = (0..known.len())
            .filter(|index| known[*index] == Known::Waiting)
            .filter(|index| ordering::verdict(spec, known, *index) == Verdict::Ready)
            .collect();
        if ready.is_empty() {
            return;
        }
        for index in &ready {
            known[*index] = Known::Starting;
            self.record.set_stage(*index, Stage::Starting);
        }
        // Durable before the first monitor: a restarted agent must know that it may have to look for one.
        self.save().await;
        for index in ready {
            let container = &spec.containers[index];
            trace::step(&self.id, Some(&container.name), "start");
            let directory = places.bundle(&container.name);
            if let Err(error) = self.write_bundle(spec, places, images, index) {
                let failure = Failure { kind: "CannotCreateContainerError".to_owned(), message: chain(&error) };
                known[index] = self.note_failure(index, &failure, None).await;
                self.save().await;
                continue;
            }
            let how = self.supervision(container, places);
            let (sandbox, reports) = (self.sandbox.clone(), reports.clone());
            tokio::spawn(async move {
                let started = sandbox.start(&directory, &how).await;
                // The driver may have ended with the agent.
                let _best_effort = reports.send(Report::Started(index, started));
            });
        }
    }

    fn supervision(&self, container: &ContainerSpec, places: &Places) -> Supervision {
        let defaults = &self.shared.config.logs;
        let log = Log {
            path: places.log(&container.name),
            max_size_bytes: container.log.max_size_bytes.unwrap_or(defaults.max_size_mib << 20),
            max_files: container.log.max_files.unwrap_or(defaults.max_files),
        };
        Supervision { log, init: container.init_process, interactive: container.interactive }
    }

    fn write_bundle(
        &self,
        spec: &TaskSpec,
        places: &Places,
        images: &[Image],
        index: usize,
    ) -> Result<(), BundleError> {
        let container = &spec.containers[index];
        let image = &images[index];
        let volumes = provision::volumes(spec, places);
        let around = Surroundings {
            hostname: &provision::hostname(places, container),
            cgroup: format!("{}/{}", self.shared.task_cgroup(&self.id), cgroup_name(&container.name)),
            namespaces: crate::sandbox::host::Host::namespaces(&places.run),
            user_namespace: self.record.user_slot.is_some(),
            volumes: &volumes,
            etc: places.etc(&container.name),
        };
        let config = bundle::config(spec, container, &image.config, &around)?;
        let (upper, work) = places.layer(&container.name);
        let id_map = around.user_namespace;
        let rootfs = RootfsRecord::new(OverlayRecord { lower: self.shared.images.layers(image), upper, work, id_map });
        bundle::write(&places.bundle(&container.name), &config, &rootfs)
    }

    fn wait(&self, index: usize, spec: &TaskSpec, places: &Places, reports: &mpsc::UnboundedSender<Report>) {
        let (sandbox, reports) = (self.sandbox.clone(), reports.clone());
        let directory = places.bundle(&spec.containers[index].name);
        tokio::spawn(async move {
            let exit = sandbox.wait(&directory).await;
            // The driver may have ended with the agent.
            let _best_effort = reports.send(Report::Ended(index, exit));
        });
    }

    /// Signals what nothing depends on any more.
    async fn stop_ready(
        &mut self,
        spec: &TaskSpec,
        places: &Places,
        images: &[Image],
        known: &[Known],
        stopping: &mut BTreeMap<usize, Stopping>,
    ) {
        for index in ordering::stoppable(spec, known) {
            if known[index] != Known::Running || stopping.contains_key(&index) {
                continue;
            }
            let container = &spec.containers[index];
            trace::step(&self.id, Some(&container.name), "signal");
            let of_image = images.get(index).and_then(|image| image.config.config().as_ref());
            let signal = match of_image.and_then(|config| config.stop_signal().clone()) {
                Some(name) => stop_signal(&name),
                // A restarted agent that only stops the task has not looked its images up.
                None => self.stop_signal_of_cached(&container.image),
            };
            self.signal(&container.name, places, signal).await;
            let seconds = container.stop_timeout_secs.unwrap_or(self.shared.config.tasks.stop_timeout_secs);
            let kill_at = Instant::now() + Duration::from_secs(u64::from(seconds));
            stopping.insert(index, Stopping { kill_at, killed: false });
        }
    }

    fn stop_signal_of_cached(&self, image: &str) -> i32 {
        let reference = image.parse().ok();
        let image = reference.and_then(|reference| self.shared.images.get(&reference).ok().flatten());
        let name = image.and_then(|image| image.config.config().as_ref()?.stop_signal().clone());
        name.map_or(Signal::SIGTERM as i32, |name| stop_signal(&name))
    }

    async fn kill_overdue(&mut self, spec: &TaskSpec, places: &Places, stopping: &mut BTreeMap<usize, Stopping>) {
        let now = Instant::now();
        for (index, overdue) in stopping.iter_mut().filter(|(_, stopping)| !stopping.killed && stopping.kill_at <= now)
        {
            overdue.killed = true;
            self.signal(&spec.containers[*index].name, places, Signal::SIGKILL as i32).await;
        }
    }

    async fn signal(&self, container: &str, places: &Places, signal: i32) {
        if let Err(error) = self.sandbox.signal(&places.bundle(container), signal).await {
            tracing::warn!(task = %self.id, container, signal, error = chain(&error), "the container could not be signalled");
        }
    }

    fn note_running(&mut self, index: usize) {
        self.record.set_stage(index, Stage::Running);
        self.record.task.containers[index].last_status = Some("RUNNING".to_owned());
    }

    /// A container that could not be started stops its task, essential or not, as in ECS.
    async fn note_failure(&mut self, index: usize, failure: &Failure, exit_code: Option<i32>) -> Known {
        let reason = format!("{}: {}", failure.kind, failure.message);
        self.record.task.containers[index].exit_code = exit_code;
        self.record.task.containers[index].last_status = Some("STOPPED".to_owned());
        self.record.set_stage(index, Stage::Stopped);
        self.fail(&reason, Some(index)).await;
        Known::Stopped { exit_code, ran: false }
    }

    fn note_exit(&mut self, index: usize, exit: Result<Option<ExitRecord>, SandboxError>) -> Known {
        self.record.set_stage(index, Stage::Stopped);
        let view = &mut self.record.task.containers[index];
        view.last_status = Some("STOPPED".to_owned());
        match exit {
            Ok(Some(exit)) => {
                view.exit_code = exit.exit_code;
                if exit.oom_killed && exit.exit_code == Some(137) {
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

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_as_images_write_them() {
        assert_eq!(["SIGQUIT", "quit", "3", "SIGNONSENSE", "99"].map(stop_signal), [3, 3, 3, 15, 15]);
    }
}
