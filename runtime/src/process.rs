//! A process: its name by pid and start time, which no later process with the same pid can be taken for; and, in the
//! files below, what OCI's `process` object asks for (user, limits, capabilities, working directory, execve).

use std::io;

use serde::{Deserialize, Serialize};

pub mod limits;
pub mod procfs;
pub mod scheduling;
pub mod settings;
pub mod user;

/// Names one process for as long as the machine is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRef {
    /// Pid in the pid namespace of whoever made the reference.
    pub pid: i32,
    /// Clock ticks after boot: field 22 of proc_pid_stat(5).
    pub start_time: u64,
}

impl ProcessRef {
    /// Looks `pid` up. NotFound when there is no such process.
    pub fn of(pid: i32) -> io::Result<ProcessRef> {
        Ok(ProcessRef { pid, start_time: Stat::read(pid)?.start_time })
    }

    /// Whether exactly this process still runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        Stat::read(self.pid).is_ok_and(|stat| stat.start_time == self.start_time && !matches!(stat.state, 'Z' | 'X'))
    }
}

struct Stat {
    state: char,
    start_time: u64,
}

impl Stat {
    fn read(pid: i32) -> io::Result<Stat> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))
            // A process that ends while it is read answers ESRCH.
            .map_err(
                |error| if error.raw_os_error() == Some(libc::ESRCH) { io::ErrorKind::NotFound.into() } else { error },
            )?;
        Stat::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The command name, field 2, may hold anything: fields count from the last parenthesis.
    fn parse(text: &str) -> Option<Stat> {
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let start_time = fields.nth(18)?.parse().ok()?;
        Some(Stat { state, start_time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_command_name_does_not_shift_fields() {
        let text = "7 (a) R 1 ) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.start_time), ('S', 4242));
    }

    #[test]
    fn own_process_is_alive_and_another_start_time_is_not() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = ProcessRef::of(pid).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessRef { start_time: own.start_time + 1, ..own }.is_alive());
    }
}
