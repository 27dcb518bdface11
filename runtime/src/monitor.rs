//! The monitor: creates and starts one container, is the parent of its pid 1, and outlives the agent. It writes the
//! container's log, serves signals and further processes on a socket, and records how it all ended.
//!
//! One thread, one loop (`serve`). What it leaves in the bundle directory is in [`protocol`]. When it is killed, the
//! container's pid 1 is killed with it by the kernel; whoever finds `monitor.json` without `exit.json` and nobody
//! holding `monitor.lock` knows that the exit is lost.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, dup2_stdout, pipe2, setsid};

use crate::bundle::Bundle;
use crate::cli::report::chain;
use crate::container;
use crate::container::create::{CreateRequest, Created, Running, Supervision, create};
use crate::container::exec::ExecTarget;
use crate::container::moments::{Moments, since_boot};
use crate::container::start::StartError;
use crate::container::state::now;
use crate::init::stdio::Stdio;
use crate::process::ProcessRef;
use crate::seccomp::Cache;
use crate::sys::memory;
use log::Log;
use protocol::{ExitRecord, Failure, MonitorRecord, Ready};
use sessions::{Container, Sessions};

mod log;
pub mod protocol;
mod serve;
mod sessions;

/// docker's exit codes for a program that is missing or may not be executed.
const EXIT_NOT_FOUND: i32 = 127;
const EXIT_NOT_EXECUTABLE: i32 = 126;
/// Shells add this to the number of the signal that ended a process.
pub(crate) const SIGNALLED: i32 = 128;

/// What to look after.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bundle directory; the monitor's records and socket are made in it
    #[arg(long, value_name = "DIR")]
    pub bundle: PathBuf,
    /// Container id
    #[arg(long)]
    pub id: String,
    /// File for the container's output, as docker's json-file writes it
    #[arg(long, value_name = "FILE")]
    pub log_file: PathBuf,
    /// Rotate the file before it is larger than this, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 10 << 20)]
    pub log_max_size: u64,
    /// Files to keep, the current one included
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub log_max_files: u32,
    /// Run the program below an init that reaps and forwards signals
    #[arg(long)]
    pub init: bool,
    /// Keep the program's stdin open
    #[arg(long)]
    pub interactive: bool,
    /// Keep compiled seccomp filters here
    #[arg(long, value_name = "DIR")]
    pub seccomp_cache: Option<PathBuf>,
}

/// Why a monitor could not do its work. What is wrong with the container itself is in the exit record instead.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum MonitorError {
    #[error("cannot use {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot {what}")]
    Kernel { what: &'static str, source: Errno },
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
}

fn kernel(what: &'static str) -> impl FnOnce(Errno) -> MonitorError {
    move |source| MonitorError::Kernel { what, source }
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> MonitorError {
    move |source| MonitorError::File { path: path.to_owned(), source }
}

/// Looks after a container from its creation to its end.
pub fn run(args: &Args) -> Result<ExitCode, MonitorError> {
    let entered = since_boot();
    // Already a leader where a shell started it in the background: that will do.
    let _ = setsid();
    let bundle = args.bundle.canonicalize().map_err(file(&args.bundle))?;
    let Some(_lock) = lock(&bundle)? else { return Ok(ExitCode::from(protocol::EXIT_BUSY)) };
    let signals = watch_signals().map_err(kernel("watch for signals"))?;
    let listener = listen(&bundle)?;
    let log = Log::open(&args.log_file, args.log_max_size, args.log_max_files).map_err(file(&args.log_file))?;
    protocol::reserve_record(&bundle, protocol::EXIT_FILE).map_err(file(&bundle))?;
    let place = Place { state_root: bundle.join("state"), bundle, args, entered };
    match place.start() {
        Ok(started) => place.look_after(started, listener, signals, log),
        Err((failure, exit_code)) => {
            let exit = ExitRecord { exit_code, error: Some(failure.clone()), ..ExitRecord::now() };
            place.record(protocol::EXIT_FILE, &exit)?;
            tell(&Ready::Failed(failure));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Held until the process ends; None when another monitor has been at work on this bundle.
fn lock(bundle: &Path) -> Result<Option<Flock<File>>, MonitorError> {
    let path = bundle.join(protocol::LOCK_FILE);
    let mut options = OpenOptions::new();
    let open = options.write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(file(&path))?;
    match Flock::lock(open, FlockArg::LockExclusiveNonblock) {
        Ok(_) if bundle.join(protocol::EXIT_FILE).exists() => Ok(None),
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(MonitorError::Kernel { what: "lock the bundle", source: errno }),
    }
}

/// These are passed on to the container; nothing else may end the monitor.
fn watch_signals() -> Result<SignalFd, Errno> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// The exit code of a program that execve refused.
fn not_executed(errno: Errno) -> i32 {
    if matches!(errno, Errno::ENOENT | Errno::ENOTDIR) { EXIT_NOT_FOUND } else { EXIT_NOT_EXECUTABLE }
}

/// A socket's path may have 107 bytes: it is bound from within the bundle, by its short name.
fn listen(bundle: &Path) -> Result<UnixListener, MonitorError> {
    let path = bundle.join(protocol::SOCKET_FILE);
    std::env::set_current_dir(bundle).map_err(file(bundle))?;
    match std::fs::remove_file(protocol::SOCKET_FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file(&path)(error)),
        _ => {}
    }
    let listener = UnixListener::bind(protocol::SOCKET_FILE).map_err(file(&path))?;
    listener.set_nonblocking(true).map_err(file(&path))?;
    Ok(listener)
}

/// The one line for whoever executed us. An agent that is gone reads the records instead.
fn tell(ready: &Ready) {
    let mut line = serde_json::to_vec(ready).unwrap_or_default();
    line.push(b'\n');
    let mut stdout = io::stdout();
    let _ = stdout.write_all(&line).and_then(|()| stdout.flush());
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = dup2_stdout(&null);
    }
}

/// Where the container is.
struct Place<'a> {
    bundle: PathBuf,
    state_root: PathBuf,
    args: &'a Args,
    /// When the monitor began, nanoseconds since boot.
    entered: u64,
}

/// A container whose program runs.
struct Started {
    running: Running,
    target: ExecTarget,
    record: MonitorRecord,
    /// Read ends of its output; the terminal's master is an output too.
    outputs: Vec<(log::Stream, OwnedFd)>,
    /// The other end of its stdin, where that is to stay open.
    stdin: Option<OwnedFd>,
    /// Master of its terminal.
    console: Option<OwnedFd>,
}

/// The container's side of its standard descriptors, and ours.
struct Pipes {
    theirs: Stdio,
    outputs: Vec<(log::Stream, OwnedFd)>,
    stdin: Option<OwnedFd>,
}

fn pipes(interactive: bool) -> Result<Pipes, MonitorError> {
    let null = Path::new("/dev/null");
    let (stdin, open) = if interactive {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(kernel("make a pipe"))?;
        (read, Some(write))
    } else {
        (File::open(null).map_err(file(null))?.into(), None)
    };
    if let Some(ours) = &open {
        serve::nonblocking(ours).map_err(kernel("make a pipe"))?;
    }
    let (out_read, stdout) = pipe2(OFlag::O_CLOEXEC).map_err(kernel("make a pipe"))?;
    let (err_read, stderr) = pipe2(OFlag::O_CLOEXEC).map_err(kernel("make a pipe"))?;
    for ours in [&out_read, &err_read] {
        serve::nonblocking(ours).map_err(kernel("make a pipe"))?;
    }
    let outputs = vec![(log::Stream::Stdout, out_read), (log::Stream::Stderr, err_read)];
    Ok(Pipes { theirs: Stdio::Fds { stdin, stdout, stderr }, outputs, stdin: open })
}

impl Place<'_> {
    /// Creates and starts the container. What fails is told in ECS's words, with docker's exit code where there is one.
    fn start(&self) -> Result<Started, (Failure, Option<i32>)> {
        let cannot_create = |error: &(dyn std::error::Error + 'static)| {
            (Failure::new("CannotCreateContainerError", &chain(error)), None)
        };
        let bundle = Bundle::load(&self.bundle).map_err(|error| cannot_create(&error))?;
        // A monitor that was killed while it created may have left a state behind.
        container::delete(&self.state_root, &self.args.id, true).map_err(|error| cannot_create(&error))?;
        let terminal = bundle.config.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
        let Pipes { theirs: stdio, mut outputs, mut stdin } = if terminal {
            Pipes { theirs: Stdio::Terminal, outputs: Vec::new(), stdin: None }
        } else {
            pipes(self.args.interactive).map_err(|error| cannot_create(&error))?
        };
        let filters = self.args.seccomp_cache.as_deref().map_or_else(Cache::default, Cache::at);
        let mut created = create(CreateRequest {
            id: &self.args.id,
            bundle: &bundle,
            state_root: &self.state_root,
            stdio,
            preserve_fds: 0,
            listen_fds: 0,
            keep_keyring: false,
            supervision: Supervision::Monitored,
            reaper: self.args.init,
            filters: &filters,
        })
        .map_err(|error| cannot_create(&error))?;
        let console = created.take_console();
        if let Some(console) = &console {
            let used = serve::nonblocking(console).map_err(io::Error::from).and_then(|()| {
                outputs.push((log::Stream::Stdout, console.try_clone()?));
                stdin = self.args.interactive.then(|| console.try_clone()).transpose()?;
                Ok(())
            });
            used.map_err(|source| cannot_create(&MonitorError::Terminal(source)))?;
        }
        let init = created.init();
        let known = own_process().map_err(|error| cannot_create(&error)).and_then(|monitor| {
            let target = ExecTarget::new(init, &self.args.id, &self.bundle, &bundle.config, filters);
            Ok((monitor, target.map_err(|error| cannot_create(&error))?))
        });
        let (monitor, target) = match known {
            Ok(known) => known,
            Err(failed) => {
                // The first error is the one to tell.
                let _ = created.abort();
                return Err(failed);
            }
        };
        let running = created_start(created).inspect_err(|_| {
            // Its program may even run, where only the record of that failed. The error is what counts.
            let _ = container::signal_process(init, nix::libc::SIGKILL);
            let _ = nix::sys::wait::waitpid(Pid::from_raw(init.pid), None);
            let _ = container::delete(&self.state_root, &self.args.id, true);
        })?;
        let moments = Moments { entered: self.entered, ..running.moments };
        let record = MonitorRecord { format: protocol::FORMAT, monitor, init, started_at: now(), moments };
        Ok(Started { running, target, record, outputs, stdin, console })
    }

    fn look_after(
        &self,
        mut started: Started,
        listener: UnixListener,
        signals: SignalFd,
        mut log: Log,
    ) -> Result<ExitCode, MonitorError> {
        let started_at = started.record.started_at;
        match self.record(protocol::MONITOR_FILE, &started.record) {
            Ok(()) => tell(&Ready::Started(started.record.clone())),
            Err(error) => {
                // Nobody would ever find it: it ends as what could not be looked after.
                complain(&error);
                let _ = container::signal_process(started.record.init, nix::libc::SIGKILL);
            }
        }
        // What was needed to start is not needed again, and there may be thousands of us.
        memory::give_back();
        let cgroup = started.running.cgroup.clone();
        let pidfd = started.running.pidfd.as_fd();
        let (stdin, console) = (started.stdin.take(), started.console.take());
        let mut sessions = Sessions::new(&started.target, Container { init: pidfd, stdin, console });
        if let Err(error) = serve::until_exit(&started, &listener, &signals, &mut log, &mut sessions) {
            // Nobody could look after it any more; its end is recorded all the same.
            complain(&error);
            let _ = container::signal_process(started.record.init, nix::libc::SIGKILL);
        }
        let status = waitid(Id::PIDFd(pidfd), WaitPidFlag::WEXITED).map_err(kernel("wait for the container"))?;
        // What the container left running goes with it, and the last writers of its output with that.
        let killed = cgroup.oom_kills().unwrap_or(0);
        let emptied = cgroup.kill_all();
        if let Err(error) = serve::drain(started.outputs, &mut log, &mut sessions) {
            complain(&error);
        }
        log.finish();
        let (exit_code, signal) = match status {
            WaitStatus::Exited(_, code) => (code, None),
            WaitStatus::Signaled(_, signal, _) => (SIGNALLED + signal as i32, Some(signal as i32)),
            _ => (SIGNALLED, None),
        };
        let exit = ExitRecord {
            exit_code: Some(exit_code),
            signal,
            oom_killed: killed > 0,
            started_at: Some(started_at),
            ..ExitRecord::now()
        };
        self.record(protocol::EXIT_FILE, &exit)?;
        sessions.container_ended(exit_code);
        if let Err(error) = serve::farewell(&mut sessions) {
            complain(&error);
        }
        // The exit is on disk; what cannot be removed now the agent removes with the task.
        if let Err(error) = emptied {
            complain(&error);
        }
        if let Err(error) = container::delete(&self.state_root, &self.args.id, true) {
            complain(&error);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn record(&self, name: &str, record: &impl serde::Serialize) -> Result<(), MonitorError> {
        protocol::write_record(&self.bundle, name, record).map_err(file(&self.bundle.join(name)))
    }
}

#[expect(clippy::print_stderr, reason = "the monitor's stderr is its own log")]
fn complain(error: &(dyn std::error::Error + 'static)) {
    eprintln!("neargate-runtime: {}", chain(error));
}

fn own_process() -> io::Result<ProcessRef> {
    ProcessRef::of(Pid::this().as_raw())
}

fn created_start(created: Created) -> Result<Running, (Failure, Option<i32>)> {
    created.start().map_err(|error: StartError| {
        let exit_code = error.execute_errno().map(not_executed);
        (Failure::new("CannotStartContainerError", &chain(&error)), exit_code)
    })
}

impl ExitRecord {
    /// A record of an end at this moment, of which nothing else is known.
    fn now() -> ExitRecord {
        ExitRecord {
            format: protocol::FORMAT,
            exit_code: None,
            signal: None,
            oom_killed: false,
            started_at: None,
            finished_at: now(),
            error: None,
        }
    }
}
