//! Each namespace, looked into from inside, and ids within the user namespace.

use std::fs;

use proto::v1::ExecuteCommandStart;
use serde_json::json;
use system_tests::TestHost;

use super::running;

#[test]
fn every_namespace_is_another_than_the_hosts() {
    let host = TestHost::start();
    let arn = running(&host, json!({}), json!({ "networkMode": "bridge" }));
    for kind in ["pid", "mnt", "uts", "ipc", "net", "cgroup", "user"] {
        let of_host = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
        let inside = host.inside(&arn, "c", &format!("readlink /proc/1/ns/{kind}"));
        assert!(inside.starts_with(kind), "{inside}");
        assert_ne!(inside.trim(), of_host, "{kind}");
        // A command enters all of them.
        assert_eq!(host.inside(&arn, "c", &format!("readlink /proc/self/ns/{kind}")), inside, "{kind} of a command");
    }
}

#[test]
fn the_hosts_processes_files_and_name_are_out_of_sight() {
    let host = TestHost::start();
    let arn = running(&host, json!({}), json!({}));
    let pids = host.inside(&arn, "c", "ls /proc | grep -c '^[0-9]'");
    assert!(pids.trim().parse::<u32>().unwrap() < 8, "{pids} processes are seen");
    assert_eq!(host.inside(&arn, "c", "cat /proc/1/comm").trim(), "sh");
    let marker = host.scratch().join("marker");
    fs::File::create(&marker).unwrap();
    assert_eq!(
        host.inside(&arn, "c", &format!("ls {} /proc/1/root{0} 2>/dev/null | wc -l", marker.display())).trim(),
        "0"
    );
    let top = host.inside(&arn, "c", "ls /");
    assert!(!top.contains("boot") && !top.contains("work") && top.contains("of-app"), "{top}");
    let name = host.inside(&arn, "c", "hostname");
    assert_ne!(name.trim(), nix::unistd::gethostname().unwrap().to_string_lossy());
    assert!(system_tests::host::id(&arn).starts_with(name.trim()), "{name}");
    assert_eq!(
        host.inside(&arn, "c", "cat /proc/1/cgroup | cut -d: -f3 | sort -u").trim(),
        "/",
        "its cgroup is the root"
    );
}

#[test]
fn root_inside_is_nobody_of_importance_outside() {
    let host = TestHost::start();
    let first = running(&host, json!({}), json!({}));
    let second = running(&host, json!({}), json!({}));
    let map = |arn: &str, file: &str| -> Vec<u64> {
        let text = host.inside(arn, "c", &format!("cat /proc/self/{file}"));
        assert_eq!(text.lines().count(), 1, "{text}");
        text.split_whitespace().map(|number| number.parse().unwrap()).collect()
    };
    for file in ["uid_map", "gid_map"] {
        let (one, two) = (map(&first, file), map(&second, file));
        assert_eq!((one[0], one[2]), (0, 65536));
        assert!(one[1] >= 100_000, "{one:?}");
        assert!(one[1].abs_diff(two[1]) >= 65536, "two tasks share ids: {one:?} {two:?}");
    }
    let record = fs::read_to_string(host.bundle(&first, "c").join("monitor.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", record["init"]["pid"])).unwrap();
    assert_eq!(super::status(&status, "Uid").split_whitespace().next().unwrap(), map(&first, "uid_map")[1].to_string());
}

#[test]
fn ids_of_the_image_are_what_they_are_inside() {
    let host = TestHost::start();
    let arn = running(&host, json!({}), json!({}));
    assert_eq!(host.inside(&arn, "c", "id -u; id -g"), "0\n0\n");
    let owners = "stat -c '%n %u %g %a' /etc/passwd /of-app /of-last /bin/su /tmp";
    let wanted =
        "/etc/passwd 0 0 644\n/of-app 1000 1000 644\n/of-last 65535 65535 644\n/bin/su 0 0 4755\n/tmp 0 0 1777\n";
    assert_eq!(host.inside(&arn, "c", owners), wanted);
    assert_eq!(host.inside(&arn, "c", "touch /new && chown 65535:1000 /new && stat -c '%u %g' /new"), "65535 1000\n");
}

#[test]
fn setuid_programs_work() {
    let host = TestHost::start();
    let arn = running(&host, json!({ "user": "app" }), json!({}));
    assert_eq!(host.inside(&arn, "c", "id -u"), "1000\n");
    let start = ExecuteCommandStart {
        task: Some(arn),
        command: ["/bin/su", "root", "-c", "id -u; id -g"].map(str::to_owned).to_vec(),
        ..ExecuteCommandStart::default()
    };
    let done = host.exec(start, Some("")).unwrap();
    assert_eq!((done.stdout.as_str(), done.exit_code), ("0\n0\n", Some(0)), "{done:?}");
}

#[test]
fn a_privileged_task_has_no_user_namespace_and_says_so() {
    let host = TestHost::start();
    let arn = running(&host, json!({ "privileged": true }), json!({}));
    let told = host.describe(&arn).attributes;
    let value =
        told.iter().find(|attribute| attribute.name() == "neargate.user-namespace").map(|a| a.value().to_owned());
    assert_eq!(value.as_deref(), Some("off:privileged"));
    let of_host = fs::read_link("/proc/self/ns/user").unwrap().display().to_string();
    assert_eq!(host.inside(&arn, "c", "readlink /proc/self/ns/user").trim(), of_host);
    let status = host.inside(&arn, "c", "cat /proc/self/status");
    let own = fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(super::status(&status, "CapEff"), super::status(&own, "CapEff"));
    assert_eq!(super::status(&status, "Seccomp"), "0");
}

#[test]
fn a_task_in_a_user_namespace_has_no_such_attribute() {
    let host = TestHost::start();
    let arn = running(&host, json!({}), json!({}));
    assert!(host.describe(&arn).attributes.iter().all(|attribute| attribute.name() != "neargate.user-namespace"));
}
