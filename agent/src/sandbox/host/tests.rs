//! What a killed or abandoned agent left being executed, played by scripts in place of neargate-runtime.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use super::*;
use crate::sandbox::Log;

const PATIENCE: Duration = Duration::from_secs(20);

/// A sandbox whose runtime is this script, in a cgroup of its own.
fn host(directory: &Path, script: &str) -> Host {
    let runtime = directory.join("runtime");
    std::io::Write::write_all(&mut File::create(&runtime).unwrap(), format!("#!/bin/sh\n{script}\n").as_bytes())
        .unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
    let cgroup = format!("/neargate-test-{}-{}", std::process::id(), name(directory));
    let places = Places {
        task: directory.join("disks"),
        run: directory.join("task"),
        shared_volumes: directory.join("volumes"),
    };
    Host::new(Executable::new(runtime), &places, cgroup)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test]
async fn destroy_waits_for_what_a_killed_agent_executed() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path().display();
    let slow = format!(
        "[ $2 = create ] || exit 0; touch {here}/begun; while [ ! -e {here}/go ]; do sleep 0.01; done; \
         mkdir -p {here}/task/task.ns; touch {here}/made"
    );
    let (path, killed) = (directory.path(), host(directory.path(), &slow));
    // Another agent's: it does not know what this one is about to make.
    let next = Host { making: Arc::default(), ..killed.clone() };
    let wanted = Shared { user_base: None, network: true, ipc: None, pid: false, disk_gib: None };
    let preparing = tokio::spawn(async move { killed.make(wanted, LinuxResources::default()).await });
    eventually("namespaces are being made", || path.join("begun").exists()).await;
    preparing.abort();
    assert!(preparing.await.unwrap_err().is_cancelled());

    let destroying = next.destroy();
    tokio::pin!(destroying);
    let early = tokio::time::timeout(Duration::from_millis(100), &mut destroying).await;
    assert!(early.is_err(), "destroyed beside what is still being made");
    File::create(path.join("go")).unwrap();
    destroying.await.unwrap();
    assert!(path.join("made").exists(), "destroy came before the end of what it removes");
    assert!(!path.join("task").exists(), "something is left");
}

#[tokio::test]
async fn a_monitor_is_found_before_it_holds_its_own_lock() {
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("task/c");
    make_directory(&bundle, 0o755).unwrap();
    let exit = ExitRecord {
        format: protocol::FORMAT,
        exit_code: Some(42),
        signal: None,
        oom_killed: false,
        started_at: Some(1.0),
        finished_at: 2.0,
        error: None,
    };
    serde_json::to_writer(File::create(bundle.join("record")).unwrap(), &exit).unwrap();
    let here = bundle.display();
    let slow = format!("while [ ! -e {here}/go ]; do sleep 0.01; done; mv {here}/record {here}/exit.json");
    let host = host(directory.path(), &slow);
    let log = Log { path: bundle.join("log"), max_size_bytes: 1, max_files: 1 };
    let how = Supervision { log, init: false, interactive: false };
    let lock = open_lock(&bundle.join(START_LOCK)).unwrap();
    lock.try_lock().unwrap();
    // As of an agent that is killed right after this line: nobody keeps the child.
    drop(host.monitor(&bundle, &how, lock).unwrap().command.spawn().unwrap());

    let (next, of) = (host.clone(), bundle.clone());
    let again = tokio::spawn(async move { next.start(&of, &how).await });
    let found = host.find(&bundle);
    tokio::pin!(found);
    let early = tokio::time::timeout(Duration::from_millis(50), &mut found).await;
    assert!(early.is_err(), "a monitor that was executed is overlooked: {early:?}");
    File::create(bundle.join("go")).unwrap();
    assert_eq!(found.await.unwrap(), Found::Ended(exit));
    // A start beside it is its start: what ran is not told as a failure.
    assert_eq!(again.await.unwrap().unwrap(), Start::Running { started_at: 1.0, took: Took::default() });
}
