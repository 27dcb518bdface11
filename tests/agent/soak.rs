//! The same again and again, without a leak: containers of the OCI runtime, and tasks of one agent, whose memory,
//! descriptors, threads and files have to be what they were. `NEARGATE_CYCLES` and `NEARGATE_SOAK_TASKS` make it longer,
//! `SEED=n` repeats a run.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use proto::v1::ExecuteCommandStart;
use serde_json::{Value, json};
use system_tests::binaries::{built, need_root, tool};
use system_tests::definition::{shell, task, with};
use system_tests::leaks::{Scope, Snapshot, instance_id};
use system_tests::random::{Random, number};
use system_tests::{TestHost, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
/// Tasks that the agent runs before it is measured: what it makes once it has made by then.
const WARM: u64 = 10;
/// KiB by which the agent may grow all the same: what it keeps up to a bound (events 1.5 MiB, the store's pages 1 MiB, the
/// buffer of its connection to the registry 0.4 MiB), and the allocator's own affairs.
const FLAT: u64 = 4 << 10;

/// A bundle whose program is a shell that waits for SIGTERM.
fn bundle(directory: &Path) -> PathBuf {
    let bundle = directory.join("bundle");
    fs::create_dir_all(bundle.join("rootfs/bin")).unwrap();
    fs::copy("/bin/busybox", bundle.join("rootfs/bin/busybox")).expect("install Debian's busybox-static");
    symlink("busybox", bundle.join("rootfs/bin/sh")).unwrap();
    tool("none", Command::new(built("neargate-runtime")).args(["spec", "--bundle"]).arg(&bundle));
    bundle
}

fn configure(bundle: &Path, cgroup: &str, script: &str) {
    let path = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["process"]["args"] = json!(["/bin/sh", "-c", script]);
    config["process"]["terminal"] = json!(false);
    config["linux"]["cgroupsPath"] = json!(cgroup);
    File::create(&path).unwrap().write_all(config.to_string().as_bytes()).unwrap();
}

#[test]
fn cycles_of_the_oci_runtime_leave_nothing() {
    need_root();
    let (mut random, cycles) = (Random::seeded(), number("NEARGATE_CYCLES", 20));
    let directory = tempfile::Builder::new().prefix("ng-").tempdir_in("/tmp").unwrap();
    let scope = Scope::Root(directory.path().to_owned());
    let group = format!("/neargate-{}", instance_id(directory.path()));
    let (bundle, state) = (bundle(directory.path()), directory.path().join("state"));
    let mut before = Snapshot::take(&scope);
    before.found.remove("file");
    let runtime = |words: &[&str]| {
        let mut command = Command::new(built("neargate-runtime"));
        command.arg("--root").arg(&state).args(words).stdin(Stdio::null()).stdout(Stdio::null());
        let status = command.status().unwrap();
        assert!(status.success(), "{words:?} ended with {status}");
    };
    for cycle in 0..cycles {
        let id = format!("cycle-{cycle}");
        let create = ["create", "--bundle", bundle.to_str().unwrap(), &id];
        // By each of the ways that a container's life can go.
        let script = ["exec /bin/busybox sleep 1000", "exit 0"][usize::try_from(random.below(2)).unwrap()];
        configure(&bundle, &format!("{group}/{id}"), script);
        match random.below(4) {
            0 => runtime(&create),
            1 => {
                runtime(&create);
                runtime(&["start", &id]);
            }
            2 => {
                configure(&bundle, &format!("{group}/{id}"), "exec /bin/busybox sleep 1000");
                runtime(&create);
                runtime(&["start", &id]);
                runtime(&["kill", &id, "KILL"]);
            }
            _ => {
                configure(&bundle, &format!("{group}/{id}"), "exit 0");
                runtime(&["run", "--bundle", bundle.to_str().unwrap(), &id]);
            }
        }
        runtime(&["delete", "--force", &id]);
        assert!(!state.join(&id).exists(), "cycle {cycle}");
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        // The parent is the caller's, and empty by now, or this fails and is told below.
        let _not_everywhere = fs::remove_dir(hierarchy.path().join(&group[1..]));
    }
    let _not_on_v1 = fs::remove_dir(format!("/sys/fs/cgroup{group}"));
    before.found.insert("file".to_owned(), Snapshot::take(&scope).found.remove("file").unwrap_or_default());
    Snapshot::settle(&scope, &before).unwrap();
    println!("{cycles} containers of the OCI runtime, nothing left");
}

/// What a process has.
#[derive(Debug, Clone, Copy)]
struct Held {
    descriptors: usize,
    threads: usize,
    pss_kib: u64,
}

fn held(pid: u32) -> Held {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    let pss_kib = pss.split_whitespace().next().unwrap().parse().unwrap();
    Held { descriptors: count("fd"), threads: count("task"), pss_kib }
}

#[test]
fn tasks_leave_nothing_in_their_agent() {
    let (mut random, count) = (Random::seeded(), number("NEARGATE_SOAK_TASKS", 20));
    // So short that what is told of stopped tasks goes, too.
    let host = TestHost::with("[history]\nkeep_days = 0.00003\ndisk_keep_hours = 0.0007");
    // Of tasks: their ids have 32 digits.
    let directories = |name: &str| {
        let entries = fs::read_dir(host.root().join(name)).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().len() == 32).count()
    };
    let settled = || {
        eventually("stopped tasks are forgotten", PATIENCE, || {
            (directories("tasks") == 0 && directories("run") == 0 && host.list("STOPPED").is_empty()).then_some(())
        });
    };
    (0..WARM).for_each(|nth| live(&host, &mut random, nth));
    settled();
    // Threads for blocking work end when they have had nothing to do for ten seconds.
    let most_threads = 4 + 1 + 4;
    let rested = || {
        eventually("its threads end", PATIENCE, || {
            let held = held(host.agent_pid());
            (held.threads <= most_threads).then_some(held)
        })
    };
    let before = rested();
    (WARM..WARM + count).for_each(|nth| live(&host, &mut random, nth));
    settled();
    let after = rested();
    println!("{count} tasks; before {before:?}, after {after:?}");
    eventually("its descriptors are closed", PATIENCE, || {
        (held(host.agent_pid()).descriptors <= before.descriptors).then_some(())
    });
    assert!(after.pss_kib < before.pss_kib + FLAT, "{before:?}, then {after:?}");
}

/// One task's whole life, by one of several ways.
fn live(host: &TestHost, random: &mut Random, nth: u64) {
    let forever = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let network = ["none", "bridge", "host"][usize::try_from(random.below(3)).unwrap()];
    let way = random.below(4);
    let script = if way == 0 { "echo over; exit 3" } else { forever };
    let definition = task("soak", &[shell("c", &host.image("base"), script)]);
    let arn = host.run(&with(definition, json!({ "networkMode": network })));
    if way > 0 {
        host.running(&arn);
        if way > 1 {
            eventually("it is up", PATIENCE, || host.logs(&arn, "c").contains("up").then_some(()));
        }
        if way > 2 {
            let command = ["/bin/sh", "-c", "cat; exit 9"].map(str::to_owned).to_vec();
            let start = ExecuteCommandStart { task: Some(arn.clone()), command, ..ExecuteCommandStart::default() };
            let done = host.exec(start, Some("through")).unwrap();
            assert_eq!((done.stdout.as_str(), done.exit_code), ("through", Some(9)), "task {nth}");
        }
        host.stop(&arn, None).unwrap();
    }
    let code = host.stopped(&arn).containers[0].exit_code;
    assert!(if way == 0 { code == Some(3) } else { [Some(0), Some(137)].contains(&code) }, "task {nth}: {code:?}");
}
