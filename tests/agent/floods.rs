//! Output by the mass, and output of the worst kind: memory stays flat, and what the log promises is kept: the newest
//! `max-file` files of `max-size`, without a gap. `NEARGATE_FLOOD_MIB` makes the flood larger.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proto::v1::GetLogsRequest;
use serde_json::{Value, json};
use system_tests::binaries::built;
use system_tests::definition::{gated, shell, task, with};
use system_tests::{TestHost, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a line without its number.
const PAD: u64 = 1000;
/// By how much the most memory that a process ever had may exceed what it had before the flood, KiB. Buffers are that
/// large, the flood is not.
const FLAT_MONITOR: u64 = 2 << 10;
const FLAT_AGENT: u64 = 24 << 10;

/// KiB of a process's memory, as /proc/PID/status has it under this name.
fn memory(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// From now on VmHWM is the peak since now (proc(5), clear_refs).
fn forget_peak(pid: u32) -> u64 {
    File::options().write(true).open(format!("/proc/{pid}/clear_refs")).unwrap().write_all(b"5").unwrap();
    memory(pid, "VmRSS")
}

fn monitor(host: &TestHost, arn: &str) -> u32 {
    let text = fs::read_to_string(host.bundle(arn, "c").join("monitor.json")).unwrap();
    let record: Value = serde_json::from_str(&text).unwrap();
    u32::try_from(record["monitor"]["pid"].as_u64().unwrap()).unwrap()
}

/// The number that a line begins with.
fn number(line: &str) -> u64 {
    line.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("a torn line: {line:.80}"))
}

#[test]
fn a_flood_of_log_takes_no_memory_and_the_newest_lines_are_kept() {
    let mebibytes: u64 = std::env::var("NEARGATE_FLOOD_MIB").map_or(50, |text| text.parse().expect("a number"));
    let host = TestHost::start();
    let gate = host.gate();
    let count = mebibytes * (1 << 20) / (PAD + 8);
    let flood = format!(
        "BEGIN {{ x = \"x\"; while (length(x) < {PAD}) x = x x; x = substr(x, 1, {PAD}); \
         for (i = 1; i <= {count}; i++) print i, x }}"
    );
    let wait = |file: &str| format!("while [ ! -e /gate/{file} ]; do sleep 0.02; done");
    let script = format!("{}; awk '{flood}'; echo > /gate/done; {}; exit 4", wait("go"), wait("end"));
    let options = json!({ "max-size": "4m", "max-file": "3" });
    let log = json!({ "logConfiguration": { "logDriver": "json-file", "options": options } });
    let arn = host.run(&gated(task("flood", &[with(shell("c", &host.image("base"), &script), log)]), &gate));
    host.running(&arn);
    let (monitor, agent) = (monitor(&host, &arn), host.agent_pid());
    // Somebody reads along as fast as he can.
    let mut follower = Command::new(built("neargate"));
    follower.env("NEARGATE_SOCKET", host.root().join("run/neargated.sock")).args(["logs", "--follow", &arn]);
    let mut follower = follower.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let following = std::thread::spawn(move || {
        let mut last = 0;
        for line in lines {
            let now = number(&line.unwrap());
            assert!(now > last, "{now} after {last}");
            last = now;
        }
        last
    });
    let before = (forget_peak(monitor), forget_peak(agent));
    let began = Instant::now();
    File::create(gate.join("go")).unwrap();
    let limit = PATIENCE + Duration::from_secs(mebibytes);
    eventually("the flood is over", limit, || gate.join("done").exists().then_some(()));
    println!("{mebibytes} MiB in {:?}", began.elapsed());
    let peak = (memory(monitor, "VmHWM"), memory(agent, "VmHWM"));
    println!("KiB before and at most: monitor {} {}, agent {} {}", before.0, peak.0, before.1, peak.1);
    File::create(gate.join("end")).unwrap();
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(4));
    let seen = following.join().unwrap();
    assert!(follower.wait().unwrap().success());
    assert_eq!(seen, count, "the follower has not come to the end");
    assert!(peak.0 < before.0 + FLAT_MONITOR, "monitor: {} KiB, then {}", before.0, peak.0);
    assert!(peak.1 < before.1 + FLAT_AGENT, "agent: {} KiB, then {}", before.1, peak.1);
    kept(&host, &arn, count);
}

/// The promise: three files of 4 MiB at most, whole lines, the newest, none missing, and as many as fit.
fn kept(host: &TestHost, arn: &str, count: u64) {
    let logs = host.task_directory(arn).join("logs");
    let (mut numbers, mut bytes) = (Vec::new(), 0);
    for name in ["c.log.2", "c.log.1", "c.log"] {
        let text = fs::read_to_string(logs.join(name)).unwrap();
        assert!(text.len() <= 4 << 20, "{name}: {} bytes", text.len());
        bytes += text.len();
        let message = |line: &str| serde_json::from_str::<Value>(line).unwrap()["log"].as_str().unwrap().to_owned();
        numbers.extend(text.lines().map(|line| number(&message(line))));
    }
    assert_eq!(fs::read_dir(&logs).unwrap().count(), 3);
    assert_eq!(numbers.last(), Some(&count));
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a line is missing");
    assert!(bytes > (8 << 20) - 4096, "two full files and a third: {bytes} bytes");
}

#[test]
fn a_line_of_a_mebibyte_is_one_line() {
    let host = TestHost::start();
    let script = "echo before; head -c 1048576 /dev/zero | tr '\\0' a; echo; echo after";
    let arn = host.run(&task("line", &[shell("c", &host.image("base"), script)]));
    let request = GetLogsRequest { task: Some(arn.clone()), follow: Some(true), ..GetLogsRequest::default() };
    let followed: Vec<u8> =
        host.log_entries(request).unwrap().into_iter().flat_map(|entry| entry.data.unwrap_or_default()).collect();
    host.stopped(&arn);
    let wanted = format!("before\n{}\nafter\n", "a".repeat(1 << 20));
    assert!(String::from_utf8(followed).unwrap() == wanted, "followed");
    assert!(host.logs(&arn, "c") == wanted, "read");
    assert!(String::from_utf8(host.cli(&["logs", &arn]).stdout).unwrap() == wanted, "printed");
}

#[test]
fn bytes_of_no_text_and_no_end_are_kept_as_docker_keeps_them() {
    let host = TestHost::start();
    let bytes: Vec<u8> = (0..=255).collect();
    let octal: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
    // Then noise that may be anything, without a newline at its end.
    let script = format!("printf '{octal}'; head -c 300000 /dev/urandom >&2; exit 8");
    let arn = host.run(&task("noise", &[shell("c", &host.image("base"), &script)]));
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(8));
    let request = GetLogsRequest { task: Some(arn.clone()), ..GetLogsRequest::default() };
    let entries = host.log_entries(request).unwrap();
    let of = |stream: &str| -> Vec<u8> {
        let entries = entries.iter().filter(|entry| entry.stream() == stream);
        entries.flat_map(|entry| entry.data.clone().unwrap_or_default()).collect()
    };
    assert_eq!(String::from_utf8(of("stdout")).unwrap(), String::from_utf8_lossy(&bytes));
    let noise = String::from_utf8(of("stderr")).unwrap();
    assert!(noise.chars().count() > 150_000, "{} characters", noise.chars().count());
    let file = fs::read_to_string(host.task_directory(&arn).join("logs/c.log")).unwrap();
    assert!(file.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}
