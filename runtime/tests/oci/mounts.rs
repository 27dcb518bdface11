//! Mounts: options for one mount and for all below it, id maps, propagation, copies of what the image has.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::harness::TestBundle;

/// Options of the mount at `path`, as mountinfo shows them.
fn options<'a>(mountinfo: &'a str, path: &str) -> Vec<&'a str> {
    let line = mountinfo.lines().find(|line| line.split(' ').nth(4) == Some(path));
    line.unwrap_or_else(|| panic!("no {path} in {mountinfo}")).split(' ').nth(5).unwrap().split(',').collect()
}

#[test]
fn options_for_the_mount_and_for_all_below() {
    let mut bundle = TestBundle::new("cat /proc/self/mountinfo");
    let source = bundle.path().join("source");
    fs::create_dir_all(source.join("below")).unwrap();
    // What is mounted below, made where only the runtime sees it.
    let script = format!("mount -t tmpfs below {}/below && exec \"$@\"", source.display());
    let one = ["rbind", "ro", "nosuid", "nodev", "noexec", "noatime"];
    let all = ["rbind", "rro", "rnosuid", "rnodev", "rnoexec", "rnoatime"];
    let off = ["rbind", "rro", "rrw", "rnosuid", "rsuid", "rnoatime", "rrelatime", "rnosymfollow"];
    for (destination, options) in [("/one", json!(one)), ("/all", json!(all)), ("/off", json!(off))] {
        bundle.mount(json!({"destination": destination, "type": "bind", "source": source, "options": options}));
    }
    bundle.write("config.json", &bundle.config);
    let run = bundle.runtime(&["run", "--bundle", bundle.path().to_str().unwrap(), &bundle.id]);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script, "sh"]).arg(run.get_program()).args(run.get_args());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let has = |path: &str, words: &[&str]| words.iter().all(|word| options(&text, path).contains(word));
    let words = ["ro", "nosuid", "nodev", "noexec", "noatime"];
    assert!(has("/one", &words) && !words.iter().any(|word| has("/one/below", &[word])), "{text}");
    assert!(has("/all", &words) && has("/all/below", &words), "{text}");
    assert!(has("/off/below", &["rw", "relatime", "nosymfollow"]) && !has("/off/below", &["nosuid"]), "{text}");
}

#[test]
fn a_new_tmpfs_can_begin_with_what_the_image_has() {
    let mut bundle = TestBundle::new("cat /etc/passwd | wc -l; echo x > /etc/new && cat /etc/new");
    bundle.mount(json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    assert_eq!(bundle.run_ok(), "2\nx\n");
    assert!(!bundle.rootfs().join("etc/new").exists());
}

#[test]
fn ids_are_mapped_where_a_bind_mount_says_so_and_nowhere_else() {
    let mappings = json!([{"containerID": 0, "hostID": 5000, "size": 10}]);
    let mut bundle = TestBundle::new("touch /vol/new; stat -c %u:%g /vol/file");
    let volume = bundle.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::File::create(volume.join("file")).unwrap();
    let mut entry = json!({"destination": "/vol", "type": "bind", "source": volume, "options": ["rbind", "ridmap"],
                           "uidMappings": mappings, "gidMappings": mappings});
    bundle.mount(entry.clone());
    assert_eq!(bundle.run_ok(), "5000:5000\n");
    entry["options"] = json!(["rbind"]);
    *bundle.config["mounts"].as_array_mut().unwrap().last_mut().unwrap() = entry;
    assert_eq!(bundle.run_ok(), "5000:5000\n", "mappings alone will do");
    assert_eq!(fs::metadata(volume.join("file")).unwrap().uid(), 0);
    let refused: [(Value, &str); 4] = [
        (
            json!({"destination": "/t", "type": "tmpfs", "source": "t", "uidMappings": mappings, "gidMappings": mappings}),
            "/t",
        ),
        (json!({"destination": "/t", "type": "tmpfs", "source": "t", "options": ["idmap"]}), "/t"),
        (json!({"destination": "/t", "type": "bind", "source": "/tmp", "options": ["bind", "tmpcopyup"]}), "tmpcopyup"),
        (json!({"destination": "/t", "type": "bind", "source": "/tmp", "options": ["bind", "remount"]}), "remount"),
    ];
    for (entry, name) in refused {
        *bundle.config["mounts"].as_array_mut().unwrap().last_mut().unwrap() = entry;
        let output = bundle.run();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(name), "{name}: {text}");
    }
}

#[test]
fn propagation_of_the_root() {
    for (word, tag) in [
        ("shared", "shared:"),
        ("rshared", "shared:"),
        ("private", " / "),
        ("rprivate", " / "),
        ("unbindable", "unbindable"),
    ] {
        let mut bundle = TestBundle::new("grep ' / / \\| / rw\\| / ro' /proc/self/mountinfo");
        bundle.config["process"]["args"] = json!(["cat", "/proc/self/mountinfo"]);
        bundle.config["linux"]["rootfsPropagation"] = json!(word);
        let text = bundle.run_ok();
        let root = text.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
        assert!(root.contains(tag), "{word}: {root}");
        assert_eq!(root.contains("shared:"), word.ends_with("shared"), "{word}: {root}");
    }
}

/// What is mounted on the host later comes in, and nothing goes out.
#[test]
fn a_slave_root_follows_the_host() {
    let script = "for i in 1 2 3 4 5 6 7 8 9; do [ -e /late/here ] && break; sleep 1; done; ls /late; grep -c master: /proc/self/mountinfo";
    for word in ["slave", "rslave"] {
        let mut bundle = TestBundle::new(script);
        bundle.config["linux"]["rootfsPropagation"] = json!(word);
        let root = bundle.rootfs();
        fs::create_dir(root.join("late")).unwrap();
        let none = None::<&str>;
        // A mount of its own, shared as systemd's hosts are.
        mount(Some(&root), &root, none, MsFlags::MS_BIND, none).unwrap();
        mount(none, &root, none, MsFlags::MS_SHARED, none).unwrap();
        bundle.create();
        bundle.ok(&["start", &bundle.id]);
        mount(Some("late"), &root.join("late"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
        fs::File::create(root.join("late/here")).unwrap();
        crate::harness::eventually("it ends", || bundle.state()["status"] == "stopped");
        let text = bundle.output();
        umount2(&root.join("late"), MntFlags::MNT_DETACH).unwrap();
        umount2(&root, MntFlags::MNT_DETACH).unwrap();
        assert!(text.starts_with("here\n"), "{word}: {text}");
    }
}
