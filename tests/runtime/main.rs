//! What a container sees and may do, looked at from inside, and its limits, exceeded on purpose. The containers are
//! tasks of real agents, so that what is proved is what users get.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a panic is the report")]

mod confinement;
mod limits;
mod namespaces;
mod network;
mod volumes;

use serde_json::Value;
use system_tests::TestHost;
use system_tests::definition::{shell, task, with};

/// Runs until it is told to stop.
const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

/// A running task with one container `c`, with more members in container and task.
fn running(host: &TestHost, of_container: Value, of_task: Value) -> String {
    let container = with(shell("c", &host.image("base"), FOREVER), of_container);
    let arn = host.run(&with(task("inside", &[container]), of_task));
    host.running(&arn);
    arn
}

/// A line of /proc/self/status.
fn status(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} is not in {text}")).trim().to_owned()
}
