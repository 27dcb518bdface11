//! The `neargate-runtime` binary: command line in, exit code out. All else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::cli::run()
}
