//! What the kernel and the file system hold that is Neargate's: processes, mounts, cgroups, namespaces, links, nft
//! tables, loop devices, files. Taken before and after, the difference is a leak.
//!
//! Machines are shared: only what carries our names counts, and what belongs to an agent that is alive now is its own
//! business.

mod kernel;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How long what is being removed may take: the kernel drops some things after the process that held them.
const SETTLE: Duration = Duration::from_secs(10);

/// Whose things are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything that is named as Neargate names things, but for living agents.
    Everything,
    /// What belongs to the agent on this root.
    Root(PathBuf),
}

/// Everything found, as lines by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// A kind such as `mount`, and one line for each thing.
    pub found: BTreeMap<String, BTreeSet<String>>,
}

/// Instance id of an agent's root: first 8 hex digits of the SHA-256 of its real path.
pub fn instance_id(root: &Path) -> String {
    let real = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let digest = Sha256::digest(real.as_os_str().as_encoded_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

impl Snapshot {
    /// Looks now.
    pub fn take(scope: &Scope) -> Snapshot {
        let marks = kernel::Marks::of(scope);
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut add = |kind: &str, lines: Vec<String>| {
            let lines = lines.into_iter().filter(|line| !marks.is_foreign(line));
            found.entry(kind.to_owned()).or_default().extend(lines);
        };
        let processes = kernel::processes(&marks);
        add("namespace", kernel::namespaces(&processes));
        add("process", processes.iter().map(kernel::Process::line).collect());
        add("mount", kernel::mounts(&marks));
        add("cgroup", kernel::cgroups(&marks));
        add("link", kernel::links(&marks));
        add("nft table", kernel::nft_tables(&marks));
        add("loop device", kernel::loop_devices(&marks));
        add("file", kernel::files(&marks));
        Snapshot { found }
    }

    /// What is in `self` and was not in `before`, one line each.
    pub fn new_since(&self, before: &Snapshot) -> Vec<String> {
        let empty = BTreeSet::new();
        self.found
            .iter()
            .flat_map(|(kind, lines)| {
                let known = before.found.get(kind).unwrap_or(&empty);
                lines.difference(known).map(move |line| format!("+ {kind}: {line}"))
            })
            .collect()
    }

    /// Looks until nothing new is left, or tells what is.
    pub fn settle(scope: &Scope, before: &Snapshot) -> Result<(), String> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let left = Snapshot::take(scope).new_since(before);
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(left.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
