//! A store that cannot be read: the agent does not start, says which file it is and why, changes nothing of it and
//! touches no container. With the whole file back it goes on where it was.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use system_tests::binaries::output;
use system_tests::definition::{shell, task};
use system_tests::{TestHost, eventually};

fn save(path: &Path, bytes: &[u8]) {
    File::create(path).and_then(|mut file| file.write_all(bytes)).unwrap();
}

/// Runs an agent that must not start; a broken one would serve for ever.
fn refused(host: &TestHost) -> Output {
    let mut limited = Command::new("timeout");
    limited.args(["--signal=KILL", "60"]).arg(host.command().get_program()).args(host.command().get_args());
    output("coreutils", &mut limited)
}

/// Everything of the root's run and tasks directories: what belongs to containers.
fn files(host: &TestHost) -> Vec<PathBuf> {
    ["run", "tasks"].iter().flat_map(|name| walk(&host.root().join(name))).collect()
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        // A container's mounts are in its own namespace; its sockets and locks are files like others.
        if path.is_dir() && !path.is_symlink() && !path.ends_with("rw") {
            found.extend(walk(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

#[test]
fn a_store_that_cannot_be_read_is_named_and_nothing_is_touched() {
    let mut host = TestHost::start();
    let script = "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done";
    let arn = host.run(&task("kept", &[shell("c", &host.image("base"), script)]));
    host.running(&arn);
    let init = fs::read_to_string(host.bundle(&arn, "c").join("monitor.json")).unwrap();
    // Once ended well and once killed: the second leaves a file to be repaired.
    for kill in [false, true] {
        if kill {
            host.kill9();
        } else {
            host.terminate();
        }
        let path = host.root().join("neargate.redb");
        let whole = fs::read(&path).unwrap();
        let before = files(&host);
        for (what, bytes) in damaged(&whole) {
            save(&path, &bytes);
            let refused = refused(&host);
            let words = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(1), "{what}: {words}");
            let last = words.lines().last().unwrap_or_default();
            assert!(last.starts_with("neargated: ") && last.contains(path.to_str().unwrap()), "{what}: {words}");
            assert!(fs::read(&path).unwrap() == bytes, "{what}: the file was changed");
            assert_eq!(files(&host), before, "{what}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let words = String::from_utf8_lossy(&refused(&host).stderr).into_owned();
        assert!(words.contains(path.to_str().unwrap()) && words.contains("Is a directory"), "{words}");
        assert_eq!(files(&host), before);
        fs::remove_dir(&path).unwrap();
        save(&path, &whole);
        host.restart();
        assert_eq!(host.describe(&arn).last_status(), "RUNNING");
        let now = fs::read_to_string(host.bundle(&arn, "c").join("monitor.json")).unwrap();
        assert_eq!(now, init, "the container was started again");
    }
    assert_eq!(host.inside(&arn, "c", "echo alive"), "alive\n");
    host.stop(&arn, None).unwrap();
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(3));
    assert_eq!(host.logs(&arn, "c"), "up\n");
}

fn damaged(whole: &[u8]) -> Vec<(String, Vec<u8>)> {
    let part = |length: usize| (format!("cut to {length} bytes"), whole[..length].to_vec());
    let mut all = vec![part(0), part(100), part(whole.len() / 2)];
    let noise: Vec<u8> = (0..50_000_u32).flat_map(|n| n.wrapping_mul(0x9E37_79B9).to_le_bytes()).collect();
    all.push(("noise".to_owned(), noise));
    all.push(("text".to_owned(), b"{\"tasks\": []}\n".to_vec()));
    all
}

#[test]
fn an_agent_killed_while_it_makes_its_store_is_followed_by_one_that_does() {
    let mut host = TestHost::start();
    host.kill9();
    let path = host.root().join("neargate.redb");
    fs::rename(&path, host.root().join("neargate.redb.new")).unwrap();
    File::options().write(true).open(host.root().join("neargate.redb.new")).unwrap().set_len(1000).unwrap();
    host.restart();
    assert!(path.exists() && !host.root().join("neargate.redb.new").exists());
    eventually("it serves", Duration::from_secs(10), || host.is_serving().then_some(()));
}
