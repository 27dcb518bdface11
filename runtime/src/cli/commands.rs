//! One function per command of the OCI command line.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use nix::sys::signal::Signal;
use oci_spec::runtime::{Capabilities, Capability, Process, Spec};

use super::{Create, Delete, Exec, Id, Kill, List, ListFormat, Namespaces, Run, descriptors, foreground, report};
use crate::bundle::Bundle;
use crate::capabilities;
use crate::container::create::{CreateRequest, Created, Supervision, create as create_container};
use crate::container::exec::{ExecTarget, exec_preserving};
use crate::container::state::{Directory, Listed, Record, StateError};
use crate::container::{self, Stdio};
use crate::namespaces::pin;
use crate::process::ProcessRef;
use crate::seccomp::Cache;
use crate::sys::unix_socket;

pub(super) type Outcome = Result<ExitCode, Box<dyn Error>>;

/// What is wrong with the arguments or with the files they name.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("a terminal needs --console-socket when nobody waits for the container")]
    NoConsoleSocket,
    #[error("--console-socket goes with process.terminal or --tty only")]
    NoTerminal,
    #[error("cannot send the terminal to {path}")]
    ConsoleSocket { path: PathBuf, source: io::Error },
    #[error("cannot write {path}")]
    PidFile { path: PathBuf, source: io::Error },
    #[error("{text:?} is no signal")]
    Signal { text: String },
    #[error("cannot read {path}")]
    Process { path: PathBuf, source: io::Error },
    #[error("cannot parse {path}")]
    ProcessSyntax { path: PathBuf, source: serde_json::Error },
    #[error("{text:?} is no UID[:GID]")]
    User { text: String },
    #[error("neither --process nor a command was given")]
    NoCommand,
    #[error("--cap {name} is no capability")]
    Capability { name: String, source: serde_json::Error },
    #[error("the container has no process to take defaults from")]
    NoDefaults,
}

/// `create`
pub(super) fn create(root: &Path, args: &Create) -> Outcome {
    let mut created = begin(root, args, true)?;
    if let Err(error) = hand_over(&mut created, args) {
        created.abort()?;
        return Err(error);
    }
    Ok(ExitCode::SUCCESS)
}

/// Creates; with a terminal that needs a socket when nobody is going to wait.
fn begin(root: &Path, args: &Create, detached: bool) -> Result<Created, Box<dyn Error>> {
    if args.no_pivot {
        return Err(report::Refused("--no-pivot").into());
    }
    let bundle = Bundle::load(&args.bundle)?;
    let terminal = bundle.config.process().as_ref().is_some_and(|process| process.terminal().unwrap_or(false));
    let stdio = terminal_stdio(terminal, args.console_socket.as_deref(), detached)?;
    Ok(create_container(CreateRequest {
        id: &args.id,
        bundle: &bundle,
        state_root: root,
        stdio,
        preserve_fds: args.preserve_fds.saturating_add(descriptors::listening()),
        listen_fds: descriptors::listening(),
        keep_keyring: args.no_new_keyring,
        supervision: Supervision::Detached,
        reaper: false,
        filters: &Cache::below(root),
    })?)
}

fn terminal_stdio(terminal: bool, socket: Option<&Path>, detached: bool) -> Result<Stdio, CommandError> {
    match (terminal, socket) {
        (true, None) if detached => Err(CommandError::NoConsoleSocket),
        (false, Some(_)) => Err(CommandError::NoTerminal),
        (true, _) => Ok(Stdio::Terminal),
        (false, None) => Ok(Stdio::Inherit),
    }
}

/// Terminal and pid file, once the container is created; gives the terminal where it stays with us.
fn hand_over(created: &mut Created, args: &Create) -> Result<Option<OwnedFd>, Box<dyn Error>> {
    let console = pass_console(created.take_console(), args.console_socket.as_deref())?;
    if let Some(path) = &args.pid_file {
        write_pid(path, created.init())?;
    }
    Ok(console)
}

fn pass_console(console: Option<OwnedFd>, socket: Option<&Path>) -> Result<Option<OwnedFd>, CommandError> {
    let (Some(master), Some(path)) = (&console, socket) else { return Ok(console) };
    let failed = |source| CommandError::ConsoleSocket { path: path.to_owned(), source };
    let stream = UnixStream::connect(path).map_err(failed)?;
    unix_socket::send(&stream, b"terminal", &[master.as_raw_fd()]).map_err(|errno| failed(errno.into()))?;
    Ok(None)
}

/// By rename, as callers wait for the file to appear.
fn write_pid(path: &Path, process: ProcessRef) -> Result<(), CommandError> {
    let failed = |source| CommandError::PidFile { path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    let temporary = path.with_file_name(hidden);
    let mut file = File::create(&temporary).map_err(failed)?;
    write!(file, "{}", process.pid).and_then(|()| fs::rename(&temporary, path)).map_err(failed)
}

/// `start`
pub(super) fn start(root: &Path, args: &Id) -> Outcome {
    container::start::start(root, &args.id)?;
    Ok(ExitCode::SUCCESS)
}

/// `run`
pub(super) fn run(root: &Path, args: &Run) -> Outcome {
    let mut created = begin(root, &args.create, args.detach)?;
    let console = match hand_over(&mut created, &args.create) {
        Ok(console) => console,
        Err(error) => {
            created.abort()?;
            return Err(error);
        }
    };
    let started =
        foreground::prepare().map_err(Box::<dyn Error>::from).and_then(|signals| Ok((signals, created.start()?)));
    let (signals, running) = match started {
        Ok(started) => started,
        Err(error) => {
            container::delete(root, &args.create.id, true)?;
            return Err(error);
        }
    };
    if args.detach {
        return Ok(ExitCode::SUCCESS);
    }
    let code = foreground::wait(&running.pidfd, &signals, console.as_ref())?;
    if !args.keep {
        container::delete(root, &args.create.id, true)?;
    }
    Ok(ExitCode::from(code))
}

/// `state`
pub(super) fn state(root: &Path, args: &Id) -> Outcome {
    let record = container::load(root, &args.id)?;
    let mut state = serde_json::to_value(record.to_oci())?;
    state["status"] = container::status(&record)?.into();
    print(&serde_json::to_string_pretty(&state)?)?;
    Ok(ExitCode::SUCCESS)
}

/// `kill`
pub(super) fn kill(root: &Path, args: &Kill) -> Outcome {
    container::kill(root, &args.id, signal(&args.signal)?, args.all)?;
    Ok(ExitCode::SUCCESS)
}

fn signal(text: &str) -> Result<i32, CommandError> {
    let failed = || CommandError::Signal { text: text.to_owned() };
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=nix::libc::SIGRTMAX()).contains(&number) { Ok(number) } else { Err(failed()) };
    }
    let upper = text.to_ascii_uppercase();
    let real_time = upper.strip_prefix("SIG").unwrap_or(&upper).strip_prefix("RT");
    if let Some(rest) = real_time {
        let (from, offset) = rest
            .strip_prefix("MIN")
            .map_or((nix::libc::SIGRTMAX(), rest.strip_prefix("MAX")), |rest| (nix::libc::SIGRTMIN(), Some(rest)));
        let offset = offset.ok_or_else(failed)?;
        let offset = if offset.is_empty() { 0 } else { offset.parse::<i32>().map_err(|_| failed())? };
        let number = from.saturating_add(offset);
        let allowed = nix::libc::SIGRTMIN()..=nix::libc::SIGRTMAX();
        return if allowed.contains(&number) { Ok(number) } else { Err(failed()) };
    }
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    Signal::from_str(&name).map(|signal| signal as i32).map_err(|_| failed())
}

/// `delete`
pub(super) fn delete(root: &Path, args: &Delete) -> Outcome {
    container::delete(root, &args.id, args.force)?;
    Ok(ExitCode::SUCCESS)
}

/// `exec`
pub(super) fn exec(root: &Path, args: &Exec) -> Outcome {
    if args.cgroup.is_some() {
        return Err(report::Refused("--cgroup").into());
    }
    let target = ExecTarget::from_state(root, &args.id, args.ignore_paused)?;
    let process = process(root, args)?;
    let terminal = process.terminal().unwrap_or(false);
    let stdio = terminal_stdio(terminal, args.console_socket.as_deref(), args.detach)?;
    let signals = foreground::prepare()?;
    let exec = exec_preserving(&target, &process, stdio, args.preserve_fds)?;
    let console = pass_console(exec.console, args.console_socket.as_deref())?;
    if let Some(path) = &args.pid_file {
        write_pid(path, exec.process)?;
    }
    if args.detach {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(foreground::wait(&exec.pidfd, &signals, console.as_ref())?))
}

/// The process of `--process`, or that of the container with another command.
fn process(root: &Path, args: &Exec) -> Result<Process, Box<dyn Error>> {
    let mut process: Process = match &args.process {
        Some(path) => {
            let text =
                fs::read_to_string(path).map_err(|source| CommandError::Process { path: path.clone(), source })?;
            serde_json::from_str(&text).map_err(|source| CommandError::ProcessSyntax { path: path.clone(), source })?
        }
        None if args.command.is_empty() => return Err(CommandError::NoCommand.into()),
        None => {
            let record: Record = Directory::open(root, &args.id)?.load()?;
            let config = Spec::load(record.bundle.join("config.json"))?;
            let mut process = config.process().clone().ok_or(CommandError::NoDefaults)?;
            process.set_args(Some(args.command.clone())).set_terminal(Some(false));
            process
        }
    };
    if args.tty {
        process.set_terminal(Some(true));
    }
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some(text) = &args.user {
        let number = |text: &str| text.parse::<u32>().map_err(|_| CommandError::User { text: text.to_owned() });
        let (uid, gid) = text.split_once(':').map_or((text.as_str(), None), |(uid, gid)| (uid, Some(gid)));
        let (uid, gid) = (number(uid)?, gid.map(number).transpose()?);
        let user = process.user_mut();
        user.set_uid(uid).set_username(None);
        if let Some(gid) = gid {
            user.set_gid(gid);
        }
    }
    if !args.additional_gids.is_empty() {
        let user = process.user_mut();
        let groups = user.additional_gids().iter().flatten().chain(&args.additional_gids).copied().collect();
        user.set_additional_gids(Some(groups));
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = &args.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &args.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    add_capabilities(&mut process, &args.cap)?;
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.env.iter().cloned());
    process.set_env(Some(env));
    Ok(process)
}

/// As runc: to all sets but the ambient one, and to that where the container's process has some that are inherited.
fn add_capabilities(process: &mut Process, names: &[String]) -> Result<(), CommandError> {
    let mut sets = process.capabilities().clone().unwrap_or_else(capabilities::none);
    for name in names {
        let upper = name.to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        let capability: Capability = serde_json::from_value(full.into())
            .map_err(|source| CommandError::Capability { name: name.clone(), source })?;
        let with = |set: &Option<Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let (bounding, effective, permitted) = (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
        sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
        if sets.inheritable().as_ref().is_some_and(|set| !set.is_empty()) {
            let (inheritable, ambient) = (with(sets.inheritable()), with(sets.ambient()));
            sets.set_inheritable(inheritable).set_ambient(ambient);
        }
    }
    if !names.is_empty() {
        process.set_capabilities(Some(sets));
    }
    Ok(())
}

/// `list`
pub(super) fn list(root: &Path, args: &List) -> Outcome {
    let Listed { records, damaged } = container::list(root)?;
    tell_damaged(&damaged);
    let statuses = records.iter().map(container::status).collect::<Result<Vec<_>, _>>()?;
    if args.quiet {
        for record in &records {
            print(&record.id)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let created = |record: &Record| {
        let since = std::time::Duration::try_from_secs_f64(record.created_at).unwrap_or_default();
        report::timestamp(since.as_secs())
    };
    let pid = |record: &Record| record.status.init().map_or(0, |init| init.pid);
    match args.format {
        ListFormat::Json => {
            let rows: Vec<_> = records
                .iter()
                .zip(&statuses)
                .map(|(record, status)| {
                    serde_json::json!({
                        "ociVersion": container::state::OCI_VERSION,
                        "id": record.id,
                        "pid": pid(record),
                        "status": status,
                        "bundle": record.bundle,
                        "created": created(record),
                    })
                })
                .collect();
            print(&serde_json::to_string(&rows)?)?;
        }
        ListFormat::Table => {
            print(&format!("{:<36} {:<8} {:<8} {:<20} BUNDLE", "ID", "PID", "STATUS", "CREATED"))?;
            for (record, status) in records.iter().zip(&statuses) {
                let (id, bundle) = (&record.id, record.bundle.display());
                print(&format!("{id:<36} {:<8} {status:<8} {:<20} {bundle}", pid(record), created(record)))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Beside the sound ones, and no failure: as with runc, one damaged container does not hide the others.
#[expect(clippy::print_stderr, reason = "this is where the command line speaks")]
fn tell_damaged(damaged: &[StateError]) {
    for error in damaged {
        eprintln!("neargate-runtime: {}; `delete --force` removes it", report::chain(error));
    }
}

/// `namespaces create` and `namespaces delete`
pub(super) fn namespaces(args: &Namespaces) -> Outcome {
    match args {
        Namespaces::Create { dir, user_base, user_size, net, ipc, pid } => {
            let user = user_base.zip(*user_size);
            pin::create(&pin::Request { directory: dir, user, network: *net, ipc: *ipc, pid: pid.as_deref() })?;
        }
        Namespaces::Delete { dir } => pin::delete(dir)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A line on stdout; a reader that is gone is an error, not a panic.
pub(super) fn print(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(signal("KILL").unwrap(), 9);
        assert_eq!(signal("sigterm").unwrap(), 15);
        assert_eq!(signal("0").unwrap(), 0);
        assert_eq!(signal("SIGRTMIN+3").unwrap(), nix::libc::SIGRTMIN() + 3);
        assert_eq!(signal("RTMAX-1").unwrap(), nix::libc::SIGRTMAX() - 1);
        assert!(signal("RTMIN-1").is_err() && signal("RTX").is_err());
        assert!(signal("NOPE").is_err());
        assert!(signal("99").is_err());
    }
}
