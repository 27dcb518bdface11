//! How the kernel is to run a process: `process.scheduler`, `process.ioPriority` and `process.execCPUAffinity`, set by
//! its parent, whose rights they need; and `linux.personality`, checked here and set by the process itself.
//! Source: OCI config `process`, config-linux `personality`.

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, Process, Scheduler,
};

use crate::init::failure::{Context, Failure, Step};
use crate::sys::scheduler::{self, Attributes};

/// PER_LINUX32 of linux/personality.h.
const LINUX32: u32 = 8;

/// Applies `scheduler` and `ioPriority` to `pid`, a child that was not waited for.
pub fn apply(pid: i32, process: &Process) -> Result<(), Failure> {
    if let Some(scheduler) = process.scheduler() {
        let policy = format!("{:?}", scheduler.policy());
        scheduler::set(pid, attributes(scheduler)?).on(Step::Scheduler, policy)?;
    }
    if let Some(priority) = process.io_priority() {
        let (class, level) = io_priority(priority)?;
        scheduler::set_io(pid, class, level).on(Step::IoPriority, format!("{:?}", priority.class()))?;
    }
    Ok(())
}

/// Whether what [`apply`] is going to set can be: before the first side effect.
pub fn check(process: &Process) -> Result<(), Failure> {
    if let Some(scheduler) = process.scheduler() {
        attributes(scheduler)?;
    }
    if let Some(priority) = process.io_priority() {
        io_priority(priority)?;
    }
    if let Some(affinity) = process.exec_cpu_affinity() {
        for list in [affinity.initial(), affinity.cpu_affinity_final()].into_iter().flatten() {
            processors(list)?;
        }
    }
    Ok(())
}

fn attributes(scheduler: &Scheduler) -> Result<Attributes, Failure> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => libc::SCHED_OTHER,
        LinuxSchedulerPolicy::SchedFifo => libc::SCHED_FIFO,
        LinuxSchedulerPolicy::SchedRr => libc::SCHED_RR,
        LinuxSchedulerPolicy::SchedBatch => libc::SCHED_BATCH,
        LinuxSchedulerPolicy::SchedIdle => libc::SCHED_IDLE,
        LinuxSchedulerPolicy::SchedDeadline => libc::SCHED_DEADLINE,
        // Reserved by the kernel, never made.
        LinuxSchedulerPolicy::SchedIso => return Err(Errno::ENOTSUP).on(Step::Scheduler, "SCHED_ISO"),
    };
    let mut flags = 0;
    for flag in scheduler.flags().iter().flatten() {
        flags |= match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x1,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x2,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x4,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x8,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            // OCI has no member for the values that these two want.
            other => return Err(Errno::ENOTSUP).on(Step::Scheduler, format!("flag {other:?}")),
        };
    }
    let priority = u32::try_from(scheduler.priority().unwrap_or(0)).map_err(|_| Errno::EINVAL);
    Ok(Attributes {
        policy: policy.unsigned_abs(),
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority: priority.on(Step::Scheduler, "with a priority below 0")?,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..Attributes::default()
    })
}

fn io_priority(priority: &LinuxIOPriority) -> Result<(i32, i32), Failure> {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match i32::try_from(priority.priority()) {
        Ok(level @ 0..=7) => Ok((class, level)),
        _ => Err(Errno::EINVAL).on(Step::IoPriority, format!("{}, which is not 0 to 7", priority.priority())),
    }
}

/// Domain of personality(2). The specification has no flags yet.
pub fn personality(wanted: &LinuxPersonality) -> Result<u32, Failure> {
    if let Some(flag) = wanted.flags().iter().flatten().next() {
        return Err(Errno::ENOTSUP).on(Step::Personality, format!("flag {flag}"));
    }
    Ok(match wanted.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => LINUX32,
    })
}

/// The processors of a list such as `0-3,7`.
fn processors(list: &str) -> Result<CpuSet, Failure> {
    let wrong = || Failure { step: Step::Affinity, subject: Some(list.to_owned()), errno: Errno::EINVAL };
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
    let mut set = CpuSet::new();
    for part in list.split(',').filter(|part| !part.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= CpuSet::count() {
            return Err(wrong());
        }
        (first..=last).try_for_each(|cpu| set.set(cpu)).map_err(|_| wrong())?;
    }
    Ok(set)
}

/// `execCPUAffinity.initial`: the caller runs on these processors, and what it clones, until this is dropped.
#[derive(Debug)]
pub struct Initial(CpuSet);

impl Initial {
    /// None where the process does not ask for it.
    pub fn enter(process: &Process) -> Result<Option<Initial>, Failure> {
        let list = process.exec_cpu_affinity().as_ref().and_then(|affinity| affinity.initial().as_deref());
        let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(None) };
        let before = sched_getaffinity(Pid::from_raw(0)).on(Step::Affinity, list)?;
        sched_setaffinity(Pid::from_raw(0), &processors(list)?).on(Step::Affinity, list)?;
        Ok(Some(Initial(before)))
    }
}

impl Drop for Initial {
    fn drop(&mut self) {
        // What was allowed before is allowed still, unless processors were taken away, and then there is no better.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
}

/// `execCPUAffinity.final` for `pid`, which is in its cgroup by now. Without it, all that the cgroup allows where the
/// process began on `initial`.
pub fn finish_affinity(pid: i32, process: &Process) -> Result<(), Failure> {
    let Some(affinity) = process.exec_cpu_affinity() else { return Ok(()) };
    let list = affinity.cpu_affinity_final().as_deref().filter(|list| !list.is_empty());
    match list {
        Some(list) => sched_setaffinity(Pid::from_raw(pid), &processors(list)?).on(Step::Affinity, list),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn process(members: serde_json::Value) -> Process {
        let mut process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["x"]});
        process.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        serde_json::from_value(process).unwrap()
    }

    #[test]
    fn lists_of_processors() {
        let set = processors("0-2,5").unwrap();
        let found: Vec<usize> = (0..9).filter(|cpu| set.is_set(*cpu).unwrap()).collect();
        assert_eq!(found, [0, 1, 2, 5]);
        for bad in ["a", "3-1", "1-", "99999999", "0,-1"] {
            assert_eq!(processors(bad).unwrap_err().step, Step::Affinity, "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_is_told_by_name() {
        for (members, name) in [
            (json!({"scheduler": {"policy": "SCHED_ISO"}}), "SCHED_ISO"),
            (json!({"scheduler": {"policy": "SCHED_FIFO", "priority": -1}}), "priority"),
            (json!({"scheduler": {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_UTIL_CLAMP_MIN"]}}), "UtilClampMin"),
            (json!({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}), "8"),
        ] {
            let failure = check(&process(members)).unwrap_err();
            assert!(failure.to_string().contains(name), "{failure}");
        }
        let wanted: LinuxPersonality =
            serde_json::from_value(json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]})).unwrap();
        assert!(personality(&wanted).unwrap_err().to_string().contains("ADDR_NO_RANDOMIZE"));
    }

    #[test]
    fn the_caller_gets_its_processors_back() {
        let before = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let initial = Initial::enter(&process(json!({"execCPUAffinity": {"initial": "0"}}))).unwrap();
        assert!(initial.is_some());
        drop(initial);
        assert_eq!(sched_getaffinity(Pid::from_raw(0)).unwrap(), before);
    }
}
