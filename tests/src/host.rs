//! An agent of a test's own, below a temporary root: started, killed, restarted, and at the end everything it made has
//! to be gone.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use proto::v1::ListTasksRequest;
use tempfile::TempDir;

use crate::binaries::{built, need_root, output, tool};
use crate::client::Client;
use crate::eventually;
use crate::leaks::{Scope, Snapshot, instance_id};
use crate::registry::TestRegistry;

/// How long starting and stopping may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent and its client.
#[derive(Debug)]
pub struct TestHost {
    client: Client,
    directory: TempDir,
    agent: Option<Child>,
    before: Snapshot,
    runtime: Option<PathBuf>,
    environment: Vec<(String, String)>,
    /// Whether the root is a file system of its own.
    small_disk: bool,
}

impl Deref for TestHost {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl TestHost {
    /// An agent with the test registry and nothing else configured.
    #[track_caller]
    pub fn start() -> TestHost {
        TestHost::with("")
    }

    /// An agent with further lines of configuration.
    #[track_caller]
    pub fn with(configuration: &str) -> TestHost {
        TestHost::on(configuration, None)
    }

    /// An agent whose root is a file system of so many bytes and files, to be filled.
    #[track_caller]
    pub fn on_small_disk(mebibytes: u32, files: u32) -> TestHost {
        TestHost::on("[images]\nlow_disk_mib = 0", Some(&format!("size={mebibytes}m,nr_inodes={files},mode=711")))
    }

    #[track_caller]
    fn on(configuration: &str, small_disk: Option<&str>) -> TestHost {
        need_root();
        // Short: a socket's path has 107 bytes at most.
        let directory = tempfile::Builder::new().prefix("ng-").tempdir_in("/tmp").expect("a temporary directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).expect("a mode");
        let root = directory.path().join("root");
        fs::create_dir(&root).expect("a root");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o711)).expect("a mode");
        if let Some(options) = small_disk {
            tool("mount", Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&root));
        }
        let registry = TestRegistry::shared();
        // A shell that is pid 1 ignores SIGTERM; the default of 30 s would be waited for in every test.
        let text =
            format!("{configuration}\n[tasks]\nstop_timeout_secs = 2\npids_limit = 200\n{}", registry.configuration());
        let config = File::create(directory.path().join("neargated.toml"));
        config.and_then(|mut file| file.write_all(text.as_bytes())).expect("the configuration");
        let mut before = Snapshot::take(&Scope::Root(root.clone()));
        // The root's files are looked at apart: some may stay.
        before.found.remove("file");
        let client = Client::new(&root.join("run/neargated.sock"));
        let (small_disk, environment) = (small_disk.is_some(), Vec::new());
        let mut host = TestHost { client, directory, agent: None, before, runtime: None, environment, small_disk };
        host.restart();
        host
    }

    /// The agent's root.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// A directory of the test's own beside the root.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// A directory beside the root that everybody may write to, made when it is not there: by its files a test and its
    /// containers tell each other how far they are.
    #[track_caller]
    pub fn gate(&self) -> PathBuf {
        let gate = self.directory.path().join("gate");
        fs::create_dir_all(&gate).expect("a directory");
        fs::set_permissions(&gate, fs::Permissions::from_mode(0o777)).expect("a mode");
        gate
    }

    /// `NEARGATE_TRACE_FILE` of the agent.
    pub fn trace_file(&self) -> PathBuf {
        self.directory.path().join("trace")
    }

    /// The agent's instance id.
    pub fn instance(&self) -> String {
        instance_id(&self.root())
    }

    /// Reference of a test image.
    pub fn image(&self, name: &str) -> String {
        TestRegistry::shared().image(name)
    }

    /// `run/<task>/<container>`
    pub fn bundle(&self, task: &str, container: &str) -> PathBuf {
        self.root().join("run").join(id(task)).join(container)
    }

    /// `tasks/<task>`
    pub fn task_directory(&self, task: &str) -> PathBuf {
        self.root().join("tasks").join(id(task))
    }

    /// A file of a container's cgroup, or of its task's for an empty name, v1 or v2.
    pub fn cgroup_file(&self, task: &str, container: &str, controller: &str, file: &str) -> Option<String> {
        let group = format!("neargate-{}/{}/{container}", self.instance(), id(task));
        let top = Path::new("/sys/fs/cgroup");
        let found = [top.join(controller), top.to_owned()].map(|hierarchy| hierarchy.join(&group).join(file));
        found.iter().find_map(|path| fs::read_to_string(path).ok()).map(|text| text.trim().to_owned())
    }

    /// A second agent's command line on this root.
    pub fn command(&self) -> Command {
        let mut command = Command::new(built("neargated"));
        command.arg("--root").arg(self.root()).arg("--config").arg(self.directory.path().join("neargated.toml"));
        if let Some(runtime) = &self.runtime {
            command.arg("--runtime").arg(runtime);
        }
        command
    }

    /// Puts a shell script between the agent and neargate-runtime, which it executes as "$RUNTIME". From the next start
    /// on.
    pub fn interpose(&mut self, script: &str) {
        let path = self.scratch().join("runtime");
        let text = format!("#!/bin/sh\nRUNTIME={}\n{script}\n", built("neargate-runtime").display());
        let file = File::create(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
        self.runtime = Some(path);
    }

    /// Gives the agent a variable. From the next start on.
    pub fn environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the agent again and waits until it serves.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.agent.is_none(), "the agent runs already");
        let words = OpenOptions::new().create(true).append(true).open(self.words()).expect("the agent's log");
        let mut command = self.command();
        command.envs(self.environment.iter().cloned());
        command.env("NEARGATE_TRACE_FILE", self.trace_file()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(words);
        self.agent = Some(command.spawn().expect("neargated starts"));
        eventually("the agent serves", PATIENCE, || {
            let ended = self.agent.as_mut().and_then(|agent| agent.try_wait().ok().flatten());
            assert!(ended.is_none(), "the agent ended with {ended:?}: {}", self.last_words());
            (self.client.is_serving()).then_some(())
        });
    }

    /// The running agent's pid.
    #[track_caller]
    pub fn agent_pid(&self) -> u32 {
        self.agent.as_ref().expect("an agent that runs").id()
    }

    /// SIGKILL; what it left is left.
    pub fn kill9(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().expect("SIGKILL");
            agent.wait().expect("its end");
        }
    }

    /// SIGTERM; answers how it ended. Containers go on.
    #[track_caller]
    pub fn terminate(&mut self) -> Option<ExitStatus> {
        let mut agent = self.agent.take()?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(agent.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("SIGTERM");
        Some(eventually("the agent ends after SIGTERM", PATIENCE, || agent.try_wait().ok().flatten()))
    }

    /// Runs `neargate` against this agent.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(built("neargate"));
        command.env("NEARGATE_SOCKET", self.root().join("run/neargated.sock")).args(arguments);
        command.output().expect("neargate runs")
    }

    /// ARNs of the tasks with this desired status.
    #[track_caller]
    pub fn list(&self, desired: &str) -> Vec<String> {
        let request = ListTasksRequest { desired_status: Some(desired.to_owned()), ..ListTasksRequest::default() };
        let answer = self.wait(async { self.tasks().await?.list_tasks(request).await });
        answer.expect("ListTasks answers").into_inner().task_arns
    }

    /// What the agent has logged, all its lives together.
    pub fn last_words(&self) -> String {
        fs::read_to_string(self.words()).unwrap_or_default()
    }

    fn words(&self) -> PathBuf {
        self.directory.path().join("neargated.log")
    }

    /// Stops all tasks and the agent; tells what is left of them.
    fn wind_up(&mut self) -> Result<(), String> {
        if self.agent.is_none() {
            self.restart();
        }
        let tasks = self.list("RUNNING");
        for task in &tasks {
            self.stop(task, None).map_err(|status| format!("{task} cannot be stopped: {status}"))?;
        }
        for task in tasks.into_iter().chain(self.list("STOPPED")) {
            self.stopped(&task);
        }
        let status = self.terminate();
        if !status.is_some_and(|status| status.success()) {
            return Err(format!("the agent ended with {status:?}"));
        }
        let run = self.root().join("run");
        let entries = fs::read_dir(&run).into_iter().flatten().flatten();
        // Compiled seccomp filters are no task's.
        let of_tasks = |path: &PathBuf| path.is_dir() && !path.ends_with("seccomp");
        let left: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(of_tasks).collect();
        if !left.is_empty() {
            return Err(format!("left of stopped tasks: {left:?}"));
        }
        let scope = Scope::Root(self.root());
        // Disks and logs of stopped tasks stay for a while, as configured.
        let files = Snapshot::take(&scope).found.remove("file").unwrap_or_default();
        self.before.found.insert("file".to_owned(), files);
        Snapshot::settle(&scope, &self.before).map_err(|left| format!("left behind:\n{left}"))
    }
}

impl Drop for TestHost {
    #[expect(clippy::print_stdout, reason = "the test harness shows a failing test's output")]
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let mut wind_up = || {
            let wound_up = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.wind_up()));
            wound_up.unwrap_or_else(|_| Err("winding up panicked".to_owned()))
        };
        let wound_up = wind_up();
        if wound_up.is_err() {
            // The first error is told; a second try may leave the machine clean all the same.
            self.kill9();
            let _best_effort = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.wind_up()));
        }
        self.kill9();
        if self.small_disk {
            let unmounted = output("mount", Command::new("umount").arg("--lazy").arg(self.root()));
            assert!(unmounted.status.success() || failed, "{unmounted:?}");
        }
        if failed || wound_up.is_err() {
            let words = self.last_words();
            let last: Vec<&str> = words.lines().rev().take(60).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            println!("the agent's last words:\n{}", last.join("\n"));
        }
        match wound_up {
            Err(left) if failed => println!("and then: {left}"),
            Err(left) => panic!("{left}"),
            Ok(()) => {}
        }
    }
}

/// The last part of an ARN.
pub fn id(task: &str) -> &str {
    task.rsplit('/').next().unwrap_or(task)
}
