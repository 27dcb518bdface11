//! A sandbox of namespaces on this kernel: executes neargate-runtime and waits on its monitors. Never forks by itself.
//!
//! What is executed outlives an agent that is killed, and the next agent must not work beside it. So every child has a
//! locked file as its standard input: the lock is the child's as soon as it exists and is free only once it has ended,
//! whoever else has been killed. [`PREPARE_LOCK`] is for what the task shares, [`START_LOCK`] for one container.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::statfs;
use oci_spec::runtime::{LinuxResources, Spec};
use runtime::cgroup::{Cgroup, CgroupError};
use runtime::container::moments::Moments;
use runtime::monitor::protocol::{self, ExitRecord, Failure, MonitorRecord, Ready, Request};
use runtime::namespaces::pin;
use runtime::process::ProcessRef;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::Mutex;

use executable::{Executable, Prepared};

use super::connection::{self, ConnectionError, Output, Outputs};
use super::{CHECK_OUTPUT, Checked, Found, Sandbox, SandboxError, Shared, Start, Supervision, TaskUse, Took, Use};
use crate::identity::{cgroup_name, runtime_id};
use crate::task::provision::Places;
use crate::timing::{Phase, since_boot};

mod disk;
pub mod executable;
mod tree;

/// How often a restarted agent looks whether a monitor that holds its lock has written its record.
const POLL: Duration = Duration::from_millis(5);

/// In the task's directory: held by whoever makes or removes its namespaces or cgroup.
const PREPARE_LOCK: &str = "prepare.lock";
/// The cgroup of the process that keeps a shared pid namespace. No container's has a dot in its name.
const PAUSE: &str = "task.pause";
/// Beside the tasks' directories: compiled seccomp filters, for all of them. No task can have this name.
const SECCOMP_CACHE: &str = "seccomp";
/// In a bundle: held from before its monitor is executed until that has ended, while the monitor's own lock is only
/// taken once it has come that far. Says which process that is.
const START_LOCK: &str = "start.lock";
/// In a bundle: the stderr of its monitor.
const MONITOR_LOG: &str = "monitor.log";
/// A monitor that rests would keep a hundred KiB of pages for what glibc caches of freed memory (mallopt(3), tunables).
const TUNABLES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");

/// How long a monitor may take to its first record before a restarted agent takes it for stuck.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long one may take to die of SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A task's sandbox on this kernel.
#[derive(Debug, Clone)]
pub struct Host {
    runtime: Executable,
    /// Holds `task.ns/` and one bundle per container.
    directory: PathBuf,
    /// Holds writable layers and volumes of the task.
    disk: PathBuf,
    cgroup: String,
    /// Held while something is being made, so that what is destroyed was made before or never will be.
    making: Arc<Mutex<()>>,
}

impl Host {
    /// The sandbox of the task whose places and cgroup these are. Makes nothing.
    pub fn new(runtime: Executable, places: &Places, cgroup: String) -> Host {
        Host { runtime, directory: places.run.clone(), disk: places.disk(), cgroup, making: Arc::default() }
    }

    /// Where the task's namespaces are pinned.
    pub fn namespaces(directory: &Path) -> PathBuf {
        // No container can have this name: it shares the directory with their bundles.
        directory.join("task.ns")
    }

    async fn make(&self, shared: Shared, limits: LinuxResources) -> Result<Took, SandboxError> {
        let begins = since_boot();
        make_directory(&self.directory, 0o700)?;
        let lock = self.lock().await?;
        let path = self.cgroup.clone();
        blocking(move || Cgroup::ensure(&path, &limits).map(drop)).await?;
        let mut done = since_boot();
        let mut phases = vec![phase("cgroup", None, begins, done)];
        if let Some(gib) = shared.disk_gib {
            let begins = done;
            disk::make(&self.disk, gib, &lock).await?;
            done = since_boot();
            phases.push(phase("disk", None, begins, done));
        }
        let wanted = shared.names();
        if wanted.is_empty() || self.has_namespaces(&wanted) {
            return Ok(Took { phases, executed: None });
        }
        let namespaces = Host::namespaces(&self.directory).to_string_lossy().into_owned();
        let mut arguments = vec!["--dir".to_owned(), namespaces];
        if let Some(base) = shared.user_base {
            arguments.extend(["--user-base".to_owned(), base.to_string()]);
            arguments.extend(["--user-size".to_owned(), crate::task::provision::USER_IDS.to_string()]);
        }
        if shared.network {
            arguments.push("--net".to_owned());
        }
        if let Some(bytes) = shared.ipc {
            arguments.extend(["--ipc".to_owned(), bytes.to_string()]);
        }
        if shared.pid {
            arguments.extend(["--pid".to_owned(), format!("{}/{PAUSE}", self.cgroup)]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.run("namespaces delete", &arguments[..2], &lock).await?;
        self.run("namespaces create", &arguments, &lock).await?;
        phases.push(phase("namespaces", None, done, since_boot()));
        Ok(Took { phases, executed: None })
    }

    /// Whether an earlier agent pinned all that is needed, to the end.
    fn has_namespaces(&self, wanted: &[&str]) -> bool {
        let directory = Host::namespaces(&self.directory);
        let pinned = |name: &str| {
            statfs::statfs(&directory.join(name)).is_ok_and(|found| found.filesystem_type() == statfs::NSFS_MAGIC)
        };
        let whole = !wanted.contains(&"pid") || {
            let pause = format!("{}/{PAUSE}", self.cgroup);
            Cgroup::open(&pause).and_then(|group| group.pids()).is_ok_and(|pids| !pids.is_empty())
        };
        whole && directory.join(pin::WHOLE).exists() && wanted.iter().all(|name| pinned(name))
    }

    /// Waits until nobody else makes or removes what the task shares.
    async fn lock(&self) -> Result<File, SandboxError> {
        let path = self.directory.join(PREPARE_LOCK);
        blocking(move || {
            let lock = open_lock(&path)?;
            lock.lock().map_err(file(&path)).map(|()| lock)
        })
        .await
    }

    async fn run(&self, command: &'static str, arguments: &[&str], lock: &File) -> Result<(), SandboxError> {
        let execute = |source| SandboxError::Execute { path: self.runtime.path().to_owned(), source };
        let mut prepared = self.runtime.command().map_err(execute)?;
        let output = prepared
            .command
            .args(command.split(' '))
            .args(arguments)
            .stdin(lock.try_clone().map_err(execute)?)
            .output()
            .await
            .map_err(execute)?;
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let message = if message.is_empty() { output.status.to_string() } else { message };
        Err(SandboxError::Runtime { command, message })
    }

    fn monitor(&self, bundle: &Path, how: &Supervision, lock: File) -> Result<Prepared, SandboxError> {
        let words = bundle.join(MONITOR_LOG);
        let stderr = File::create(&words).map_err(file(&words))?;
        let execute = |source| SandboxError::Execute { path: self.runtime.path().to_owned(), source };
        let mut prepared = self.runtime.command().map_err(execute)?;
        prepared
            .command
            .env(TUNABLES.0, TUNABLES.1)
            .arg("monitor")
            .arg("--bundle")
            .arg(bundle)
            .arg("--id")
            .arg(runtime_id(&name(&self.directory), &name(bundle)))
            .arg("--log-file")
            .arg(&how.log.path)
            .args(["--log-max-size", &how.log.max_size_bytes.to_string()])
            .args(["--log-max-files", &how.log.max_files.to_string()])
            .args(how.init.then_some("--init"))
            .args(how.interactive.then_some("--interactive"))
            .arg("--seccomp-cache")
            .arg(self.directory.with_file_name(SECCOMP_CACHE))
            .stdin(lock)
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(false);
        Ok(prepared)
    }

    /// An earlier agent's monitor was quicker: it is the one.
    async fn started_before(&self, bundle: &Path) -> Result<Start, SandboxError> {
        Ok(match self.find(bundle).await? {
            Found::Running { started_at } => Start::Running { started_at, took: Took::default() },
            Found::Ended(ExitRecord { error: Some(failure), started_at: None, .. }) => Start::Failed(failure),
            // Whoever waits for it next finds its record.
            Found::Ended(exit) => {
                let started_at = exit.started_at.unwrap_or(exit.finished_at);
                Start::Running { started_at, took: Took::default() }
            }
            Found::Nothing | Found::Lost => Start::Failed(lost()),
        })
    }

    /// Ends what the death of its monitor left of a container: its pid 1 dies with the monitor, unless the program gained
    /// privileges when it was executed.
    async fn end_lost(&self, bundle: &Path) -> Result<(), SandboxError> {
        let path = format!("{}/{}", self.cgroup, cgroup_name(&name(bundle)));
        blocking(move || Cgroup::open(&path)?.delete()).await
    }
}

impl Sandbox for Host {
    async fn prepare(&self, shared: Shared, limits: &LinuxResources) -> Result<Took, SandboxError> {
        let (host, limits) = (self.clone(), limits.clone());
        // A task of its own: whoever drops this future (the task was stopped) must not leave half of it to go on unseen.
        let making = self.making.clone().lock_owned().await;
        let made = tokio::spawn(async move {
            let _making = making;
            host.make(shared, limits).await
        });
        match made.await {
            Ok(made) => made,
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            Err(_) => {
                Err(SandboxError::File { path: self.directory.clone(), source: io::ErrorKind::Interrupted.into() })
            }
        }
    }

    async fn start(&self, bundle: &Path, how: &Supervision) -> Result<Start, SandboxError> {
        let begins = since_boot();
        let execute = |source| SandboxError::Execute { path: self.runtime.path().to_owned(), source };
        let path = bundle.join(START_LOCK);
        let lock = open_lock(&path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return self.started_before(bundle).await,
            Err(TryLockError::Error(source)) => return Err(file(&path)(source)),
        }
        let mut told = lock.try_clone().map_err(file(&path))?;
        let mut monitor = self.monitor(bundle, how, lock)?.command.spawn().map_err(execute)?;
        if let Some(started) = monitor.id().and_then(|pid| ProcessRef::of(pid.cast_signed()).ok()) {
            let text = serde_json::to_vec(&started).unwrap_or_default();
            let written = told.set_len(0).and_then(|()| io::Write::write_all(&mut told, &text));
            if let Err(source) = written {
                // Nothing may run that nobody could find again.
                monitor.kill().await.map_err(execute)?;
                self.end_lost(bundle).await?;
                return Err(file(&path)(source));
            }
        }
        // Every copy of ours must go: the lock is to be free when the monitor ends.
        drop(told);
        let mut line = String::new();
        if let Some(stdout) = monitor.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).await.map_err(execute)?;
        }
        let told_at = since_boot();
        match serde_json::from_str::<Ready>(&line) {
            Ok(Ready::Started(record)) => {
                // Such as a limit that this host may not raise.
                for words in words_of_monitor(bundle).lines() {
                    tracing::warn!(task = name(&self.directory), container = name(bundle), "{words}");
                }
                let took = took(begins, &record.moments, told_at);
                Ok(Start::Running { started_at: record.started_at, took })
            }
            Ok(Ready::Failed(failure)) => Ok(Start::Failed(failure)),
            Err(_) => {
                let status = monitor.wait().await.map_err(execute)?;
                if status.code() == Some(i32::from(protocol::EXIT_BUSY)) {
                    return self.started_before(bundle).await;
                }
                let message = format!("the monitor ended with {status}: {}", words_of_monitor(bundle).trim());
                Ok(Start::Failed(Failure { kind: "CannotCreateContainerError".to_owned(), message }))
            }
        }
    }

    async fn abandon(&self, bundle: &Path) -> Result<(), SandboxError> {
        let path = bundle.join(START_LOCK);
        let deadline = Instant::now() + KILL_TIMEOUT;
        while is_locked(&path)? {
            if Instant::now() > deadline {
                return Err(SandboxError::Unkillable { bundle: bundle.to_owned() });
            }
            let monitor = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<ProcessRef>(&text).ok());
            if let Some(process) = monitor.map(open_process).transpose().map_err(file(&path))?.flatten() {
                // One that has ended meanwhile is what was wanted.
                let _ = runtime::sys::pidfd::send_signal(&process, nix::libc::SIGKILL);
            }
            tokio::time::sleep(POLL).await;
        }
        self.end_lost(bundle).await
    }

    async fn find(&self, bundle: &Path) -> Result<Found, SandboxError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(exit) = record::<ExitRecord>(bundle, protocol::EXIT_FILE)? {
                return Ok(Found::Ended(exit));
            }
            let running = record::<MonitorRecord>(bundle, protocol::MONITOR_FILE)?;
            // In this order: a monitor that is about to take its own lock must not find it taken by us.
            if is_locked(&bundle.join(START_LOCK))? || is_locked(&bundle.join(protocol::LOCK_FILE))? {
                match running {
                    Some(record) => return Ok(Found::Running { started_at: record.started_at }),
                    // It is about to write its first record.
                    None if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                    None => self.abandon(bundle).await?,
                }
                continue;
            }
            // The monitor may have ended between the two looks.
            return match (record::<ExitRecord>(bundle, protocol::EXIT_FILE)?, running) {
                (Some(exit), _) => Ok(Found::Ended(exit)),
                (None, Some(_)) => self.end_lost(bundle).await.map(|()| Found::Lost),
                (None, None) => Ok(Found::Nothing),
            };
        }
    }

    async fn wait(&self, bundle: &Path) -> Result<Option<ExitRecord>, SandboxError> {
        if let Some(running) = record::<MonitorRecord>(bundle, protocol::MONITOR_FILE)? {
            ended(running.monitor).await.map_err(file(bundle))?;
        }
        let exit = record(bundle, protocol::EXIT_FILE)?;
        if exit.is_none() {
            self.end_lost(bundle).await?;
        }
        Ok(exit)
    }

    async fn check(&self, bundle: &Path, command: &[String]) -> Result<Checked, SandboxError> {
        let path = bundle.join("config.json");
        let config: Spec =
            fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)).map_err(file(&path))?;
        let mut process = config.process().clone().unwrap_or_default();
        process.set_args(Some(command.to_vec())).set_terminal(Some(false));
        let stream = connection::connect(&bundle.join(protocol::SOCKET_FILE)).await?;
        let (from_monitor, mut to_monitor) = stream.into_split();
        let request = Request::Exec { process: Box::new(process), stdin: false, session: None };
        connection::request(&mut to_monitor, &request).await?;
        let mut outputs = Outputs::new(from_monitor);
        let mut output = Vec::new();
        loop {
            match outputs.next().await? {
                Some(Output::Stdout(bytes) | Output::Stderr(bytes)) => {
                    let room = CHECK_OUTPUT - output.len();
                    output.extend(bytes.into_iter().take(room));
                }
                Some(Output::Exited(exit_code)) => return Ok(Checked { exit_code, output }),
                Some(Output::Refused(failure)) => return Err(SandboxError::Refused { message: failure.message }),
                Some(_) => {}
                None => return Err(ConnectionError::Torn.into()),
            }
        }
    }

    async fn stats(&self, bundles: Vec<PathBuf>) -> Result<TaskUse, SandboxError> {
        let task = self.cgroup.clone();
        blocking(move || {
            let of = |bundle: &PathBuf| measure(&format!("{task}/{}", cgroup_name(&name(bundle))));
            let containers = bundles.iter().map(of).collect::<Result<_, _>>()?;
            Ok::<_, CgroupError>(TaskUse { task: measure(&task)?, containers })
        })
        .await
    }

    async fn forget(&self, bundle: &Path) -> Result<(), SandboxError> {
        // This order: with the exit still there nothing is taken for lost.
        for name in [protocol::MONITOR_FILE, protocol::EXIT_FILE] {
            let path = bundle.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file(&path)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    async fn signal(&self, bundle: &Path, signal: i32) -> Result<(), SandboxError> {
        // Not through the monitor: to be killed is nothing that a container may have to queue for.
        let Some(running) = record::<MonitorRecord>(bundle, protocol::MONITOR_FILE)? else { return Ok(()) };
        let Some(init) = open_process(running.init).map_err(file(bundle))? else { return Ok(()) };
        match runtime::sys::pidfd::send_signal(init, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(file(bundle)(errno.into())),
        }
        if signal == nix::libc::SIGKILL {
            // Whoever has frozen it: it is to die now.
            let (task, path) = (self.cgroup.clone(), format!("{}/{}", self.cgroup, cgroup_name(&name(bundle))));
            blocking(move || {
                let task = Cgroup::open(&task)?;
                if task.is_frozen()? {
                    task.thaw()?;
                }
                Cgroup::open(&path)?.thaw_all()
            })
            .await?;
        }
        Ok(())
    }

    async fn destroy(&self) -> Result<(), SandboxError> {
        let _making = self.making.lock().await;
        // Without the directory nothing was made that would have to be waited for.
        let lock = if self.directory.exists() { Some(self.lock().await?) } else { None };
        let path = self.cgroup.clone();
        blocking(move || Cgroup::open(&path)?.delete()).await?;
        let Some(lock) = lock else { return Ok(()) };
        let namespaces = Host::namespaces(&self.directory);
        if namespaces.exists() {
            self.run("namespaces delete", &["--dir", &namespaces.to_string_lossy()], &lock).await?;
        }
        let (directory, disk) = (self.directory.clone(), self.disk.clone());
        // The directory goes last: while it is there, a restarted agent knows that there may be more.
        blocking(move || {
            disk::remove(&disk)?;
            remove_tree(&directory)
        })
        .await
    }
}

fn phase(name: &'static str, part_of: Option<&'static str>, begins: Duration, ends: Duration) -> Phase {
    Phase { name, part_of, container: None, begins, ends }
}

/// What the start of a container took, from the execution of its monitor to what that told.
fn took(begins: Duration, moments: &Moments, told_at: Duration) -> Took {
    let mut phases = vec![phase("execute", None, begins, told_at)];
    let mut before = begins;
    for (name, at) in [
        ("monitor", moments.entered),
        ("plan", moments.planned),
        ("limits", moments.limited),
        ("clone", moments.cloned),
        ("mounts", moments.mounted),
        ("init", moments.ready),
        ("exec", moments.executed),
    ] {
        // 0 where a monitor tells nothing of it.
        let at = Duration::from_nanos(at).max(before);
        phases.push(phase(name, Some("execute"), before, at));
        before = at;
    }
    phases.push(phase("record", Some("execute"), before, told_at));
    Took { phases, executed: (moments.executed > 0).then_some(before) }
}

/// What is in a cgroup uses; None once the group is gone.
fn measure(path: &str) -> Result<Option<Use>, CgroupError> {
    let group = Cgroup::open(path)?;
    let at = since_boot();
    let measured = group.stats().and_then(|measured| Ok((measured, group.oom_kills()?)));
    // After the reading: a file that is gone counts as nothing used there.
    if !group.exists() {
        return Ok(None);
    }
    let (measured, oom_kills) = measured?;
    let raw = |keys: [&str; 2]| keys.iter().find_map(|key| measured.memory.raw.get(*key)).copied().unwrap_or_default();
    // v1's of the whole tree, then v2's.
    let inactive = raw(["total_inactive_file", "inactive_file"]);
    Ok(Some(Use {
        at,
        cpu: Duration::from_nanos(measured.cpu.usage_nanos),
        memory_bytes: measured.memory.usage_bytes.saturating_sub(inactive),
        memory_limit_bytes: measured.memory.limit_bytes,
        memory_cache_bytes: measured.memory.cache_bytes,
        block_bytes: group.counts_io().then_some((measured.io.read_bytes, measured.io.written_bytes)),
        pids: group.counts_pids().then_some(measured.pids.current),
        pids_limit: measured.pids.limit,
        oom_kills,
    }))
}

/// Makes a directory, parents included; one that is there is success.
pub fn make_directory(path: &Path, mode: u32) -> Result<(), SandboxError> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(file(path))
}

/// Removes a directory with all that is in it; one that is not there is success.
pub fn remove_tree(path: &Path) -> Result<(), SandboxError> {
    tree::remove(path).map_err(file(path))
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> SandboxError {
    move |source| SandboxError::File { path: path.to_owned(), source }
}

fn lost() -> Failure {
    Failure { kind: "CannotStartContainerError".to_owned(), message: "its monitor ended before it".to_owned() }
}

fn words_of_monitor(bundle: &Path) -> String {
    fs::read_to_string(bundle.join(MONITOR_LOG)).unwrap_or_default()
}

fn record<T: serde::de::DeserializeOwned>(bundle: &Path, name: &str) -> Result<Option<T>, SandboxError> {
    protocol::read_record(bundle, name).map_err(file(&bundle.join(name)))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The kernel frees the lock when every copy of the descriptor is closed, those of children included.
fn open_lock(path: &Path) -> Result<File, SandboxError> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(file(path))
}

/// Whether somebody holds the lock.
fn is_locked(path: &Path) -> Result<bool, SandboxError> {
    let lock = match File::open(path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(file(path)(error)),
    };
    match lock.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(file(path)(error)),
    }
}

/// A descriptor of exactly this process; None once it has ended.
fn open_process(process: ProcessRef) -> io::Result<Option<OwnedFd>> {
    match runtime::sys::pidfd::open(process.pid) {
        // The descriptor is of whoever has the pid now; if that is another process, ours has ended.
        Ok(pidfd) => Ok(process.is_alive().then_some(pidfd)),
        Err(Errno::ESRCH) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Returns when exactly this process has ended.
async fn ended(process: ProcessRef) -> io::Result<()> {
    let Some(pidfd) = open_process(process)? else { return Ok(()) };
    #[expect(
        deprecated,
        reason = "its replacement is unsafe for types that may lie about their descriptor; OwnedFd does not"
    )]
    let pidfd = AsyncFd::new(pidfd)?;
    pidfd.readable().await.map(drop)
}

/// Runs what blocks on the disk or the kernel where it may.
async fn blocking<T: Send + 'static, E: Into<SandboxError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, SandboxError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

#[cfg(test)]
mod tests;
