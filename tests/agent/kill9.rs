//! `kill -9` of the agent in every phase of tasks' lives, proved by its trace and by the log files: no exit code, no log
//! line and no container may suffer. `SEED=n` repeats a run, `NEARGATE_TASKS` and `NEARGATE_KILLS` make it longer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proto::v1::RunTaskRequest;
use serde_json::json;
use system_tests::client::Client;
use system_tests::definition::{shell, task, with};
use system_tests::host::id;
use system_tests::random::{Random, number};
use system_tests::{TestHost, eventually};

/// Where a kill can fall.
const PHASES: [&str; 5] = ["pull", "provision", "start", "stop", "log-rotate"];
/// Of a phase to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A task that was accepted and what it must come to.
struct Expected {
    arn: String,
    lines: u64,
    code: i32,
}

#[test]
fn kill9_loses_no_exit_code_no_log_line_and_no_container() {
    let mut random = Random::seeded();
    let (count, kills) = (number("NEARGATE_TASKS", 50), number("NEARGATE_KILLS", 10));
    let mut host = TestHost::start();
    let mut tasks = Vec::new();
    let mut fell: Vec<&str> = Vec::new();
    let mut survived = 0;
    for kill in 0..kills {
        let first = count * kill / kills;
        let mut started: Vec<Asked> = (first..count * (kill + 1) / kills).map(|n| ask(&host, &mut random, n)).collect();
        let last = started.pop();
        for asked in started {
            tasks.push(asked.run(&host));
        }
        let phase = PHASES[usize::try_from(kill).unwrap() % PHASES.len()];
        let socket = host.root().join("run/neargated.sock");
        let length = fs::metadata(host.trace_file()).map_or(0, |trace| trace.len());
        std::thread::scope(|scope| {
            // Asked while the agent may die: repeated with its token until it is answered.
            let asking = last.map(|asked| scope.spawn(move || asked.run(&Client::new(&socket))));
            fell.extend(kill_in(&mut host, phase, length, &tasks));
            let before = running(&host);
            host.restart();
            survived += survivors(&before, &running(&host));
            tasks.extend(asking.map(|asking| asking.join().unwrap()));
        });
    }
    println!("kills fell in: {fell:?}; containers that lived through a kill: {survived}");
    for expected in &tasks {
        check(&host, expected);
    }
    let distinct: BTreeSet<&str> = fell.iter().copied().collect();
    assert_eq!(u64::try_from(tasks.len()).unwrap(), count);
    assert!(survived > 0, "no container lived through a kill");
    assert!(kills < 10 || fell.len() >= 6, "only {fell:?} of {kills} kills are proved to have fallen in a phase");
    assert!(kills < 10 || distinct.len() >= PHASES.len() - 1, "{distinct:?}");
}

/// A task that is to be run, come what may.
struct Asked {
    request: RunTaskRequest,
    lines: u64,
    code: i32,
}

impl Asked {
    fn run(self, client: &Client) -> Expected {
        let arn = eventually("RunTask is answered", Duration::from_secs(60), || {
            let answer = client.run_task(self.request.clone()).ok()?;
            Some(answer.tasks[0].task_arn().to_owned())
        });
        Expected { arn, lines: self.lines, code: self.code }
    }
}

/// Prints `lines` numbered lines, more than a log file holds, over a seeded time, and ends with its own code.
fn ask(host: &TestHost, random: &mut Random, nth: u64) -> Asked {
    let (lines, code) = (200 + random.below(400), i32::try_from(nth % 120 + 3).unwrap());
    let pause_every = 10 + random.below(40);
    let script = format!(
        "i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo line $i of {lines} {}; \
         [ $((i % {pause_every})) = 0 ] && sleep 0.{:02}; done; exit {code}",
        "x".repeat(30),
        5 + random.below(30),
    );
    // Files of 8 KiB are rotated many times; enough are kept that nothing may be missing.
    let options = json!({ "max-size": "8k", "max-file": "50" });
    let log = json!({ "logConfiguration": { "logDriver": "json-file", "options": options } });
    let container = with(shell("c", &host.image("base"), &script), log);
    let definition = with(task(&format!("kill9-{nth}"), &[container]), json!({ "networkMode": "bridge" }));
    let registered = host.register(&definition).unwrap();
    let request = RunTaskRequest {
        task_definition: registered.task_definition_arn,
        client_token: Some(format!("kill9-{nth}")),
        ..RunTaskRequest::default()
    };
    Asked { request, lines, code }
}

/// Kills the agent when a task is in `phase`; answers the phase if it can be proved.
fn kill_in(host: &mut TestHost, phase: &'static str, length: u64, tasks: &[Expected]) -> Option<&'static str> {
    if phase == "log-rotate" {
        let before = rotations(host, tasks);
        let rotated = within(PATIENCE, || rotations(host, tasks).iter().any(|file| !before.contains(file)));
        host.kill9();
        // Between the two looks a log was rotated, and the agent died within the milliseconds after.
        return rotated.then_some(phase);
    }
    let trace = host.trace_file();
    let came = |step: &str| fresh(&trace, length).into_iter().filter(move |(_, _, is)| is == step).collect::<Vec<_>>();
    let before: BTreeSet<_> = came(phase).into_iter().map(|(task, ..)| task).collect();
    within(PATIENCE, || came(phase).iter().any(|(task, ..)| !before.contains(task)));
    host.kill9();
    let started: BTreeSet<_> = came("start").into_iter().map(|(task, ..)| task).collect();
    let in_phase = |task: &String| match phase {
        // What follows both is the start of a container.
        "pull" => !started.contains(task),
        // The task's cgroup is the last that is made.
        "provision" => !started.contains(task) && host.cgroup_file(task, "", "memory", "cgroup.procs").is_none(),
        // A container that has started has a record.
        "start" => !host.bundle(task, "c").join("monitor.json").exists(),
        // The directory of a task that is over is gone.
        _ => host.root().join("run").join(task).exists(),
    };
    came(phase).iter().any(|(task, ..)| in_phase(task)).then_some(phase)
}

fn within(limit: Duration, mut look: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if look() {
            return true;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    false
}

/// Steps after the trace's first `length` bytes: task, container, step.
fn fresh(trace: &Path, length: u64) -> Vec<(String, String, String)> {
    let bytes = fs::read(trace).unwrap_or_default();
    let text = String::from_utf8_lossy(bytes.get(usize::try_from(length).unwrap()..).unwrap_or_default()).into_owned();
    let words = |line: &str| {
        let mut words = line.split(' ').skip(1).map(str::to_owned);
        Some((words.next()?, words.next()?, words.next()?))
    };
    text.lines().filter_map(words).collect()
}

/// Inodes of the rotated log files.
fn rotations(host: &TestHost, tasks: &[Expected]) -> BTreeSet<(PathBuf, u64)> {
    let rotated = tasks.iter().map(|expected| host.task_directory(&expected.arn).join("logs/c.log.1"));
    rotated.filter_map(|path| fs::metadata(&path).ok().map(|metadata| (path, metadata.ino()))).collect()
}

/// Pid and start time of the init of every container that runs, by its bundle, from its monitor's record and the kernel.
fn running(host: &TestHost) -> BTreeMap<PathBuf, (i64, u64)> {
    let mut found = BTreeMap::new();
    for task in fs::read_dir(host.root().join("run")).into_iter().flatten().flatten() {
        let bundle = task.path().join("c");
        let Ok(text) = fs::read_to_string(bundle.join("monitor.json")) else { continue };
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (pid, start) = (record["init"]["pid"].as_i64().unwrap(), record["init"]["startTime"].as_u64().unwrap());
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let of_kernel = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19)?.parse().ok());
        if of_kernel == Some(start) {
            found.insert(bundle, (pid, start));
        }
    }
    found
}

/// What ran before and runs still is the same process; what is gone has ended by itself, as its exit code will show.
fn survivors(before: &BTreeMap<PathBuf, (i64, u64)>, after: &BTreeMap<PathBuf, (i64, u64)>) -> usize {
    let both = before.iter().filter_map(|(bundle, process)| Some((bundle, process, after.get(bundle)?)));
    both.inspect(|(bundle, process, now)| assert_eq!(process, now, "{} was started again", bundle.display())).count()
}

fn check(host: &TestHost, expected: &Expected) {
    let ended = eventually("the task ends", Duration::from_secs(120), || {
        let task = host.describe(&expected.arn);
        (task.last_status() == "STOPPED").then_some(task)
    });
    let arn = id(&expected.arn);
    let container = &ended.containers[0];
    assert_eq!(container.exit_code, Some(expected.code), "{arn}: {ended:?}");
    assert_eq!(ended.stop_code(), "EssentialContainerExited", "{arn}");
    let log = host.logs(&expected.arn, "c");
    let numbers: Vec<u64> = log
        .lines()
        .map(|line| {
            line.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{arn}: {line}"))
        })
        .collect();
    let wanted: Vec<u64> = (1..=expected.lines).collect();
    let odd = numbers.iter().zip(&wanted).find(|(is, wanted)| is != wanted);
    assert_eq!(numbers.len(), wanted.len(), "{arn}: lines missing or doubled, first at {odd:?}");
    assert_eq!(odd, None, "{arn}: first line out of its place");
}
