//! What is read from `linux.namespaces`. That they are the container's own is looked at from inside, in `tests/oci`.

use serde_json::{Value, json};

use super::*;

fn open_all(linux: Value) -> Result<Namespaces, Failure> {
    Namespaces::open(&serde_json::from_value(linux).unwrap())
}

/// A mount namespace and those of the kinds given, new or joined.
fn opened(namespaces: &[(&str, Option<&str>)]) -> Result<Namespaces, Failure> {
    let mut list = vec![json!({ "type": "mount" })];
    list.extend(namespaces.iter().map(|(kind, path)| match path {
        Some(path) => json!({ "type": kind, "path": path }),
        None => json!({ "type": kind }),
    }));
    let map = json!([{ "containerID": 0, "hostID": 1000, "size": 1 }]);
    open_all(json!({ "namespaces": list, "uidMappings": map, "gidMappings": map }))
}

#[test]
fn new_ones_are_made_by_clone() {
    for (kind, flag) in [
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("user", CloneFlags::CLONE_NEWUSER),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("network", CloneFlags::CLONE_NEWNET),
        ("time", TIME),
    ] {
        let namespaces = opened(&[(kind, None)]).unwrap();
        let mounts = u64::from(CloneFlags::CLONE_NEWNS.bits().unsigned_abs());
        assert_eq!(namespaces.new, mounts | u64::from(flag.bits().unsigned_abs()), "{kind}");
        assert!(namespaces.makes(flag) && namespaces.owns(flag) && !namespaces.needs_helper(), "{kind}");
        assert!(namespaces.makes(CloneFlags::CLONE_NEWNS) && !namespaces.new_cgroup, "{kind}");
        assert_eq!(namespaces.has_user(), kind == "user");
        assert_eq!(namespaces.owns_uts(), kind == "uts");
        let others = KINDS.iter().filter(|(_, other)| ![flag, CloneFlags::CLONE_NEWNS].contains(other));
        others.for_each(|(other, flag)| assert!(!namespaces.makes(*flag) && !namespaces.owns(*flag), "{kind} {other}"));
    }
    // By init itself.
    let cgroup = opened(&[("cgroup", None)]).unwrap();
    assert!(cgroup.new_cgroup && !cgroup.makes(CloneFlags::CLONE_NEWCGROUP));
}

#[test]
fn joined_ones_are_its_own_and_need_a_helper() {
    for (kind, name) in [("uts", "uts"), ("ipc", "ipc"), ("network", "net"), ("cgroup", "cgroup"), ("pid", "pid")] {
        let namespaces = opened(&[(kind, Some(&format!("/proc/self/ns/{name}")))]).unwrap();
        let (_, flag) = KINDS.iter().find(|(known, _)| *known == name).unwrap();
        assert!(namespaces.owns(*flag) && !namespaces.makes(*flag) && namespaces.needs_helper(), "{kind}");
        assert!(!namespaces.has_user() && !namespaces.new_cgroup, "{kind}");
        assert_eq!(namespaces.owns_uts(), kind == "uts");
    }
    // As runc takes it: no path at all.
    assert!(opened(&[("uts", Some(""))]).unwrap().makes(CloneFlags::CLONE_NEWUTS));
    assert_eq!(opened(&[("uts", Some("/nowhere"))]).unwrap_err().step, Step::OpenNamespace);
}

#[test]
fn user_namespace_is_joined_last() {
    let own = |name: &str| format!("/proc/self/ns/{name}");
    let (user, net) = (own("user"), own("net"));
    let namespaces = opened(&[("user", Some(&user)), ("network", Some(&net))]).unwrap();
    assert_eq!(namespaces.join.last().unwrap().kind, CloneFlags::CLONE_NEWUSER);
    assert!(namespaces.has_user() && namespaces.needs_helper());
}

#[test]
fn the_hosts_mount_namespace_is_refused() {
    let host = open_all(json!({ "namespaces": [{ "type": "pid" }] })).unwrap_err();
    assert_eq!((host.step, host.errno), (Step::NewNamespace, Errno::ENOTSUP));
    let joined = open_all(json!({ "namespaces": [{ "type": "mount", "path": "/proc/self/ns/mnt" }] })).unwrap_err();
    assert_eq!((joined.step, joined.errno), (Step::JoinNamespace, Errno::ENOTSUP));
}

#[test]
fn one_of_a_kind() {
    for kind in ["mount", "uts", "time"] {
        let twice = opened(&[(kind, None), (kind, None)]).unwrap_err();
        assert_eq!((twice.step, twice.errno), (Step::NewNamespace, Errno::EINVAL), "{kind}");
    }
}

#[test]
fn ids_of_a_new_user_namespace_are_mapped_both() {
    let map = json!([{ "containerID": 0, "hostID": 1000, "size": 1 }]);
    let namespaces = json!([{ "type": "mount" }, { "type": "user" }]);
    for (uid, gid) in [(json!([]), map.clone()), (map, json!([]))] {
        let linux = json!({ "namespaces": namespaces, "uidMappings": uid, "gidMappings": gid });
        assert_eq!(open_all(linux).unwrap_err().step, Step::MapIds);
    }
}

#[test]
fn clocks_are_set_in_a_new_time_namespace_alone() {
    let with = |kinds: &[&str], offsets: Value| {
        let namespaces: Vec<Value> = kinds.iter().map(|kind| json!({ "type": kind })).collect();
        open_all(json!({ "namespaces": namespaces, "timeOffsets": offsets }))
    };
    let hour = json!({ "monotonic": { "secs": 3600, "nanosecs": 5 } });
    let set = with(&["mount", "time"], hour.clone()).unwrap();
    assert_eq!(set.time_offsets.as_deref(), Some("monotonic 3600 5\n"));
    // Made by the helper: the next process is the first in it.
    assert!(set.needs_helper() && !set.makes(TIME));
    let unset = with(&["mount", "time"], json!({})).unwrap();
    assert!(!unset.needs_helper() && unset.makes(TIME));
    assert_eq!(with(&["mount"], hour).unwrap_err().step, Step::TimeOffsets);
    assert_eq!(with(&["mount", "time"], json!({ "realtime": { "secs": 1 } })).unwrap_err().step, Step::TimeOffsets);
}
