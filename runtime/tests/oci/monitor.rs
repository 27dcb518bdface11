//! The monitor: what it records, logs and serves, and what becomes of the container when it is killed.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::monitor::protocol::{
    self, EXIT_BUSY, EXIT_FILE, ExitRecord, Exited, Kind, MONITOR_FILE, MonitorRecord, Opened, Ready, Request,
    SessionKey, Window,
};
use serde_json::{Value, json};

use crate::harness::{TestBundle, eventually};

/// Bytes of the frame that `echo ready` makes.
const READY_FRAME: usize = 11;

/// A monitor at work on a bundle.
struct Monitor<'a> {
    bundle: &'a TestBundle,
    process: Child,
    ready: Ready,
}

fn log(bundle: &TestBundle) -> PathBuf {
    bundle.path().join("c.log")
}

fn execute(bundle: &TestBundle, options: &[&str]) -> Child {
    bundle.write("config.json", &bundle.config);
    let (path, log) = (bundle.path().to_str().unwrap().to_owned(), log(bundle));
    let fixed = ["monitor", "--bundle", &path, "--id", &bundle.id, "--log-file", log.to_str().unwrap()];
    bundle.runtime(&[&fixed, options].concat()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn monitor<'a>(bundle: &'a TestBundle, options: &[&str]) -> Monitor<'a> {
    let mut process = execute(bundle, options);
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready = serde_json::from_str(&line).unwrap_or_else(|_| {
        let mut words = String::new();
        process.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        panic!("{line:?}: {words}")
    });
    Monitor { bundle, process, ready }
}

impl Monitor<'_> {
    fn running(&self) -> &MonitorRecord {
        match &self.ready {
            Ready::Started(record) => record,
            Ready::Failed(failure) => panic!("{failure:?}"),
        }
    }

    fn end(mut self) -> ExitRecord {
        assert!(self.process.wait().unwrap().success());
        assert!(self.bundle.cgroups().is_empty(), "the cgroup is left");
        assert_eq!(fs::read_dir(self.bundle.path().join("state")).map_or(0, Iterator::count), 0, "state is left");
        protocol::read_record(self.bundle.path(), EXIT_FILE).unwrap().unwrap()
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.bundle.path().join(protocol::SOCKET_FILE)).unwrap()
    }

    fn exec(&self, script: &str, stdin: bool, terminal: bool) -> UnixStream {
        let mut process = self.bundle.config["process"].clone();
        process["args"] = json!(["sh", "-c", script]);
        process["terminal"] = json!(terminal);
        let mut stream = self.connect();
        let process = serde_json::from_value(process).unwrap();
        let (kind, payload) = protocol::ask(&mut stream, &Request::Exec { process, stdin, session: None }).unwrap();
        assert_eq!(kind, Kind::Done, "{}", String::from_utf8_lossy(&payload));
        stream
    }
}

/// The log's lines as (stream, text), those of rotated files first.
fn lines(bundle: &TestBundle) -> Vec<(String, String)> {
    let mut files: Vec<PathBuf> =
        (1..1000).map(|n| PathBuf::from(format!("{}.{n}", log(bundle).display()))).filter(|f| f.exists()).collect();
    files.reverse();
    files.push(log(bundle));
    let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let field = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    let entries = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    entries.map(|entry| (field(&entry, "stream"), field(&entry, "log"))).collect()
}

/// Everything the other end sends until it closes: stdout, stderr and the exit code.
fn collect(mut stream: UnixStream) -> (String, String, Option<i32>) {
    let (mut buffer, mut out, mut err, mut code) = (Vec::new(), Vec::new(), Vec::new(), None);
    stream.read_to_end(&mut buffer).unwrap();
    while let Some((kind, payload)) = protocol::decode(&mut buffer).unwrap() {
        match kind {
            Kind::Stdout => out.extend(payload),
            Kind::Stderr => err.extend(payload),
            Kind::Taken => {}
            Kind::Exit => code = Some(serde_json::from_slice::<Exited>(&payload).unwrap().exit_code),
            other => panic!("{other:?}"),
        }
    }
    (String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned(), code)
}

#[test]
fn exit_codes_and_streams_are_recorded() {
    let bundle = TestBundle::new("echo out; echo err >&2; echo -n last; exit 42");
    let monitor = monitor(&bundle, &[]);
    assert!(monitor.running().init.pid > 0);
    let exit = monitor.end();
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed, exit.error), (Some(42), None, false, None));
    assert!(exit.started_at.unwrap() <= exit.finished_at);
    let mut lines = lines(&bundle);
    lines.sort();
    let line = |stream: &str, text: &str| (stream.to_owned(), text.to_owned());
    assert_eq!(lines, [line("stderr", "err\n"), line("stdout", "last"), line("stdout", "out\n")]);
}

#[test]
fn records_are_on_disk_before_the_ready_line() {
    let bundle = TestBundle::new("sleep 100");
    let monitor = monitor(&bundle, &[]);
    let record: MonitorRecord = protocol::read_record(bundle.path(), MONITOR_FILE).unwrap().unwrap();
    assert_eq!(&record, monitor.running());
    kill(Pid::from_raw(record.init.pid), Signal::SIGKILL).unwrap();
    let exit = monitor.end();
    assert_eq!((exit.exit_code, exit.signal), (Some(137), Some(9)));
}

#[test]
fn programs_that_cannot_be_executed_have_dockers_codes() {
    for (program, code) in [("/bin/none", 127), ("/etc/passwd", 126)] {
        let mut bundle = TestBundle::new("");
        bundle.config["process"]["args"] = json!([program]);
        let monitor = monitor(&bundle, &[]);
        let Ready::Failed(failure) = &monitor.ready else { panic!("{program} started") };
        assert_eq!(failure.kind, "CannotStartContainerError");
        assert!(failure.message.contains(program), "{}", failure.message);
        let failure = failure.clone();
        let exit = monitor.end();
        assert_eq!((exit.exit_code, exit.started_at, exit.error), (Some(code), None, Some(failure)));
    }
}

#[test]
fn a_bundle_that_is_none_is_told() {
    let mut bundle = TestBundle::new("");
    bundle.config["mounts"][0]["type"] = json!("nonsense");
    let monitor = monitor(&bundle, &[]);
    assert!(matches!(&monitor.ready, Ready::Failed(failure) if failure.kind == "CannotCreateContainerError"));
    assert_eq!(monitor.end().exit_code, None);
}

#[test]
fn memory_beyond_the_limit_is_told() {
    let mut bundle = TestBundle::new("x=a; while :; do x=$x$x; done");
    bundle.config["linux"]["resources"] = json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } });
    let exit = monitor(&bundle, &[]).end();
    assert_eq!((exit.exit_code, exit.oom_killed), (Some(137), true));
}

#[test]
fn no_line_is_lost_by_rotation() {
    let bundle = TestBundle::new("n=0; while [ $n -lt 20000 ]; do n=$((n+1)); echo line $n; done");
    let exit = monitor(&bundle, &["--log-max-size", "65536", "--log-max-files", "1000"]).end();
    assert_eq!(exit.exit_code, Some(0));
    let text: String = lines(&bundle).into_iter().map(|(_, line)| line).collect();
    let wanted: String = (1..=20_000).map(|n| format!("line {n}\n")).collect();
    assert!(text == wanted, "{} of {} bytes", text.len(), wanted.len());
    assert!(PathBuf::from(format!("{}.10", log(&bundle).display())).exists(), "it was rotated");
}

#[test]
fn what_the_program_leaves_running_goes_with_it() {
    let bundle = TestBundle::new("sleep 1000 & echo started; exit 3");
    let exit = monitor(&bundle, &[]).end();
    assert_eq!(exit.exit_code, Some(3));
    assert_eq!(lines(&bundle)[0].1, "started\n");
}

#[test]
fn commands_have_input_output_and_codes_of_their_own() {
    let bundle = TestBundle::new("sleep 100");
    let monitor = monitor(&bundle, &[]);
    let mut cat = monitor.exec("cat; echo done >&2; exit 5", true, false);
    cat.write_all(&protocol::encode(Kind::Stdin, b"hello")).unwrap();
    cat.write_all(&protocol::encode(Kind::StdinClosed, b"")).unwrap();
    assert_eq!(collect(cat), ("hello".to_owned(), "done\n".to_owned(), Some(5)));

    let mut stopped = monitor.exec("echo ready; exec sleep 100", false, false);
    stopped.read_exact(&mut [0; READY_FRAME]).unwrap();
    stopped.write_all(&protocol::encode(Kind::Signal, br#"{"signal":15}"#)).unwrap();
    assert_eq!(collect(stopped).2, Some(143));

    let mut process = bundle.config["process"].clone();
    for (program, code) in [("/bin/none", 127), ("/etc/passwd", 126)] {
        process["args"] = json!([program]);
        let mut stream = monitor.connect();
        let process = serde_json::from_value(process.clone()).unwrap();
        let request = Request::Exec { process, stdin: false, session: None };
        assert_eq!(protocol::ask(&mut stream, &request).unwrap().0, Kind::Done);
        let (_, err, exit_code) = collect(stream);
        assert!(err.contains(program) && exit_code == Some(code), "{err:?} {exit_code:?}");
    }

    let mut terminal = monitor.exec("tty; read line; echo got $line", true, true);
    let window = serde_json::to_vec(&Window { rows: 33, columns: 99 }).unwrap();
    terminal.write_all(&protocol::encode(Kind::Resize, &window)).unwrap();
    terminal.write_all(&protocol::encode(Kind::Stdin, b"word\n")).unwrap();
    let (out, _, code) = collect(terminal);
    assert!(out.contains("/dev/pts/") && out.contains("got word") && code == Some(0), "{out:?} {code:?}");
    kill(Pid::from_raw(monitor.running().init.pid), Signal::SIGKILL).unwrap();
    monitor.end();
}

#[test]
fn a_client_that_goes_takes_its_command_along_and_one_that_sleeps_holds_nobody_up() {
    let bundle = TestBundle::new("while [ ! -e /tmp/stop ]; do sleep 0.01; done; echo over");
    let monitor = monitor(&bundle, &[]);
    let lazy = monitor.exec("while :; do echo much too much; done", false, false);
    let mut gone = monitor.exec("echo $$ > /tmp/pid; echo ready; exec sleep 1000", false, false);
    gone.read_exact(&mut [0; READY_FRAME]).unwrap();
    drop(gone);
    let alive = || collect(monitor.exec("ls -d /proc/$(cat /tmp/pid)", false, false)).2 == Some(0);
    eventually("the command outlives its client", || !alive());
    assert_eq!(collect(monitor.exec("touch /tmp/stop", false, false)).2, Some(0));
    assert_eq!(monitor.end().exit_code, Some(0));
    drop(lazy);
    assert_eq!(lines(&bundle).last().unwrap().1, "over\n");
}

#[test]
fn commands_beyond_the_most_wait_for_their_turn() {
    let bundle = TestBundle::new("sleep 100");
    let monitor = monitor(&bundle, &[]);
    let mut idle: Vec<UnixStream> = (0..96).map(|_| monitor.connect()).collect();
    let last = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| collect(monitor.exec("exit 4", false, false)).2);
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished(), "the 97th client was served beside the 96");
        idle.pop();
        waiting.join().unwrap()
    });
    assert_eq!(last, Some(4));
    kill(Pid::from_raw(monitor.running().init.pid), Signal::SIGKILL).unwrap();
    monitor.end();
}

/// The next frame; fails where none comes in time.
fn frame(stream: &mut UnixStream) -> (Kind, Vec<u8>) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut header = [0; 5];
    stream.read_exact(&mut header).unwrap();
    let mut frame = header.to_vec();
    frame.resize(5 + u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize, 0);
    stream.read_exact(&mut frame[5..]).unwrap();
    protocol::decode(&mut frame).unwrap().unwrap()
}

/// Asks on a connection of its own; answers it and what the session's opening says.
fn open(monitor: &Monitor<'_>, request: &Request) -> (UnixStream, Opened) {
    let mut stream = monitor.connect();
    let (kind, payload) = protocol::ask(&mut stream, request).unwrap();
    assert_eq!(kind, Kind::Done, "{}", String::from_utf8_lossy(&payload));
    let opened = serde_json::from_slice(&payload).unwrap();
    (stream, opened)
}

#[test]
fn a_session_goes_on_over_another_connection_until_it_is_hung_up() {
    let bundle = TestBundle::new("sleep 100");
    let monitor = monitor(&bundle, &[]);
    let session = SessionKey { id: "one".to_owned(), resumable: true };
    let mut process = bundle.config["process"].clone();
    process["args"] = json!(["sh", "-c", "echo $$ > /tmp/pid; exec cat"]);
    let process = serde_json::from_value(process).unwrap();
    let request = Request::Exec { process, stdin: true, session: Some(session) };
    let (mut stream, opened) = open(&monitor, &request);
    assert_eq!(opened, Opened { stdin: true, terminal: false, stdin_offset: 0, output_offset: 0 });
    stream.write_all(&protocol::encode(Kind::Stdin, b"hello")).unwrap();
    let out = |stream: &mut UnixStream| loop {
        match frame(stream) {
            (Kind::Stdout, bytes) => return bytes,
            (kind, _) => assert_eq!(kind, Kind::Taken),
        }
    };
    assert_eq!(out(&mut stream), b"hello");
    // Half a frame is none.
    stream.write_all(&protocol::encode(Kind::Stdin, b"torn")[..7]).unwrap();
    drop(stream);
    let resume = |received| Request::Resume { session: "one".to_owned(), received };
    let (mut stream, opened) = open(&monitor, &resume(3));
    assert_eq!((opened.stdin_offset, opened.output_offset), (5, 3));
    assert_eq!(out(&mut stream), b"lo");
    stream.write_all(&protocol::encode(Kind::Stdin, b" world")).unwrap();
    assert_eq!(out(&mut stream), b" world");
    stream.write_all(&protocol::encode(Kind::Acknowledge, br#"{"bytes":11}"#)).unwrap();
    // The same request again is the same session; one that takes over is told all that is kept.
    let mut again = monitor.connect();
    let (kind, refusal) = protocol::ask(&mut again, &request).unwrap();
    assert_eq!((kind, String::from_utf8_lossy(&refusal).contains("UnknownSession")), (Kind::Failed, true));
    let (_taken_over, opened) = open(&monitor, &resume(11));
    assert_eq!((opened.stdin_offset, opened.output_offset), (11, 11));
    assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0, "the first connection is closed");
    assert_eq!(protocol::ask(&mut monitor.connect(), &resume(12)).unwrap().0, Kind::Failed);
    let hangup = Request::Hangup { session: "one".to_owned() };
    for _ in 0..2 {
        assert_eq!(protocol::ask(&mut monitor.connect(), &hangup).unwrap(), (Kind::Done, Vec::new()));
    }
    let alive = || collect(monitor.exec("ls -d /proc/$(cat /tmp/pid)", false, false)).2 == Some(0);
    eventually("the command outlives its session", || !alive());
    assert_eq!(protocol::ask(&mut monitor.connect(), &resume(11)).unwrap().0, Kind::Failed);
    kill(Pid::from_raw(monitor.running().init.pid), Signal::SIGKILL).unwrap();
    monitor.end();
}

#[test]
fn nonsense_on_the_socket_ends_that_connection_only() {
    let bundle = TestBundle::new("sleep 100");
    let monitor = monitor(&bundle, &[]);
    for bytes in [&b"?\0\0\0\0"[..], b"O\xff\xff\xff\xff", b"I\0\0\0\x01x", b"R\0\0\0\x02{}"] {
        let mut stream = monitor.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // Closed, or reset where more was sent than was read.
        let _either = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer[0] == Kind::Failed as u8);
    }
    assert_eq!(collect(monitor.exec("exit 3", false, false)).2, Some(3));
    kill(Pid::from_raw(monitor.running().monitor.pid), Signal::SIGTERM).unwrap();
    kill(Pid::from_raw(monitor.running().init.pid), Signal::SIGKILL).unwrap();
    monitor.end();
}

#[test]
fn sigterm_reaches_the_container() {
    let bundle = TestBundle::new("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done");
    let monitor = monitor(&bundle, &[]);
    eventually("ready", || fs::read_to_string(log(&bundle)).unwrap().contains("ready"));
    kill(Pid::from_raw(monitor.running().monitor.pid), Signal::SIGTERM).unwrap();
    assert_eq!(monitor.end().exit_code, Some(7));
}

#[test]
fn a_killed_monitor_takes_the_container_along_and_leaves_no_exit() {
    let bundle = TestBundle::new("exec sleep 1000");
    let mut monitor = monitor(&bundle, &[]);
    let init = monitor.running().init;
    kill(Pid::from_raw(monitor.running().monitor.pid), Signal::SIGKILL).unwrap();
    assert_eq!(monitor.process.wait().unwrap().signal(), Some(9));
    eventually("the container outlives its monitor", || !init.is_alive());
    assert_eq!(protocol::read_record::<ExitRecord>(bundle.path(), EXIT_FILE).unwrap(), None);
}

#[test]
fn an_exit_is_recorded_though_the_disk_is_full() {
    let mut bundle = TestBundle::new(
        "echo before; until grep -q before /disk/c.log; do sleep 0.01; done; dd if=/dev/zero of=/disk/fill bs=4096; echo after; exit 5",
    );
    // The bundle's own file system is the one that the container fills.
    let small = bundle.path().join("small");
    fs::create_dir(&small).unwrap();
    let options = Some("size=4m");
    mount(Some("tmpfs"), &small, Some("tmpfs"), MsFlags::empty(), options).unwrap();
    let rootfs = bundle.rootfs();
    bundle.config["root"]["path"] = json!(rootfs);
    bundle.mount(json!({"destination": "/disk", "type": "bind", "source": small, "options": ["rbind"]}));
    let mut config = fs::File::create(small.join("config.json")).unwrap();
    config.write_all(bundle.config.to_string().as_bytes()).unwrap();
    let log = small.join("c.log");
    let arguments =
        ["monitor", "--bundle", small.to_str().unwrap(), "--id", &bundle.id, "--log-file", log.to_str().unwrap()];
    let output = bundle.runtime(&arguments).output().unwrap();
    let exit = protocol::read_record::<ExitRecord>(&small, EXIT_FILE);
    let lines = fs::read_to_string(&log).unwrap();
    umount2(&small, MntFlags::MNT_DETACH).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(exit.unwrap().unwrap().exit_code, Some(5));
    assert!(lines.contains("before"), "{lines}");
}

#[test]
fn a_second_monitor_changes_nothing() {
    let bundle = TestBundle::new("exec sleep 1000");
    let monitor = monitor(&bundle, &[]);
    assert_eq!(execute(&bundle, &[]).wait().unwrap().code(), Some(i32::from(EXIT_BUSY)));
    assert!(monitor.running().init.is_alive());
    kill(Pid::from_raw(monitor.running().init.pid), Signal::SIGKILL).unwrap();
    assert_eq!(monitor.end().exit_code, Some(137));
    let again = execute(&bundle, &[]).wait().unwrap().code();
    assert_eq!(again, Some(i32::from(EXIT_BUSY)), "what has ended is not started again");
}

#[test]
fn an_agent_that_is_gone_is_no_reason_to_stop() {
    let bundle = TestBundle::new("echo on; exit 9");
    let mut process = execute(&bundle, &[]);
    drop(process.stdout.take());
    assert!(process.wait().unwrap().success());
    let exit: ExitRecord = protocol::read_record(bundle.path(), EXIT_FILE).unwrap().unwrap();
    assert_eq!(exit.exit_code, Some(9));
    assert_eq!(lines(&bundle)[0].1, "on\n");
}
