//! The OCI command line, with the flags of runc and crun, plus `namespaces` and `monitor`. Owns arguments, messages and
//! exit codes; the work is in `container`, `namespaces` and `monitor`. The commands of a container's life are in
//! `cli/commands.rs`, those that change or watch one in `cli/control.rs`, those that need none in `cli/inspect.rs`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::{monitor, own_binary};

pub mod commands;
mod control;
mod descriptors;
pub mod foreground;
mod inspect;
pub mod report;

/// Runs containers from OCI bundles.
#[derive(Debug, Parser)]
#[command(name = "neargate-runtime", about)]
#[command(version = concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.2.0"))]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// Directory for the state of containers
    #[arg(long, value_name = "DIR", default_value = "/run/neargate-runtime")]
    root: PathBuf,
    /// Also write messages to this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Format of that file
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: report::Format,
    /// More messages
    #[arg(long)]
    debug: bool,
    /// Refused: cgroups are made directly
    #[arg(long)]
    systemd_cgroup: bool,
    /// crun's word for it: cgroupfs; others are refused
    #[arg(long, value_name = "MANAGER")]
    cgroup_manager: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a container whose program waits for `start`
    Create(Create),
    /// Start the program of a created container
    Start(Id),
    /// Create, start, wait and delete
    Run(Run),
    /// Print the state of a container as JSON
    State(Id),
    /// Send a signal
    Kill(Kill),
    /// Remove a stopped container
    Delete(Delete),
    /// Run a further process in a running container
    Exec(Exec),
    /// List containers
    List(List),
    /// Keep a container's processes from running
    Pause(Id),
    /// Let a paused container go on
    Resume(Id),
    /// Change the limits of a container
    Update(control::Update),
    /// List the processes of a container
    Ps(control::Ps),
    /// Print a container's statistics and what it is killed for, as JSON lines
    Events(control::Events),
    /// Print what this runtime can do as JSON
    Features,
    /// Write a config.json to begin with
    Spec(inspect::Spec),
    /// Create and start a container, and look after it to its end
    Monitor(monitor::Args),
    /// Pin namespaces for the containers of a task
    #[command(subcommand)]
    Namespaces(Namespaces),
}

#[derive(Debug, Args)]
pub(crate) struct Id {
    /// Container id
    id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Bundle directory
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Write the pid of the container's init there
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Socket that is sent the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Refused: the root is always changed by pivot_root
    #[arg(long)]
    no_pivot: bool,
    /// Give the container no session keyring of its own
    #[arg(long)]
    no_new_keyring: bool,
    /// As it always is: orphans of the container are none of ours
    #[arg(long)]
    no_subreaper: bool,
    /// Descriptors after stderr to leave open
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Container id
    id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    create: Create,
    /// Return after the start
    #[arg(long, short)]
    detach: bool,
    /// Keep the container's state after its end
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// Send it to every process of the container
    #[arg(long, short)]
    all: bool,
    /// Container id
    id: String,
    /// Name or number
    #[arg(default_value = "SIGTERM")]
    signal: String,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Kill it first if it runs
    #[arg(long, short)]
    force: bool,
    /// Container id
    id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// OCI process object, instead of a command
    #[arg(long, short, value_name = "FILE")]
    process: Option<PathBuf>,
    /// UID[:GID]
    #[arg(long, short)]
    user: Option<String>,
    /// A supplementary group, as often as needed
    #[arg(long, short = 'g', value_name = "GID")]
    additional_gids: Vec<u32>,
    /// A capability besides the container's, as often as needed
    #[arg(long, short, value_name = "CAP")]
    cap: Vec<String>,
    /// Let it gain no privileges by executing programs
    #[arg(long)]
    no_new_privs: bool,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Refused: a process is in its container's cgroup
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
    /// Do not refuse a paused container: the process runs once it is resumed
    #[arg(long)]
    ignore_paused: bool,
    /// Working directory
    #[arg(long)]
    cwd: Option<PathBuf>,
    /// NAME=VALUE, as often as needed
    #[arg(long, short)]
    env: Vec<String>,
    /// Give it a terminal
    #[arg(long, short)]
    tty: bool,
    /// Write its pid there
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Return after the start
    #[arg(long, short)]
    detach: bool,
    /// Socket that is sent the master of its terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Descriptors after stderr to leave open
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Container id
    id: String,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// table or json
    #[arg(long, short, default_value = "table")]
    format: ListFormat,
    /// Ids only
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum ListFormat {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Namespaces {
    /// Make and pin namespaces
    Create {
        /// Where to pin them: DIR/user, DIR/net, DIR/ipc, DIR/pid
        #[arg(long)]
        dir: PathBuf,
        /// Make a user namespace whose id 0 is this one of the host
        #[arg(long, requires = "user_size")]
        user_base: Option<u32>,
        /// Number of ids in it
        #[arg(long, requires = "user_base")]
        user_size: Option<u32>,
        /// Make a network namespace
        #[arg(long)]
        net: bool,
        /// Make an ipc namespace, and a tmpfs of this many bytes at DIR/shm
        #[arg(long, value_name = "BYTES")]
        ipc: Option<u64>,
        /// Make a pid namespace, whose pid 1 lives in this cgroup
        #[arg(long, value_name = "CGROUP")]
        pid: Option<String>,
    },
    /// Release and remove them
    Delete {
        /// Where they are pinned
        #[arg(long)]
        dir: PathBuf,
    },
}

/// Parses the command line of this process and does what it says.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let reporter = report::Reporter::new(cli.global.log.clone(), cli.global.log_format);
    if cli.global.systemd_cgroup {
        return reporter.failed(&report::Refused("--systemd-cgroup"));
    }
    if let Some(manager) = cli.global.cgroup_manager.filter(|manager| manager != "cgroupfs") {
        return reporter.failed(&report::Refused(if manager == "systemd" {
            "--cgroup-manager systemd"
        } else {
            "--cgroup-manager other than cgroupfs"
        }));
    }
    // The process that keeps a pid namespace is seen by all containers in it.
    let enters = matches!(
        cli.command,
        Command::Create(_)
            | Command::Run(_)
            | Command::Exec(_)
            | Command::Monitor(_)
            | Command::Namespaces(Namespaces::Create { pid: Some(_), .. })
    );
    if enters && let Err(error) = own_binary::protect() {
        return reporter.failed(&error);
    }
    if let Err(error) = descriptors::check(&cli.command) {
        return reporter.failed(&error);
    }
    let root = &cli.global.root;
    let result = match cli.command {
        Command::Create(args) => commands::create(root, &args),
        Command::Start(args) => commands::start(root, &args),
        Command::Run(args) => commands::run(root, &args),
        Command::State(args) => commands::state(root, &args),
        Command::Kill(args) => commands::kill(root, &args),
        Command::Delete(args) => commands::delete(root, &args),
        Command::Exec(args) => commands::exec(root, &args),
        Command::List(args) => commands::list(root, &args),
        Command::Pause(args) => control::pause(root, &args),
        Command::Resume(args) => control::resume(root, &args),
        Command::Update(args) => control::update(root, &args),
        Command::Ps(args) => control::ps(root, &args),
        Command::Events(args) => control::events(root, &args),
        Command::Features => inspect::features(),
        Command::Spec(args) => inspect::spec(&args),
        Command::Monitor(args) => monitor::run(&args).map_err(Into::into),
        Command::Namespaces(args) => commands::namespaces(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => reporter.failed(error.as_ref()),
    }
}
