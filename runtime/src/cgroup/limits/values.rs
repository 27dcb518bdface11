//! Limits that are one value in one file: OCI's members to file and text, for v1 and for v2. Pure; the writing is in
//! [`super`]. Source: OCI config-linux `resources`, the kernel's admin-guide/cgroup-v1 and admin-guide/cgroup-v2.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxNetwork, LinuxResources, LinuxThrottleDevice, LinuxWeightDevice,
};

use super::super::Version;

/// A value to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// OCI's name below linux.resources.
    pub(super) field: &'static str,
    /// The controller that has the file.
    pub(super) controller: String,
    /// File and value; the first file that the kernel has.
    pub(super) choices: Vec<(String, String)>,
}

/// What a version of cgroups does not have, by OCI's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unsupported(pub(super) &'static str);

struct Settings {
    version: Version,
    list: Vec<Setting>,
}

/// Everything of `resources` that is set by one write, in an order that the kernel takes.
pub(super) fn of(version: Version, resources: &LinuxResources) -> Result<Vec<Setting>, Unsupported> {
    let mut settings = Settings { version, list: Vec::new() };
    if let Some(cpu) = resources.cpu() {
        settings.cpu(cpu)?;
    }
    if let Some(block) = resources.block_io() {
        settings.block(block)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        settings.hugepages(limit);
    }
    if let Some(network) = resources.network() {
        settings.network(network)?;
    }
    for (device, limit) in resources.rdma().iter().flatten() {
        let part = |name, value: Option<u32>| value.map(|value| format!(" {name}={value}")).unwrap_or_default();
        let parts = [part("hca_handle", limit.hca_handles()), part("hca_object", limit.hca_objects())].concat();
        settings.add("rdma", "rdma", "rdma.max", format!("{device}{parts}"));
    }
    for (key, value) in resources.unified().iter().flatten() {
        if version == Version::V1 || !is_file_of_controller(key) {
            return Err(Unsupported("unified"));
        }
        let controller = key.split('.').next().unwrap_or_default();
        settings.add("unified", controller, key, value.clone());
    }
    Ok(settings.list)
}

/// A name such as memory.high: never a path, never the group's members or its life.
fn is_file_of_controller(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let controller = key.split_once('.').map(|(controller, _)| controller);
    key.bytes().all(plain) && controller.is_some_and(|name| !name.is_empty() && name != "cgroup")
}

impl Settings {
    fn add(&mut self, field: &'static str, controller: &str, file: impl Into<String>, value: impl ToString) {
        let choices = vec![(file.into(), value.to_string())];
        self.list.push(Setting { field, controller: controller.to_owned(), choices });
    }

    fn is_v1(&self) -> bool {
        self.version == Version::V1
    }

    fn cpu(&mut self, cpu: &LinuxCpu) -> Result<(), Unsupported> {
        // The period before the runtime, which the kernel judges against it.
        let realtime = [
            ("cpu.realtimePeriod", "cpu.rt_period_us", cpu.realtime_period().map(|us| us.to_string())),
            ("cpu.realtimeRuntime", "cpu.rt_runtime_us", cpu.realtime_runtime().map(|us| us.to_string())),
        ];
        for (field, file, value) in realtime {
            match value {
                Some(_) if !self.is_v1() => return Err(Unsupported(field)),
                Some(value) => self.add(field, "cpu", file, value),
                None => {}
            }
        }
        if let Some(burst) = cpu.burst() {
            let file = if self.is_v1() { "cpu.cfs_burst_us" } else { "cpu.max.burst" };
            self.add("cpu.burst", "cpu", file, burst);
        }
        if let Some(idle) = cpu.idle() {
            self.add("cpu.idle", "cpu", "cpu.idle", idle);
        }
        let sets = [("cpu.cpus", "cpuset.cpus", cpu.cpus()), ("cpu.mems", "cpuset.mems", cpu.mems())];
        for (field, file, value) in sets {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                self.add(field, "cpuset", file, value);
            }
        }
        Ok(())
    }

    fn block(&mut self, block: &LinuxBlockIo) -> Result<(), Unsupported> {
        let leaves = block.weight_device().iter().flatten().any(|device| device.leaf_weight().is_some());
        if block.leaf_weight().is_some() || leaves {
            // The scheduler that knew of leaves, CFQ, left the kernel with 5.0.
            return Err(Unsupported("blockIO.leafWeight"));
        }
        if let Some(weight) = block.weight() {
            self.weight("blockIO.weight", "", "", weight);
        }
        for device in block.weight_device().iter().flatten() {
            if let Some(weight) = device.weight() {
                self.weight("blockIO.weightDevice", "_device", &format!("{} ", numbers(device)), weight);
            }
        }
        let throttles = [
            ("blockIO.throttleReadBpsDevice", "read_bps", "rbps", block.throttle_read_bps_device()),
            ("blockIO.throttleWriteBpsDevice", "write_bps", "wbps", block.throttle_write_bps_device()),
            ("blockIO.throttleReadIOPSDevice", "read_iops", "riops", block.throttle_read_iops_device()),
            ("blockIO.throttleWriteIOPSDevice", "write_iops", "wiops", block.throttle_write_iops_device()),
        ];
        for (field, of_v1, of_v2, devices) in throttles {
            for device in devices.iter().flatten() {
                self.throttle(field, of_v1, of_v2, device);
            }
        }
        Ok(())
    }

    /// BFQ's file where the kernel has it; both versions' weights are its own, 1 to 1000.
    fn weight(&mut self, field: &'static str, suffix: &str, device: &str, weight: u16) {
        let text = format!("{device}{weight}");
        let choices = if self.is_v1() {
            vec![(format!("blkio.bfq.weight{suffix}"), text.clone()), (format!("blkio.weight{suffix}"), text)]
        } else {
            let wide = format!("{}{}", if device.is_empty() { "default " } else { device }, wide_weight(weight));
            vec![("io.bfq.weight".to_owned(), text), ("io.weight".to_owned(), wide)]
        };
        let controller = if self.is_v1() { "blkio" } else { "io" };
        self.list.push(Setting { field, controller: controller.to_owned(), choices });
    }

    fn throttle(&mut self, field: &'static str, of_v1: &str, of_v2: &str, device: &LinuxThrottleDevice) {
        let (major, minor, rate) = (device.major(), device.minor(), device.rate());
        if self.is_v1() {
            self.add(field, "blkio", format!("blkio.throttle.{of_v1}_device"), format!("{major}:{minor} {rate}"));
        } else {
            // v1 says no limit with 0.
            let rate = if rate == 0 { "max".to_owned() } else { rate.to_string() };
            self.add(field, "io", "io.max", format!("{major}:{minor} {of_v2}={rate}"));
        }
    }

    fn hugepages(&mut self, limit: &LinuxHugepageLimit) {
        let file = if self.is_v1() { "limit_in_bytes" } else { "max" };
        let value = if limit.limit() < 0 && !self.is_v1() { "max".to_owned() } else { limit.limit().to_string() };
        self.add("hugepageLimits", "hugetlb", format!("hugetlb.{}.{file}", limit.page_size()), value);
    }

    fn network(&mut self, network: &LinuxNetwork) -> Result<(), Unsupported> {
        if let Some(class) = network.class_id() {
            if !self.is_v1() {
                return Err(Unsupported("network.classID"));
            }
            self.add("network.classID", "net_cls", "net_cls.classid", class);
        }
        for priority in network.priorities().iter().flatten() {
            if !self.is_v1() {
                return Err(Unsupported("network.priorities"));
            }
            let value = format!("{} {}", priority.name(), priority.priority());
            self.add("network.priorities", "net_prio", "net_prio.ifpriomap", value);
        }
        Ok(())
    }
}

fn numbers(device: &LinuxWeightDevice) -> String {
    format!("{}:{}", device.major(), device.minor())
}

/// v1's 10 to 1000 onto io.weight's 1 to 10000, as runc and crun do.
fn wide_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(version: Version, resources: serde_json::Value) -> Result<Vec<(String, String, String)>, Unsupported> {
        let list = of(version, &serde_json::from_value(resources).unwrap())?;
        let first = |setting: Setting| {
            let (file, value) = setting.choices.into_iter().next().unwrap();
            (setting.controller, file, value)
        };
        Ok(list.into_iter().map(first).collect())
    }

    fn expect(version: Version, resources: serde_json::Value, wanted: &[(&str, &str, &str)]) {
        let found = settings(version, resources).unwrap();
        let found: Vec<_> = found.iter().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn processors() {
        let cpu = json!({"cpu": {"burst": 5, "idle": 1, "cpus": "0-1", "mems": "0"}});
        let sets = [("cpuset", "cpuset.cpus", "0-1"), ("cpuset", "cpuset.mems", "0")];
        expect(
            Version::V1,
            cpu.clone(),
            &[&[("cpu", "cpu.cfs_burst_us", "5"), ("cpu", "cpu.idle", "1")], &sets[..]].concat(),
        );
        expect(Version::V2, cpu, &[&[("cpu", "cpu.max.burst", "5"), ("cpu", "cpu.idle", "1")], &sets[..]].concat());
        let realtime = json!({"cpu": {"realtimeRuntime": 7, "realtimePeriod": 9}});
        let wanted = [("cpu", "cpu.rt_period_us", "9"), ("cpu", "cpu.rt_runtime_us", "7")];
        expect(Version::V1, realtime.clone(), &wanted);
        assert_eq!(settings(Version::V2, realtime), Err(Unsupported("cpu.realtimePeriod")));
    }

    #[test]
    fn block_devices() {
        let throttle = |rate: u64| json!([{"major": 8, "minor": 16, "rate": rate}]);
        let block = json!({"blockIO": {
            "weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 1000}],
            "throttleReadBpsDevice": throttle(1), "throttleWriteBpsDevice": throttle(2),
            "throttleReadIOPSDevice": throttle(3), "throttleWriteIOPSDevice": throttle(0),
        }});
        expect(
            Version::V1,
            block.clone(),
            &[
                ("blkio", "blkio.bfq.weight", "500"),
                ("blkio", "blkio.bfq.weight_device", "8:0 1000"),
                ("blkio", "blkio.throttle.read_bps_device", "8:16 1"),
                ("blkio", "blkio.throttle.write_bps_device", "8:16 2"),
                ("blkio", "blkio.throttle.read_iops_device", "8:16 3"),
                ("blkio", "blkio.throttle.write_iops_device", "8:16 0"),
            ],
        );
        expect(
            Version::V2,
            block.clone(),
            &[
                ("io", "io.bfq.weight", "500"),
                ("io", "io.bfq.weight", "8:0 1000"),
                ("io", "io.max", "8:16 rbps=1"),
                ("io", "io.max", "8:16 wbps=2"),
                ("io", "io.max", "8:16 riops=3"),
                ("io", "io.max", "8:16 wiops=max"),
            ],
        );
        let without_bfq = of(Version::V2, &serde_json::from_value(block).unwrap()).unwrap();
        let second = |index: usize| without_bfq[index].choices[1].clone();
        assert_eq!(second(0), ("io.weight".to_owned(), "default 4950".to_owned()));
        assert_eq!(second(1), ("io.weight".to_owned(), "8:0 10000".to_owned()));
        for leaf in [json!({"leafWeight": 10}), json!({"weightDevice": [{"major": 1, "minor": 1, "leafWeight": 10}]})] {
            for version in [Version::V1, Version::V2] {
                let refused = settings(version, json!({"blockIO": leaf}));
                assert_eq!(refused, Err(Unsupported("blockIO.leafWeight")));
            }
        }
    }

    #[test]
    fn pages_networks_and_devices_for_remote_memory() {
        let rest = json!({
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}},
        });
        let rdma = ("rdma", "rdma.max", "mlx5_1 hca_handle=3 hca_object=10000");
        expect(Version::V1, rest.clone(), &[("hugetlb", "hugetlb.2MB.limit_in_bytes", "4194304"), rdma]);
        expect(Version::V2, rest, &[("hugetlb", "hugetlb.2MB.max", "4194304"), rdma]);
        let network = json!({"network": {"classID": 1_048_577, "priorities": [{"name": "eth0", "priority": 5}]}});
        let wanted = [("net_cls", "net_cls.classid", "1048577"), ("net_prio", "net_prio.ifpriomap", "eth0 5")];
        expect(Version::V1, network.clone(), &wanted);
        assert_eq!(settings(Version::V2, network), Err(Unsupported("network.classID")));
        let priorities = json!({"network": {"priorities": [{"name": "eth0", "priority": 5}]}});
        assert_eq!(settings(Version::V2, priorities), Err(Unsupported("network.priorities")));
    }

    #[test]
    fn the_unified_hierarchys_files_by_name() {
        let unified = |key: &str| json!({"unified": {key: "1"}});
        expect(Version::V2, unified("memory.high"), &[("memory", "memory.high", "1")]);
        expect(Version::V2, unified("hugetlb.2MB.max"), &[("hugetlb", "hugetlb.2MB.max", "1")]);
        for bad in ["cgroup.procs", "cgroup.kill", "../memory.high", "memory/x.y", "memory", ".x", ""] {
            assert_eq!(settings(Version::V2, unified(bad)), Err(Unsupported("unified")), "{bad}");
        }
        assert_eq!(settings(Version::V1, unified("memory.high")), Err(Unsupported("unified")));
    }
}
