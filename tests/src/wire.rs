//! A registry of a test's own over raw wire, which does what no honest one does. Its images come from the test registry
//! or are made by hand here, layers that no tool would write included.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::binaries::tool;

/// How long a reply is held back where a test forgets its gate.
const PATIENCE: Duration = Duration::from_secs(60);

/// The digest of some bytes as OCI writes it.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// An image: its manifest, and all blobs by digest.
#[derive(Debug, Clone)]
pub struct WireImage {
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Everything by digest, the manifest too.
    pub blobs: BTreeMap<String, Vec<u8>>,
}

impl WireImage {
    /// Layers as plain tars, for this architecture.
    pub fn by_hand(architecture: &str, layers: &[Vec<u8>]) -> WireImage {
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": { "Cmd": ["/bin/true"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let kind = |name: &str| format!("application/vnd.oci.image.{name}");
        let describe =
            |name: &str, bytes: &[u8]| json!({ "mediaType": kind(name), "digest": digest(bytes), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind("manifest.v1+json"), "config": describe("config.v1+json", &config),
            "layers": layers.iter().map(|layer| describe("layer.v1.tar", layer)).collect::<Vec<_>>(),
        });
        let manifest = manifest.to_string().into_bytes();
        let contents = layers.iter().cloned().chain([config, manifest.clone()]);
        WireImage { blobs: contents.map(|bytes| (digest(&bytes), bytes)).collect(), manifest }
    }

    /// The image that a registry has under `reference`, fetched by way of `directory`.
    pub fn copied(reference: &str, directory: &Path) -> WireImage {
        let (from, to) = (format!("docker://{reference}"), format!("oci:{}:copied", directory.display()));
        tool("skopeo", Command::new("skopeo").args(["copy", "--quiet", "--src-tls-verify=false", &from, &to]));
        let read = |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let index: Value = serde_json::from_slice(&read(&directory.join("index.json"))).expect("an index");
        let name = index["manifests"][0]["digest"].as_str().expect("a digest").to_owned();
        let blobs = fs::read_dir(directory.join("blobs/sha256")).expect("blobs");
        let blobs: BTreeMap<_, _> = blobs
            .map(|entry| entry.expect("a blob"))
            .map(|entry| (format!("sha256:{}", entry.file_name().to_string_lossy()), read(&entry.path())))
            .collect();
        WireImage { manifest: blobs[&name].clone(), blobs }
    }
}

/// One member of a tar: name, type flag as tar(5) has it, target of a link, data.
pub fn member(name: &str, kind: u8, target: &str, data: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", data.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, target.as_bytes());
    put(257, b"ustar\0");
    put(263, b"00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.extend_from_slice(data);
    header.resize(header.len().next_multiple_of(512), 0);
    header
}

/// A tar of these members.
pub fn tar(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

/// Holds replies back until the test lets them go.
#[derive(Debug, Default)]
pub struct Gate(Mutex<bool>, Condvar);

impl Gate {
    /// Lets all go, now and later.
    pub fn open(&self) {
        *self.0.lock().expect("a gate") = true;
        self.1.notify_all();
    }

    fn wait(&self) {
        let held = self.0.lock().expect("a gate");
        drop(self.1.wait_timeout_while(held, PATIENCE, |open| !*open).expect("a gate"));
    }
}

/// What the registry does instead of answering as it should.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status, without a body.
    Status(u16),
    /// Other bytes.
    Body(Vec<u8>),
    /// The connection ends after that many bytes of the body.
    Cut(usize),
    /// Nothing comes after that many bytes of the body.
    Stall(usize),
    /// No answer at all.
    HangUp,
    /// The honest answer, once the gate is open.
    Wait(Arc<Gate>),
}

/// A server; its threads end with the test's process.
#[derive(Debug)]
pub struct WireRegistry {
    /// `127.0.0.1:PORT`
    pub address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl WireRegistry {
    /// Serves `image` as `app:v1`. `fault` is asked for each request with its path and how many came before it.
    pub fn serve(
        image: WireImage,
        fault: impl Fn(&str, usize) -> Option<Fault> + Send + Sync + 'static,
    ) -> WireRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let requests = Arc::new(Mutex::new(Vec::<String>::new()));
        let (seen, served) = (requests.clone(), Arc::new((image, fault)));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, served) = (seen.clone(), served.clone());
                std::thread::spawn(move || answer(stream, &seen, &served.0, &served.1));
            }
        });
        WireRegistry { address, requests }
    }

    /// The image's reference.
    pub fn image(&self) -> String {
        format!("{}/app:v1", self.address)
    }

    /// The agent's configuration for it.
    pub fn configuration(&self) -> String {
        format!("[registries.\"{}\"]\nplain_http = true\n", self.address)
    }

    /// Paths asked for so far that contain `part`.
    pub fn asked_for(&self, part: &str) -> Vec<String> {
        self.requests.lock().expect("requests").iter().filter(|path| path.contains(part)).cloned().collect()
    }
}

/// One request per connection. What the client does with the answer is its own affair.
fn answer(
    mut stream: TcpStream,
    seen: &Mutex<Vec<String>>,
    image: &WireImage,
    fault: &dyn Fn(&str, usize) -> Option<Fault>,
) {
    let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines().map_while(Result::ok);
    let Some(path) = lines.next().and_then(|first| first.split(' ').nth(1).map(str::to_owned)) else { return };
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let earlier = {
        let mut seen = seen.lock().expect("requests");
        seen.push(path.clone());
        seen.iter().filter(|other| **other == path).count() - 1
    };
    let name = path.rsplit('/').next().unwrap_or_default();
    let honest = if name == "v1" { Some(&image.manifest) } else { image.blobs.get(name) };
    let (mut status, mut body) = honest.map_or((404, Vec::new()), |bytes| (200, bytes.clone()));
    let mut sent = usize::MAX;
    let mut stalls = false;
    match fault(&path, earlier) {
        None => {}
        Some(Fault::Status(other)) => (status, body) = (other, Vec::new()),
        Some(Fault::Body(other)) => body = other,
        Some(Fault::Cut(at)) => sent = at,
        Some(Fault::Stall(at)) => (sent, stalls) = (at, true),
        Some(Fault::HangUp) => return,
        Some(Fault::Wait(gate)) => gate.wait(),
    }
    let first = headers.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let first = value.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()?;
        name.eq_ignore_ascii_case("range").then_some(first)
    });
    let mut head = String::new();
    if let Some(first) = first.filter(|first| status == 200 && *first < body.len()) {
        head = format!("Content-Range: bytes {first}-{}/{}\r\n", body.len() - 1, body.len());
        body.drain(..first);
        status = 206;
    }
    head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{head}\r\n", body.len());
    let body = &body[..sent.min(body.len())];
    let written = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    if written.is_ok() && stalls {
        // Until the client gives up.
        let _best_effort = std::io::copy(&mut stream, &mut std::io::sink());
    }
}
