//! The loop while a task's containers run: start what may start, note what ended, stop what must, in order.
//!
//! `health` asks the containers how they are, `restart` starts them again, `stop` ends them, `notes` writes it all down.

use std::collections::BTreeMap;
use std::time::Duration;

use definition::task::{ContainerSpec, TaskSpec};
use rootfs::Image;
use runtime::bundle::{OverlayRecord, RootfsRecord};
use runtime::cli::report::chain;
use runtime::monitor::protocol::{ExitRecord, Failure};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{Driver, Halt, cut};
use crate::events;
use crate::identity::cgroup_name;
use crate::sandbox::{Found, Log, Sandbox, SandboxError, Start, Supervision};
use crate::task::Stage;
use crate::task::bundle::{self, BundleError, Surroundings};
use crate::task::health::Health;
use crate::task::lifecycle::Event;
use crate::task::ordering::{self, Known, Verdict};
use crate::task::provision::{self, Places};
use crate::trace::{self, now};

mod health;
mod notes;
mod restart;
mod stop;

/// Between two looks at a container that cannot be looked at.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// What an attempt to start, a wait or a health check came to.
enum Report {
    Started(usize, Result<Start, SandboxError>),
    Ended(usize, Result<Option<ExitRecord>, SandboxError>),
    Health(usize, Health, Option<String>),
}

/// The containers of one task while they run, in the definition's order.
pub(super) struct Containers<'a> {
    spec: &'a TaskSpec,
    places: &'a Places,
    /// Empty where an earlier agent has started all of them.
    images: &'a [Image],
    known: Vec<Known>,
    stopping: BTreeMap<usize, stop::Stopping>,
    /// Health checks of those that run.
    probes: BTreeMap<usize, AbortOnDropHandle<()>>,
    reports: mpsc::UnboundedSender<Report>,
}

/// What an earlier agent left of a task's containers.
pub(super) struct Recalled {
    pub(super) known: Vec<Known>,
    /// Those that are to be started again.
    pub(super) again: Vec<usize>,
}

impl<S: Sandbox + Clone> Driver<S> {
    /// What an earlier agent left of the containers.
    pub(super) async fn recall(&mut self, spec: &TaskSpec, places: &Places) -> Recalled {
        let (mut known, mut again) = (Vec::new(), Vec::new());
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
                    match patiently(|| self.sandbox.find(&bundle)).await {
                        Ok(Found::Running { started_at }) => {
                            let healthy =
                                self.record.task.containers[index].health_status() == Health::Healthy.as_str();
                            Known::Running { started_at, healthy }
                        }
                        Ok(Found::Ended(ExitRecord { error: Some(failure), started_at: None, exit_code, .. })) => {
                            self.note_failure(index, &failure, exit_code).await
                        }
                        Ok(Found::Ended(exit)) if self.starts_again(container, index, Some(&exit)) => {
                            self.tell_end(index, Some(&exit));
                            self.record.count_restart(index);
                            again.push(index);
                            Known::Starting
                        }
                        Ok(Found::Ended(exit)) => self.note_exit(index, Ok(Some(exit))),
                        Ok(Found::Nothing) if stage == Stage::Starting && self.record.restarts(index) > 0 => {
                            // It was about to be started again: it has waited for others before its first start.
                            again.push(index);
                            Known::Starting
                        }
                        Ok(Found::Nothing) if stage == Stage::Starting => Known::Waiting,
                        Ok(Found::Nothing | Found::Lost) => self.note_exit(index, Ok(None)),
                        Err(error) => self.note_exit(index, Err(error)),
                    }
                }
            };
            match recalled {
                Known::Waiting => self.record.set_stage(index, Stage::Waiting),
                Known::Running { .. } => self.note_running(&spec.containers[index], index),
                Known::Starting | Known::Stopped { .. } => {}
            }
            known.push(recalled);
        }
        Recalled { known, again }
    }

    /// Runs until no container does.
    pub(super) async fn containers(
        &mut self,
        spec: &TaskSpec,
        places: &Places,
        images: &[Image],
        Recalled { known, again }: Recalled,
    ) -> Result<(), Halt> {
        let (reports, mut reported) = mpsc::unbounded_channel();
        let (stopping, probes) = (BTreeMap::new(), BTreeMap::new());
        let mut run = Containers { spec, places, images, known, stopping, probes, reports };
        for index in (0..run.known.len()).filter(|index| run.known[*index].runs()).collect::<Vec<_>>() {
            self.look_after(&mut run, index);
        }
        for index in again {
            self.start_over(&mut run, index).await;
        }
        loop {
            self.judge(&run).await;
            if !self.is_stopping() {
                self.start_ready(&mut run).await;
            } else {
                self.transit(Event::Deregistered).await;
                self.stop_ready(&mut run).await;
            }
            if self.unsaved {
                self.save().await;
            }
            let live = run.known.iter().any(Known::is_live);
            if !live && (self.is_stopping() || !run.known.contains(&Known::Waiting)) {
                return Ok(());
            }
            // What is to stop waits for nothing any more.
            let next_start_timeout = run.next_start_timeout().filter(|_| !self.is_stopping());
            let next_kill = run.stopping.values().filter_map(stop::Stopping::kill_at).min();
            tokio::select! {
                Some(report) = reported.recv() => self.take(report, &mut run).await,
                command = self.commands.recv() => {
                    if let Err(Halt::AgentEnds) = self.obey(command).await {
                        return Err(Halt::AgentEnds);
                    }
                }
                () = sleep_until(next_kill) => self.kill_overdue(&mut run).await,
                () = sleep_until(next_start_timeout) => {}
            }
        }
    }

    async fn take(&mut self, report: Report, run: &mut Containers<'_>) {
        match report {
            Report::Started(index, Ok(Start::Running { started_at, took })) => {
                self.note_timing(took, &run.spec.containers[index].name);
                run.known[index] = Known::Running { started_at, healthy: false };
                self.note_running(&run.spec.containers[index], index);
                self.look_after(run, index);
            }
            Report::Started(index, Ok(Start::Failed(failure))) => {
                let exit = self.sandbox.wait(&run.bundle(index)).await;
                let exit_code = exit.ok().flatten().and_then(|exit| exit.exit_code);
                run.known[index] = self.note_failure(index, &failure, exit_code).await;
            }
            Report::Started(index, Err(error)) => {
                let failure = Failure { kind: "CannotCreateContainerError".to_owned(), message: chain(&error) };
                run.known[index] = self.note_failure(index, &failure, None).await;
            }
            Report::Ended(index, exit) => {
                let container = &run.spec.containers[index];
                trace::step(&self.id, Some(&container.name), "exit");
                run.probes.remove(&index);
                let record = exit.as_ref().ok().and_then(Option::as_ref);
                if self.starts_again(container, index, record) {
                    self.tell_end(index, record);
                    self.record.count_restart(index);
                    self.start_over(run, index).await;
                } else {
                    run.known[index] = self.note_exit(index, exit);
                }
            }
            Report::Health(index, health, why) => {
                let Known::Running { healthy, .. } = &mut run.known[index] else { return };
                *healthy = health == Health::Healthy;
                if !self.note_health(run.spec, index, health, why) {
                    return;
                }
            }
        }
        self.save().await;
    }

    /// Draws the task's conclusions from its containers' states.
    async fn judge(&mut self, run: &Containers<'_>) {
        let Containers { spec, known, .. } = run;
        let over = |index: &usize| matches!(known[*index], Known::Stopped { .. });
        if let Some(essential) = (0..known.len()).filter(over).find(|index| spec.containers[*index].essential) {
            self.record.task.execution_stopped_at.get_or_insert(now());
            let name = &spec.containers[essential].name;
            tracing::debug!(task = %self.id, container = name, "an essential container has exited");
            self.stop("EssentialContainerExited", "Essential container in task exited").await;
            return;
        }
        let never = |index: &usize| {
            known[*index] == Known::Waiting
                && (ordering::verdict(spec, known, *index) == Verdict::Never
                    || ordering::overdue(spec, known, *index).is_some_and(|at| at <= now()))
        };
        if let Some(index) = (0..known.len()).find(|index| never(index)).filter(|_| !self.is_stopping()) {
            let arn = self.record.task.task_arn().to_owned();
            let reason = format!("TaskDependencyError: Task dependencies cannot be resolved, taskArn: {arn}");
            self.fail(&reason, None).await;
            self.record.task.containers[index].reason = Some(cut(&ordering::unmet(spec, known, index)));
            return;
        }
        let up = |known: &Known| known.runs() || matches!(known, Known::Stopped { ran: true, .. });
        if known.iter().all(up) && !self.is_stopping() {
            self.record.task.started_at.get_or_insert(now());
            if self.change(Event::Up) {
                self.shared.metrics.started(&self.timing);
                self.save().await;
                self.timing.close();
            }
        }
    }

    async fn start_ready(&mut self, run: &mut Containers<'_>) {
        let ready: Vec<usize> = (0..run.known.len())
            .filter(|index| run.known[*index] == Known::Waiting)
            .filter(|index| ordering::verdict(run.spec, &run.known, *index) == Verdict::Ready)
            .collect();
        if ready.is_empty() {
            return;
        }
        for index in &ready {
            run.known[*index] = Known::Starting;
            self.record.set_stage(*index, Stage::Starting);
        }
        // Durable before the first monitor: a restarted agent must know that it may have to look for one.
        self.save().await;
        for index in ready {
            let writing = self.timing.phase("bundle", Some(&run.spec.containers[index].name));
            let written = self.write_bundle(run, index);
            drop(writing);
            if let Err(error) = written {
                let failure = Failure { kind: "CannotCreateContainerError".to_owned(), message: chain(&error) };
                run.known[index] = self.note_failure(index, &failure, None).await;
                self.save().await;
                continue;
            }
            self.shared.events.tell(events::task::created(&self.record, index));
            self.start(run, index);
        }
    }

    /// Starts a container whose bundle is written.
    fn start(&self, run: &Containers<'_>, index: usize) {
        let container = &run.spec.containers[index];
        trace::step(&self.id, Some(&container.name), "start");
        let how = self.supervision(container, run.places);
        let (sandbox, reports, bundle) = (self.sandbox.clone(), run.reports.clone(), run.bundle(index));
        tokio::spawn(async move {
            let started = sandbox.start(&bundle, &how).await;
            // The driver may have ended with the agent.
            let _best_effort = reports.send(Report::Started(index, started));
        });
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

    fn write_bundle(&self, run: &Containers<'_>, index: usize) -> Result<(), BundleError> {
        let Containers { spec, places, .. } = *run;
        let container = &spec.containers[index];
        let image = &run.images[index];
        let volumes = provision::volumes(spec, places);
        let around = Surroundings {
            hostname: &provision::hostname(spec.network_mode, places, container),
            cgroup: format!("{}/{}", self.shared.task_cgroup(&self.id), cgroup_name(&container.name)),
            namespaces: crate::sandbox::host::Host::namespaces(&places.run),
            user_base: self.record.user_slot.map(|slot| provision::user_base(&self.shared.instance, slot)),
            volumes: &volumes,
            etc: places.etc(&container.name),
            open_files: provision::open_files(),
        };
        let config = bundle::config(spec, container, &image.config, &around)?;
        let (upper, work) = places.layer(&container.name);
        let id_map = around.user_base.is_some();
        let overlay = OverlayRecord { lower: self.shared.images.layers(image), upper, work, id_map };
        let rootfs = RootfsRecord::new(overlay, bundle::copy_up(spec, container));
        bundle::write(&places.bundle(&container.name), &config, &rootfs)
    }

    /// Waits for the end of a container that runs, and asks it meanwhile how it is.
    fn look_after(&self, run: &mut Containers<'_>, index: usize) {
        let (sandbox, reports, bundle) = (self.sandbox.clone(), run.reports.clone(), run.bundle(index));
        tokio::spawn(async move {
            let exit = patiently(|| sandbox.wait(&bundle)).await;
            // The driver may have ended with the agent.
            let _best_effort = reports.send(Report::Ended(index, exit));
        });
        self.probe(run, index);
    }
}

impl Containers<'_> {
    fn bundle(&self, index: usize) -> std::path::PathBuf {
        self.places.bundle(&self.spec.containers[index].name)
    }

    /// When the next container that waits will have waited too long.
    fn next_start_timeout(&self) -> Option<Instant> {
        let waiting = (0..self.known.len()).filter(|index| self.known[*index] == Known::Waiting);
        let next = waiting.filter_map(|index| ordering::overdue(self.spec, &self.known, index)).reduce(f64::min)?;
        Some(Instant::now() + Duration::try_from_secs_f64(next - now()).unwrap_or_default())
    }
}

/// Asks again where the answer is an error: what is wrong with the host, such as too many open files, may pass, and a
/// container that runs is not to be taken for one that has ended.
async fn patiently<T, F: Future<Output = Result<T, SandboxError>>>(ask: impl Fn() -> F) -> Result<T, SandboxError> {
    for pause in PAUSES {
        match ask().await {
            Err(error) => tracing::warn!(error = chain(&error), "the container cannot be looked at; trying again"),
            answer => return answer,
        }
        tokio::time::sleep(pause).await;
    }
    ask().await
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
