//! Groups on the host's own hierarchies: each limit is exceeded on purpose.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::mount::{MsFlags, mount, umount};
use nix::unistd::Pid;

use super::*;

/// Made so far: two tests may choose one name.
static GROUPS: AtomicU32 = AtomicU32::new(0);

/// A group of its own per test, gone when the test ends.
struct Group(Cgroup);

impl Group {
    fn new(name: &str, resources: serde_json::Value) -> Group {
        // A parent of its own too: whoever is done first would remove that of others.
        let nth = GROUPS.fetch_add(1, Ordering::Relaxed);
        let path = format!("/neargate-unit-{}-{nth}-{name}/group", std::process::id());
        Group(Cgroup::create(&path, &serde_json::from_value(resources).unwrap()).unwrap())
    }

    /// A shell that joins the group before it runs `script`.
    fn run(&self, script: &str) -> Child {
        let mut files = String::new();
        for directory in self.0.directories() {
            files.push_str(&format!("echo 0 > {}/cgroup.procs; ", directory.display()));
        }
        Command::new("sh")
            .args(["-c", &format!("{files}{script}")])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let directories = self.0.directories();
        self.0.delete().unwrap();
        for directory in directories {
            let _best_effort = fs::remove_dir(directory.parent().unwrap());
        }
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn memory_limit_kills_and_is_counted() {
    let group = Group::new("memory", serde_json::json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } }));
    assert_eq!(group.0.oom_kills().unwrap(), 0);
    let status = group.run("exec tail /dev/zero").wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert_eq!(group.0.oom_kills().unwrap(), 1);
}

#[test]
fn pids_limit_stops_forks() {
    let group = Group::new("pids", serde_json::json!({ "pids": { "limit": 3 } }));
    let output =
        group.run("(for n in 1 2 3 4; do sleep 9 >/dev/null & done; echo all) || echo stopped").wait_with_output();
    assert!(!String::from_utf8_lossy(&output.unwrap().stdout).contains("all"));
}

#[test]
fn quota_throttles() {
    let group =
        Group::new("quota", serde_json::json!({ "cpu": { "quota": 10_000, "period": 100_000, "shares": 512 } }));
    let mut busy = group.run("exec sh -c 'while :; do :; done'");
    until("the quota was never reached", || group.0.stats().unwrap().cpu.throttled_periods > 1);
    group.0.kill_all().unwrap();
    busy.wait().unwrap();
}

#[test]
fn delete_ends_processes_and_their_children() {
    let group = Group::new("delete", serde_json::json!({}));
    let mut shell = group.run("sleep 1000 & sleep 1000 & wait");
    until("three processes", || group.0.pids().unwrap().len() == 3);
    let pids = group.0.pids().unwrap();
    let reaper = std::thread::spawn(move || shell.wait().unwrap());
    group.0.delete().unwrap();
    reaper.join().unwrap();
    assert!(!group.0.exists());
    assert!(group.0.delete().is_ok(), "a second delete changes nothing");
    for pid in pids {
        until("a process outlived its group", || nix::sys::signal::kill(Pid::from_raw(pid), None).is_err());
    }
}

#[test]
fn frozen_processes_wait() {
    let group = Group::new("freeze", serde_json::json!({}));
    let mut busy = group.run("while :; do :; done");
    until("the shell is in its group", || group.0.pids().unwrap().len() == 1);
    group.0.freeze().unwrap();
    assert!(group.0.is_frozen().unwrap());
    let used = || group.0.stats().unwrap().cpu.usage_nanos;
    // What it used until then may be booked a moment later.
    let mut before = 0;
    until("a frozen group uses time", || {
        before = used();
        std::thread::sleep(Duration::from_millis(50));
        used() == before
    });
    group.0.thaw().unwrap();
    assert!(!group.0.is_frozen().unwrap());
    until("it runs again", || used() > before);
    group.0.kill_all().unwrap();
    busy.wait().unwrap();
}

#[test]
fn usage_is_read_back() {
    let group = Group::new("usage", serde_json::json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 9 } }));
    let mut shell = group.run("sleep 9 & sleep 1000");
    until("three processes", || group.0.stats().unwrap().pids.current == 3);
    let stats = group.0.stats().unwrap();
    assert_eq!((stats.memory.limit_bytes, stats.pids.limit), (Some(64 << 20), Some(9)));
    assert!(stats.memory.usage_bytes > 0 && stats.cpu.usage_nanos > 0, "{stats:?}");
    let unlimited = Group::new("unlimited", serde_json::json!({})).0.stats().unwrap();
    assert_eq!((unlimited.memory.limit_bytes, unlimited.pids.limit), (None, None));
    group.0.kill_all().unwrap();
    shell.wait().unwrap();
}

#[test]
fn memory_and_swap_are_raised_and_lowered_together() {
    let both = |bytes: i64| {
        serde_json::from_value(serde_json::json!({ "memory": { "limit": bytes, "swap": bytes } })).unwrap()
    };
    let group = Group::new("order", serde_json::json!({ "memory": { "limit": 32 << 20, "swap": 32 << 20 } }));
    for mebibytes in [64, 16, 48] {
        group.0.update(&both(mebibytes << 20)).unwrap();
        let limit = group.0.stats().unwrap().memory.limit_bytes;
        assert_eq!(limit.map(u64::cast_signed), Some(mebibytes << 20));
    }
}

#[test]
fn refused_limit_leaves_nothing() {
    let path = format!("/neargate-unit-{}-refused", std::process::id());
    let resources = serde_json::from_value(serde_json::json!({ "memory": { "limit": -5 } })).unwrap();
    assert!(matches!(Cgroup::create(&path, &resources), Err(CgroupError::Set { field: "memory.limit", .. })));
    assert!(!Cgroup::open(&path).unwrap().exists());
}

#[test]
fn half_made_group_is_completed() {
    let group = Group::new("half", serde_json::json!({}));
    let removed = group.0.directories().pop().unwrap();
    fs::remove_dir(&removed).unwrap();
    let resources = serde_json::from_value(serde_json::json!({ "cpu": { "shares": 99 } })).unwrap();
    assert_eq!(Cgroup::ensure(&group.0.path(), &resources).unwrap(), group.0);
    assert!(removed.is_dir());
}

#[test]
fn paths_that_could_leave_the_hierarchy_are_refused() {
    for path in ["", "/", "relative", "/a/../b", "/a//b", "/a/."] {
        assert!(matches!(Cgroup::open(path), Err(CgroupError::Path { .. })), "{path:?}");
    }
}

#[test]
fn what_would_be_ignored_is_refused_by_name() {
    let path = format!("/neargate-unit-{}-refused-member", std::process::id());
    for (resources, name) in [
        (serde_json::json!({ "memory": { "kernel": 1 << 20 } }), "memory.kernel"),
        (serde_json::json!({ "memory": { "useHierarchy": false } }), "memory.useHierarchy"),
        (serde_json::json!({ "blockIO": { "leafWeight": 100 } }), "blockIO.leafWeight"),
        (serde_json::json!({ "unified": { "cgroup.procs": "1" } }), "unified"),
        (serde_json::json!({ "rdma": { "mlx5_9": { "hcaHandles": 1 } } }), "rdma"),
        (serde_json::json!({ "cpu": { "cpus": "0-65000" } }), "cpu.cpus"),
    ] {
        let error = Cgroup::create(&path, &serde_json::from_value(resources).unwrap()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert!(!Cgroup::open(&path).unwrap().exists(), "{name}");
    }
}

/// What a file of the group says, on whichever hierarchy it is.
fn file(group: &Group, name: &str) -> String {
    let found = group.0.directories().iter().find_map(|directory| fs::read_to_string(directory.join(name)).ok());
    found.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
}

#[test]
fn processors_are_chosen_at_the_start_and_later() {
    let group = Group::new("sets", serde_json::json!({ "cpu": { "cpus": "0", "mems": "0" } }));
    assert_eq!((file(&group, "cpuset.cpus"), file(&group, "cpuset.mems")), ("0".to_owned(), "0".to_owned()));
    let mut shell = group.run("grep Cpus_allowed_list /proc/self/status; sleep 1000");
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(shell.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, "Cpus_allowed_list:\t0\n");
    group.0.kill_all().unwrap();
    shell.wait().unwrap();

    let later = Group::new("sets-later", serde_json::json!({}));
    let mut shell = later.run("sleep 1000 & sleep 1000");
    until("three processes", || later.0.pids().unwrap().len() == 3);
    later.0.update(&serde_json::from_value(serde_json::json!({ "cpu": { "cpus": "0" } })).unwrap()).unwrap();
    for pid in later.0.pids().unwrap() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("Cpus_allowed_list:\t0\n"), "{pid} runs elsewhere");
    }
    later.0.kill_all().unwrap();
    shell.wait().unwrap();
}

#[test]
fn bursts_and_idle_groups() {
    let wanted = serde_json::json!({ "cpu": { "quota": 50_000, "period": 100_000, "burst": 20_000 } });
    let group = Group::new("burst", wanted);
    let burst = if is_v2() { "cpu.max.burst" } else { "cpu.cfs_burst_us" };
    assert_eq!(file(&group, burst), "20000");
    let idle = Group::new("idle", serde_json::json!({ "cpu": { "idle": 1 } }));
    assert_eq!(file(&idle, "cpu.idle"), "1");
    // A quota alone leaves the period.
    let period = Group::new("period", serde_json::json!({ "cpu": { "quota": 20_000, "period": 50_000 } }));
    period.0.update(&serde_json::from_value(serde_json::json!({ "cpu": { "quota": 30_000 } })).unwrap()).unwrap();
    if is_v2() {
        assert_eq!(file(&period, "cpu.max"), "30000 50000");
    } else {
        assert_eq!(
            (file(&period, "cpu.cfs_quota_us"), file(&period, "cpu.cfs_period_us")),
            ("30000".into(), "50000".into())
        );
    }
}

#[test]
fn a_limit_below_what_is_used_is_refused_where_that_was_asked_for() {
    let group = Group::new("used", serde_json::json!({ "memory": { "limit": 64 << 20 } }));
    let mut shell = group.run("x=$(head -c 8000000 /dev/zero | tr '\\0' x); echo ready; sleep 1000");
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(shell.stdout.take().unwrap()), &mut line).unwrap();
    let update = |resources| group.0.update(&serde_json::from_value(resources).unwrap());
    let error = update(serde_json::json!({ "memory": { "limit": 1 << 20, "checkBeforeUpdate": true } })).unwrap_err();
    assert!(matches!(error, CgroupError::LessThanUsed { limit: 0x10_0000, .. }), "{error}");
    update(serde_json::json!({ "memory": { "limit": 48 << 20, "checkBeforeUpdate": true } })).unwrap();
    group.0.kill_all().unwrap();
    shell.wait().unwrap();
}

#[test]
fn what_is_frozen_below_is_killed_too() {
    let group = Group::new("below", serde_json::json!({}));
    let below = Cgroup::open(&format!("{}/below", group.0.path())).unwrap();
    below.make().unwrap();
    // The outer one removes both.
    let inner = std::mem::ManuallyDrop::new(Group(below.clone()));
    let mut child = inner.run("exec sleep 1000");
    until("it is there", || below.pids().unwrap().len() == 1);
    assert_eq!(group.0.children().unwrap(), ["below"]);
    below.freeze().unwrap();
    let reaper = std::thread::spawn(move || child.wait().unwrap());
    group.0.delete().unwrap();
    reaper.join().unwrap();
    assert!(!below.exists());
}

#[test]
fn what_is_frozen_below_can_be_let_go() {
    let group = Group::new("thaw", serde_json::json!({}));
    let below = Cgroup::open(&format!("{}/below", group.0.path())).unwrap();
    below.make().unwrap();
    let inner = std::mem::ManuallyDrop::new(Group(below.clone()));
    let mut child = inner.run("exec sleep 1000");
    until("it is there", || below.pids().unwrap().len() == 1);
    below.freeze().unwrap();
    group.0.thaw().unwrap();
    assert!(below.is_frozen().unwrap(), "that of the group above is another matter");
    group.0.thaw_all().unwrap();
    assert!(!below.is_frozen().unwrap());
    group.0.kill_all().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_group_that_is_busy_for_a_moment_is_waited_for() {
    let group = Group::new("busy", serde_json::json!({}));
    let below = group.0.directories()[0].join("below");
    fs::create_dir(&below).unwrap();
    mount(Some("tmpfs"), &below, Some("tmpfs"), MsFlags::empty(), Some("size=4k")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            umount(&below).unwrap();
        });
        group.0.delete().unwrap();
    });
    assert!(!group.0.exists());
}

#[test]
fn groups_that_go_while_they_are_looked_at_are_no_error() {
    let group = Group::new("going", serde_json::json!({}));
    let directories = group.0.directories();
    let over = AtomicBool::new(false);
    let looked = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for directory in &directories {
                    fs::create_dir_all(directory.join("child/below")).unwrap();
                    fs::remove_dir(directory.join("child/below")).unwrap();
                    fs::remove_dir(directory.join("child")).unwrap();
                }
            }
        });
        let looked: Result<Vec<_>, CgroupError> =
            (0..1000).map(|_| Ok((group.0.pids()?, group.0.children()?))).collect();
        over.store(true, Ordering::Relaxed);
        looked
    });
    for (pids, children) in looked.unwrap() {
        assert!(pids.is_empty() && children.iter().all(|name| name == "child"), "{pids:?} {children:?}");
    }
}

#[test]
fn only_what_is_gone_is_gone() {
    let is = |errno| is_gone(&io::Error::from_raw_os_error(errno));
    assert_eq!([libc::ENOENT, libc::ENODEV, libc::EBUSY, libc::EACCES].map(is), [true, true, false, false]);
    let none = Cgroup::open(&format!("/neargate-unit-{}-none", std::process::id())).unwrap();
    assert_eq!((none.pids().unwrap(), none.children().unwrap()), (Vec::new(), Vec::new()));
    assert!(!none.is_frozen().unwrap());
    // A file that is there and cannot be read as text is told.
    assert!(text_or_empty(Path::new("/proc/self/mem")).is_err());
}

#[test]
fn a_group_that_somebody_is_in_is_not_made_again() {
    let group = Group::new("used", serde_json::json!({}));
    let mut shell = group.run("exec sleep 1000");
    until("the shell is in its group", || group.0.pids().unwrap().len() == 1);
    let made = Cgroup::create(&group.0.path(), &LinuxResources::default());
    assert!(matches!(made, Err(CgroupError::InUse { .. })));
    assert_eq!(group.0.pids().unwrap().len(), 1, "whoever is in it goes on");
    group.0.kill_all().unwrap();
    shell.wait().unwrap();
    // An empty one may be what was left of the group's last life.
    Cgroup::create(&group.0.path(), &LinuxResources::default()).unwrap();
}
