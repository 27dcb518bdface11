//! What a group has used, read from the kernel's files. A file that the host does not have counts as nothing used: not
//! every kernel accounts for all of it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Cgroup, CgroupError, Version, text_or_empty};

/// v1 shows the absence of a limit as the largest number of whole pages.
const V1_UNLIMITED: u64 = 0x7FFF_FFFF_FFF0_0000;

/// Usage of a group and of those below it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Processors.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes.
    pub pids: PidsStats,
    /// Block devices.
    pub io: IoStats,
}

/// Processor time, nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CpuStats {
    /// All of it.
    pub usage_nanos: u64,
    /// In programs.
    pub user_nanos: u64,
    /// In the kernel.
    pub kernel_nanos: u64,
    /// Periods of the quota that have begun.
    pub periods: u64,
    /// In how many of them the quota stopped the group.
    pub throttled_periods: u64,
    /// How long it was stopped, summed over its processes.
    pub throttled_nanos: u64,
}

/// Memory, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryStats {
    /// In use, file cache included.
    pub usage_bytes: u64,
    /// The most that was ever in use.
    pub max_usage_bytes: u64,
    /// The limit; None without.
    pub limit_bytes: Option<u64>,
    /// File cache.
    pub cache_bytes: u64,
    /// How often the limit was met.
    pub failures: u64,
    /// Swap in use.
    pub swap_bytes: u64,
    /// The kernel's own table.
    pub raw: BTreeMap<String, u64>,
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// The limit; None without.
    pub limit: Option<u64>,
}

/// Transfers to and from block devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IoStats {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

pub(super) fn read(cgroup: &Cgroup) -> Result<Stats, CgroupError> {
    match cgroup.version {
        Version::V1 => v1(cgroup),
        Version::V2 => v2(&cgroup.directory(None)),
    }
}

impl Cgroup {
    /// Whether transfers from and to block devices are counted here, so that 0 means none.
    pub fn counts_io(&self) -> bool {
        match self.version {
            Version::V1 => self.directory(Some("blkio")).is_dir(),
            Version::V2 => self.directory(None).join("io.stat").exists(),
        }
    }

    /// Whether processes are counted here.
    pub fn counts_pids(&self) -> bool {
        let directory = match self.version {
            Version::V1 => self.directory(Some("pids")),
            Version::V2 => self.directory(None),
        };
        directory.join("pids.current").exists()
    }
}

fn v1(cgroup: &Cgroup) -> Result<Stats, CgroupError> {
    let file = |controller: &str, name: &str| cgroup.directory(Some(controller)).join(name);
    let cpu = table(&file("cpu", "cpu.stat"))?;
    let memory = |name: &str| number(&file("memory", name));
    let raw = table(&file("memory", "memory.stat"))?;
    let (bytes, counts) = ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive");
    let (bytes, counts) = (text_or_empty(&file("blkio", bytes))?, text_or_empty(&file("blkio", counts))?);
    Ok(Stats {
        cpu: CpuStats {
            usage_nanos: number(&file("cpuacct", "cpuacct.usage"))?.unwrap_or_default(),
            user_nanos: number(&file("cpuacct", "cpuacct.usage_user"))?.unwrap_or_default(),
            kernel_nanos: number(&file("cpuacct", "cpuacct.usage_sys"))?.unwrap_or_default(),
            periods: get(&cpu, "nr_periods"),
            throttled_periods: get(&cpu, "nr_throttled"),
            throttled_nanos: get(&cpu, "throttled_time"),
        },
        memory: MemoryStats {
            usage_bytes: memory("memory.usage_in_bytes")?.unwrap_or_default(),
            max_usage_bytes: memory("memory.max_usage_in_bytes")?.unwrap_or_default(),
            limit_bytes: memory("memory.limit_in_bytes")?.filter(|limit| *limit < V1_UNLIMITED),
            cache_bytes: get(&raw, "total_cache"),
            failures: memory("memory.failcnt")?.unwrap_or_default(),
            swap_bytes: get(&raw, "total_swap"),
            raw,
        },
        pids: PidsStats {
            current: number(&file("pids", "pids.current"))?.unwrap_or_default(),
            limit: number(&file("pids", "pids.max"))?,
        },
        io: IoStats {
            read_bytes: per_device(&bytes, "Read"),
            written_bytes: per_device(&bytes, "Write"),
            reads: per_device(&counts, "Read"),
            writes: per_device(&counts, "Write"),
        },
    })
}

fn v2(directory: &Path) -> Result<Stats, CgroupError> {
    let file = |name: &str| directory.join(name);
    let cpu = table(&file("cpu.stat"))?;
    let nanos = |key: &str| get(&cpu, key).saturating_mul(1000);
    let raw = table(&file("memory.stat"))?;
    let memory = |name: &str| number(&file(name));
    let io = text_or_empty(&file("io.stat"))?;
    Ok(Stats {
        cpu: CpuStats {
            usage_nanos: nanos("usage_usec"),
            user_nanos: nanos("user_usec"),
            kernel_nanos: nanos("system_usec"),
            periods: get(&cpu, "nr_periods"),
            throttled_periods: get(&cpu, "nr_throttled"),
            throttled_nanos: nanos("throttled_usec"),
        },
        memory: MemoryStats {
            usage_bytes: memory("memory.current")?.unwrap_or_default(),
            max_usage_bytes: memory("memory.peak")?.unwrap_or_default(),
            limit_bytes: memory("memory.max")?,
            cache_bytes: get(&raw, "file"),
            failures: get(&table(&file("memory.events"))?, "max"),
            swap_bytes: memory("memory.swap.current")?.unwrap_or_default(),
            raw,
        },
        pids: PidsStats {
            current: number(&file("pids.current"))?.unwrap_or_default(),
            limit: number(&file("pids.max"))?,
        },
        io: IoStats {
            read_bytes: per_key(&io, "rbytes="),
            written_bytes: per_key(&io, "wbytes="),
            reads: per_key(&io, "rios="),
            writes: per_key(&io, "wios="),
        },
    })
}

/// The number after `key` in a file of `key number` lines.
pub(super) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn get(table: &BTreeMap<String, u64>, key: &str) -> u64 {
    table.get(key).copied().unwrap_or_default()
}

/// v1's `MAJOR:MINOR Read NUMBER` lines, summed over the devices.
fn per_device(text: &str, operation: &str) -> u64 {
    let of_line = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        if words.next() == Some(operation) { words.next()?.parse::<u64>().ok() } else { None }
    };
    text.lines().filter_map(of_line).sum()
}

/// v2's `MAJOR:MINOR key=NUMBER …` lines, summed over the devices.
fn per_key(text: &str, key: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
}

fn table(file: &Path) -> Result<BTreeMap<String, u64>, CgroupError> {
    let row = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    };
    Ok(text_or_empty(file)?.lines().filter_map(row).collect())
}

/// None for `max`, and where there is no such file.
fn number(file: &Path) -> Result<Option<u64>, CgroupError> {
    match text_or_empty(file)?.trim() {
        "" | "max" => Ok(None),
        text => text.parse().map(Some).map_err(|_| invalid(file.to_owned())),
    }
}

fn invalid(path: PathBuf) -> CgroupError {
    CgroupError::File { path, source: io::ErrorKind::InvalidData.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_block_devices_are_summed() {
        let v1 = "8:0 Read 4096\n8:0 Write 10\n8:0 Sync 1\n8:16 Read 4\n8:0 Total 4110\nTotal 4110\n";
        assert_eq!((per_device(v1, "Read"), per_device(v1, "Write")), (4100, 10));
        let v2 = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 rbytes=10 wbytes=0 rios=1 wios=0\n";
        assert_eq!((per_key(v2, "rbytes="), per_key(v2, "wios=")), (11, 4));
    }
}
