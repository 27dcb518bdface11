//! Profiles compiled, and their programs run by an interpreter of our own.

use super::*;
use crate::capabilities;

#[test]
fn default_profile_compiles() {
    let filter = compile(&default_profile(&capabilities::DEFAULT)).unwrap();
    assert!(filter.program.len() > 1000 && filter.program.len().is_multiple_of(8));
}

#[test]
fn all_that_is_named_compiles() {
    for action in ACTIONS {
        let rules = OPERATORS.map(|op| serde_json::json!({ "index": 0, "value": 1, "valueTwo": 1, "op": op }));
        let rules: Vec<_> =
            rules.into_iter().zip(["read", "readv", "open", "close", "stat", "lseek", "mmap"]).collect();
        let syscalls: Vec<_> = rules
            .iter()
            .map(|(rule, name)| serde_json::json!({ "names": [name], "action": action, "args": [rule] }))
            .collect();
        let notify_only = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV";
        let flags: Vec<_> = FLAGS.iter().filter(|flag| action.ends_with("NOTIFY") || **flag != notify_only).collect();
        let profile = serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": architectures(),
            "flags": flags, "syscalls": syscalls, "listenerPath": "/run/agent.sock",
        });
        compile(&serde_json::from_value(profile).unwrap()).unwrap_or_else(|error| panic!("{action}: {error:?}"));
    }
}

#[test]
fn more_capabilities_allow_more() {
    let count = |caps: &[&str]| -> usize {
        default_profile(caps).syscalls().iter().flatten().map(|rule| rule.names().len()).sum()
    };
    assert!(count(&["CAP_SYS_ADMIN"]) > count(&[]));
}

#[test]
fn what_notifications_cannot_do_is_refused_by_name() {
    let rule = |name: &str| serde_json::json!([{"names": [name], "action": "SCMP_ACT_NOTIFY"}]);
    for (profile, field) in [
        (serde_json::json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"}), "defaultAction"),
        (
            serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x", "syscalls": rule("write")}),
            "write",
        ),
        (serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule("mkdir")}), "listenerPath"),
        (
            serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}),
            "flags",
        ),
        (serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_SHEB"]}), "architectures"),
    ] {
        let error = compile(&serde_json::from_value(profile).unwrap()).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
}

/// What the kernel shows a filter: `struct seccomp_data` of linux/seccomp.h.
struct Call {
    number: u32,
    arch: u32,
    args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        let halves = |value: u64| [(value & 0xffff_ffff) as u32, (value >> 32) as u32];
        match offset {
            0 => self.number,
            4 => self.arch,
            8 | 12 => 0,
            16..64 => halves(self.args[(offset as usize - 16) / 8])[(offset as usize / 4) % 2],
            other => panic!("offset {other}"),
        }
    }
}

/// The verdict of `program`, and after how many instructions.
fn verdict(program: &[u8], call: &Call) -> (u32, usize) {
    let at = |index: usize| {
        let raw = &program[index * 8..index * 8 + 8];
        let k = u32::from_ne_bytes(raw[4..].try_into().unwrap());
        (u16::from_ne_bytes(raw[..2].try_into().unwrap()), usize::from(raw[2]), usize::from(raw[3]), k)
    };
    let (mut next, mut accumulator, mut steps) = (0, 0, 0);
    loop {
        let (code, then, otherwise, k) = at(next);
        next += 1;
        steps += 1;
        let branch = |taken: bool| if taken { then } else { otherwise };
        match code {
            0x20 => accumulator = call.word(k),
            0x54 => accumulator &= k,
            0x05 => next += k as usize,
            0x15 => next += branch(accumulator == k),
            0x25 => next += branch(accumulator > k),
            0x35 => next += branch(accumulator >= k),
            0x45 => next += branch(accumulator & k != 0),
            0x06 => return (k, steps),
            other => panic!("instruction {other:#x}"),
        }
    }
}

#[test]
fn the_tree_decides_as_the_list_and_sooner() {
    let profile = default_profile(&capabilities::DEFAULT);
    let (list, tree) = (compiled(&profile, 1).unwrap().program, compile(&profile).unwrap().program);
    let arguments = [0, 8, 40, 0x2_0008, u64::from(libc::CLONE_NEWUSER.unsigned_abs()), u64::MAX];
    let (mut of_list, mut of_tree) = (0, 0);
    for arch in [0xc000_003e, 0x4000_0003, 0xc000_00b7] {
        for number in (0..480).chain(0x4000_0000..0x4000_0220) {
            for argument in arguments {
                let call = Call { number, arch, args: [argument; 6] };
                let (wanted, steps) = verdict(&list, &call);
                let (found, less) = verdict(&tree, &call);
                assert_eq!(found, wanted, "call {number:#x} of {arch:#x} with {argument:#x}");
                of_list += steps;
                of_tree += less;
            }
        }
    }
    assert!(of_tree < of_list / 4, "{of_tree} instructions of {of_list}");
}
