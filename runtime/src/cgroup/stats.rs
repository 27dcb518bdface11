//! What a group has used, read from the kernel's files.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Cgroup, CgroupError, Version};

/// Usage of a group and of those below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Processor time, nanoseconds.
    pub cpu_nanos: u64,
    /// How often the quota stopped the group.
    pub cpu_throttled_periods: u64,
    /// Memory in use, bytes.
    pub memory_bytes: u64,
    /// Processes and threads now.
    pub pids: u64,
}

pub(super) fn read(cgroup: &Cgroup) -> Result<Stats, CgroupError> {
    match cgroup.version {
        Version::V1 => Ok(Stats {
            cpu_nanos: number(&cgroup.directory(Some("cpuacct")).join("cpuacct.usage"))?,
            cpu_throttled_periods: keyed(&cgroup.directory(Some("cpu")).join("cpu.stat"), "nr_throttled")?,
            memory_bytes: number(&cgroup.directory(Some("memory")).join("memory.usage_in_bytes"))?,
            pids: number(&cgroup.directory(Some("pids")).join("pids.current"))?,
        }),
        Version::V2 => {
            let directory = cgroup.directory(None);
            Ok(Stats {
                cpu_nanos: keyed(&directory.join("cpu.stat"), "usage_usec")?.saturating_mul(1000),
                cpu_throttled_periods: keyed(&directory.join("cpu.stat"), "nr_throttled")?,
                memory_bytes: number(&directory.join("memory.current"))?,
                pids: number(&directory.join("pids.current"))?,
            })
        }
    }
}

/// The number after `key` in a file of `key number` lines.
pub(super) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn keyed(file: &Path, key: &str) -> Result<u64, CgroupError> {
    let text = fs::read_to_string(file).map_err(CgroupError::file(file))?;
    Ok(field(&text, key).unwrap_or(0))
}

fn number(file: &Path) -> Result<u64, CgroupError> {
    let text = fs::read_to_string(file).map_err(CgroupError::file(file))?;
    text.trim()
        .parse()
        .map_err(|_| CgroupError::File { path: file.to_owned(), source: std::io::ErrorKind::InvalidData.into() })
}
