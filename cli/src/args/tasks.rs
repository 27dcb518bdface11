//! Options of the commands on tasks.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use crate::session::{Keys, parse_keys};

use crate::time;

/// `neargate run`
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Task definition as JSON, - for stdin, or the name of a registered one
    #[arg(value_name = "FILE|FAMILY[:REVISION]")]
    pub(crate) definition: PathBuf,
    /// Show state changes and logs until the task has stopped; Ctrl-C detaches
    #[arg(long, conflicts_with = "detach")]
    pub(crate) follow: bool,
    /// Return once the task is accepted (the default)
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Values that replace the definition's: JSON, or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) overrides: Option<String>,
    /// How to isolate the task
    #[arg(long, ignore_case = true)]
    pub(crate) launch_type: Option<LaunchType>,
    /// Subnets of an awsvpc task, which needs some: JSON, or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) network_configuration: Option<String>,
    /// Number of tasks
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=10))]
    pub(crate) count: i32,
    /// Cluster to run in
    #[arg(long)]
    pub(crate) cluster: Option<String>,
    /// Who starts it, to find it again
    #[arg(long)]
    pub(crate) started_by: Option<String>,
    /// Task group; family:FAMILY unless given
    #[arg(long)]
    pub(crate) group: Option<String>,
}

/// ECS launch types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LaunchType {
    /// Namespaces on this host's kernel
    #[value(name = "EC2")]
    Ec2,
    /// A microVM of its own
    #[value(name = "FARGATE")]
    Fargate,
    /// As EC2
    #[value(name = "EXTERNAL")]
    External,
}

impl LaunchType {
    /// The word on the wire.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            LaunchType::Ec2 => "EC2",
            LaunchType::Fargate => "FARGATE",
            LaunchType::External => "EXTERNAL",
        }
    }
}

/// `neargate ps`
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Stopped tasks too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Ids and nothing else
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// `neargate describe`
#[derive(Debug, Args)]
pub(crate) struct Describe {
    /// Instead, what the tasks' starts took, phase by phase
    #[arg(long)]
    pub(crate) timing: bool,
    /// Tasks by ARN, id or beginning of the id
    #[arg(value_name = "TASK", required = true)]
    pub(crate) tasks: Vec<String>,
}

/// `neargate logs`
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Task by ARN, id or beginning of the id
    #[arg(value_name = "TASK")]
    pub(crate) task: String,
    /// Go on until the task has stopped
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last N lines of each container
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) tail: Option<i32>,
    /// Only this container
    #[arg(short, long, value_name = "NAME")]
    pub(crate) container: Option<String>,
    /// Only what was written from then on: RFC 3339, seconds since the epoch, or 10m for ten minutes ago
    #[arg(long, value_name = "TIME", value_parser = time::moment, allow_hyphen_values = true)]
    pub(crate) since: Option<f64>,
    /// Only what was written before; with --follow, end then
    #[arg(long, value_name = "TIME", value_parser = time::moment, allow_hyphen_values = true)]
    pub(crate) until: Option<f64>,
    /// Begin each line with its time
    #[arg(short, long)]
    pub(crate) timestamps: bool,
}

/// `neargate stats`
#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Tasks by ARN, id or beginning of the id; all that run unless given
    #[arg(value_name = "TASK")]
    pub(crate) tasks: Vec<String>,
    /// Measure once and end
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Seconds between two measurements
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    pub(crate) interval: f64,
}

fn interval(word: &str) -> Result<f64, String> {
    let seconds: f64 = word.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("not between 0.1 and 3600 seconds".to_owned()) }
}

/// `neargate events`
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Begin with what is remembered from then on: RFC 3339, seconds since the epoch, or 10m for ten minutes ago
    #[arg(long, value_name = "TIME", value_parser = time::moment, allow_hyphen_values = true)]
    pub(crate) since: Option<f64>,
    /// End then
    #[arg(long, value_name = "TIME", value_parser = time::moment, allow_hyphen_values = true)]
    pub(crate) until: Option<f64>,
    /// Only those of task=, container=, family=, type= or image=; may be repeated: the same key means or, another and
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    pub(crate) filter: Vec<(FilterKey, String)>,
}

/// What events may be chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FilterKey {
    Task,
    Container,
    Family,
    Type,
    Image,
}

fn filter(word: &str) -> Result<(FilterKey, String), String> {
    let (key, value) = word.split_once('=').ok_or("not KEY=VALUE")?;
    let key = match key {
        "task" => FilterKey::Task,
        "container" => FilterKey::Container,
        "family" => FilterKey::Family,
        "type" => FilterKey::Type,
        "image" => FilterKey::Image,
        _ => return Err("the key is none of task, container, family, type and image".to_owned()),
    };
    if value.is_empty() {
        return Err("the value after = is missing".to_owned());
    }
    Ok((key, value.to_owned()))
}

/// `neargate stop`
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Tasks by ARN, id or beginning of the id
    #[arg(value_name = "TASK", required = true)]
    pub(crate) tasks: Vec<String>,
    /// Told as the tasks' stoppedReason
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Return once the tasks are told to stop, not when they have
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// `neargate exec`
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Pass stdin on to the command
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// user, user:group or ids; the container's user unless given
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// NAME=VALUE, or NAME to pass on one's own; may be repeated
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = environment)]
    pub(crate) env: Vec<(String, String)>,
    /// Give the command all capabilities, within the task's user namespace where it has one
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Which container; needed where the task has several
    #[arg(short, long, value_name = "NAME")]
    pub(crate) container: Option<String>,
    /// Task by ARN, id or beginning of the id
    #[arg(value_name = "TASK")]
    pub(crate) task: String,
    /// Command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// `neargate attach`
#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// Do not pass stdin on
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Pass signals on to the container's program, unless it has a terminal; a second Ctrl-C within 5 seconds detaches
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(default_value_t = true, default_missing_value = "true")]
    pub(crate) sig_proxy: bool,
    /// Keys that detach from a terminal
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = parse_keys)]
    pub(crate) detach_keys: Keys,
    /// Which container; needed where the task has several
    #[arg(short, long, value_name = "NAME")]
    pub(crate) container: Option<String>,
    /// Task by ARN, id or beginning of the id
    #[arg(value_name = "TASK")]
    pub(crate) task: String,
}

fn environment(word: &str) -> Result<(String, String), String> {
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => (word, std::env::var(word).map_err(|_| format!("{word} is not set here; write {word}=VALUE"))?),
    };
    if name.is_empty() {
        return Err("the name before = is missing".into());
    }
    Ok((name.to_owned(), value))
}
