//! Escapes that other runtimes had, each tried as its advisory tells it, and ways to make a container that cannot be
//! ended.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::statvfs::{FsFlags, statvfs};
use runtime::cgroup::Cgroup;
use serde_json::json;

use crate::harness::{BINARY, TestBundle, eventually, parent};

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::io::Write::write_all(&mut fs::File::create(path).unwrap(), text.as_bytes()).unwrap();
}

/// Exchanges `one` and `other` without pause while `work` is done.
fn while_exchanging<T>(one: &Path, other: &Path, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).unwrap();
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The runtime with descriptors of the host's root that somebody forgot to close.
fn leaking(bundle: &TestBundle, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "exec 4</ 7</ 9</; exec \"$@\"", "sh", BINARY, "--root"]);
    command.arg(bundle.path().join("state")).args(args).stdin(Stdio::null());
    command
}

/// CVE-2019-5736: a program `#!/proc/self/exe` makes whoever executes it execute itself inside the container. From there
/// its file is opened, and written to once nobody executes it any more.
#[test]
fn cve_2019_5736_the_runtime_is_not_overwritten_by_what_it_executes() {
    const ATTACK: &str = "
        while [ ! -e /opened ]; do
            for p in /proc/[0-9]*; do
                if grep -q evil $p/cmdline 2>/dev/null && (: < $p/exe) 2>/dev/null; then exec 3< $p/exe; touch /opened; fi
            done
        done
        while [ ! -e /go ]; do sleep 0.01; done
        while :; do
            m=$( { : >> /proc/self/fd/3; } 2>&1 ) && { echo written > /result.new; break; }
            case \"$m\" in *busy*) sleep 0.01;; *) echo \"$m\" > /result.new; break;; esac
        done
        mv /result.new /result";
    let mut bundle = TestBundle::new("exec sleep 600");
    let root = bundle.rootfs();
    symlink("busybox", root.join("bin/mv")).unwrap();
    put(&root.join("attack"), ATTACK);
    put(&root.join("evil"), "#!/proc/self/exe update\n");
    fs::set_permissions(root.join("evil"), fs::Permissions::from_mode(0o755)).unwrap();
    // A runtime of its own to lose; one that is linked dynamically finds its libraries.
    let runtime = bundle.path().join("runtime");
    fs::copy(BINARY, &runtime).unwrap();
    for name in ["lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name)).unwrap();
    }
    bundle.mount(json!({"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}));
    bundle.create();
    bundle.ok(&["start", &bundle.id]);

    let execute = |program: &[&str], stdin: Stdio| {
        let mut command = Command::new(&runtime);
        command.arg("--root").arg(bundle.path().join("state")).args(["exec", "--detach", &bundle.id]).args(program);
        command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    assert!(execute(&["sh", "/attack"], Stdio::null()).wait().unwrap().success());
    // `update` reads its limits from here until we close it.
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    assert!(execute(&["/evil", "-r", "-"], Stdio::from(read)).wait().unwrap().success());
    eventually("the runtime's file is opened", || root.join("opened").exists());
    drop(write);
    put(&root.join("go"), "");
    eventually("the attack ends", || root.join("result").exists());
    let result = fs::read_to_string(root.join("result")).unwrap();
    assert!(result.contains("Read-only") || result.contains("not permitted"), "{result}");
    assert!(fs::read(&runtime).unwrap() == fs::read(BINARY).unwrap(), "the runtime has changed");
}

/// The same for the process that keeps the pid namespace of a task: all its containers see it.
#[test]
fn the_keeper_of_a_pid_namespace_runs_from_a_protected_copy() {
    let bundle = TestBundle::new("true");
    let directory = bundle.path().join("ns");
    let cgroup = format!("{}/keeper", parent(&bundle.id));
    bundle.ok(&["namespaces", "create", "--dir", directory.to_str().unwrap(), "--pid", &cgroup]);
    let group = Cgroup::open(&cgroup).unwrap();
    let pids = group.pids().unwrap();
    let protected = pids.iter().map(|pid| statvfs(format!("/proc/{pid}/exe").as_str()).unwrap().flags());
    let protected: Vec<bool> = protected.map(|flags| flags.contains(FsFlags::ST_RDONLY)).collect();
    group.delete().unwrap();
    bundle.ok(&["namespaces", "delete", "--dir", directory.to_str().unwrap()]);
    assert_eq!(protected, [true]);
}

/// CVE-2021-30465: a volume that two containers share, in which one exchanges a directory with a link while the other's
/// mounts are made on it.
#[test]
fn cve_2021_30465_a_mount_target_that_is_exchanged_stays_inside() {
    let mut bundle = TestBundle::new("grep -c ' /marker ' /proc/self/mountinfo; cat /proc/self/mountinfo");
    let (volume, outside, marker) = (bundle.path().join("volume"), tempfile::tempdir().unwrap(), "marker");
    for directory in [volume.join("a/there"), outside.path().join("there"), bundle.path().join(marker)] {
        fs::create_dir_all(directory).unwrap();
    }
    symlink(outside.path(), volume.join("link")).unwrap();
    bundle.mount(json!({"destination": "/vol", "type": "bind", "source": volume, "options": ["rbind"]}));
    for destination in ["/vol/a/there", "/vol/a/made"] {
        bundle.mount(json!({"destination": destination, "type": "bind", "source": marker, "options": ["bind"]}));
    }
    let marked = |text: &str| {
        text.lines().filter(|line| line.split(' ').nth(3).is_some_and(|of| of.ends_with("/marker"))).count()
    };
    // At rest, through the link too.
    fs::rename(volume.join("a"), volume.join("b")).unwrap();
    fs::rename(volume.join("link"), volume.join("a")).unwrap();
    bundle.config["process"]["args"] = json!(["cat", "/proc/self/mountinfo"]);
    assert_eq!(marked(&bundle.run_ok()), 2);
    while_exchanging(&volume.join("a"), &volume.join("b"), || {
        for _ in 0..15 {
            let output = bundle.run();
            let text = String::from_utf8_lossy(&output.stdout);
            // What was exchanged at the wrong moment may be missing; what was mounted is inside.
            assert!(!output.status.success() || marked(&text) == 2, "{text}");
        }
    });
    let names: Vec<_> = fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["there"], "something was made outside");
}

/// CVE-2024-21626: a working directory that is a descriptor of the host's, left open by the runtime or by whoever
/// started it.
#[test]
fn cve_2024_21626_no_descriptor_of_the_host_leads_out() {
    let mut bundle = TestBundle::new("set -- /proc/self/fd/*; echo $#");
    let args = |command: &[&str], bundle: &TestBundle| {
        bundle.write("config.json", &bundle.config);
        leaking(bundle, command).output().unwrap()
    };
    let path = bundle.path().to_str().unwrap().to_owned();
    let id = bundle.id.clone();
    let run = ["run", "--bundle", &path, &id];
    // 0, 1, 2 and the one that lists.
    assert_eq!(String::from_utf8_lossy(&args(&run, &bundle).stdout), "4\n");
    // Hooks run before the program's execve closes anything.
    let count = "set -- /proc/self/fd/*; echo $# > /hook";
    bundle.config["hooks"] = json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", count]}]});
    assert!(args(&run, &bundle).status.success());
    assert_eq!(fs::read_to_string(bundle.rootfs().join("hook")).unwrap(), "4\n");
    bundle.config["hooks"] = json!({});
    for number in [3, 4, 5, 6, 7, 8, 9] {
        bundle.config["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        let output = args(&run, &bundle);
        assert!(!output.status.success() && output.stdout.is_empty(), "run, {number}: {output:?}");
    }
    bundle.config["process"]["cwd"] = json!("/");
    bundle.config["process"]["args"] = json!(["sleep", "600"]);
    bundle.create();
    bundle.ok(&["start", &id]);
    for number in [3, 4, 5, 6, 7, 8, 9] {
        let cwd = format!("/proc/self/fd/{number}");
        let output = leaking(&bundle, &["exec", "--cwd", &cwd, &id, "ls", ".."]).output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "exec, {number}: {output:?}");
    }
    let text = leaking(&bundle, &["exec", &id, "sh", "-c", "set -- /proc/self/fd/*; echo $#"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&text.stdout), "4\n");
}

/// CVE-2025-31133: a masked path is bound to what the image says is its null device: a link to a file of procfs would
/// appear there, writable, and a missing one would leave the path as it is.
#[test]
fn cve_2025_31133_masks_are_the_hosts_null_device() {
    for null in [Some("/proc/sys/kernel/core_pattern"), Some("/etc/passwd"), Some("/missing"), None] {
        let script =
            "wc -c < /proc/keys; stat -c %t:%T /proc/keys; echo x > /proc/sys/kernel/core_pattern || echo denied";
        let mut bundle = TestBundle::new(script);
        let device = |mount: &serde_json::Value| mount["destination"].as_str().unwrap().starts_with("/dev");
        bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| !device(mount));
        // A /dev of the image's own, which the runtime does not fill.
        let dev = bundle.path().join("dev");
        fs::create_dir(&dev).unwrap();
        if let Some(target) = null {
            symlink(target, dev.join("null")).unwrap();
        }
        bundle.mount(json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["rbind"]}));
        assert_eq!(bundle.run_ok(), "0\n1:3\ndenied\n", "{null:?}");
    }
}

/// CVE-2025-52565: the terminal is bound to /dev/console, which a link turns into a file of procfs, at rest or while the
/// container is made.
#[test]
fn cve_2025_52565_the_console_is_not_bound_into_procfs() {
    let mut bundle = TestBundle::new("sleep 600");
    bundle.config["process"]["terminal"] = json!(true);
    let devices = |mount: &serde_json::Value| mount["destination"] == "/dev";
    bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| !devices(mount));
    let dev = bundle.path().join("dev");
    fs::create_dir(&dev).unwrap();
    symlink("pts/ptmx", dev.join("ptmx")).unwrap();
    bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .insert(1, json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["rbind"]}));
    bundle.write("config.json", &bundle.config);
    let socket = bundle.path().join("console.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let (path, socket) = (bundle.path().to_str().unwrap(), socket.to_str().unwrap());
    let create = || {
        let mut command = bundle.runtime(&["create", "--bundle", path, "--console-socket", socket, &bundle.id]);
        let log = fs::File::create(bundle.path().join("output")).unwrap();
        command.stdout(Stdio::null()).stderr(log).status().unwrap().success()
    };
    let mounted = || {
        let pid = bundle.state()["pid"].as_i64().unwrap();
        let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let terminal = |line: &&str| line.contains(" - devpts ") && !line.contains(" /dev/pts ");
        text.lines().filter(terminal).map(|line| line.split(' ').nth(4).unwrap().to_owned()).collect::<Vec<_>>()
    };
    for target in ["/proc/sys/kernel/core_pattern", "/proc/self/comm"] {
        symlink(target, dev.join("console")).unwrap();
        assert!(!create(), "{target}: {:?}", mounted());
        assert!(bundle.output().contains("inside procfs"), "{}", bundle.output());
        fs::remove_file(dev.join("console")).unwrap();
    }
    put(&dev.join("console"), "");
    symlink("/proc/sys/kernel/core_pattern", dev.join("link")).unwrap();
    while_exchanging(&dev.join("console"), &dev.join("link"), || {
        for _ in 0..10 {
            if create() {
                let found = mounted();
                bundle.ok(&["delete", "--force", &bundle.id]);
                assert!(found.iter().all(|path| path.starts_with("/dev/")), "{found:?}");
            }
        }
    });
}

/// CVE-2025-52881: what is written to procfs to confine the container goes into a file that was put over it.
#[test]
fn cve_2025_52881_sysctls_are_not_written_to_what_covers_procfs() {
    let mut bundle = TestBundle::new("true");
    let fake = bundle.path().join("fake");
    put(&fake.join("shm_rmid_forced"), "0\n");
    bundle.mount(json!({"destination": "/proc/sys/kernel", "type": "bind", "source": fake, "options": ["rbind"]}));
    bundle.config["linux"]["sysctl"] = json!({"kernel.shm_rmid_forced": "1"});
    bundle.config["linux"]["readonlyPaths"] = json!([]);
    // The kernel's own word for it, from a process in the same namespace that has a procfs to itself.
    let real = "cat /proc/sys/kernel/shm_rmid_forced";
    bundle.config["process"]["args"] = json!(["sleep", "600"]);
    bundle.create();
    let pid = bundle.state()["pid"].as_i64().unwrap().to_string();
    let told = Command::new("nsenter").args(["--ipc", "--target", &pid, "sh", "-c", real]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&told.stdout), "1\n", "{told:?}");
    assert_eq!(fs::read_to_string(fake.join("shm_rmid_forced")).unwrap(), "0\n");
}

/// The same with security labels: a container that believes itself confined is not.
#[test]
fn cve_2025_52881_labels_are_not_written_to_what_covers_procfs() {
    for destination in ["/proc", "/proc/1/attr"] {
        let mut bundle = TestBundle::new("true");
        let fake = bundle.path().join("fake");
        let label =
            if destination == "/proc" { fake.join("self/attr/apparmor/exec") } else { fake.join("apparmor/exec") };
        put(&label, "");
        if destination == "/proc" {
            bundle.config["mounts"].as_array_mut().unwrap().remove(0);
            bundle.config["linux"]["maskedPaths"] = json!([]);
            bundle.config["linux"]["readonlyPaths"] = json!([]);
        }
        bundle.mount(json!({"destination": destination, "type": "bind", "source": fake, "options": ["rbind"]}));
        bundle.config["process"]["apparmorProfile"] = json!("strict");
        let output = bundle.run();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains("security label"), "{destination}: {text}");
        assert_eq!(fs::read_to_string(&label).unwrap(), "", "{destination}");
    }
}

/// A container that may write to its cgroup freezes itself, in a group below: SIGKILL alone does not end it.
#[test]
fn a_container_that_freezes_itself_can_be_ended() {
    let freeze = "d=/sys/fs/cgroup/freezer; f=freezer.state; v=FROZEN; \
                  [ -d $d ] || { d=/sys/fs/cgroup; f=cgroup.freeze; v=1; }; \
                  mkdir $d/below && echo 0 > $d/below/cgroup.procs && touch /ready && echo $v > $d/below/$f; sleep 600";
    for end in [["delete", "--force"].as_slice(), &["kill", "--all"]] {
        let mut bundle = TestBundle::new(freeze);
        let mounts = bundle.config["mounts"].as_array_mut().unwrap();
        mounts.last_mut().unwrap()["options"] = json!(["nosuid"]);
        bundle.create();
        bundle.ok(&["start", &bundle.id]);
        eventually("it is about to freeze", || bundle.rootfs().join("ready").exists());
        let states = || bundle.cgroups().into_iter().map(|group| group.join("below"));
        eventually("it is frozen", || {
            states().any(|group| {
                let read = |name: &str| fs::read_to_string(group.join(name)).unwrap_or_default();
                read("freezer.state").trim() == "FROZEN" || read("cgroup.events").contains("frozen 1")
            })
        });
        let words = [end, &[bundle.id.as_str()], if end[0] == "kill" { &["KILL"][..] } else { &[] }].concat();
        bundle.ok(&words);
        if end[0] == "kill" {
            eventually("it ends", || bundle.state()["status"] == "stopped");
            bundle.ok(&["delete", &bundle.id]);
        }
        assert!(bundle.cgroups().is_empty());
    }
}
