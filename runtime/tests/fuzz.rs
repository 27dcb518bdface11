//! Damaged bundles, states, records and frames by the thousand: whatever they say, reading them ends in a value or an error.
//! `FUZZ_SECONDS` says for how long (default 2), `SEED` with what; a failure prints the seed.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic there is the report")]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use runtime::bundle::Bundle;
use runtime::capabilities::{self, CapabilitySets};
use runtime::container;
use runtime::monitor::protocol::{self, EXIT_FILE, ExitRecord, Kind, MAX_PAYLOAD};
use runtime::seccomp;

/// xorshift64*, enough to choose with and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(value).unwrap() % bound.max(1)
    }

    /// Bytes of `text` with a few of them cut, repeated or changed.
    fn damage(&mut self, text: &[u8]) -> Vec<u8> {
        let mut bytes = text.to_vec();
        for _ in 0..self.below(6) {
            let at = self.below(bytes.len());
            match self.below(3) {
                0 => drop(bytes.drain(at..(at + self.below(30)).min(bytes.len()))),
                1 => {
                    let piece = bytes[at..(at + self.below(30)).min(bytes.len())].to_vec();
                    let to = self.below(bytes.len());
                    drop(bytes.splice(to..to, piece));
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = u8::try_from(self.below(256)).unwrap();
                    }
                }
            }
        }
        bytes
    }
}

fn put(directory: &Path, name: &str, bytes: &[u8]) {
    File::create(directory.join(name)).unwrap().write_all(bytes).unwrap();
}

fn sound_config() -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs", "readonly": true },
        "process": { "args": ["/bin/true"], "cwd": "/", "user": { "uid": 0, "gid": 0, "username": "nobody:nogroup" },
                     "capabilities": { "bounding": ["CAP_CHOWN"], "effective": ["CAP_KILL"] },
                     "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 2 }] },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "idmap"] }],
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "user", "path": "/ns/user" }], "cgroupsPath": "/a/b",
                   "resources": { "memory": { "limit": 1 }, "cpu": { "shares": 2, "quota": -1 } },
                   "maskedPaths": ["/proc/kcore"], "seccomp": seccomp::default_profile(&capabilities::DEFAULT) },
    }))
    .unwrap()
}

#[test]
fn damaged_input_ends_in_a_value_or_an_error() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = number("SEED", clock.as_secs());
    println!("SEED={seed}");
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let directory = tempfile::tempdir().unwrap();
    let config = sound_config();
    let rootfs = br#"{"format":1,"overlay":{"lower":["/a","/b"],"upper":"/u","work":"/w","idMap":true}}"#;
    let exit =
        br#"{"format":1,"exitCode":0,"signal":null,"oomKilled":false,"startedAt":1.5,"finishedAt":2.5,"error":null}"#;
    let state = br#"{"format":1,"id":"c","bundle":"/b","cgroup":"/a/b","createdAt":1.5,"status":"running",
        "init":{"pid":1,"startTime":2},"startedAt":2.5,"annotations":{"a":"b"}}"#;
    let states = directory.path().join("states");
    std::fs::create_dir_all(states.join("c")).unwrap();
    let end = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS", 2));
    let (mut rounds, mut loaded, mut listed) = (0_u64, 0_u64, 0_u64);
    while Instant::now() < end {
        rounds += 1;
        put(directory.path(), "config.json", &random.damage(&config));
        put(directory.path(), "rootfs.json", &random.damage(rootfs));
        put(directory.path(), EXIT_FILE, &random.damage(exit));
        if let Ok(bundle) = Bundle::load(directory.path()) {
            loaded += 1;
            if let Some(sets) = bundle.config.process().as_ref().and_then(|process| process.capabilities().as_ref()) {
                let _either = CapabilitySets::from_oci(sets);
            }
            if let Some(profile) = bundle.config.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
                let _either = seccomp::compile(profile);
            }
        }
        if let Ok(Some(record)) = protocol::read_record::<ExitRecord>(directory.path(), EXIT_FILE) {
            assert!(record.format <= protocol::FORMAT);
        }
        put(&states.join("c"), "state.json", &random.damage(state));
        let found = container::list(&states).unwrap();
        assert_eq!(found.records.len() + found.damaged.len(), 1, "it is listed or told");
        listed += u64::try_from(found.records.len()).unwrap();
        frames(&mut random);
    }
    println!("{rounds} rounds, {loaded} bundles and {listed} states loaded");
    assert!(loaded > 0 && listed > 0 && listed < rounds, "the generator makes one kind only");
}

/// Frames that are cut, joined and damaged never yield more than was sent.
fn frames(random: &mut Random) {
    let mut sent = Vec::new();
    for kind in [Kind::Request, Kind::Stdin, Kind::Exit] {
        sent.extend(protocol::encode(kind, &vec![b'x'; random.below(300)]));
    }
    let mut buffer = Vec::new();
    for chunk in random.damage(&sent).chunks(1 + random.below(64)) {
        buffer.extend(chunk);
        while let Ok(Some((_, payload))) = protocol::decode(&mut buffer) {
            assert!(payload.len() <= MAX_PAYLOAD);
        }
    }
}
