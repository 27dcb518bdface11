//! The agent's own figures, by the names that Prometheus' client libraries share.

use std::fs;
use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::engine::observation::bytes;
use crate::trace::now;

/// When the agent was first asked to look at the clock, which it does as it begins.
static STARTED: LazyLock<f64> = LazyLock::new(now);

/// Notes that the agent begins.
pub(super) fn begin() {
    LazyLock::force(&STARTED);
}

/// The figures as they are. One that the kernel does not tell is left out.
pub(super) fn registry() -> Registry {
    let mut registry = Registry::with_prefix("process");
    let mut amount = |name: &str, help: &str, unit: Option<Unit>, value: Option<f64>| {
        let Some(value) = value else { return };
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, gauge),
            None => registry.register(name, help, gauge),
        }
    };
    amount("start_time", "When the agent began, since the epoch", Some(Unit::Seconds), Some(*STARTED));
    amount("resident_memory", "Resident memory", Some(Unit::Bytes), resident());
    amount("threads", "Threads", None, entries("/proc/self/task"));
    amount("open_fds", "Open descriptors", None, entries("/proc/self/fd"));
    let most = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| bytes(soft));
    amount("max_fds", "Descriptors that may be open", None, most);
    if let Ok(used) = getrusage(UsageWho::RUSAGE_SELF) {
        let cpu = Counter::<f64, AtomicU64>::default();
        let micros = used.user_time().num_microseconds() + used.system_time().num_microseconds();
        cpu.inc_by(bytes(micros.unsigned_abs()) / 1e6);
        registry.register_with_unit("cpu", "Processor time of the agent", Unit::Seconds, cpu);
    }
    registry
}

/// proc(5), statm: the second number, in pages.
fn resident() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    let page = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()?;
    Some(bytes(pages * page))
}

fn entries(directory: &str) -> Option<f64> {
    let entries = fs::read_dir(directory).ok()?.count();
    Some(bytes(u64::try_from(entries).ok()?))
}
