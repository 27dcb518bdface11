//! How registries are reached and what an image may cost this host. Read from no file here: the caller's is the agent's
//! configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How registries are reached and what an image may cost.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Settings by `HOST[:PORT]` as it stands in a reference; a registry without settings is reached by https and
    /// anonymously, one on a loopback address by http.
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Bounds on what a source may make this host do.
    pub limits: Limits,
}

/// How one registry is reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    /// Speak http instead of https.
    pub plain_http: bool,
    /// `HOST[:PORT]` of registries that are asked first, in order; each may have settings of its own.
    pub mirrors: Vec<String>,
    /// User name for basic authentication or for the token service.
    pub username: Option<String>,
    /// File holding the password; read at every pull, so that it can be changed. One trailing newline is dropped.
    pub password_file: Option<PathBuf>,
    /// PEM file with a certificate authority to trust besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// Bounds on time and size. The defaults are ECS's times and sizes that no honest image reaches.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A source that sends nothing for this long is given up (and asked again, see `retries`).
    pub stall_timeout: Duration,
    /// A pull that takes longer is ended.
    pub pull_timeout: Duration,
    /// How often in a row a broken transfer is taken up again without having got any further.
    pub retries: u32,
    /// Wait before the first retry; doubles with each.
    pub backoff: Duration,
    /// Longest wait that a registry can ask for by `Retry-After`.
    pub longest_wait: Duration,
    /// Uncompressed bytes of the tar streams of all layers of one image; also those of the whole archive that it
    /// is in, where that is compressed.
    pub max_image_bytes: u64,
    /// Files and directories of all layers of one image.
    pub max_image_files: u64,
    /// Bytes of the store's file system that images leave free.
    pub low_disk_bytes: u64,
    /// Layers of one pull that are fetched at the same time.
    pub parallel_layers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stall_timeout: Duration::from_secs(60),
            pull_timeout: Duration::from_secs(2 * 3600),
            retries: 5,
            backoff: Duration::from_millis(200),
            longest_wait: Duration::from_secs(60),
            max_image_bytes: 256 << 30,
            max_image_files: 8 << 20,
            low_disk_bytes: 0,
            parallel_layers: 4,
        }
    }
}
