//! `pause`, `resume`, `update`, `ps` and `events`: commands that change or watch a container that runs. The work is in
//! `container` and `cgroup`; the flags are runc's.

use std::error::Error;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use super::Id;
use super::commands::{Outcome, print};
use super::report::Refused;
use crate::cgroup::Stats;
use crate::container::{self, ContainerError};
use crate::sys::pidfd;

/// How often `events` looks for processes that were killed for want of memory.
const OOM_POLL: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
enum ControlError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot parse {path}")]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("neither a limit nor --resources was given")]
    NothingToUpdate,
    #[error("cannot run ps")]
    Ps(#[source] io::Error),
    #[error("ps ended with {0}")]
    PsFailed(std::process::ExitStatus),
    #[error("ps printed no column PID")]
    NoPidColumn,
}

#[derive(Debug, Args)]
pub(super) struct Update {
    /// File with OCI's linux.resources, - for stdin; the other flags change what it says
    #[arg(long, short, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// CPU weight, 2 to 262144
    #[arg(long, value_name = "N")]
    cpu_share: Option<u64>,
    /// CPU period, microseconds
    #[arg(long, value_name = "US")]
    cpu_period: Option<u64>,
    /// What of it may be saved up, microseconds
    #[arg(long, value_name = "US")]
    cpu_burst: Option<u64>,
    /// Real-time period, microseconds
    #[arg(long, value_name = "US")]
    cpu_rt_period: Option<u64>,
    /// Real-time CPU time per period, microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// Processors to run on, such as 0-2,5
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// 1: only what nobody else wants
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    cpu_idle: Option<i64>,
    /// Weight for block devices, 10 to 1000
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    /// CPU time per period, microseconds; -1 for no limit
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Bytes, or a number with k, m or g; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = bytes)]
    memory: Option<i64>,
    /// Soft limit, as --memory
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = bytes)]
    memory_reservation: Option<i64>,
    /// Memory and swap together, as --memory
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = bytes)]
    memory_swap: Option<i64>,
    /// Refused: kernels have no such limit any more
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = bytes)]
    kernel_memory: Option<i64>,
    /// Memory of TCP buffers, as --memory; cgroup v1 only
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = bytes)]
    kernel_memory_tcp: Option<i64>,
    /// Refused: there is no Intel RDT here
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Refused: there is no Intel RDT here
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    /// Most processes and threads; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Container id
    id: String,
}

#[derive(Debug, Args)]
pub(super) struct Ps {
    /// table, as ps(1) prints it, or json: the pids
    #[arg(long, short, default_value = "table")]
    format: super::ListFormat,
    /// Container id
    id: String,
    /// Options of ps(1) for the table, -ef unless given
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PS OPTION")]
    options: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Events {
    /// Time between two statistics, such as 5s or 500ms
    #[arg(long, default_value = "5s", value_parser = interval)]
    interval: Duration,
    /// Print the statistics once and end
    #[arg(long)]
    stats: bool,
    /// Container id
    id: String,
}

fn bytes(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text} is no number of bytes such as 512m");
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches('b');
    let units = [('k', 10), ('m', 20), ('g', 30), ('t', 40)];
    let found = units.into_iter().find_map(|(letter, shift)| Some((number.strip_suffix(letter)?, shift)));
    let (number, shift) = found.unwrap_or((number, 0));
    number.parse::<i64>().ok().and_then(|number| number.checked_mul(1 << shift)).ok_or_else(wrong)
}

fn interval(text: &str) -> Result<Duration, String> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0)];
    let parsed = units.into_iter().find_map(|(unit, seconds)| {
        let number = text.strip_suffix(unit)?.parse::<f64>().ok()?;
        Duration::try_from_secs_f64(number * seconds).ok().filter(|interval| !interval.is_zero())
    });
    parsed.ok_or_else(|| format!("{text} is no time such as 5s or 500ms"))
}

/// `pause`
pub(super) fn pause(root: &Path, args: &Id) -> Outcome {
    container::pause(root, &args.id)?;
    Ok(ExitCode::SUCCESS)
}

/// `resume`
pub(super) fn resume(root: &Path, args: &Id) -> Outcome {
    container::resume(root, &args.id)?;
    Ok(ExitCode::SUCCESS)
}

/// `update`
pub(super) fn update(root: &Path, args: &Update) -> Outcome {
    container::update(root, &args.id, &resources(args)?)?;
    Ok(ExitCode::SUCCESS)
}

fn resources(args: &Update) -> Result<LinuxResources, Box<dyn Error>> {
    let mut wanted = match &args.resources {
        Some(path) => read_json(path)?,
        None => json!({}),
    };
    let refused = [("--l3-cache-schema", &args.l3_cache_schema), ("--mem-bw-schema", &args.mem_bw_schema)];
    if let Some((flag, _)) = refused.into_iter().find(|(_, value)| value.is_some()) {
        return Err(Refused(flag).into());
    }
    let flags = [
        ("blockIO", "weight", args.blkio_weight.map(Value::from)),
        ("cpu", "burst", args.cpu_burst.map(Value::from)),
        ("cpu", "realtimePeriod", args.cpu_rt_period.map(Value::from)),
        ("cpu", "realtimeRuntime", args.cpu_rt_runtime.map(Value::from)),
        ("cpu", "cpus", args.cpuset_cpus.clone().map(Value::from)),
        ("cpu", "mems", args.cpuset_mems.clone().map(Value::from)),
        ("cpu", "idle", args.cpu_idle.map(Value::from)),
        ("memory", "kernel", args.kernel_memory.map(Value::from)),
        ("memory", "kernelTCP", args.kernel_memory_tcp.map(Value::from)),
        ("cpu", "shares", args.cpu_share.map(Value::from)),
        ("cpu", "period", args.cpu_period.map(Value::from)),
        ("cpu", "quota", args.cpu_quota.map(Value::from)),
        ("memory", "limit", args.memory.map(Value::from)),
        ("memory", "reservation", args.memory_reservation.map(Value::from)),
        ("memory", "swap", args.memory_swap.map(Value::from)),
        ("pids", "limit", args.pids_limit.map(Value::from)),
    ];
    if args.resources.is_none() && flags.iter().all(|(.., value)| value.is_none()) {
        return Err(ControlError::NothingToUpdate.into());
    }
    let path = args.resources.clone().unwrap_or_default();
    let parse = |source| ControlError::Parse { path: path.clone(), source };
    // As it is first: the flags are written into objects.
    serde_json::from_value::<LinuxResources>(wanted.clone()).map_err(parse)?;
    for (group, name, value) in flags {
        if let Some(value) = value {
            wanted[group][name] = value;
        }
    }
    Ok(serde_json::from_value(wanted).map_err(parse)?)
}

fn read_json(path: &Path) -> Result<Value, ControlError> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|source| ControlError::Read { path: path.to_owned(), source })?;
    let parse = |source| ControlError::Parse { path: path.to_owned(), source };
    // As an object: the flags are written into it.
    serde_json::from_str::<serde_json::Map<String, Value>>(&text).map(Value::Object).map_err(parse)
}

/// `ps`
pub(super) fn ps(root: &Path, args: &Ps) -> Outcome {
    let pids = container::pids(root, &args.id)?;
    match args.format {
        super::ListFormat::Json => print(&serde_json::to_string(&pids)?)?,
        super::ListFormat::Table => {
            let options: &[String] = if args.options.is_empty() { &["-ef".to_owned()] } else { &args.options };
            let output =
                Command::new("ps").args(options).stderr(Stdio::inherit()).output().map_err(ControlError::Ps)?;
            if !output.status.success() {
                return Err(ControlError::PsFailed(output.status).into());
            }
            for line in rows_of(&String::from_utf8_lossy(&output.stdout), &pids)? {
                print(line)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The head of ps's table and the rows of `pids`.
fn rows_of<'a>(table: &'a str, pids: &[i32]) -> Result<Vec<&'a str>, ControlError> {
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_whitespace().position(|name| name == "PID").ok_or(ControlError::NoPidColumn)?;
    let pid = |line: &str| line.split_whitespace().nth(column).and_then(|word| word.parse::<i32>().ok());
    let rows = lines.filter(|line| pid(line).is_some_and(|pid| pids.contains(&pid)));
    Ok(std::iter::once(head).chain(rows).collect())
}

/// `events`
pub(super) fn events(root: &Path, args: &Events) -> Outcome {
    let record = container::load(root, &args.id)?;
    let failed = |source| ContainerError::Cgroup { id: args.id.clone(), source };
    let Some(init) = record.status.init() else {
        let wrong = ContainerError::WrongStatus { id: args.id.clone(), is: record.status.name(), wanted: "watch" };
        return Err(wrong.into());
    };
    let group = container::cgroup(&record).map_err(failed)?;
    let told = |kind: &str, data: Value| print(&json!({"type": kind, "id": args.id, "data": data}).to_string());
    if args.stats {
        told("stats", of_runc(&group.stats().map_err(failed)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let pidfd = pidfd::open(init.pid)?;
    let mut killed = group.oom_kills().map_err(failed)?;
    let mut next = Instant::now();
    while init.is_alive() {
        if Instant::now() >= next {
            told("stats", of_runc(&group.stats().map_err(failed)?))?;
            next += args.interval;
        }
        let wait = next.saturating_duration_since(Instant::now()).min(OOM_POLL);
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
        poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout)?;
        // A group that was removed meanwhile has no more to tell.
        let now = if group.exists() { group.oom_kills().map_err(failed)? } else { killed };
        for _ in killed..now {
            told("oom", Value::Null)?;
        }
        killed = now;
    }
    Ok(ExitCode::SUCCESS)
}

/// The shape of runc's statistics, which its callers read.
fn of_runc(stats: &Stats) -> Value {
    let Stats { cpu, memory, pids, io } = stats;
    let entry = |op: &str, value: u64| json!({"op": op, "value": value});
    json!({
        "cpu": {
            "usage": {"total": cpu.usage_nanos, "user": cpu.user_nanos, "kernel": cpu.kernel_nanos},
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled_nanos,
            },
        },
        "memory": {
            "cache": memory.cache_bytes,
            "usage": {
                "usage": memory.usage_bytes,
                "max": memory.max_usage_bytes,
                // As runc shows the absence of a limit.
                "limit": memory.limit_bytes.unwrap_or(u64::MAX),
                "failcnt": memory.failures,
            },
            "swap": {"usage": memory.swap_bytes},
            "raw": memory.raw,
        },
        "pids": {"current": pids.current, "limit": pids.limit.unwrap_or_default()},
        "blkio": {
            "ioServiceBytesRecursive": [entry("Read", io.read_bytes), entry("Write", io.written_bytes)],
            "ioServicedRecursive": [entry("Read", io.reads), entry("Write", io.writes)],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_as_people_write_them() {
        assert_eq!(bytes("512m"), Ok(512 << 20));
        assert_eq!(bytes("1GB"), Ok(1 << 30));
        assert_eq!(bytes("-1"), Ok(-1));
        assert!(bytes("x").is_err() && bytes("99999999999g").is_err());
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        assert!(interval("5").is_err() && interval("0s").is_err());
    }

    #[test]
    fn rows_are_chosen_by_their_pid() {
        let table = "UID   PID  PPID CMD\nroot   12     1 sh\nroot    1    12 init\nroot  112    12 x\n";
        assert_eq!(rows_of(table, &[12]).unwrap(), ["UID   PID  PPID CMD", "root   12     1 sh"]);
        assert!(matches!(rows_of("CMD\n", &[1]), Err(ControlError::NoPidColumn)));
    }
}
