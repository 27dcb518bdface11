//! Images made by hand, a registry of one's own, and trees compared.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rootfs::{Config, Digest, Images, Reference};
use serde_json::{Value, json};
use tempfile::TempDir;

/// One layer: its tar and what goes over the wire.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) tar: Vec<u8>,
    pub(crate) blob: Vec<u8>,
    pub(crate) media_type: &'static str,
}

impl Layer {
    pub(crate) fn gzip(tar: Vec<u8>) -> Self {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&tar).unwrap();
        let blob = encoder.finish().unwrap();
        Self { tar, blob, media_type: "application/vnd.oci.image.layer.v1.tar+gzip" }
    }

    pub(crate) fn zstd(tar: Vec<u8>) -> Self {
        let blob = zstd::encode_all(&tar[..], 1).unwrap();
        Self { tar, blob, media_type: "application/vnd.oci.image.layer.v1.tar+zstd" }
    }

    pub(crate) fn plain(tar: Vec<u8>) -> Self {
        Self { blob: tar.clone(), tar, media_type: "application/vnd.oci.image.layer.v1.tar" }
    }
}

/// A tar of files with that content.
pub(crate) fn files(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        builder.append_data(&mut header, name, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Bytes that do not compress.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(step).take(length).collect()
}

/// An image's documents and blobs, by digest.
pub(crate) struct Made {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Layer>,
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

impl Made {
    pub(crate) fn new(layers: Vec<Layer>) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest(&layer.tar)).collect();
        Self::with_diff_ids(layers, &diff_ids)
    }

    pub(crate) fn for_platform(architecture: &str, layers: Vec<Layer>) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest(&layer.tar)).collect();
        Self::make(architecture, layers, &diff_ids)
    }

    pub(crate) fn with_diff_ids(layers: Vec<Layer>, diff_ids: &[String]) -> Self {
        Self::make("amd64", layers, diff_ids)
    }

    fn make(architecture: &str, layers: Vec<Layer>, diff_ids: &[String]) -> Self {
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["/bin/true"], "Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let descriptors: Vec<Value> = layers.iter().map(|layer| descriptor(layer.media_type, &layer.blob)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config), "layers": descriptors,
        });
        let manifest = manifest.to_string().into_bytes();
        let contents = layers.iter().map(|layer| layer.blob.clone()).chain([config.clone(), manifest.clone()]);
        let blobs = contents.map(|bytes| (digest(&bytes), bytes)).collect();
        Self { blobs, manifest, config, layers }
    }

    /// Adds the image to an OCI layout, replacing what had the tag.
    pub(crate) fn write(&self, directory: &Path, tag: &str) -> Reference {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        for (digest, bytes) in &self.blobs {
            put(&blobs.join(digest.strip_prefix("sha256:").unwrap()), bytes);
        }
        put(&directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#);
        let index = directory.join("index.json");
        let mut entries: Vec<Value> = match File::open(&index) {
            Ok(file) => serde_json::from_reader::<_, Value>(file).unwrap()["manifests"].as_array().unwrap().clone(),
            Err(_) => Vec::new(),
        };
        entries.retain(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] != tag);
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &self.manifest);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        entries.push(entry);
        put(&index, json!({"schemaVersion": 2, "manifests": entries}).to_string().as_bytes());
        format!("oci:{}:{tag}", directory.display()).parse().unwrap()
    }
}

pub(crate) fn put(path: &Path, bytes: &[u8]) {
    File::create(path).and_then(|mut file| file.write_all(bytes)).unwrap();
}

/// A store in a directory of its own.
pub(crate) fn store(config: Config) -> (TempDir, Images) {
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(&dir.path().join("images"), config).unwrap();
    (dir, images)
}

/// Everything below `layers/`, which is where an unfinished pull must leave nothing.
pub(crate) fn layers_on_disk(store: &TempDir) -> usize {
    fs::read_dir(store.path().join("images/layers")).unwrap().count()
}

/// Runs a tool of Debian's to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("cannot run {program} ({e}): install Debian's package of that name"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Debian's docker-registry on a loopback port, with its own storage; killed at the end.
pub(crate) struct Registry {
    child: Child,
    pub(crate) host: String,
    _dir: TempDir,
}

impl Registry {
    /// `htpasswd`: a line of that file's form, for a registry that wants basic authentication.
    pub(crate) fn start(htpasswd: Option<&str>) -> Self {
        Self::start_with(htpasswd, "")
    }

    /// One that speaks TLS, with `server.pem` and `server.key` of `certificates`.
    pub(crate) fn start_tls(certificates: &Path) -> Self {
        let file = |name: &str| certificates.join(name).display().to_string();
        Self::start_with(
            None,
            &format!("  tls: {{certificate: {}, key: {}}}\n", file("server.pem"), file("server.key")),
        )
    }

    fn start_with(htpasswd: Option<&str>, http: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp:\n  addr: {host}\n{http}",
            dir.path().join("data").display()
        );
        if let Some(line) = htpasswd {
            let path = dir.path().join("htpasswd");
            put(&path, line.as_bytes());
            config += &format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", path.display());
        }
        let path = dir.path().join("config.yml");
        put(&path, config.as_bytes());
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("cannot run docker-registry: install Debian's package of that name");
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&host).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen on {host}");
            std::thread::yield_now();
        }
        Self { child, host, _dir: dir }
    }

    /// Pushes by skopeo what is in the layout under the tag.
    pub(crate) fn push(&self, layout: &Reference, name: &str, more: &[&str]) -> Reference {
        let target = format!("docker://{}/{name}", self.host);
        let mut arguments = vec!["copy", "--insecure-policy", "--dest-tls-verify=false"];
        arguments.extend(more);
        let source = layout.to_string();
        arguments.extend([source.as_str(), target.as_str()]);
        run("skopeo", &arguments);
        format!("{}/{name}", self.host).parse().unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("our own child can be killed");
    }
}

/// What an entry of a tree looks like from inside a container; directories without times, which depend on the order in
/// which layers are laid over each other.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut tree = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let path = root.join(&relative);
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let mut line = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
        if kind.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| relative.join(entry.unwrap().file_name())));
        } else {
            line += &format!(" {}.{}", meta.mtime(), meta.mtime_nsec());
            if meta.nlink() > 1 {
                line += &format!(" nlink {}", meta.nlink());
            }
        }
        if kind.is_file() {
            let mut data = Vec::new();
            File::open(&path).unwrap().read_to_end(&mut data).unwrap();
            line += &format!(" {} {}", data.len(), digest(&data));
        } else if kind.is_symlink() {
            line += &format!(" -> {}", fs::read_link(&path).unwrap().display());
        } else if kind.is_char_device() || kind.is_block_device() {
            line += &format!(" dev {}", meta.rdev());
        }
        // The kernel lists them in no particular order.
        let names = xattr::list(&path).unwrap().filter(|name| !name.to_string_lossy().contains("overlay."));
        for name in names.collect::<std::collections::BTreeSet<_>>() {
            let value = xattr::get(&path, &name).unwrap().unwrap_or_default();
            line += &format!(" {}={value:?}", name.display());
        }
        tree.insert(relative, line);
    }
    tree
}
