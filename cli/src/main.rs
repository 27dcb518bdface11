//! `neargate`: the command line of the host agent. Parses, runs one command, turns its outcome into an exit code.
//! Everything else is in the modules: `args` (what may be typed), `commands` (one file per noun), `client` (the way to
//! the agent), `output` (what reaches stdout and stderr).

#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod definition_file;
mod error;
mod follow;
mod json_argument;
mod log_printer;
mod log_stream;
mod output;
mod refusal;
mod session;
mod table;
mod task_name;
mod terminal;
mod text;
mod time;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(&format!("neargate: cannot start: {error}"));
            return ExitCode::from(error::FAILED);
        }
    };
    let outcome = runtime.block_on(commands::dispatch(cli));
    // A thread may sit in a read of stdin for ever: nobody waits for it.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if !error.is_broken_pipe() {
                output::note(&format!("neargate: {}", error::chain(&error)));
            }
            ExitCode::from(error.exit_code())
        }
    }
}
