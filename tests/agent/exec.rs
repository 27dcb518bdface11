//! `neargate exec` in real containers: terminals, users, signals, exit codes, and commands whose clients go.

use std::time::Duration;

use nix::sys::signal::Signal;
use proto::v1::{ExecuteCommandStart, KeyValuePair};
use serde_json::{Value, json};
use system_tests::cli::Cli;
use system_tests::definition::{shell, task, with};
use system_tests::eventually::stays;
use system_tests::{TestHost, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

/// A task of one container that does nothing.
fn idle(host: &TestHost, more: Value) -> String {
    let container = with(shell("c", &host.image("base"), "while :; do sleep 1; done"), more);
    let arn = host.run(&task("idle", &[container]));
    host.running(&arn);
    arn
}

fn start(arn: &str, script: &str) -> ExecuteCommandStart {
    ExecuteCommandStart {
        task: Some(arn.to_owned()),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        ..ExecuteCommandStart::default()
    }
}

#[test]
fn a_terminal_has_its_size_every_change_of_it_and_ctrl_c() {
    let host = TestHost::start();
    let arn = idle(&host, json!({}));
    let script = "trap 'stty size' WINCH; stty size; echo ready; while :; do sleep 0.05; done";
    let mut cli = Cli::terminal(&host, &["exec", "-it", &arn, "sh", "-c", script], 24, 80);
    cli.shows("24 80");
    cli.shows("ready");
    cli.resize(50, 132);
    cli.shows("50 132");
    cli.write(b"\x03");
    assert_eq!(cli.exit_code(), 130, "{}", cli.output());
    // A whole shell: a line edited and run, Ctrl-C for what runs in it, its end by Ctrl-D.
    let mut shell = Cli::terminal(&host, &["exec", "-it", &arn, "sh"], 30, 100);
    shell.write(b"echo $((20+22))\n");
    shell.shows("42");
    shell.write(b"sh -c 'echo on; sleep 1000; true'\n");
    shell.shows("\non");
    shell.write(b"\x03");
    shell.write(b"echo again$((1+1)); tty\n");
    shell.shows("again2");
    shell.shows("/dev/pts/");
    shell.write(b"(exit 3)\n\x04");
    assert_eq!(shell.exit_code(), 3, "{}", shell.output());
}

#[test]
fn any_user_any_directory_in_a_read_only_container_of_a_user() {
    let host = TestHost::start();
    // Neither enableExecuteCommand nor a task role is there, and nothing can be written.
    let arn = idle(&host, json!({ "user": "app", "readonlyRootFilesystem": true }));
    let run = |start: ExecuteCommandStart| host.exec(start, None).unwrap();
    let id = |user: Option<&str>| {
        let start = ExecuteCommandStart { user: user.map(str::to_owned), ..start(&arn, "echo $(id -u):$(id -g)") };
        run(start).stdout
    };
    assert_eq!(id(None), "1000:1000\n");
    let users =
        [("root", "0:0"), ("0", "0:0"), ("app", "1000:1000"), ("4321:1234", "4321:1234"), ("app:extra", "1000:2000")];
    for (user, ids) in users {
        assert_eq!(id(Some(user)), format!("{ids}\n"), "{user}");
    }
    let unknown = ExecuteCommandStart { user: Some("stranger".into()), ..start(&arn, "id") };
    assert!(host.exec(unknown, None).unwrap_err().message().contains("stranger"));
    let variable = KeyValuePair { name: Some("A".into()), value: Some("b c".into()) };
    let more = ExecuteCommandStart {
        working_directory: Some("/etc".into()),
        environment: vec![variable],
        ..start(&arn, "pwd; echo $A; touch /x 2>&1")
    };
    let done = run(more);
    assert!(done.stdout.starts_with("/etc\nb c\n") && done.stdout.contains("Read-only"), "{done:?}");
    let mut terminal = Cli::terminal(&host, &["exec", "-it", "-u", "nobody", &arn, "sh"], 24, 80);
    terminal.write(b"echo $(id -un)$((1+1)); exit 3\n");
    terminal.shows("nobody2");
    assert_eq!(terminal.exit_code(), 3);
}

#[test]
fn privileged_has_every_capability_of_the_host() {
    let host = TestHost::start();
    let arn = idle(&host, json!({}));
    let held = |arguments: &[&str]| {
        let arguments = [&["exec"], arguments, &[&arn, "grep", "CapEff", "/proc/self/status"]].concat();
        let mut cli = Cli::piped(&host, &arguments);
        assert_eq!(cli.finish().0, 0, "{}", cli.errors());
        let text = cli.output();
        u64::from_str_radix(text.trim_start_matches("CapEff:").trim(), 16).unwrap()
    };
    let (plain, privileged) = (held(&[]), held(&["--privileged"]));
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim();
    assert_eq!(privileged, u64::from_str_radix(own, 16).unwrap());
    assert_eq!(plain.count_ones(), 14);
}

#[test]
fn exit_codes_are_dockers_and_what_does_not_run_is_told() {
    let host = TestHost::start();
    let arn = idle(&host, json!({}));
    let exec = |arguments: &[&str]| {
        let mut cli = Cli::piped(&host, &[&["exec"], arguments].concat());
        (cli.finish().0, cli.errors())
    };
    let missing = exec(&[&arn, "no-such"]);
    assert_eq!(missing, (127, "exec: \"no-such\": executable file not found in $PATH\n".to_owned()));
    let missing = exec(&[&arn, "/no/such"]);
    assert_eq!(missing, (127, "exec: \"/no/such\": no such file or directory\n".to_owned()));
    let not_executable = exec(&[&arn, "/etc/passwd"]);
    assert_eq!(not_executable, (126, "exec: \"/etc/passwd\": permission denied\n".to_owned()));
    assert_eq!(exec(&[&arn, "sh", "-c", "exit 41"]).0, 41);
    assert_eq!(exec(&[&arn, "sh", "-c", "kill -9 $$"]).0, 137);
    let (code, told) = exec(&["-c", "other", &arn, "true"]);
    assert!(code == 1 && told.contains("has no container 'other'"), "{code} {told}");
    let (code, told) = exec(&["0123456789abcdef0123456789abcdef", "true"]);
    assert!(code == 1 && told.contains("was not found"), "{code} {told}");
    host.stop(&arn, None).unwrap();
    host.stopped(&arn);
    let (code, told) = exec(&[&arn, "true"]);
    assert!(code == 1 && told.contains("container c is not running"), "{code} {told}");
}

#[test]
fn ten_megabytes_go_through_and_come_back() {
    let host = TestHost::start();
    let arn = idle(&host, json!({}));
    let bytes: Vec<u8> = (0..10_u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut cli = Cli::piped(&host, &["exec", "-i", &arn, "sh", "-c", "cat; echo end >&2; exit 6"]);
    cli.feed(bytes.clone(), true);
    let (code, back) = cli.finish();
    assert_eq!((code, back.len(), cli.errors().as_str()), (6, bytes.len(), "end\n"));
    assert!(back == bytes, "other bytes came back");
    // Nobody reads: neargate ends with the command all the same.
    let mut cli = Cli::piped(&host, &["exec", "-i", &arn, "sh", "-c", "exit 7"]);
    cli.feed(bytes, true);
    assert_eq!(cli.exit_code(), 7);
}

#[test]
fn signals_are_passed_on_where_there_is_no_terminal() {
    let host = TestHost::start();
    let arn = idle(&host, json!({}));
    let script = "for s in INT HUP QUIT WINCH USR1; do trap \"echo got $s\" $s; done; trap 'exit 9' TERM; \
                  echo ready; while :; do sleep 0.05; done";
    let mut cli = Cli::piped(&host, &["exec", &arn, "sh", "-c", script]);
    cli.shows("ready");
    let signals = [
        (Signal::SIGINT, "INT"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGWINCH, "WINCH"),
        (Signal::SIGUSR1, "USR1"),
    ];
    for (signal, name) in signals {
        cli.signal(signal);
        cli.shows(&format!("got {name}"));
    }
    cli.signal(Signal::SIGTERM);
    assert_eq!(cli.exit_code(), 9);
}

#[test]
fn commands_end_when_their_clients_are_killed() {
    let host = TestHost::start();
    let arn = idle(&host, json!({}));
    let mut clients: Vec<Cli> = Vec::new();
    let scripts =
        [("plain", "exec sleep 4001"), ("child", "sleep 4002; true"), ("stubborn", "trap '' HUP; exec sleep 4003")];
    for (name, script) in scripts {
        let script = format!("echo ready {name}; {script}");
        clients.push(Cli::piped(&host, &["exec", "-i", &arn, "sh", "-c", &script]));
        clients.last().unwrap().shows(name);
    }
    clients.push(Cli::terminal(&host, &["exec", "-it", &arn, "sh", "-c", "echo ready; sleep 4004; true"], 24, 80));
    clients[3].shows("ready");
    // As long as the clients are there, so are the commands.
    let count = || host.inside(&arn, "c", "grep -l '^sleep.400[0-9]' /proc/[0-9]*/cmdline 2>/dev/null | wc -l");
    assert_eq!(count(), "4\n");
    for client in &clients {
        client.signal(Signal::SIGKILL);
    }
    eventually("the commands end", PATIENCE, || (count() == "0\n").then_some(()));
}

#[test]
fn a_command_waits_for_a_client_that_does_not_read() {
    let host = TestHost::start();
    let arn = idle(&host, json!({}));
    let script = "i=0; while :; do dd if=/dev/zero bs=64k count=1 2>/dev/null; i=$((i+1)); echo $i >/tmp/pieces; done";
    let cli = Cli::unread(&host, &["exec", &arn, "sh", "-c", script]);
    let pieces = || host.inside(&arn, "c", "cat /tmp/pieces 2>/dev/null || echo 0").trim().parse::<u32>().unwrap_or(0);
    let stuck = eventually("it waits", PATIENCE, || {
        let before = pieces();
        (before > 0 && stays(Duration::from_millis(300), || pieces() == before)).then_some(before)
    });
    assert!(stuck < 100, "{stuck} pieces of 64 KiB are somewhere on the way");
    drop(cli);
    assert_eq!(host.inside(&arn, "c", "echo still here"), "still here\n");
}
