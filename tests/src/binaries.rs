//! Where the programs under test and their helpers are.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The workspace's directory.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in the workspace")
}

/// A built program: in `NEARGATE_BIN_DIR`, or the workspace's `target/debug`.
#[track_caller]
pub fn built(name: &str) -> PathBuf {
    let directory =
        std::env::var_os("NEARGATE_BIN_DIR").map_or_else(|| workspace().join("target/debug"), PathBuf::from);
    let path = directory.join(name);
    assert!(path.is_file(), "{} is missing: run `make build`", path.display());
    path
}

/// Panics unless this is root: without it nothing here proves anything.
#[track_caller]
pub fn need_root() {
    assert!(nix::unistd::geteuid().is_root(), "system tests need root: run them as root");
}

/// Runs one of Debian's programs to its success and answers its standard output.
#[track_caller]
pub fn tool(package: &str, command: &mut Command) -> String {
    let output = output(package, command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program to its end.
#[track_caller]
pub fn output(package: &str, command: &mut Command) -> Output {
    match command.output() {
        Ok(output) => output,
        Err(error) => panic!("{command:?} cannot be run ({error}): install Debian's package {package}"),
    }
}
