//! pause, resume, update, ps, events: a container that runs is changed and watched. features and spec, which need none.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{TestBundle, eventually};

const COUNTS: &str = "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.01; done";

fn running(script: &str) -> TestBundle {
    let mut bundle = TestBundle::new(script);
    bundle.config["linux"]["resources"] = json!({"memory": {"limit": 64 << 20, "swap": 64 << 20}});
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    bundle
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    let bundle = running(COUNTS);
    let count = || std::fs::read_to_string(bundle.rootfs().join("count")).unwrap_or_default();
    eventually("it counts", || count().trim().parse::<u32>().is_ok_and(|count| count > 1));
    assert!(bundle.fails(&["resume", &bundle.id]).contains("is running"));
    bundle.ok(&["pause", &bundle.id]);
    assert_eq!(bundle.state()["status"], "paused");
    assert!(bundle.ok(&["list"]).contains(" paused "));
    assert!(bundle.fails(&["pause", &bundle.id]).contains("is paused"));
    assert!(bundle.fails(&["exec", &bundle.id, "true"]).contains("is paused"));
    let before = count();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(count(), before);
    bundle.ok(&["resume", &bundle.id]);
    assert_eq!(bundle.state()["status"], "running");
    eventually("it counts again", || count() != before);
}

#[test]
fn a_paused_container_can_be_killed_and_deleted() {
    for end in [["kill", "ID", "KILL"].as_slice(), &["kill", "--all", "ID", "KILL"], &["delete", "--force", "ID"]] {
        let bundle = running("sleep 600");
        bundle.ok(&["pause", &bundle.id]);
        assert!(bundle.fails(&["delete", &bundle.id]).contains("does not allow to delete"));
        let words: Vec<&str> = end.iter().map(|word| if *word == "ID" { bundle.id.as_str() } else { word }).collect();
        bundle.ok(&words);
        if end[0] == "kill" {
            eventually("it ends", || bundle.state()["status"] == "stopped");
            bundle.ok(&["delete", &bundle.id]);
        }
        assert!(bundle.cgroups().is_empty());
    }
}

#[test]
fn limits_are_changed_while_it_runs() {
    let bundle = running("sleep 600");
    let stats = || -> Value {
        let line = bundle.ok(&["events", "--stats", &bundle.id]);
        serde_json::from_str::<Value>(&line).unwrap()["data"].clone()
    };
    bundle.ok(&["update", "--memory", "128m", "--memory-swap", "128m", "--pids-limit", "7", &bundle.id]);
    assert_eq!((&stats()["memory"]["usage"]["limit"], &stats()["pids"]["limit"]), (&json!(128 << 20), &json!(7)));
    let file = bundle.path().join("resources.json");
    let wanted = json!({"memory": {"limit": 32 << 20, "swap": 32 << 20}, "cpu": {"quota": 20_000, "period": 100_000}});
    bundle.write("resources.json", &wanted);
    bundle.ok(&["update", "--resources", file.to_str().unwrap(), "--pids-limit", "9", &bundle.id]);
    assert_eq!((&stats()["memory"]["usage"]["limit"], &stats()["pids"]["limit"]), (&json!(32 << 20), &json!(9)));
    let quota = bundle.cgroups().iter().find_map(|group| {
        ["cpu.cfs_quota_us", "cpu.max"].iter().find_map(|name| std::fs::read_to_string(group.join(name)).ok())
    });
    assert!(quota.unwrap().starts_with("20000"));
    assert!(bundle.fails(&["update", &bundle.id]).contains("neither a limit nor --resources"));
    bundle.write("resources.json", &json!({"memory": {"limit": "much"}}));
    assert!(bundle.fails(&["update", "-r", file.to_str().unwrap(), &bundle.id]).contains("resources.json"));
    bundle.write("resources.json", &json!({"unified": {"memory.high": "1"}}));
    assert!(bundle.fails(&["update", "-r", file.to_str().unwrap(), &bundle.id]).contains("unified"));
    bundle.write("resources.json", &json!({"cpu": []}));
    let refused = bundle.fails(&["update", "-r", file.to_str().unwrap(), "--cpu-share", "5", &bundle.id]);
    assert!(refused.contains("resources.json"), "{refused}");
}

#[test]
fn its_processes_are_listed() {
    let bundle = running("sleep 601 & sleep 602 & wait");
    let pids = || serde_json::from_str::<Vec<i64>>(&bundle.ok(&["ps", "-f", "json", &bundle.id])).unwrap();
    eventually("three processes", || pids().len() == 3);
    assert!(pids().contains(&bundle.state()["pid"].as_i64().unwrap()));
    let table = bundle.ok(&["ps", &bundle.id]);
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.contains("sleep 601") && table.contains("sleep 602"), "{table}");
    let table = bundle.ok(&["ps", &bundle.id, "-o", "pid,comm", "-e"]);
    assert_eq!(table.lines().count(), 4, "{table}");
}

#[test]
fn events_tell_statistics_and_kills_and_end_with_the_container() {
    let bundle = running("while ! [ -e /go ]; do sleep 0.01; done; dd if=/dev/zero of=/dev/null bs=200M count=1");
    let mut events = bundle.runtime(&["events", "--interval", "50ms", &bundle.id]);
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(events.stdout.take().unwrap());
    let mut text = String::new();
    for _ in 0..2 {
        told.read_line(&mut text).unwrap();
    }
    std::fs::File::create(bundle.rootfs().join("go")).unwrap();
    told.read_to_string(&mut text).unwrap();
    assert!(events.wait().unwrap().success());
    let kinds: Vec<Value> =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].clone()).collect();
    assert!(kinds.iter().filter(|kind| *kind == "stats").count() > 1, "{text}");
    assert!(kinds.iter().any(|kind| kind == "oom"), "{text}");
    assert!(bundle.fails(&["events", &bundle.id]).contains("is stopped"));
}

#[test]
fn a_written_spec_runs() {
    let bundle = TestBundle::new("");
    let path = bundle.path().to_str().unwrap().to_owned();
    bundle.ok(&["spec", "--bundle", &path]);
    assert!(bundle.fails(&["spec", "--bundle", &path]).contains("exists already"));
    let mut config: Value =
        serde_json::from_str(&std::fs::read_to_string(bundle.path().join("config.json")).unwrap()).unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] =
        json!(["sh", "-c", "id -u; hostname; ls /proc/self/fd | wc -l; touch /x || echo read-only"]);
    config["process"]["env"] = json!(["PATH=/bin"]);
    bundle.write("config.json", &config);
    let output = bundle.runtime(&["run", "--bundle", &path, &bundle.id]).stderr(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "0\nneargate\n4\nread-only\n");
}

#[test]
fn features_are_what_callers_look_for() {
    let bundle = TestBundle::new("");
    let features: Value = serde_json::from_str(&bundle.ok(&["features"])).unwrap();
    let has = |list: &Value, word: &str| list.as_array().unwrap().iter().any(|item| item == word);
    assert!(has(&features["hooks"], "createContainer") && has(&features["mountOptions"], "rro"));
    let linux = &features["linux"];
    assert!(has(&linux["namespaces"], "network") && has(&linux["capabilities"], "CAP_SYS_ADMIN"));
    let seccomp = &linux["seccomp"];
    assert!(has(&seccomp["actions"], "SCMP_ACT_NOTIFY") && has(&seccomp["archs"], "SCMP_ARCH_X86"));
    assert!(!has(&seccomp["archs"], "SCMP_ARCH_S390X"), "no byte order but the host's");
    assert_eq!(linux["mountExtensions"]["idmap"]["enabled"], true);
    // As callers that know the schema read it.
    serde_json::from_value::<oci_spec::runtime::Features>(features).unwrap();
    let version = Command::new(env!("CARGO_BIN_EXE_neargate-runtime")).arg("--version").output().unwrap();
    assert!(String::from_utf8(version.stdout).unwrap().contains("spec: 1.2.0"));
}
