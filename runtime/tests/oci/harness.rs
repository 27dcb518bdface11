//! A bundle in a temporary directory, the commands to run it, and the removal of all that it leaves.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_neargate-runtime");
const APPLETS: [&str; 17] = [
    "sh", "id", "ls", "cat", "mount", "sleep", "true", "hostname", "stat", "touch", "grep", "echo", "tty", "readlink",
    "mkdir", "wc", "dd",
];

/// A container's bundle with its own state root; both are removed with everything that runs at the end.
pub(crate) struct TestBundle {
    directory: TempDir,
    pub(crate) config: Value,
    pub(crate) id: String,
}

impl TestBundle {
    /// A container that runs `script` in all new namespaces but a user namespace.
    pub(crate) fn new(script: &str) -> TestBundle {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("oci-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::tempdir().unwrap();
        make_root(&directory.path().join("rootfs"));
        let config = config(script, &format!("{}/c", parent(&id)));
        TestBundle { directory, config, id }
    }

    /// In a new user namespace whose root is this host id.
    pub(crate) fn with_user_namespace(mut self, base: u32) -> TestBundle {
        let mappings = json!([{"containerID": 0, "hostID": base, "size": 65536}]);
        self.config["linux"]["uidMappings"] = mappings.clone();
        self.config["linux"]["gidMappings"] = mappings;
        self.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        self
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// Adds an entry of `mounts`.
    pub(crate) fn mount(&mut self, mount: Value) {
        self.config["mounts"].as_array_mut().unwrap().push(mount);
    }

    /// Replaces the root file system by an overlay of `layers` (top first) and the plain one at the bottom.
    pub(crate) fn overlay(&self, layers: &[PathBuf], id_map: bool) {
        let (upper, work) = (self.path().join("rw/upper"), self.path().join("rw/work"));
        let bottom = self.path().join("bottom");
        fs::create_dir_all(&upper).unwrap();
        fs::create_dir_all(&work).unwrap();
        fs::rename(self.rootfs(), &bottom).unwrap();
        fs::create_dir(self.rootfs()).unwrap();
        let lower: Vec<_> = layers.iter().chain([&bottom]).collect();
        let overlay = json!({"lower": lower, "upper": upper, "work": work, "idMap": id_map});
        self.write("rootfs.json", &json!({"format": 1, "overlay": overlay}));
    }

    /// Writes a file of the bundle.
    pub(crate) fn write(&self, name: &str, value: &Value) {
        use std::io::Write;
        let mut file = fs::File::create(self.path().join(name)).unwrap();
        file.write_all(value.to_string().as_bytes()).unwrap();
    }

    /// The runtime with our state root.
    pub(crate) fn runtime(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("--root").arg(self.path().join("state")).args(args).stdin(Stdio::null());
        command
    }

    /// `run` to its end.
    pub(crate) fn run(&self) -> Output {
        self.write("config.json", &self.config);
        self.runtime(&["run", "--bundle", self.path().to_str().unwrap(), &self.id]).output().unwrap()
    }

    /// `run`, which has to end with 0; its output.
    pub(crate) fn run_ok(&self) -> String {
        let output = self.run();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{:?}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
        text
    }

    /// `create`, with the container's output going to files: a pipe would stay open.
    pub(crate) fn create(&self) {
        self.write("config.json", &self.config);
        let output = fs::File::create(self.path().join("output")).unwrap();
        let mut command = self.runtime(&["create", "--bundle", self.path().to_str().unwrap(), &self.id]);
        let status = command.stdout(output.try_clone().unwrap()).stderr(output).status().unwrap();
        assert!(status.success(), "{}", self.output());
    }

    /// What a created container has written.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.path().join("output")).unwrap()
    }

    /// A command that has to succeed; its stdout.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.runtime(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command that has to fail; its stderr.
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let output = self.runtime(args).output().unwrap();
        assert!(!output.status.success(), "{args:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The OCI state.
    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", &self.id])).unwrap()
    }

    /// The directory of the container's cgroup in one v1 hierarchy or in v2.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let below = self.config["linux"]["cgroupsPath"].as_str().unwrap().trim_start_matches('/').to_owned();
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path().join(&below));
        hierarchies.chain([Path::new("/sys/fs/cgroup").join(&below)]).filter(|path| path.exists()).collect()
    }
}

impl Drop for TestBundle {
    fn drop(&mut self) {
        // A container that does not exist is success.
        let _ = self.runtime(&["delete", "--force", &self.id]).status();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(parent(&self.id).trim_start_matches('/')));
        }
    }
}

/// The cgroup above a container's: one for each, or whoever is done first would remove that of another.
pub(crate) fn parent(id: &str) -> String {
    format!("/neargate-{id}")
}

/// Waits until `done`, at most thirty seconds: the machine may be busy.
pub(crate) fn eventually(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn make_root(root: &Path) {
    for directory in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let file = |path: &str, text: &str| {
        use std::io::Write;
        fs::File::create(root.join(path)).unwrap().write_all(text.as_bytes()).unwrap();
    };
    file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/srv:/bin/sh\n");
    file("etc/group", "root:x:0:\nadm:x:4:web\nweb:x:44:\n");
}

fn config(script: &str, cgroup: &str) -> Value {
    let capabilities: Vec<String> = runtime::capabilities::DEFAULT.map(str::to_owned).to_vec();
    let namespaces: Vec<Value> =
        ["pid", "network", "ipc", "uts", "mount", "cgroup"].iter().map(|kind| json!({"type": kind})).collect();
    json!({
        "ociVersion": "1.2.0",
        "hostname": "inside",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "ro"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": namespaces,
            "maskedPaths": ["/proc/keys", "/proc/timer_list", "/proc/acpi", "/sys/firmware", "/proc/none"],
            "readonlyPaths": ["/proc/sys", "/proc/irq"],
        },
    })
}
