//! The agent's configuration: typed, read once, ranges checked. Owns the meaning, defaults and limits of every key;
//! `config/file.rs` finds keys and lines in the TOML text, `config/environment.rs` reads ECS's variable names.
//!
//! Every key is described in `agent/neargated.toml`.

mod environment;
mod file;
mod images;
pub mod runtime_path;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

pub use images::{ImagesConfig, PullBehavior};

/// What the agent runs with. Made by [`Config::read`] or [`Config::load`]; `root`, `socket` and `runtime`
/// come from the command line.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory below which all state lives.
    #[serde(skip)]
    pub root: PathBuf,
    /// The socket to listen on.
    #[serde(skip)]
    pub socket: PathBuf,
    /// The `neargate-runtime` executable.
    #[serde(skip)]
    pub runtime: PathBuf,
    /// What ARNs are made of.
    pub identity: IdentityConfig,
    /// What of the host is kept from tasks.
    pub capacity: CapacityConfig,
    /// How to talk to registries, by `HOST[:PORT]`.
    pub registries: BTreeMap<String, RegistryConfig>,
    /// What a pull may cost, and when images go.
    pub images: ImagesConfig,
    /// Rotation of the containers' logs.
    pub logs: LogsConfig,
    /// How long stopped tasks are remembered.
    pub history: HistoryConfig,
    /// Defaults of tasks.
    pub tasks: TasksConfig,
    /// Figures for Prometheus.
    pub metrics: MetricsConfig,
}

/// Parts of every ARN (ecs-semantics 1.1).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityConfig {
    /// Region, such as `local` or `eu-west-1`.
    pub region: String,
    /// Account: 12 digits.
    pub account: String,
    /// The cluster that this host belongs to.
    pub cluster: String,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self { region: "local".into(), account: "000000000000".into(), cluster: "default".into() }
    }
}

/// What of the host is kept from tasks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CapacityConfig {
    /// Memory in MiB that tasks never get.
    pub reserved_memory_mib: u64,
    /// Host ports, TCP and UDP alike, that tasks never get.
    pub reserved_ports: Vec<u16>,
}

impl Default for CapacityConfig {
    fn default() -> Self {
        Self { reserved_memory_mib: 0, reserved_ports: vec![22] }
    }
}

/// How to talk to one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// HTTP without TLS.
    pub plain_http: bool,
    /// `HOST[:PORT]` of registries that are asked first, in this order.
    pub mirrors: Vec<String>,
    /// Name for basic authentication; needs `password_file`.
    pub username: Option<String>,
    /// Absolute path of the file that holds the password.
    pub password_file: Option<PathBuf>,
    /// Absolute path of a PEM file with the authority that signed the registry's certificate.
    pub ca_file: Option<PathBuf>,
}

/// Rotation of the containers' logs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogsConfig {
    /// Size in MiB at which a log file is rotated.
    pub max_size_mib: u64,
    /// Files kept per container, the one being written included.
    pub max_files: u32,
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self { max_size_mib: 10, max_files: 3 }
    }
}

/// How long stopped tasks are remembered. Fractions are allowed: `0.5` hours are 30 minutes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistoryConfig {
    /// Days for which a stopped task stays describable.
    pub keep_days: f64,
    /// Hours for which a stopped task's disks and logs are kept.
    pub disk_keep_hours: f64,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { keep_days: 7.0, disk_keep_hours: 3.0 }
    }
}

impl HistoryConfig {
    /// [`HistoryConfig::keep_days`] as a duration.
    pub fn keep(&self) -> Duration {
        Duration::from_secs_f64(self.keep_days * 86_400.0)
    }

    /// [`HistoryConfig::disk_keep_hours`] as a duration.
    pub fn disk_keep(&self) -> Duration {
        Duration::from_secs_f64(self.disk_keep_hours * 3_600.0)
    }
}

/// Defaults of tasks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TasksConfig {
    /// Seconds between the stop signal and SIGKILL where a container has no `stopTimeout`.
    pub stop_timeout_secs: u32,
    /// Processes and threads that one task may have, so that none can take all that the host has.
    pub pids_limit: u32,
}

impl Default for TasksConfig {
    fn default() -> Self {
        Self { stop_timeout_secs: 30, pids_limit: 16_384 }
    }
}

/// Figures for Prometheus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Address on which they are served by HTTP; nowhere without.
    pub listen: Option<SocketAddr>,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The file's content is wrong.
    #[error("configuration file {} is not valid", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Keys at fault.
        #[source]
        source: Invalid,
    },
    /// `ECS_*` variables are wrong.
    #[error("environment variables are not valid")]
    Environment(#[source] Invalid),
}

/// All problems of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("; "))]
pub struct Invalid(pub Vec<Problem>);

/// One key or variable at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line of the file, from 1; absent for a variable.
    pub line: Option<usize>,
    /// Dotted key, such as `logs.max_files`, or the variable's name; empty where the text is not TOML.
    pub key: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl Config {
    /// Reads a configuration file's text. `root` and `runtime` are empty afterwards: the caller sets them.
    pub fn read(text: &str) -> Result<Config, Invalid> {
        file::read(text)
    }

    /// Reads the configuration file at `path`.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Config::read(&text).map_err(|source| ConfigError::File { path: path.to_owned(), source })
    }

    /// Takes ECS's variables (ecs-semantics 1.18) as `variable` gives them; they win over the file. Answers the
    /// names of those that are set and known but have no effect yet, for the log.
    pub fn apply_environment(
        &mut self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<&'static str>, ConfigError> {
        environment::apply(self, variable).map_err(ConfigError::Environment)
    }

    /// Every value out of its range, as (key, message).
    fn out_of_range(&self) -> Vec<(Vec<String>, String)> {
        let mut found = Vec::new();
        let mut check = |key: &[&str], problem: Option<String>| {
            found.extend(problem.map(|message| (key.iter().map(ToString::to_string).collect(), message)));
        };
        check(&["identity", "region"], name_problem(&self.identity.region));
        check(
            &["identity", "account"],
            (self.identity.account.len() != 12 || !self.identity.account.bytes().all(|b| b.is_ascii_digit()))
                .then(|| "must be 12 digits".to_owned()),
        );
        check(&["identity", "cluster"], name_problem(&self.identity.cluster));
        check(&["capacity", "reserved_memory_mib"], range(self.capacity.reserved_memory_mib, 0, MAX_MEMORY_MIB));
        check(
            &["capacity", "reserved_ports"],
            self.capacity.reserved_ports.contains(&0).then(|| "port 0 is none".to_owned()),
        );
        check(&["logs", "max_size_mib"], range(self.logs.max_size_mib, 1, 1 << 20));
        check(&["logs", "max_files"], range(self.logs.max_files, 1, 1_000));
        check(&["history", "keep_days"], range(self.history.keep_days, 0.0, 36_500.0));
        check(&["history", "disk_keep_hours"], range(self.history.disk_keep_hours, 0.0, 876_000.0));
        check(&["tasks", "stop_timeout_secs"], range(self.tasks.stop_timeout_secs, 1, 86_400));
        check(&["tasks", "pids_limit"], range(self.tasks.pids_limit, 16, 4_194_304));
        for (key, message) in self.images.problems() {
            found.push((vec!["images".to_owned(), key.to_owned()], message));
        }
        for (host, registry) in &self.registries {
            for (member, message) in registry.problems(host) {
                let path = std::iter::once("registries").chain([host.as_str()]).chain(member);
                found.push((path.map(str::to_owned).collect(), message));
            }
        }
        found
    }
}

impl RegistryConfig {
    fn problems(&self, host: &str) -> Vec<(Option<&'static str>, String)> {
        let mut found = Vec::new();
        if !is_host(host) {
            found.push((None, "must be HOST or HOST:PORT".to_owned()));
        }
        for mirror in &self.mirrors {
            if !is_host(mirror) {
                found.push((Some("mirrors"), format!("\"{mirror}\" must be HOST or HOST:PORT")));
            }
        }
        if self.username.is_some() != self.password_file.is_some() {
            let given = if self.username.is_some() { "username" } else { "password_file" };
            found.push((Some(given), "username and password_file go together".to_owned()));
        }
        for (key, path) in [("password_file", &self.password_file), ("ca_file", &self.ca_file)] {
            if path.as_ref().is_some_and(|path| path.is_relative()) {
                found.push((Some(key), "must be an absolute path".to_owned()));
            }
        }
        if self.plain_http && self.ca_file.is_some() {
            found.push((Some("ca_file"), "has no meaning with plain_http = true".to_owned()));
        }
        found
    }
}

/// 1 PiB: more than any host has, and no overflow in bytes.
const MAX_MEMORY_MIB: u64 = 1 << 30;

fn range<T: PartialOrd + fmt::Display>(value: T, least: T, most: T) -> Option<String> {
    // Written so that NaN is out of range too.
    let inside = value >= least && value <= most;
    (!inside).then(|| format!("{value} is not between {least} and {most}"))
}

fn name_problem(name: &str) -> Option<String> {
    let good = (1..=255).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    (!good).then(|| "must be 1 to 255 letters, digits, - and _".to_owned())
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT_FILE: &str = include_str!("../neargated.toml");

    /// The default file with every key in effect: `#key` becomes `key`, prose (`# …`) stays.
    fn uncommented() -> String {
        let lines = DEFAULT_FILE.lines().map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.is_empty() && !rest.starts_with([' ', '#']) => rest,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_default_file_says_the_defaults() {
        assert_eq!(Config::read(DEFAULT_FILE).unwrap(), Config::default());
        let mut config = Config::read(&uncommented()).unwrap();
        let registry = config.registries.remove("registry.example.com:5000").unwrap();
        assert_eq!(registry.username.as_deref(), Some("puller"));
        assert!(config.registries.remove("127.0.0.1:5000").unwrap().plain_http);
        assert_eq!(config.metrics.listen.take(), Some(([127, 0, 0, 1], 9464).into()), "off unless it is given");
        assert_eq!(config, Config::default());
    }

    #[test]
    fn the_default_file_names_every_key() {
        let text = uncommented();
        let table: toml::Table = text.parse().unwrap();
        let keys = |section: &str| {
            let mut keys: Vec<_> = table[section].as_table().unwrap().keys().cloned().collect();
            keys.sort();
            keys
        };
        assert_eq!(keys("identity"), ["account", "cluster", "region"]);
        assert_eq!(keys("capacity"), ["reserved_memory_mib", "reserved_ports"]);
        assert_eq!(
            keys("images"),
            [
                "cleanup",
                "cleanup_age_hours",
                "cleanup_interval_minutes",
                "cleanup_per_cycle",
                "high_water_percent",
                "inactivity_timeout_secs",
                "keep",
                "low_disk_mib",
                "max_image_files",
                "max_image_mib",
                "pull_behavior",
                "pull_timeout_secs",
                "retries",
            ]
        );
        assert_eq!(keys("logs"), ["max_files", "max_size_mib"]);
        assert_eq!(keys("history"), ["disk_keep_hours", "keep_days"]);
        assert_eq!(keys("tasks"), ["pids_limit", "stop_timeout_secs"]);
        assert_eq!(keys("metrics"), ["listen"]);
    }

    #[test]
    fn values_out_of_range_are_all_named_with_their_lines() {
        let text = "[identity]\naccount = \"12\"\n\n[logs]\nmax_size_mib = 0\n[registries.\"a b\"]\nmirrors = [\":\"]\n[history]\nkeep_days = nan\n";
        let problems = Config::read(text).unwrap_err();
        assert_eq!(
            problems.to_string(),
            "line 2: identity.account: must be 12 digits; \
             line 5: logs.max_size_mib: 0 is not between 1 and 1048576; \
             line 9: history.keep_days: NaN is not between 0 and 36500; \
             line 6: registries.\"a b\": must be HOST or HOST:PORT; \
             line 7: registries.\"a b\".mirrors: \":\" must be HOST or HOST:PORT"
        );
    }

    #[test]
    fn a_registry_needs_a_whole_login() {
        let problems =
            Config::read("[registries.\"r:1\"]\nusername = \"u\"\nca_file = \"x\"\nplain_http = true").unwrap_err();
        assert_eq!(problems.0.len(), 3, "{problems}");
        assert_eq!(problems.0[0].line, Some(2));
    }

    #[test]
    fn hosts() {
        for good in ["docker.io", "localhost:5000", "127.0.0.1", "[::1]", "[::1]:5000"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", ":1", "a/b", "http://a", "a:b", "a:0", "a:65536"] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::load(Path::new("/nonexistent/neargated.toml")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read configuration file /nonexistent/neargated.toml");
    }
}
