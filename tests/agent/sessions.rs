//! Sessions of exec and attach when the agent, the container or a client does its worst.

use std::time::Duration;

use proto::v1::{AttachTaskRequest, AttachTaskStart, ExecuteCommandStart};
use serde_json::{Value, json};
use system_tests::cli::Cli;
use system_tests::definition::{shell, task, with};
use system_tests::{TestHost, eventually};
use tokio_stream::wrappers::ReceiverStream;

const PATIENCE: Duration = Duration::from_secs(60);
/// Sessions that a container has at most.
const MOST: usize = 64;

fn run(host: &TestHost, script: &str, more: Value) -> String {
    let arn = host.run(&task("sessions", &[with(shell("c", &host.image("base"), script), more)]));
    host.running(&arn);
    arn
}

fn idle(host: &TestHost) -> String {
    run(host, "while :; do sleep 1; done", json!({}))
}

#[test]
fn an_idle_session_survives_every_restart_of_the_agent() {
    let mut host = TestHost::start();
    let arn = idle(&host);
    let mut cli = Cli::terminal(&host, &["exec", "-it", &arn, "sh"], 24, 80);
    cli.write(b"n=0; echo ready$((1+1))\n");
    cli.shows("ready2");
    host.kill9();
    host.restart();
    cli.write(b"n=$((n+1)); echo killed$n\n");
    cli.shows("killed1");
    host.terminate();
    // Typed while nobody is there.
    cli.write(b"n=$((n+1)); echo stopped$n; stty size\n");
    cli.resize(33, 99);
    host.restart();
    cli.shows("stopped2");
    eventually("the size has come", PATIENCE, || {
        cli.write(b"stty size\n");
        cli.output().contains("33 99").then_some(())
    });
    host.kill9();
    cli.write(b"exit 9\n");
    host.restart();
    assert_eq!(cli.exit_code(), 9, "{}", cli.output());
}

#[test]
fn no_byte_is_lost_or_doubled_when_the_agent_dies_in_the_middle() {
    let mut host = TestHost::start();
    let arn = idle(&host);
    let bytes: Vec<u8> = (0..12_u32 << 20).map(|number| (number.wrapping_mul(2_246_822_519) >> 24) as u8).collect();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut both = Cli::piped(&host, &["exec", "-i", &arn, "sh", "-c", "cat; exit 5"]);
    let script = "n=0; while [ $n -lt 30000 ]; do n=$((n+1)); echo line $n; done; echo end >&2; exit 4";
    let lines = Cli::piped(&host, &["exec", &arn, "sh", "-c", script]);
    both.feed(first.to_vec(), false);
    both.has_written(1 << 20);
    host.kill9();
    host.restart();
    both.has_written(first.len());
    both.feed(second.to_vec(), true);
    both.has_written(first.len() + (1 << 20));
    host.kill9();
    host.restart();
    let (code, back) = both.finish();
    assert_eq!((code, back.len()), (5, bytes.len()), "{}", both.errors());
    assert!(back == bytes, "other bytes came back");
    let mut lines = lines;
    let (code, text) = lines.finish();
    let wanted: String = (1..=30_000).map(|number| format!("line {number}\n")).collect();
    assert!(text == wanted.as_bytes(), "{} of {} bytes", text.len(), wanted.len());
    assert_eq!((code, lines.errors().as_str()), (4, "end\n"));
}

#[test]
fn the_end_of_a_command_is_kept_for_a_client_that_comes_back() {
    let mut host = TestHost::start();
    let arn = idle(&host);
    let script = "echo ready; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo last words; exit 8";
    let mut cli = Cli::piped(&host, &["exec", &arn, "sh", "-c", script]);
    cli.shows("ready");
    let begun = host.inside(&arn, "c", "(sleep 1; touch /tmp/go) >/dev/null 2>&1 & echo begun");
    assert_eq!(begun, "begun\n");
    host.kill9();
    // It ends meanwhile, or not: its client is told all the same.
    std::thread::sleep(Duration::from_secs(2));
    host.restart();
    assert_eq!(cli.finish(), (8, b"ready\nlast words\n".to_vec()), "{}", cli.errors());
}

#[test]
fn twenty_at_once() {
    let mut host = TestHost::start();
    let arn = run(&host, "while :; do sleep 1; done", json!({ "memory": 128 }));
    let mut clients: Vec<Cli> = (0..20).map(|_| Cli::piped(&host, &["exec", "-i", &arn, "cat"])).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.write(format!("first {number}\n").as_bytes());
        client.shows(&format!("first {number}\n"));
    }
    host.kill9();
    host.restart();
    for (number, client) in clients.iter_mut().enumerate() {
        client.write(format!("second {number}\n").as_bytes());
        client.close();
        let wanted = format!("first {number}\nsecond {number}\n");
        assert_eq!(client.finish(), (0, wanted.into_bytes()));
    }
}

#[test]
fn sessions_end_with_their_container() {
    let host = TestHost::start();
    let script = "while [ ! -e /tmp/stop ]; do echo tick; sleep 0.05; done; echo farewell; exit 6";
    let arn = run(&host, script, json!({}));
    let mut exec = Cli::piped(&host, &["exec", "-i", &arn, "sh", "-c", "echo ready; exec sleep 1000"]);
    let mut terminal = Cli::terminal(&host, &["exec", "-it", &arn, "sh"], 24, 80);
    let mut attached = Cli::piped(&host, &["attach", &arn]);
    exec.shows("ready");
    attached.shows("tick");
    terminal.write(b"touch /tmp/stop\n");
    assert_eq!((exec.exit_code(), terminal.exit_code()), (137, 137), "{}", exec.errors());
    let (code, text) = attached.finish();
    assert!(code == 6 && text.ends_with(b"farewell\n"), "{code} {}", String::from_utf8_lossy(&text));
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(6));
}

#[test]
fn a_container_has_so_many_sessions_and_no_more() {
    let host = TestHost::start();
    let arn = idle(&host);
    let start = AttachTaskStart { task: Some(arn.clone()), ..AttachTaskStart::default() };
    let mut client = host.wait(async { host.tasks().await }).unwrap();
    let mut attach = || {
        let request = AttachTaskRequest { start: Some(start.clone()), ..AttachTaskRequest::default() };
        let (requests, outgoing) = tokio::sync::mpsc::channel(1);
        host.wait(async {
            requests.send(request).await.unwrap();
            let answers = client.attach_task(ReceiverStream::new(outgoing)).await?;
            Ok::<_, tonic::Status>((requests, answers))
        })
    };
    let mut attached: Vec<_> = (0..MOST).map(|_| attach().unwrap()).collect();
    let refused = attach().unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(refused.message().contains("64 sessions"), "{}", refused.message());
    let exec = || {
        let command = vec!["true".to_owned()];
        host.exec(ExecuteCommandStart { task: Some(arn.clone()), command, ..ExecuteCommandStart::default() }, None)
    };
    assert_eq!(exec().unwrap_err().code(), tonic::Code::ResourceExhausted);
    attached.pop();
    eventually("there is room for another", PATIENCE, || exec().is_ok().then_some(()));
}

#[test]
fn a_shell_that_the_container_has_replaced_harms_nobody() {
    let host = TestHost::start();
    let runtime = system_tests::binaries::built("neargate-runtime");
    let before = std::fs::metadata(&runtime).map(|file| (file.len(), file.modified().unwrap())).unwrap();
    let script = "ln -s /proc/self/exe /tmp/own; echo '#!/tmp/own' > /tmp/script; mkdir /tmp/directory; \
                  head -c 4096 /dev/zero > /tmp/zeros; echo '#!/no/such' > /tmp/nowhere; ln -s loop /tmp/loop; \
                  mkfifo /tmp/fifo; chmod 755 /tmp/*; cp /bin/busybox /tmp/busybox; echo ready; \
                  while :; do sleep 1; done";
    let arn = run(&host, script, json!({}));
    eventually("it has prepared", PATIENCE, || host.logs(&arn, "c").contains("ready").then_some(()));
    for shell in ["own", "script", "directory", "zeros", "nowhere", "loop", "fifo"] {
        let mut cli = Cli::piped(&host, &["exec", "-i", &arn, &format!("/tmp/{shell}")]);
        cli.close();
        assert_ne!(cli.exit_code(), 0, "{shell}");
    }
    let after = std::fs::metadata(&runtime).map(|file| (file.len(), file.modified().unwrap())).unwrap();
    assert_eq!(before, after, "the runtime's own file");
    assert_eq!(host.inside(&arn, "c", "exec /tmp/busybox echo on"), "on\n");
}

#[test]
fn what_floods_costs_its_monitor_no_memory() {
    let host = TestHost::start();
    let script = "read word; exec yes $(head -c 4000 /dev/zero | tr '\\0' x)";
    let arn = run(&host, script, json!({ "memory": 16, "interactive": true }));
    let mut attached = Cli::unread(&host, &["attach", &arn]);
    let floods: Vec<Cli> = (0..3).map(|_| Cli::unread(&host, &["exec", &arn, "yes", "a command"])).collect();
    attached.write(b"go\n");
    // Of log files of ten megabytes the third.
    let third = host.task_directory(&arn).join("logs/c.log.2");
    eventually("the container floods", PATIENCE, || third.exists().then_some(()));
    let record = std::fs::read(host.bundle(&arn, "c").join("monitor.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", record["monitor"]["pid"])).unwrap();
    let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kibibytes: u64 = own.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kibibytes < 8 << 10, "the monitor has {kibibytes} KiB of its own");
    drop((attached, floods));
    assert_eq!(host.inside(&arn, "c", "echo still here"), "still here\n");
}
