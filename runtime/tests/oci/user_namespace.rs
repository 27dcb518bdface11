//! Containers whose root is nobody on the host: id maps, id-mapped layers and volumes, pinned namespaces.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;

use serde_json::json;

use crate::harness::TestBundle;

const BASE: u32 = 730_000;

#[test]
fn ids_are_mapped_and_layers_keep_theirs() {
    let mut bundle = TestBundle::new(
        "cat /proc/self/uid_map; cat /top; stat -c %u:%g /etc/passwd /vol/file; touch /new /vol/new; echo x >> /etc/passwd; \
         stat -c %u:%g:%a /bin/set",
    )
    .with_user_namespace(BASE);
    let layer = bundle.path().join("layer");
    fs::create_dir_all(layer.join("bin")).unwrap();
    fs::copy("/bin/busybox", layer.join("top")).unwrap();
    fs::File::create(layer.join("top")).unwrap();
    fs::copy("/bin/busybox", layer.join("bin/set")).unwrap();
    fs::set_permissions(layer.join("bin/set"), fs::Permissions::from_mode(0o4755)).unwrap();
    let volume = bundle.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::File::create(volume.join("file")).unwrap();
    chown(volume.join("file"), Some(33), Some(44)).unwrap();
    bundle.overlay(&[layer], true);
    bundle.mount(json!({"destination": "/vol", "type": "bind", "source": volume, "options": ["rbind", "idmap"]}));
    let text = bundle.run_ok();
    let words: Vec<_> = text.split_whitespace().collect();
    assert_eq!(words, ["0", &BASE.to_string(), "65536", "0:0", "33:44", "0:0:4755"]);
    let owner = |path: PathBuf| fs::metadata(path).unwrap().uid();
    assert_eq!(owner(bundle.path().join("rw/upper/new")), 0);
    assert_eq!(owner(bundle.path().join("rw/upper/etc/passwd")), 0);
    assert_eq!(owner(volume.join("new")), 0);
}

#[test]
fn a_setuid_program_gains_the_containers_root_only() {
    // Not busybox, which gives a setuid root away by itself.
    let mut bundle = TestBundle::new("id -u; /suid/cat /proc/self/status").with_user_namespace(BASE);
    bundle.config["process"]["user"] = json!({"uid": 33, "gid": 44});
    let program = bundle.rootfs().join("suid/cat");
    fs::create_dir_all(bundle.rootfs().join("suid")).unwrap();
    fs::copy("/usr/bin/cat", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    for name in ["lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), bundle.rootfs().join(name)).unwrap();
    }
    bundle.mount(json!({"destination": "/usr", "type": "bind", "source": "/usr", "options": ["bind", "ro"]}));
    bundle.overlay(&[], true);
    let text = bundle.run_ok();
    assert!(text.starts_with("33\n"), "{text}");
    assert!(text.contains("Uid:\t33\t0\t0\t0"), "{text}");
}

#[test]
fn without_a_mapped_root_the_container_owns_nothing() {
    let bundle = TestBundle::new("touch /x || echo denied; cat /etc/passwd > /dev/null && echo readable")
        .with_user_namespace(BASE);
    assert_eq!(bundle.run_ok(), "denied\nreadable\n");
}

#[test]
fn sixty_four_layers_in_order() {
    let bundle = TestBundle::new("cat /name; ls / | grep -c '^f'").with_user_namespace(BASE);
    let layers: Vec<PathBuf> = (0..64)
        .map(|index| {
            let layer = bundle.path().join(format!("layer{index}"));
            fs::create_dir(&layer).unwrap();
            fs::File::create(layer.join(format!("f{index}"))).unwrap();
            let mut name = fs::File::create(layer.join("name")).unwrap();
            std::io::Write::write_all(&mut name, format!("{index}\n").as_bytes()).unwrap();
            layer
        })
        .collect();
    bundle.overlay(&layers, true);
    assert_eq!(bundle.run_ok(), "0\n64\n");
}

#[test]
fn containers_of_a_task_share_pinned_namespaces() {
    let mut bundle = TestBundle::new(
        "readlink /proc/self/ns/user; readlink /proc/self/ns/net; cat /sys/class/net/lo/flags; cat /proc/self/uid_map",
    );
    let pinned = bundle.path().join("ns");
    let base = BASE.to_string();
    bundle.ok(&[
        "namespaces",
        "create",
        "--dir",
        pinned.to_str().unwrap(),
        "--user-base",
        &base,
        "--user-size",
        "65536",
        "--net",
    ]);
    let inode = |name: &str| fs::metadata(pinned.join(name)).unwrap().ino();
    let expected = format!("user:[{}]\nnet:[{}]\n0x9\n", inode("user"), inode("net"));
    for namespace in bundle.config["linux"]["namespaces"].as_array_mut().unwrap() {
        if namespace["type"] == "network" {
            namespace["path"] = json!(pinned.join("net"));
        }
    }
    let user = json!({"type": "user", "path": pinned.join("user")});
    bundle.config["linux"]["namespaces"].as_array_mut().unwrap().push(user);
    bundle.overlay(&[], true);
    let text = bundle.run_ok();
    assert!(text.starts_with(&expected), "{text}\n{expected}");
    assert!(text.contains(&base), "{text}");
    bundle.ok(&["namespaces", "delete", "--dir", pinned.to_str().unwrap()]);
    bundle.ok(&["namespaces", "delete", "--dir", pinned.to_str().unwrap()]);
    assert!(!pinned.exists());
}

#[test]
fn explicit_mappings_of_a_mount() {
    let mut bundle = TestBundle::new("stat -c %u /vol/file");
    let volume = bundle.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::File::create(volume.join("file")).unwrap();
    let mappings = json!([{"containerID": 0, "hostID": 5000, "size": 10}]);
    bundle.mount(json!({"destination": "/vol", "type": "bind", "source": volume, "options": ["bind", "idmap"],
                        "uidMappings": mappings, "gidMappings": mappings}));
    assert_eq!(bundle.run_ok().trim(), "5000");
}
