//! Test images, made from Debian's busybox-static by this recipe and kept in a registry's storage below the cache, by
//! the recipe's digest.
//!
//! - `base`: busybox with all applets; a setuid `su`; a node of the null device at /null; users root, app (1000) and last (65535); /data of app; no entry point, `sh`
//! - `signal`: base with STOPSIGNAL SIGUSR1 and a HEALTHCHECK that fails
//! - `configured`: base, a second layer that deletes /deleted, and entry point, command, user, directory, environment

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::binaries::tool;
use crate::registry;

const BUSYBOX: &str = "/bin/busybox";
const PASSWD: &str = "root::0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n\
                      last:x:65535:65535:last:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\napp:x:1000:\nextra:x:2000:app\nlast:x:65535:\nnogroup:x:65534:\n";

/// Makes one at a time.
static MAKING: Mutex<()> = Mutex::new(());

/// The storage of a registry that holds all images; made when it is not there.
pub fn registry_storage() -> PathBuf {
    let _making = MAKING.lock();
    let cache = cache().join(format!("system-tests-{}", digest(recipe().as_slice()).split_at(16).0));
    let storage = cache.join("registry");
    if storage.is_dir() {
        return storage;
    }
    let parent = cache.parent().expect("below the cache");
    fs::create_dir_all(parent).expect("the cache directory");
    let work = tempfile::Builder::new().prefix("system-tests.").tempdir_in(parent).expect("a directory in the cache");
    let layout = work.path().join("layout");
    make(work.path(), &layout);
    let filled = work.path().join("done");
    let address = registry::serve(&filled.join("registry"));
    for name in ["base", "signal", "configured"] {
        let (from, to) = (format!("oci:{}:{name}", layout.display()), format!("docker://{address}/test/{name}:latest"));
        tool("skopeo", Command::new("skopeo").args(["copy", "--quiet", "--dest-tls-verify=false", &from, &to]));
    }
    // Another process may have been quicker; its result is the same.
    if fs::rename(&filled, &cache).is_err() {
        assert!(storage.is_dir(), "{} cannot be made", cache.display());
    }
    storage
}

fn cache() -> PathBuf {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    named.unwrap_or_else(home).join("neargate")
}

fn recipe() -> Vec<u8> {
    let busybox = fs::read(BUSYBOX).unwrap_or_else(|_| panic!("{BUSYBOX} is missing: install Debian's busybox-static"));
    [include_bytes!("images.rs").as_slice(), &busybox].concat()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn make(work: &Path, layout: &Path) {
    fs::create_dir_all(layout.join("blobs/sha256")).expect("a layout");
    let first = work.join("first");
    base_tree(&first);
    let second = work.join("second");
    fs::create_dir_all(second.join("srv/work")).expect("a directory");
    save(&second.join(".wh.deleted"), b"");
    save(&second.join("added"), b"by the second layer\n");
    let layers = [layer(layout, work, &first), layer(layout, work, &second)];
    let path = "PATH=/bin";
    let base = json!({ "Env": [path], "Cmd": ["sh"] });
    let second = 1_000_000_000;
    let unwell = json!({ "Test": ["CMD", "false"], "Interval": second, "Timeout": second, "Retries": 1 });
    let signal = json!({ "Env": [path], "Cmd": ["sh"], "StopSignal": "SIGUSR1", "Healthcheck": unwell });
    let configured = json!({
        "Env": [path, "FROM_IMAGE=image", "SHARED=image"], "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["echo command of the image"], "User": "app", "WorkingDir": "/srv/work",
    });
    let manifests = [
        manifest(layout, "base", &layers[..1], &base),
        manifest(layout, "signal", &layers[..1], &signal),
        manifest(layout, "configured", &layers, &configured),
    ];
    save(&layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#);
    save(&layout.join("index.json"), json!({ "schemaVersion": 2, "manifests": manifests }).to_string().as_bytes());
}

fn base_tree(tree: &Path) {
    for name in ["bin", "dev", "etc", "home/app", "proc", "root", "sys", "tmp", "var"] {
        fs::create_dir_all(tree.join(name)).expect("a directory");
    }
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    mode(&tree.join("tmp"), 0o1777);
    let busybox = tree.join("bin/busybox");
    fs::copy(BUSYBOX, &busybox).expect("busybox");
    mode(&busybox, 0o755);
    let applets = tool("busybox-static", Command::new(BUSYBOX).arg("--list"));
    for applet in applets.lines().filter(|applet| !["busybox", "su"].contains(applet)) {
        symlink("busybox", tree.join("bin").join(applet)).expect("an applet");
    }
    fs::copy(BUSYBOX, tree.join("bin/su")).expect("su");
    mode(&tree.join("bin/su"), 0o4755);
    save(&tree.join("etc/passwd"), PASSWD.as_bytes());
    save(&tree.join("etc/group"), GROUP.as_bytes());
    save(&tree.join("deleted"), b"a later layer deletes this\n");
    for (name, id) in [("of-app", 1000), ("of-last", 65535)] {
        save(&tree.join(name), b"owned\n");
        chown(tree.join(name), Some(id), Some(id)).expect("an owner");
    }
    mknod(&tree.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).expect("a device node");
    mode(&tree.join("null"), 0o666);
    fs::create_dir(tree.join("links")).expect("a directory");
    symlink("/sys/kernel", tree.join("links/sys")).expect("a link");
    // As an image's author leaves the directory of a program that is not root.
    let data = tree.join("data");
    fs::create_dir_all(data.join("sub")).expect("a directory");
    save(&data.join("file"), b"of the image\n");
    symlink("file", data.join("link")).expect("a link");
    for (path, bits) in [(data.join("file"), 0o640), (data.join("sub"), 0o2770), (data, 0o750)] {
        chown(&path, Some(1000), Some(1000)).expect("an owner");
        mode(&path, bits);
    }
}

/// Adds a directory tree as a layer; answers descriptor and diff id.
fn layer(layout: &Path, work: &Path, tree: &Path) -> (Value, String) {
    let tar = work.join("layer.tar");
    let same = ["--sort=name", "--numeric-owner", "--mtime=@0", "--format=posix"];
    let unstamped = "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime";
    tool("tar", Command::new("tar").args(same).arg(unstamped).arg("-C").arg(tree).arg("-cf").arg(&tar).arg("."));
    let diff_id = format!("sha256:{}", digest(&fs::read(&tar).expect("a layer")));
    tool("gzip", Command::new("gzip").args(["-n", "-f"]).arg(&tar));
    let bytes = fs::read(work.join("layer.tar.gz")).expect("a layer");
    (blob(layout, "application/vnd.oci.image.layer.v1.tar+gzip", &bytes), diff_id)
}

fn manifest(layout: &Path, name: &str, layers: &[(Value, String)], config: &Value) -> Value {
    let diff_ids: Vec<&String> = layers.iter().map(|(_, diff_id)| diff_id).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = blob(layout, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let layers: Vec<&Value> = layers.iter().map(|(descriptor, _)| descriptor).collect();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers });
    let mut descriptor = blob(layout, kind, manifest.to_string().as_bytes());
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    descriptor
}

fn blob(layout: &Path, kind: &str, bytes: &[u8]) -> Value {
    let digest = digest(bytes);
    save(&layout.join("blobs/sha256").join(&digest), bytes);
    json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() })
}

fn save(path: &Path, bytes: &[u8]) {
    let saved = File::create(path).and_then(|mut file| file.write_all(bytes));
    saved.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
