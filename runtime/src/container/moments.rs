//! When the making of a container came to which step. Owns the clock and the names of the steps; `create` and `start`
//! note them, the monitor's record carries them to the agent.

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Moments in the order in which they come, nanoseconds since boot on CLOCK_BOOTTIME: one clock for every process of
/// the host, and none that jumps. 0 where a step was not come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Moments {
    /// The monitor's first step.
    pub entered: u64,
    /// The bundle is read, everything that can be checked is.
    pub planned: u64,
    /// The state directory and the cgroup with its limits are there.
    pub limited: u64,
    /// Init is cloned, in its cgroup and namespaces.
    pub cloned: u64,
    /// Its ids are mapped, its mounts made ready and sent to it.
    pub mounted: u64,
    /// Init has done everything but the execve.
    pub ready: u64,
    /// The execve of the user's program has succeeded.
    pub executed: u64,
}

/// Nanoseconds since boot.
pub fn since_boot() -> u64 {
    // The clock is there on every kernel that we run on (clock_gettime(2): since Linux 2.6.39).
    let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return 0 };
    u64::try_from(now.tv_sec()).unwrap_or_default() * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or_default()
}
