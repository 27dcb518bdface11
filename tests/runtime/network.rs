//! Network modes, looked into from inside.

use std::fs;

use serde_json::json;
use system_tests::TestHost;
use system_tests::definition::{shell, task, with};

use super::{FOREVER, running};

fn net(host: &TestHost, arn: &str, container: &str) -> String {
    host.inside(arn, container, "readlink /proc/self/ns/net").trim().to_owned()
}

fn two(host: &TestHost, mode: &str) -> String {
    let image = host.image("base");
    let containers = [shell("one", &image, FOREVER), shell("two", &image, FOREVER)];
    let arn = host.run(&with(task("two", &containers), json!({ "networkMode": mode })));
    host.running(&arn);
    arn
}

#[test]
fn bridge_and_awsvpc_give_a_task_one_namespace_with_loopback() {
    let host = TestHost::start();
    for mode in ["bridge", "awsvpc"] {
        let arn = two(&host, mode);
        assert_eq!(net(&host, &arn, "one"), net(&host, &arn, "two"), "{mode}");
        assert_eq!(host.inside(&arn, "one", "ls /sys/class/net"), "lo\n", "{mode}");
        host.inside(&arn, "one", "echo through loopback | nc -l -p 8080 >/dev/null 2>&1 &");
        let heard = host.inside(
            &arn,
            "two",
            "for i in $(seq 50); do nc 127.0.0.1 8080 </dev/null 2>/dev/null && exit 0; sleep 0.1; done; exit 1",
        );
        assert_eq!(heard, "through loopback\n", "{mode}");
    }
}

#[test]
fn none_gives_each_container_a_namespace_of_its_own() {
    let host = TestHost::start();
    let arn = two(&host, "none");
    assert_ne!(net(&host, &arn, "one"), net(&host, &arn, "two"));
    assert_eq!(host.inside(&arn, "one", "ls /sys/class/net"), "lo\n");
    // Up, as docker has it: many a server listens on 127.0.0.1.
    let lo = host.inside(&arn, "one", "ip link show lo");
    assert!(lo.contains(",UP"), "{lo}");
}

#[test]
fn host_mode_is_the_hosts_network_and_says_what_it_costs() {
    let host = TestHost::start();
    let arn = running(&host, json!({}), json!({ "networkMode": "host" }));
    let of_host = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert_eq!(net(&host, &arn, "c"), of_host);
    let told = host.describe(&arn).attributes;
    let value =
        told.iter().find(|attribute| attribute.name() == "neargate.user-namespace").map(|a| a.value().to_owned());
    assert_eq!(value.as_deref(), Some("off:host-network"));
    let status = host.inside(&arn, "c", "cat /proc/self/status");
    assert_eq!(super::status(&status, "Seccomp"), "2", "all else stays confined");
    assert_eq!(super::status(&status, "CapEff"), "00000000a80425fb");
}

#[test]
fn a_taken_host_port_waits() {
    let host = TestHost::start();
    let image = host.image("base");
    let definition = |name: &str, script: &str| {
        let ports = json!({ "portMappings": [{ "containerPort": 47_113, "hostPort": 47_113 }] });
        with(task(name, &[with(shell("c", &image, script), ports)]), json!({ "networkMode": "host" }))
    };
    let first = host.run(&definition("first", FOREVER));
    host.running(&first);
    let second = host.run(&definition("second", "exit 0"));
    let waits = || ["PROVISIONING", "PENDING"].contains(&host.describe(&second).last_status());
    assert!(system_tests::eventually::stays(std::time::Duration::from_millis(300), waits));
    host.stop(&first, None).unwrap();
    assert_eq!(host.stopped(&second).containers[0].exit_code, Some(0));
}
