//! What may be typed: global options and every command's own. Owns no behaviour; wrong usage ends here with exit code 2.

mod definitions;
mod tasks;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use self::{
    definitions::{Definitions, Deregister, Register, Validate},
    tasks::{Attach, Describe, Events, Exec, FilterKey, Logs, Ps, Run, Stats, Stop},
};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed; stderr says what, why and what to do
  2    wrong usage
  run --follow: the essential container's exit code (128+n for signal n, 127 or 126 for a program that is
  missing or cannot be executed), 125 when it has none, 130 when Ctrl-C detached from it. exec: the command's exit code;
  attach: the container's, 0 when the detach keys or Ctrl-C twice were typed.

A task is named by its ARN, its id or the first 4 or more digits of its id.";

/// Where help lists the options of every command.
const HEADING: &str = "Global options";

/// Runs ECS task definitions on this host.
#[derive(Debug, Parser)]
#[command(name = "neargate", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Globals {
    /// Socket of the agent
    #[arg(long, global = true, help_heading = HEADING, value_name = "PATH", env = "NEARGATE_SOCKET")]
    #[arg(default_value = "/run/neargate/neargated.sock")]
    pub(crate) socket: PathBuf,
    /// Print the answer as ECS JSON and nothing else
    #[arg(long, global = true, help_heading = HEADING)]
    pub(crate) json: bool,
    /// Agent on another host; refused until the agent has a TCP door
    #[arg(long, global = true, value_name = "URL", hide = true, value_parser = refuse_host)]
    pub(crate) host: Option<String>,
}

fn refuse_host(_url: &str) -> Result<String, String> {
    Err("--host is not supported: the agent listens on a Unix socket only; run neargate on its host, with --socket"
        .into())
}

/// The commands, in the order in which a newcomer meets them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a task definition (registered only when its content is new)
    Run(Run),
    /// Check task definitions without an agent
    Validate(Validate),
    /// Register a task definition as its family's next revision
    Register(Register),
    /// List task definitions
    Definitions(Definitions),
    /// Make a revision INACTIVE: it starts no new tasks
    Deregister(Deregister),
    /// List tasks
    Ps(Ps),
    /// Describe tasks in full
    Describe(Describe),
    /// Show what a task's containers wrote
    Logs(Logs),
    /// Show what running tasks and their containers use
    Stats(Stats),
    /// Tell what happens to tasks, containers and images
    Events(Events),
    /// Stop tasks and wait until they have
    Stop(Stop),
    /// Run a command in a running container
    Exec(Exec),
    /// Attach to the streams of a container's own program
    Attach(Attach),
    /// Pull an image
    Pull(Pull),
    /// List images
    Images,
    /// Remove images
    Rmi(Rmi),
    /// Describe this host, or make it take new tasks or refuse them
    Host(Host),
}

/// `neargate pull`
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// [HOST[:PORT]/]NAME[:TAG][@DIGEST], oci:DIR[:TAG] or docker-archive:FILE[:NAME]
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
}

/// `neargate rmi`
#[derive(Debug, Args)]
pub(crate) struct Rmi {
    /// References or image ids
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
}

/// `neargate host`
#[derive(Debug, Args)]
pub(crate) struct Host {
    /// Refuse new tasks, leave running ones alone
    #[arg(long, conflicts_with = "activate")]
    pub(crate) drain: bool,
    /// Take new tasks again
    #[arg(long)]
    pub(crate) activate: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_after_the_task_belongs_to_the_command() {
        let cli =
            Cli::try_parse_from(["neargate", "exec", "-it", "-e", "A=b=c", "abcd", "sh", "-c", "x", "--json"]).unwrap();
        let Command::Exec(exec) = cli.command else { panic!("not exec") };
        assert_eq!(exec.command, ["sh", "-c", "x", "--json"]);
        assert_eq!(exec.env, [("A".to_owned(), "b=c".to_owned())]);
        assert!(exec.interactive && exec.tty && !cli.globals.json);
    }

    #[test]
    fn global_options_may_follow_the_command() {
        let cli = Cli::try_parse_from(["neargate", "ps", "-a", "--json", "--socket", "/s"]).unwrap();
        assert!(cli.globals.json);
        assert_eq!(cli.globals.socket, PathBuf::from("/s"));
    }

    #[test]
    fn a_remote_host_is_refused_by_name() {
        let error = Cli::try_parse_from(["neargate", "ps", "--host", "https://x"]).unwrap_err();
        assert!(error.to_string().contains("--host is not supported"), "{error}");
    }

    #[test]
    fn counts_outside_one_to_ten_are_refused() {
        assert!(Cli::try_parse_from(["neargate", "run", "f", "--count", "0"]).is_err());
        assert!(Cli::try_parse_from(["neargate", "run", "f", "--count", "11"]).is_err());
    }
}
