//! Reads each kind of thing from /proc, /sys, iproute2 and nftables. Owns no comparison.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Scope, instance_id};
use crate::binaries::tool;

/// Names to look for, and names that are somebody else's.
pub(super) struct Marks {
    ours: Vec<String>,
    foreign: Vec<String>,
    files: Vec<PathBuf>,
}

impl Marks {
    pub(super) fn of(scope: &Scope) -> Marks {
        match scope {
            Scope::Everything => {
                let words = ["neargate-", "neargate_", "neargated", "/neargate"];
                let foreign = living_roots().iter().flat_map(|root| names(root)).collect();
                let files = ["/run/neargate", "/run/neargate-runtime", "/var/lib/neargate"];
                Marks {
                    ours: words.map(str::to_owned).to_vec(),
                    foreign,
                    files: files.into_iter().map(PathBuf::from).chain(temporary()).collect(),
                }
            }
            Scope::Root(root) => Marks { ours: names(root).to_vec(), foreign: Vec::new(), files: vec![root.clone()] },
        }
    }

    fn is_ours(&self, text: &str) -> bool {
        self.ours.iter().any(|name| text.contains(name.as_str()))
    }

    pub(super) fn is_foreign(&self, line: &str) -> bool {
        self.foreign.iter().any(|name| line.contains(name.as_str()))
    }
}

/// What an agent's things are called by.
fn names(root: &Path) -> [String; 4] {
    let instance = instance_id(root);
    let real = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let directory = format!("{}/", real.display());
    [directory, format!("neargate-{instance}"), format!("neargate_{instance}"), format!("ng{instance}")]
}

/// The demo's and the tests' directories.
fn temporary() -> Vec<PathBuf> {
    let entries = fs::read_dir("/tmp").into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("neargate-")).map(|e| e.path()).collect()
}

/// Roots of the agents that run now.
fn living_roots() -> Vec<PathBuf> {
    let mut roots = Vec::new();
    for pid in pids() {
        let words = command_line(pid);
        let is_agent = words.first().is_some_and(|program| program.ends_with("neargated"));
        if is_agent && let Some(root) = words.iter().skip_while(|word| *word != "--root").nth(1) {
            roots.push(PathBuf::from(root));
        }
    }
    roots
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect()
}

fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).filter(|w| !w.is_empty()).map(|w| String::from_utf8_lossy(w).into_owned()).collect()
}

/// A process that is ours.
pub(super) struct Process {
    pid: u32,
    start_time: u64,
    command: String,
    cgroup: String,
}

impl Process {
    pub(super) fn line(&self) -> String {
        format!("pid {} started {} in {}: {}", self.pid, self.start_time, self.cgroup, self.command)
    }
}

/// Field 22 of /proc/PID/stat: with the pid it names a process for ever.
pub(super) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

pub(super) fn processes(marks: &Marks) -> Vec<Process> {
    let mut found = Vec::new();
    for pid in pids().into_iter().filter(|pid| *pid != std::process::id()) {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let cgroup = cgroups.lines().find(|line| marks.is_ours(line)).unwrap_or_default();
        let words = command_line(pid);
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        // By argument, too: a monitor is in no cgroup of ours. But a shell whose script speaks of us is none of ours.
        let ours = name.starts_with("neargate") && marks.is_ours(&format!("{name} {}/", words.join("/ ")));
        if (ours || !cgroup.is_empty())
            && let Some(start_time) = start_time(pid)
        {
            found.push(Process { pid, start_time, command: words.join(" "), cgroup: cgroup.to_owned() });
        }
    }
    found
}

/// Namespaces that only our processes are in.
pub(super) fn namespaces(processes: &[Process]) -> Vec<String> {
    let host: BTreeSet<String> = identities(std::process::id()).into_iter().collect();
    let mut found = Vec::new();
    for process in processes {
        let of_process = identities(process.pid).into_iter().filter(|identity| !host.contains(identity));
        found.extend(of_process.map(|identity| format!("{identity} of {}", process.line())));
    }
    found
}

fn identities(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/ns")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned())).collect()
}

pub(super) fn mounts(marks: &Marks) -> Vec<String> {
    let own = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let of_init = fs::read_to_string("/proc/1/mountinfo").unwrap_or_default();
    let lines: BTreeSet<&str> = own.lines().chain(of_init.lines()).filter(|line| marks.is_ours(line)).collect();
    lines.into_iter().map(str::to_owned).collect()
}

/// Directories of every hierarchy, v1 and v2.
pub(super) fn cgroups(marks: &Marks) -> Vec<String> {
    let mut found = Vec::new();
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.filter(|path| path.is_dir()).chain([top.to_owned()]) {
        let groups = fs::read_dir(&hierarchy).into_iter().flatten().flatten();
        for group in groups.filter(|group| group.path().is_dir()) {
            let name = group.file_name().to_string_lossy().into_owned();
            if name.starts_with("neargate-") && marks.is_ours(&name) {
                let below = walkdir::WalkDir::new(group.path()).into_iter().flatten();
                let directories = below.filter(|entry| entry.file_type().is_dir());
                found.extend(directories.map(|entry| entry.path().display().to_string()));
            }
        }
    }
    found
}

pub(super) fn links(marks: &Marks) -> Vec<String> {
    let text = tool("iproute2", Command::new("ip").args(["-j", "link"]));
    let links: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
    let names = links.iter().filter_map(|link| link["ifname"].as_str());
    // Bridge and veth are named ng<instance>…
    let instance = |name: &&str| name.starts_with("ng") && (marks.is_ours(name) || marks.is_ours("neargate-"));
    names.filter(instance).map(str::to_owned).collect()
}

pub(super) fn nft_tables(marks: &Marks) -> Vec<String> {
    let text = tool("nftables", Command::new("nft").args(["list", "tables"]));
    text.lines().filter(|line| marks.is_ours(line)).map(str::to_owned).collect()
}

pub(super) fn loop_devices(marks: &Marks) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let backed = devices.filter_map(|device| {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        Some(format!("{} on {}", device.file_name().to_string_lossy(), file.trim()))
    });
    backed.filter(|line| marks.is_ours(line)).collect()
}

pub(super) fn files(marks: &Marks) -> Vec<String> {
    let mut found = Vec::new();
    for root in &marks.files {
        let below = walkdir::WalkDir::new(root).max_depth(3).into_iter().flatten();
        found.extend(below.map(|entry| entry.path().display().to_string()));
    }
    found
}
