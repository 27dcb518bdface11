//! What a configuration's mounts are planned as. What the kernel makes of them is looked at in `tests/oci/mounts.rs`.

use serde_json::{Value, json};

use super::*;

fn plan(mounts: Value) -> Result<Plan, Failure> {
    Plan::from_bundle(&Bundle {
        directory: "/bundle".into(),
        config: serde_json::from_value(json!({ "ociVersion": "1.2.0", "mounts": mounts })).unwrap(),
        rootfs: "/bundle/rootfs".into(),
        overlay: None,
        copy_up: vec!["/copied".into()],
    })
}

/// The only mount of a configuration, at /copied unless told otherwise.
fn planned(mut mount: Value) -> Result<PlannedMount, Failure> {
    let destination = mount["destination"].as_str().unwrap_or("/copied").to_owned();
    mount["destination"] = destination.into();
    plan(json!([mount])).map(|mut plan| plan.mounts.remove(0))
}

fn bound(mount: Value) -> BindSource {
    match planned(mount).unwrap().source {
        Source::Bind(source) => source,
        other => panic!("{other:?}"),
    }
}

fn refused(mount: Value) -> (Step, Errno) {
    let failure = planned(mount).unwrap_err();
    (failure.step, failure.errno)
}

#[test]
fn types_and_options_both_make_binds() {
    let recursive = |mount| bound(mount).recursive;
    assert!(!recursive(json!({ "type": "bind", "source": "/s" })));
    assert!(recursive(json!({ "type": "none", "source": "/s" })), "what was mounted by hand comes with it");
    assert!(!recursive(json!({ "type": "none", "source": "/s", "options": ["bind"] })));
    assert!(recursive(json!({ "type": "tmpfs", "source": "/s", "options": ["rbind"] })));
    assert_eq!(bound(json!({ "type": "bind", "source": "s" })).path, PathBuf::from("/bundle/s"));
    assert_eq!(refused(json!({ "type": "bind" })), (Step::OpenSource, Errno::EINVAL));
}

#[test]
fn a_bind_takes_no_parameters_of_a_file_system() {
    let bind = |option| json!({ "type": "bind", "source": "/s", "options": [option] });
    assert_eq!(refused(bind("size=1")), (Step::UnknownOption, Errno::EINVAL));
    assert_eq!(refused(bind("tmpcopyup")), (Step::UnknownOption, Errno::EINVAL));
}

#[test]
fn only_a_tmpfs_begins_with_what_the_image_has() {
    let copying = |kind| json!({ "type": kind, "options": ["tmpcopyup"] });
    assert!(matches!(planned(copying("tmpfs")).unwrap().source, Source::FileSystem(_)));
    for kind in ["proc", "cgroup", "cgroup2"] {
        assert_eq!(refused(copying(kind)), (Step::UnknownOption, Errno::EINVAL), "{kind}");
    }
    assert!(matches!(planned(json!({ "type": "cgroup2" })).unwrap().source, Source::Cgroup));
}

#[test]
fn ids_are_mapped_for_binds_alone() {
    let ids = |extra: Value| {
        let mut mount = json!({ "type": "bind", "source": "/s" });
        mount.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        planned(mount)
    };
    let map = json!([{ "containerID": 0, "hostID": 1000, "size": 1 }]);
    let of = |extra| match ids(extra).unwrap().source {
        Source::Bind(source) => source.ids,
        other => panic!("{other:?}"),
    };
    assert!(matches!(of(json!({})), Ids::Unmapped));
    assert!(matches!(of(json!({ "options": ["idmap"] })), Ids::Container { recursive: false }));
    assert!(matches!(of(json!({ "options": ["ridmap"] })), Ids::Container { recursive: true }));
    let both = json!({ "uidMappings": map, "gidMappings": map });
    assert!(matches!(of(both), Ids::Explicit { recursive: false, uid, gid } if (uid.len(), gid.len()) == (1, 1)));
    for half in ["uidMappings", "gidMappings"] {
        assert_eq!(ids(json!({ half: map })).unwrap_err().step, Step::MapMount);
        let no_bind = json!({ "type": "tmpfs", half: map });
        assert_eq!(refused(no_bind), (Step::MapMount, Errno::ENOTSUP));
    }
    assert_eq!(refused(json!({ "type": "tmpfs", "options": ["idmap"] })), (Step::MapMount, Errno::ENOTSUP));
}

#[test]
fn only_what_can_be_written_to_is_copied_up() {
    let copied = |destination: &str, options: &[&str]| {
        let mount = json!({ "destination": destination, "type": "bind", "source": "/s", "options": options });
        planned(mount).unwrap().copy_up
    };
    assert!(copied("/copied", &[]) && copied("/copied", &["nosuid", "rnodev"]));
    assert!(!copied("/other", &[]) && !copied("/other", &["ro"]));
    for read_only in [&["ro"][..], &["rro"], &["ro", "rro"], &["nosuid", "ro"]] {
        assert!(!copied("/copied", read_only), "{read_only:?}");
    }
}

#[test]
fn the_hosts_devices_are_known_when_they_are_bound() {
    let binds = |destination, kind| {
        let mount = json!({ "destination": destination, "type": kind, "source": "/dev" });
        plan(json!([{ "destination": "/proc", "type": "proc" }, mount])).unwrap().binds_dev()
    };
    assert!(binds("/dev", "bind") && binds("/dev/", "bind"));
    assert!(!binds("/dev", "tmpfs") && !binds("/dev/pts", "bind"));
}

#[test]
fn propagation_is_a_word_that_is_known_or_none() {
    let with = |word: &str| {
        let config = json!({ "ociVersion": "1.2.0", "linux": { "rootfsPropagation": word } });
        Plan::from_bundle(&Bundle {
            directory: "/bundle".into(),
            config: serde_json::from_value(config).unwrap(),
            rootfs: "/bundle/rootfs".into(),
            overlay: None,
            copy_up: Vec::new(),
        })
        .map(|plan| plan.propagation)
    };
    assert_eq!(with("").unwrap(), None);
    assert_eq!(with("rslave").unwrap(), Some((libc::MS_SLAVE, true)));
    assert_eq!(with("sideways").unwrap_err().step, Step::Propagation);
}
