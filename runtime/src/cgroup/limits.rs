//! Setting limits: each OCI value to the file of v1 or v2, errors returned, limits read back. Those that are one value
//! in one file are in [`values`], the rest is here.

use std::fs;
use std::io::Write;
use std::path::Path;

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::error::Error as LibraryError;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup as LibraryCgroup, MaxValue};
use oci_spec::runtime::{LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxPids, LinuxResources};

use super::{Cgroup, CgroupError, Version};
use values::Setting;

mod devices;
mod values;

pub(super) fn set(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), CgroupError> {
    let limits = Limits { cgroup, library: cgroup.library() };
    // What cannot be is refused before anything is set.
    let values = values::of(cgroup.version, resources).map_err(|refused| limits.unsupported(refused.0))?;
    if let Some(memory) = resources.memory() {
        limits.memory(memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        limits.cpu(cpu)?;
    }
    if let Some(pids) = resources.pids() {
        limits.pids(*pids)?;
    }
    for setting in &values {
        limits.value(setting)?;
    }
    if let Some(devices) = resources.devices() {
        limits.devices(devices)?;
    }
    Ok(())
}

struct Limits<'a> {
    cgroup: &'a Cgroup,
    library: LibraryCgroup,
}

impl Limits<'_> {
    fn memory(&self, memory: &LinuxMemory) -> Result<(), CgroupError> {
        if memory.kernel().is_some() {
            // Kernels from 5.16 on keep the file and take nothing.
            return Err(self.unsupported("memory.kernel"));
        }
        if memory.use_hierarchy() == Some(false) {
            // Kernels from 5.11 on know no other way.
            return Err(self.unsupported("memory.useHierarchy"));
        }
        if let Some(bytes) = memory.kernel_tcp() {
            self.kernel_tcp(bytes)?;
        }
        if let Some(disable) = memory.disable_oom_killer() {
            self.oom_killer(disable)?;
        }
        if let Some(swappiness) = memory.swappiness() {
            self.swappiness(swappiness)?;
        }
        if memory.limit().is_none() && memory.reservation().is_none() && memory.swap().is_none() {
            return Ok(());
        }
        let controller: &MemController = self.controller("memory.limit", "memory")?;
        // On v1 a limit of memory is never above that of memory and swap, not even on the way to both.
        let swap_first = memory.swap().filter(|swap| self.raises_swap(*swap));
        if let Some(swap) = swap_first {
            self.swap(controller, memory.limit(), swap)?;
        }
        if let Some(limit) = memory.limit() {
            if memory.check_before_update() == Some(true) {
                self.refuse_less_than_used(limit)?;
            }
            self.done("memory.limit", limit, controller.set_limit(limit))?;
            self.check_bytes("memory.limit", self.file("memory", "memory.limit_in_bytes", "memory.max"), limit)?;
        }
        if let Some(reservation) = memory.reservation() {
            self.done("memory.reservation", reservation, controller.set_soft_limit(reservation))?;
            let file = self.file("memory", "memory.soft_limit_in_bytes", "memory.low");
            self.check_bytes("memory.reservation", file, reservation)?;
        }
        if let Some(swap) = memory.swap().filter(|_| swap_first.is_none()) {
            self.swap(controller, memory.limit(), swap)?;
        }
        Ok(())
    }

    /// The kernel would make room by killing.
    fn refuse_less_than_used(&self, limit: i64) -> Result<(), CgroupError> {
        let file = self.file("memory", "memory.usage_in_bytes", "memory.current");
        let text = fs::read_to_string(&file).map_err(CgroupError::file(&file))?;
        match text.trim().parse::<i64>() {
            Ok(used) if limit >= 0 && used > limit => {
                Err(CgroupError::LessThanUsed { path: self.cgroup.path.clone(), limit, used })
            }
            _ => Ok(()),
        }
    }

    fn kernel_tcp(&self, bytes: i64) -> Result<(), CgroupError> {
        let file = self.cgroup.directory(Some("memory")).join("memory.kmem.tcp.limit_in_bytes");
        if self.cgroup.version == Version::V2 || !file.exists() {
            return Err(self.unsupported("memory.kernelTCP"));
        }
        self.written("memory.kernelTCP", &file, &bytes.to_string())?;
        self.check_bytes("memory.kernelTCP", file, bytes)
    }

    /// v2 always has one.
    fn oom_killer(&self, disable: bool) -> Result<(), CgroupError> {
        if self.cgroup.version == Version::V2 {
            return if disable { Err(self.unsupported("memory.disableOOMKiller")) } else { Ok(()) };
        }
        let file = self.cgroup.directory(Some("memory")).join("memory.oom_control");
        self.written("memory.disableOOMKiller", &file, if disable { "1" } else { "0" })
    }

    /// Whether v1's limit of memory and swap is below `swap`.
    fn raises_swap(&self, swap: i64) -> bool {
        let file = self.cgroup.directory(Some("memory")).join("memory.memsw.limit_in_bytes");
        let now = fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<i64>().ok());
        self.cgroup.version == Version::V1 && now.is_some_and(|now| swap < 0 || swap > now)
    }

    /// v2 knows no swappiness of a group.
    fn swappiness(&self, swappiness: u64) -> Result<(), CgroupError> {
        if self.cgroup.version == Version::V2 {
            return Err(self.unsupported("memory.swappiness"));
        }
        let controller: &MemController = self.controller("memory.swappiness", "memory")?;
        self.done("memory.swappiness", swappiness, controller.set_swappiness(swappiness))?;
        self.same("memory.swappiness", swappiness, controller.memory_stat().swappiness)
    }

    /// OCI's swap is memory and swap together, as v1 has it; v2 has swap alone.
    fn swap(&self, controller: &MemController, limit: Option<i64>, swap: i64) -> Result<(), CgroupError> {
        let file = self.file("memory", "memory.memsw.limit_in_bytes", "memory.swap.max");
        if !file.exists() {
            // A kernel that cannot account for swap has none to limit where memory and swap are to be equal.
            return if limit == Some(swap) { Ok(()) } else { Err(self.unsupported("memory.swap")) };
        }
        let value = match (self.cgroup.version, limit) {
            (Version::V2, Some(limit)) if swap >= 0 && limit >= 0 => swap - limit,
            _ => swap,
        };
        self.done("memory.swap", value, controller.set_memswap_limit(value))?;
        self.check_bytes("memory.swap", file, value)
    }

    fn cpu(&self, cpu: &LinuxCpu) -> Result<(), CgroupError> {
        if let Some(shares) = cpu.shares() {
            let controller: &CpuController = self.controller("cpu.shares", "cpu")?;
            let value = if self.cgroup.version == Version::V1 { shares } else { weight(shares) };
            self.done("cpu.shares", value, controller.set_shares(value))?;
            let found = controller.shares();
            let found = self.done("cpu.shares", value, found)?;
            self.same("cpu.shares", value, found)?;
        }
        if cpu.quota().is_some() || cpu.period().is_some() {
            let controller: &CpuController = self.controller("cpu.quota", "cpu")?;
            // The period first: the kernel judges a quota against the period in force.
            if let Some(period) = cpu.period() {
                self.done("cpu.period", period, controller.set_cfs_quota_and_period(None, Some(period)))?;
            }
            if let Some(quota) = cpu.quota() {
                self.done("cpu.quota", quota, controller.set_cfs_quota_and_period(Some(quota), None))?;
                let found = self.done("cpu.quota", quota, controller.cfs_quota())?;
                self.same("cpu.quota", quota.max(-1), found)?;
            }
        }
        Ok(())
    }

    fn pids(&self, pids: LinuxPids) -> Result<(), CgroupError> {
        let value = if pids.limit() > 0 { MaxValue::Value(pids.limit()) } else { MaxValue::Max };
        let controller: &PidController = self.controller("pids.limit", "pids")?;
        self.done("pids.limit", pids.limit(), controller.set_pid_max(value))?;
        let found = self.done("pids.limit", pids.limit(), controller.get_pid_max())?;
        self.same("pids.limit", format!("{value:?}"), format!("{found:?}"))
    }

    fn value(&self, setting: &Setting) -> Result<(), CgroupError> {
        let Setting { field, controller, choices } = setting;
        if !self.cgroup.has(controller)? {
            return Err(CgroupError::NoController { field, controller: controller.clone() });
        }
        let directory = self.cgroup.directory(Some(controller));
        let found = choices.iter().find(|(file, _)| directory.join(file).exists());
        let Some((file, value)) = found else {
            let file = choices.first().map(|(file, _)| file.clone()).unwrap_or_default();
            return Err(CgroupError::NoFile { field, file });
        };
        self.written(field, &directory.join(file), value)
    }

    /// One write(2), as cgroup files want it.
    fn written(&self, field: &'static str, file: &Path, value: &str) -> Result<(), CgroupError> {
        let write = fs::OpenOptions::new().write(true).open(file).and_then(|mut open| open.write_all(value.as_bytes()));
        let (path, value) = (self.cgroup.path.clone(), value.to_owned());
        write.map_err(|source| CgroupError::Write { path, field, value, source })
    }

    /// Rules in their order, the later deciding. On v2 a program of ours decides.
    fn devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<(), CgroupError> {
        if rules.is_empty() {
            return Ok(());
        }
        if self.cgroup.version == Version::V2 {
            let (path, value) = (self.cgroup.path.clone(), format!("{} rules", rules.len()));
            let set = devices::set(&self.cgroup.directory(None), rules);
            return set.map_err(|errno| CgroupError::Write { path, field: "devices", value, source: errno.into() });
        }
        let directory = self.cgroup.directory(Some("devices"));
        if !directory.is_dir() {
            return Err(CgroupError::NoController { field: "devices", controller: "devices".to_owned() });
        }
        for rule in rules {
            let file = directory.join(if rule.allow() { "devices.allow" } else { "devices.deny" });
            write(&file, &device_rule(rule))?;
        }
        Ok(())
    }

    fn controller<'a, T>(&'a self, field: &'static str, controller: &'static str) -> Result<&'a T, CgroupError>
    where
        &'a T: From<&'a cgroups_rs::fs::Subsystem>,
        T: cgroups_rs::fs::Controller + cgroups_rs::fs::ControllIdentifier,
    {
        self.library
            .controller_of::<T>()
            .ok_or_else(|| CgroupError::NoController { field, controller: controller.to_owned() })
    }

    fn done<T>(
        &self,
        field: &'static str,
        value: impl ToString,
        result: Result<T, LibraryError>,
    ) -> Result<T, CgroupError> {
        result.map_err(|source| CgroupError::Set {
            path: self.cgroup.path.clone(),
            field,
            value: value.to_string(),
            source: Box::new(source),
        })
    }

    /// The kernel rounds bytes down to pages; "max", and anything at the top of v1's range, is no limit.
    fn check_bytes(&self, field: &'static str, file: std::path::PathBuf, wanted: i64) -> Result<(), CgroupError> {
        const PAGE: i64 = 4096;
        const V1_UNLIMITED: i64 = i64::MAX - 0x10_0000;
        let text = fs::read_to_string(&file).map_err(CgroupError::file(&file))?;
        let found = text.trim().parse::<i64>().ok().filter(|found| *found < V1_UNLIMITED);
        let matches = match (wanted, found) {
            (..0, None) => true,
            (0.., Some(found)) => found == wanted / PAGE * PAGE,
            (V1_UNLIMITED.., None) => true,
            _ => false,
        };
        if matches { Ok(()) } else { Err(self.read_back(field, wanted, text.trim())) }
    }

    fn same<T: PartialEq + ToString>(&self, field: &'static str, wanted: T, found: T) -> Result<(), CgroupError> {
        if wanted == found { Ok(()) } else { Err(self.read_back(field, wanted, found)) }
    }

    fn read_back(&self, field: &'static str, wanted: impl ToString, found: impl ToString) -> CgroupError {
        let (wanted, found) = (wanted.to_string(), found.to_string());
        CgroupError::ReadBack { path: self.cgroup.path.clone(), field, wanted, found }
    }

    fn unsupported(&self, field: &'static str) -> CgroupError {
        CgroupError::Unsupported { field, version: if self.cgroup.version == Version::V1 { 1 } else { 2 } }
    }

    fn file(&self, controller: &str, v1: &str, v2: &str) -> std::path::PathBuf {
        let name = if self.cgroup.version == Version::V1 { v1 } else { v2 };
        self.cgroup.directory(Some(controller)).join(name)
    }
}

/// v1's 2 to 262144 onto v2's 1 to 10000, as runc and crun do.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// devices.allow's form: `c 1:3 rwm`, `a *:* rwm`.
fn device_rule(rule: &LinuxDeviceCgroup) -> String {
    let kind = rule.typ().unwrap_or_default();
    let number = |number: Option<i64>| number.filter(|number| *number >= 0).map_or("*".to_owned(), |n| n.to_string());
    let access = rule.access().as_deref().unwrap_or("rwm");
    format!("{} {}:{} {access}", kind.as_str(), number(rule.major()), number(rule.minor()))
}

/// One write(2), as cgroup files want it.
pub(super) fn write(file: &Path, value: &str) -> Result<(), CgroupError> {
    fs::OpenOptions::new()
        .write(true)
        .open(file)
        .and_then(|mut open| open.write_all(value.as_bytes()))
        .map_err(CgroupError::file(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
        assert_eq!([0, u64::MAX].map(weight), [1, 10_000]);
    }

    #[test]
    fn device_rules_in_the_kernels_form() {
        let rule = |value| device_rule(&serde_json::from_value(value).unwrap());
        assert_eq!(rule(serde_json::json!({ "allow": false, "access": "rwm" })), "a *:* rwm");
        let null = serde_json::json!({ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw" });
        assert_eq!(rule(null), "c 1:3 rw");
    }
}
