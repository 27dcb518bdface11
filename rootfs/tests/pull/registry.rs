//! Debian's docker-registry as the source, skopeo as who pushed, umoci as who is right about the result.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rootfs::{Config, ProgressStatus, PullError, RegistryConfig};
use tar::{EntryType, Header};

use crate::harness::{Layer, Made, Registry, files, layers_on_disk, put, run, store, tree};

/// htpasswd line of user `neargate` with the password `secret`.
const HTPASSWD: &str = "neargate:$2b$04$oMSE142DWvvABmEwK8dI1ek/QLJBe986ALEFmvgGiefXxG7Y1sphC\n";

/// An overlay of our layers, unmounted at the end.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(layers: &[std::path::PathBuf]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lower: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
        let options = format!("lowerdir={}", lower.join(":"));
        mount(Some("overlay"), dir.path(), Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str())).unwrap();
        Self(dir)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).expect("our own mount can be undone");
    }
}

struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn entry(&mut self, name: &str, kind: EntryType, mode: u32, link: Option<&str>, data: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(u64::from(mode % 1000));
        header.set_gid(42);
        header.set_mtime(1_234_567_890);
        header.set_size(data.len() as u64);
        if kind == EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        match link {
            Some(link) => self.0.append_link(&mut header, name, link).unwrap(),
            None => self.0.append_data(&mut header, name, data).unwrap(),
        }
    }
}

fn two_layers() -> Vec<Layer> {
    let mut base = Tar(tar::Builder::new(Vec::new()));
    for dir in ["etc/", "usr/", "usr/bin/", "var/", "var/cache/", "var/cache/old/", "tmp/"] {
        base.entry(dir, EntryType::Directory, if dir == "tmp/" { 0o1777 } else { 0o755 }, None, b"");
    }
    base.entry("usr/bin/su", EntryType::Regular, 0o4755, None, b"setuid");
    let capability: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let records = [("SCHILY.xattr.security.capability", &capability[..]), ("SCHILY.xattr.user.note", b"a=b\nc")];
    base.0.append_pax_extensions(records).unwrap();
    base.entry("usr/bin/ping", EntryType::Regular, 0o755, None, b"ping");
    base.entry("usr/bin/pong", EntryType::Link, 0o755, Some("usr/bin/ping"), b"");
    base.entry("bin", EntryType::Symlink, 0o777, Some("usr/bin"), b"");
    base.entry("null", EntryType::Char, 0o666, None, b"");
    base.entry("pipe", EntryType::Fifo, 0o600, None, b"");
    base.entry(&format!("etc/{}", "long/".repeat(40)), EntryType::Directory, 0o750, None, b"");
    for gone in ["etc/gone", "var/cache/old/x", "var/cache/y", "usr/replaced"] {
        base.entry(gone, EntryType::Regular, 0o644, None, gone.as_bytes());
    }
    let mut top = Tar(tar::Builder::new(Vec::new()));
    top.entry("etc/", EntryType::Directory, 0o700, None, b"");
    top.entry("etc/.wh.gone", EntryType::Regular, 0, None, b"");
    top.entry("usr/", EntryType::Directory, 0o755, None, b"");
    top.entry("usr/replaced", EntryType::Symlink, 0o777, Some("../etc"), b"");
    top.entry("var/", EntryType::Directory, 0o755, None, b"");
    top.entry("var/cache/", EntryType::Directory, 0o711, None, b"");
    top.entry("var/cache/.wh..wh..opq", EntryType::Regular, 0, None, b"");
    top.entry("var/cache/new", EntryType::Regular, 0o644, None, b"new");
    vec![Layer::gzip(base.0.into_inner().unwrap()), Layer::plain(top.0.into_inner().unwrap())]
}

/// What umoci makes of the same image is what a container must see.
fn expect_like_umoci(layout: &Path, layers: &[std::path::PathBuf]) {
    let work = tempfile::tempdir().unwrap();
    let bundle = work.path().join("bundle");
    run("umoci", &["unpack", "--image", &format!("{}:v1", layout.display()), bundle.to_str().unwrap()]);
    let mounted = Mounted::new(layers);
    let (mut ours, mut theirs) = (tree(mounted.0.path()), tree(&bundle.join("rootfs")));
    // Nobody's entry describes the root itself.
    ours.remove(Path::new(""));
    theirs.remove(Path::new(""));
    for (path, theirs) in &theirs {
        assert_eq!(ours.get(path), Some(theirs), "{}", path.display());
    }
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_image_arrives_as_umoci_unpacks_it() {
    let registry = Registry::start(None);
    let layout = tempfile::tempdir().unwrap();
    let local = Made::new(two_layers()).write(layout.path(), "v1");
    let reference = registry.push(&local, "team/app:v1", &[]);
    let (dir, images) = store(Config::default());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let progress = seen.clone();
    let image = images.pull(&reference, Some("task"), move |p| progress.lock().unwrap().push(p)).await.unwrap();
    assert_eq!(images.layers(&image).len(), 2);
    expect_like_umoci(layout.path(), &images.layers(&image));
    let complete = |p: &&rootfs::Progress| p.status == ProgressStatus::Complete && p.current_bytes == p.total_bytes;
    assert_eq!(seen.lock().unwrap().iter().filter(complete).count(), 2);

    // The same by digest, by docker's manifest and zstd: the layers are here already whatever wraps them.
    let by_digest = format!("{}/team/app@{}", registry.host, image.manifest_digest).parse().unwrap();
    assert_eq!(images.pull(&by_digest, None, |_| {}).await.unwrap().id, image.id);
    let zstd = registry.push(&local, "team/app:zstd", &["--dest-compress", "--dest-compress-format", "zstd"]);
    let docker = registry.push(&local, "team/app:docker", &["--format", "v2s2"]);
    for reference in [zstd, docker] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let progress = seen.clone();
        let again = images.pull(&reference, None, move |p| progress.lock().unwrap().push(p.status)).await.unwrap();
        assert_eq!(again.diff_ids, image.diff_ids);
        assert_eq!(*seen.lock().unwrap(), [ProgressStatus::Exists; 2]);
    }
    assert_eq!(layers_on_disk(&dir), 2);
    let missing = format!("{}/team/app:none", registry.host).parse().unwrap();
    let error = images.pull(&missing, None, |_| {}).await.unwrap_err();
    assert!(matches!(*error, PullError::NotFound { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_passwords_lets_in_who_has_one() {
    let registry = Registry::start(Some(HTPASSWD));
    let (layout, secrets) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let local = Made::new(vec![Layer::zstd(files(&[("a", b"1")]))]).write(layout.path(), "v1");
    let reference = registry.push(&local, "app:v1", &["--dest-creds", "neargate:secret"]);
    let password_file = secrets.path().join("password");
    let with = |username: Option<&str>| {
        let registry_config = RegistryConfig {
            username: username.map(str::to_owned),
            password_file: Some(password_file.clone()),
            ..RegistryConfig::default()
        };
        Config { registries: [(registry.host.clone(), registry_config)].into(), ..Config::default() }
    };
    put(&password_file, b"wrong\n");
    for config in [with(None), with(Some("neargate"))] {
        let (_dir, images) = store(config);
        let error = images.pull(&reference, None, |_| {}).await.unwrap_err();
        assert!(matches!(*error, PullError::Unauthorized { .. }), "{error:?}");
    }
    put(&password_file, b"secret\n");
    let (_dir, images) = store(with(Some("neargate")));
    let image = images.pull(&reference, None, |_| {}).await.unwrap();
    assert_eq!(fs::read(images.layers(&image)[0].join("a")).unwrap(), b"1");
}

/// A certificate authority of our own, and a certificate of it for 127.0.0.1.
fn make_certificates(directory: &Path) {
    let file = |name: &str| directory.join(name).display().to_string();
    put(&directory.join("names"), b"subjectAltName=IP:127.0.0.1\n");
    let key =
        ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=neargate test", "-keyout"];
    let request = |last: &[&str]| {
        let last: Vec<String> =
            last.iter().map(|word| if word.contains('.') { file(word) } else { (*word).to_owned() }).collect();
        let words: Vec<&str> = ["req"].into_iter().chain(key).chain(last.iter().map(String::as_str)).collect();
        run("openssl", &words);
    };
    request(&["ca.key", "-x509", "-days", "2", "-out", "ca.pem"]);
    request(&["server.key", "-out", "server.csr"]);
    let (csr, ca, ca_key, names, server) =
        (file("server.csr"), file("ca.pem"), file("ca.key"), file("names"), file("server.pem"));
    let sign = ["x509", "-req", "-days", "2", "-CAcreateserial", "-in", &csr, "-CA", &ca, "-CAkey", &ca_key];
    run("openssl", &[&sign[..], &["-extfile", &names, "-out", &server]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_proves_who_it_is() {
    let (layout, certificates, others) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_certificates(certificates.path());
    make_certificates(others.path());
    let registry = Registry::start_tls(certificates.path());
    let local = Made::new(vec![Layer::gzip(files(&[("a", b"1")]))]).write(layout.path(), "v1");
    let reference = registry.push(&local, "app:v1", &[]);
    let trusting = |authority: &Path| {
        let registry_config = RegistryConfig { ca_file: Some(authority.join("ca.pem")), ..RegistryConfig::default() };
        Config { registries: [(registry.host.clone(), registry_config)].into(), ..Config::default() }
    };
    let (dir, images) = store(trusting(others.path()));
    let error = images.pull(&reference, None, |_| {}).await.unwrap_err();
    assert!(matches!(*error, PullError::Network { .. }), "{error:?}");
    assert_eq!((layers_on_disk(&dir), images.list().unwrap().len()), (0, 0));
    let (_dir, images) = store(trusting(certificates.path()));
    let image = images.pull(&reference, None, |_| {}).await.unwrap();
    assert_eq!(fs::read(images.layers(&image)[0].join("a")).unwrap(), b"1");
}
