//! The built `neargate-runtime` on the real kernel: bundles made of busybox, looked at from inside the container and
//! from the host. Needs root and /bin/busybox (package busybox-static), and fails without them.
#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod harness;

mod control;
mod escapes;
mod exec;
mod flags;
mod hooks;
mod hostile;
mod isolation;
mod lifecycle;
mod monitor;
mod mounts;
mod process;
mod resources;
mod seccomp;
mod user_namespace;
