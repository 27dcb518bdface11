//! Debian's docker-registry on loopback, one per test process, read-only over the cached images.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use crate::images;

/// A running registry. It ends with the process.
#[derive(Debug)]
pub struct TestRegistry {
    /// `127.0.0.1:PORT`
    pub address: String,
}

static SHARED: OnceLock<TestRegistry> = OnceLock::new();

impl TestRegistry {
    /// The process's registry, filled with the test images and started when first asked for.
    pub fn shared() -> &'static TestRegistry {
        SHARED.get_or_init(|| TestRegistry { address: serve(&images::registry_storage()) })
    }

    /// An image's reference there: `base`, `signal` or `configured`.
    pub fn image(&self, name: &str) -> String {
        format!("{}/test/{name}:latest", self.address)
    }

    /// The agent's configuration for it.
    pub fn configuration(&self) -> String {
        format!("[registries.\"{}\"]\nplain_http = true\n", self.address)
    }
}

/// Starts a registry over `storage` that dies with this process; answers its address.
pub(crate) fn serve(storage: &Path) -> String {
    let file = storage.with_extension("yml");
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
        storage.display()
    );
    fs::create_dir_all(storage).expect("the registry's storage");
    File::create(&file).and_then(|mut open| open.write_all(text.as_bytes())).expect("the registry's configuration");
    let (tell, told) = mpsc::channel();
    // The kernel kills it when the thread ends that started it, so that thread stays.
    std::thread::spawn(move || {
        let started = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut registry = started.expect("setpriv cannot be run: install Debian's package util-linux");
        let mut lines = BufReader::new(registry.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
        let mut words = Vec::new();
        for line in lines.by_ref() {
            if let Some((_, rest)) = line.split_once("listening on ") {
                let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).unwrap_or(rest.len());
                // Nobody waits any more when the deadline has passed.
                let _best_effort = tell.send(Ok(rest[..end].to_owned()));
                break;
            }
            words.push(line);
        }
        let _best_effort = tell.send(Err(words.join("\n")));
        // Its pipe must not fill up.
        lines.for_each(drop);
        let _best_effort = registry.wait();
    });
    let address = told.recv_timeout(Duration::from_secs(30)).expect("docker-registry starts within 30 s");
    address.unwrap_or_else(|words| panic!("docker-registry did not start (Debian's package docker-registry): {words}"))
}
