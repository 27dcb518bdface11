//! `neargate attach`: a container's own streams, shared by those who are attached.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use system_tests::cli::Cli;
use system_tests::definition::{shell, task, with};
use system_tests::{TestHost, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

fn run(host: &TestHost, script: &str, more: Value) -> String {
    let arn = host.run(&task("attached", &[with(shell("c", &host.image("base"), script), more)]));
    host.running(&arn);
    arn
}

/// Attached for sure: it has read what it typed itself, or what was asked for by `poke`.
fn attach(host: &TestHost, arn: &str, name: &str) -> Cli {
    let mut cli = Cli::piped(host, &["attach", arn]);
    cli.write(format!("hello from {name}\n").as_bytes());
    cli.shows(&format!("got hello from {name}"));
    cli
}

const ECHO: &str = "while read line; do echo \"got $line\"; done; echo end; exit 6";

#[test]
fn all_who_are_attached_see_the_output_and_are_read() {
    let host = TestHost::start();
    let arn = run(&host, ECHO, json!({ "interactive": true }));
    let mut first = attach(&host, &arn, "first");
    let mut second = attach(&host, &arn, "second");
    first.shows("got hello from second");
    let mut silent = Cli::piped(&host, &["attach", "--no-stdin", &arn]);
    silent.write(b"not read\n");
    let mut number = 0;
    eventually("the third is attached", PATIENCE, || {
        number += 1;
        first.write(format!("number {number}\n").as_bytes());
        silent.output().contains("got number").then_some(())
    });
    // The end of one client's stdin is not the end of the container's.
    first.close();
    second.write(b"last\n");
    for cli in [&first, &second, &silent] {
        cli.shows("got last");
    }
    assert!(!host.logs(&arn, "c").contains("not read"));
    host.stop(&arn, None).unwrap();
    for cli in [&mut first, &mut second, &mut silent] {
        assert_eq!(cli.exit_code(), 137, "the container's");
    }
}

#[test]
fn a_terminal_is_resized_and_left_by_its_keys() {
    let host = TestHost::start();
    let more = json!({ "interactive": true, "pseudoTerminal": true, "command": [], "entryPoint": ["/bin/sh"] });
    let arn = run(&host, "", more);
    let mut cli = Cli::terminal(&host, &["attach", &arn], 24, 80);
    cli.write(b"stty size; echo on$((1+1))\n");
    cli.shows("24 80");
    cli.shows("on2");
    cli.resize(40, 120);
    eventually("the size has come", PATIENCE, || {
        cli.write(b"stty size\n");
        cli.output().contains("40 120").then_some(())
    });
    cli.write(b"kept=yes\n\x10\x11");
    assert_eq!(cli.exit_code(), 0, "{}", cli.output());
    assert_eq!(host.describe(&arn).last_status(), "RUNNING");
    let mut again = Cli::terminal(&host, &["attach", "--detach-keys", "ctrl-x", &arn], 24, 80);
    again.write(b"echo kept=$kept\n");
    again.shows("kept=yes");
    again.write(b"\x10\x11\x18");
    assert_eq!(again.exit_code(), 0);
    // Without a terminal of one's own too.
    let mut piped = Cli::piped(&host, &["attach", &arn]);
    piped.write(b"\x03\necho piped$((1+1))\n");
    piped.shows("piped2");
    piped.write(b"exit 5\n");
    assert_eq!(piped.exit_code(), 5, "{}", piped.output());
    host.stopped(&arn);
}

#[test]
fn signals_reach_the_container_unless_told_otherwise() {
    let host = TestHost::start();
    let script = "trap 'echo usr1' USR1; trap 'exit 8' TERM; while :; do echo tick; sleep 0.05; done";
    let arn = run(&host, script, json!({}));
    let mut apart = Cli::piped(&host, &["attach", "--sig-proxy=false", &arn]);
    let mut cli = Cli::piped(&host, &["attach", &arn]);
    // Nobody reads it: the definition does not say interactive.
    cli.write(b"into the void\n");
    cli.shows("tick");
    apart.shows("tick");
    apart.signal(Signal::SIGTERM);
    assert_eq!(apart.exit_code(), 143);
    cli.signal(Signal::SIGUSR1);
    cli.shows("usr1");
    cli.signal(Signal::SIGTERM);
    assert_eq!(cli.exit_code(), 8);
    assert_eq!(host.stopped(&arn).containers[0].exit_code, Some(8));
    let mut late = Cli::piped(&host, &["attach", &arn]);
    assert_eq!(late.finish().0, 1);
    assert!(late.errors().contains("container c is not running"), "{}", late.errors());
}

#[test]
fn the_container_never_waits_for_a_slow_client() {
    let host = TestHost::start();
    let script = "while read word; do case $word in \
                  flood) dd if=/dev/zero bs=64k count=256 2>/dev/null | tr '\\0' 'x' | fold -w 100; echo flooded;; \
                  *) echo got $word;; esac; done";
    let arn = run(&host, script, json!({ "interactive": true }));
    let mut slow = Cli::unread(&host, &["attach", &arn]);
    slow.write(b"ready\n");
    eventually("the slow one is attached", PATIENCE, || host.logs(&arn, "c").contains("got ready").then_some(()));
    slow.write(b"flood\n");
    eventually("the container has written all of it", PATIENCE, || {
        host.logs(&arn, "c").contains("flooded").then_some(())
    });
    slow.read();
    slow.write(b"afterwards\n");
    slow.shows("got afterwards");
    eventually("it is told what it missed", PATIENCE, || slow.errors().contains("came too fast").then_some(()));
}

#[test]
fn who_is_attached_stays_so_over_a_restart_of_the_agent() {
    let mut host = TestHost::start();
    let script = "n=0; while read word; do n=$((n+1)); echo $n $word; done";
    let arn = run(&host, script, json!({ "interactive": true }));
    let mut cli = Cli::piped(&host, &["attach", &arn]);
    cli.write(b"a\n");
    cli.shows("1 a\n");
    host.kill9();
    cli.write(b"b\nc\n");
    host.restart();
    cli.shows("2 b\n3 c\n");
    host.terminate();
    cli.write(b"d\n");
    host.restart();
    cli.shows("4 d\n");
    assert_eq!(cli.output(), "1 a\n2 b\n3 c\n4 d\n", "a line was lost or doubled");
}
