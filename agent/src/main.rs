//! `neargated`: reads the command line and the configuration, opens the engine, serves the API, drains on a signal.
//! Wiring only; containers outlive it.
#![forbid(unsafe_code)]

use std::{
    env,
    fs::DirBuilder,
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use agent::{
    api::{self, socket},
    config::{Config, runtime_path},
    diagnostics,
    engine::Engine,
    metrics::http::Door,
};
use anyhow::Context as _;
use clap::Parser;
use runtime::sys::memory;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Threads that serve; the agent waits far more than it computes, and each thread costs memory.
const MOST_WORKERS: usize = 4;

/// Threads for blocking work, such as unpacking layers and reading logs.
const MOST_BLOCKING: usize = 64;

/// Heaps of all threads: a second one, so that blocking work keeps nobody waiting.
const HEAPS: i32 = 2;

/// The root lets others pass to the socket; what tasks own is protected below.
const ROOT_MODE: u32 = 0o711;

/// How long blocking work may take to end when the agent does.
const END: Duration = Duration::from_secs(5);

/// Wrong usage; a service manager should not try again.
const USAGE: u8 = 2;

/// Neargate's host agent: runs ECS tasks on this host and serves gRPC on a Unix socket.
#[derive(Parser)]
#[command(name = "neargated", version, about)]
struct Arguments {
    /// Directory below which all state lives
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Socket to listen on; DIR/run/neargated.sock without
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Configuration file (TOML); defaults without
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The neargate-runtime to use; otherwise the one beside this program, or in PATH
    #[arg(long, value_name = "PATH")]
    runtime: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    diagnostics::begin();
    let config = match configure(arguments) {
        Ok(config) => config,
        Err(error) => return fail(&error, USAGE),
    };
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    // Where stderr is gone there is nobody to tell.
    let _ = writeln!(io::stderr(), "neargated: {error:#}");
    ExitCode::from(code)
}

fn configure(arguments: Arguments) -> anyhow::Result<Config> {
    let mut config = match &arguments.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    for name in config.apply_environment(|name| env::var(name).ok())? {
        tracing::warn!(name, "environment variable has no effect yet");
    }
    config.root = std::path::absolute(&arguments.root).context("cannot make --root absolute")?;
    config.socket = match &arguments.socket {
        Some(path) => std::path::absolute(path).context("cannot make --socket absolute")?,
        None => socket::default_path(&config.root),
    };
    socket::check(&config.socket)?;
    let agent = env::current_exe().ok();
    config.runtime =
        runtime_path::find(arguments.runtime.as_deref(), agent.as_deref(), env::var_os("PATH").as_deref())?;
    Ok(config)
}

fn run(config: Config) -> anyhow::Result<()> {
    memory::share_heaps(HEAPS);
    make_root(&config.root)?;
    let workers = thread::available_parallelism().map_or(1, |cpus| cpus.get().min(MOST_WORKERS));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(MOST_BLOCKING)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let served = runtime.block_on(serve(Arc::new(config)));
    // Nothing that is durable is under way any more; what still blocks on a file would be waited for without end.
    runtime.shutdown_timeout(END);
    served
}

fn make_root(root: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(ROOT_MODE).create(root);
    made.with_context(|| format!("cannot make root directory {}", root.display()))
}

async fn serve(config: Arc<Config>) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone())?);
    let door = match config.metrics.listen {
        Some(address) => {
            Some(Door::open(address).await.with_context(|| format!("cannot listen for metrics on {address}"))?)
        }
        None => None,
    };
    let engine =
        Engine::open(config.clone()).await.with_context(|| format!("cannot open {}", config.root.display()))?;
    // After the engine, which holds the root's lock: whoever listens there now is no agent.
    let socket = socket::Socket::bind(&config.socket)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), socket = %socket.path().display(), "ready");
    if let Some(door) = door {
        let address = door.address().context("cannot tell where metrics are")?;
        tracing::info!(%address, "serving metrics");
        tokio::spawn(door.serve(engine.clone(), stop.clone()));
    }
    let served = api::serve(socket, engine.clone(), stop).await;
    engine.shutdown().await;
    tracing::info!("stopped; containers go on");
    Ok(served?)
}

/// Cancels `stop` on SIGTERM or SIGINT.
fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
        stop.cancel();
    })
}
