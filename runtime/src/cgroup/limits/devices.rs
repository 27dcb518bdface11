//! Device rules on cgroup v2, where a program in the kernel decides: OCI's list to the state that v1's files would have,
//! that state to a program. Source: the kernel's admin-guide/cgroup-v1/devices and cgroup-v2, "Device controller".

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::sys::bpf::{self, Instruction};

/// BPF_DEVCG_* of linux/bpf.h.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;
const ALL_ACCESS: u32 = 7;

/// What is other than the default for these devices; None for any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Exception {
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

/// As v1's devices.list has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Devices {
    allowed: bool,
    exceptions: Vec<Exception>,
}

/// Puts the rules in force, in place of those of an earlier call. What the group may do never grows on the way.
pub(super) fn set(directory: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), Errno> {
    let group = File::open(directory).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    let earlier = bpf::attached(&group)?;
    let program = bpf::load(&program(&Devices::of(rules)))?;
    bpf::attach(&group, &program)?;
    earlier.iter().try_for_each(|old| bpf::detach(group.as_fd(), old))
}

impl Devices {
    /// Rule by rule, as the kernel takes them on v1: those for every use of all devices set the default anew.
    fn of(rules: &[LinuxDeviceCgroup]) -> Devices {
        let mut devices = Devices { allowed: true, exceptions: Vec::new() };
        for rule in rules {
            let exception = Exception::of(rule);
            let all = exception.kind.is_none() && exception.major.is_none() && exception.minor.is_none();
            if all && exception.access == ALL_ACCESS {
                devices = Devices { allowed: rule.allow(), exceptions: Vec::new() };
            } else if rule.allow() == devices.allowed {
                devices.remove(exception);
            } else {
                devices.add(exception);
            }
        }
        devices
    }

    fn add(&mut self, new: Exception) {
        match self.exceptions.iter_mut().find(|old| old.same_devices(&new)) {
            Some(old) => old.access |= new.access,
            None => self.exceptions.push(new),
        }
    }

    fn remove(&mut self, gone: Exception) {
        for old in self.exceptions.iter_mut().filter(|old| old.same_devices(&gone)) {
            old.access &= !gone.access;
        }
        self.exceptions.retain(|exception| exception.access != 0);
    }
}

impl Exception {
    fn of(rule: &LinuxDeviceCgroup) -> Exception {
        let kind = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::B => Some(BLOCK),
            LinuxDeviceType::C | LinuxDeviceType::U => Some(CHARACTER),
            LinuxDeviceType::A | LinuxDeviceType::P => None,
        };
        let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
        let bit = |letter: char| match letter {
            'm' => 1,
            'r' => 2,
            'w' => 4,
            _ => 0,
        };
        let access = rule.access().as_deref().unwrap_or("rwm").chars().map(bit).fold(0, |all, one| all | one);
        // The kernel takes no numbers with "a".
        let numbers = kind.map(|_| (number(rule.major()), number(rule.minor())));
        let (major, minor) = numbers.unwrap_or_default();
        Exception { kind, major, minor, access }
    }

    fn same_devices(&self, other: &Exception) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }
}

const R0: u8 = 0;
const R1: u8 = 1;
const KIND: u8 = 3;
const ACCESS: u8 = 4;
const MAJOR: u8 = 5;
const MINOR: u8 = 6;

fn instruction(code: u8, destination: u8, source: u8, offset: i16, value: u32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, value: value.cast_signed() }
}

/// `struct bpf_cgroup_dev_ctx` comes in R1: access << 16 | kind, major, minor.
fn program(devices: &Devices) -> Vec<Instruction> {
    const LOAD_WORD: u8 = 0x61;
    const AND: u8 = 0x54;
    const SHIFT_RIGHT: u8 = 0x74;
    let mut program = vec![
        instruction(LOAD_WORD, KIND, R1, 0, 0),
        instruction(LOAD_WORD, ACCESS, R1, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, R1, 4, 0),
        instruction(LOAD_WORD, MINOR, R1, 8, 0),
    ];
    for exception in &devices.exceptions {
        program.extend(decide(exception, !devices.allowed));
    }
    program.extend(answer(devices.allowed));
    program
}

fn answer(allowed: bool) -> [Instruction; 2] {
    const MOVE: u8 = 0xb4;
    const EXIT: u8 = 0x95;
    [instruction(MOVE, R0, 0, 0, u32::from(allowed)), instruction(EXIT, 0, 0, 0, 0)]
}

/// The answer of one exception, skipped where it does not match: allowing ones cover all that is asked for, denying
/// ones any of it.
fn decide(exception: &Exception, allows: bool) -> Vec<Instruction> {
    const MOVE_REGISTER: u8 = 0xbc;
    const AND: u8 = 0x54;
    const UNLESS_EQUAL: u8 = 0x55;
    const IF_EQUAL: u8 = 0x15;
    let mut steps = Vec::new();
    let wanted = [(KIND, exception.kind), (MAJOR, exception.major), (MINOR, exception.minor)];
    for (register, value) in wanted {
        steps.extend(value.map(|value| instruction(UNLESS_EQUAL, register, 0, 0, value)));
    }
    let (mask, skip) =
        if allows { (ALL_ACCESS & !exception.access, UNLESS_EQUAL) } else { (exception.access, IF_EQUAL) };
    if mask != 0 || !allows {
        steps.push(instruction(MOVE_REGISTER, R1, ACCESS, 0, 0));
        steps.push(instruction(AND, R1, 0, 0, mask));
        steps.push(instruction(skip, R1, 0, 0, 0));
    }
    steps.extend(answer(allows));
    let length = steps.len();
    for (index, step) in steps.iter_mut().enumerate() {
        if matches!(step.code, UNLESS_EQUAL | IF_EQUAL) {
            // To behind the answer; a few steps always.
            step.offset = i16::try_from(length - index - 1).unwrap_or(i16::MAX);
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Command, Stdio};

    use serde_json::json;

    use super::*;

    fn rules(value: serde_json::Value) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_value(value).unwrap()
    }

    fn exception(kind: u32, major: u32, minor: u32, access: u32) -> Exception {
        Exception { kind: Some(kind), major: Some(major), minor: Some(minor), access }
    }

    #[test]
    fn later_rules_decide_as_on_v1() {
        let devices = Devices::of(&rules(json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "wm"},
            {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
            {"allow": false, "type": "c", "major": 1, "minor": 5, "access": "w"},
            {"allow": true, "type": "b", "major": 8, "access": "r"},
        ])));
        let disk = Exception { kind: Some(BLOCK), major: Some(8), minor: None, access: 2 };
        let wanted = vec![exception(CHARACTER, 1, 3, 7), exception(CHARACTER, 1, 5, 3), disk];
        assert_eq!(devices, Devices { allowed: false, exceptions: wanted });
        let open = Devices::of(&rules(json!([
            {"allow": false, "type": "c", "major": 1, "minor": 3, "access": "w"},
            {"allow": true, "type": "a", "access": "rwm"},
        ])));
        assert_eq!(open, Devices { allowed: true, exceptions: vec![] });
    }

    /// A group of cgroup2, which hosts with v1 have beside it.
    struct Group(std::path::PathBuf);

    impl Group {
        fn new(name: &str) -> Group {
            let top = [Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/unified")]
                .into_iter()
                .find(|top| top.join("cgroup.procs").exists());
            let path = top.unwrap().join(format!("neargate-unit-{}-{name}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Group(path)
        }

        /// What a process in the group can do: read null, write null, read zero.
        fn can(&self) -> [bool; 3] {
            let script = format!("echo 0 > {}/cgroup.procs && exec sh -c \"$0\"", self.0.display());
            ["exec < /dev/null", "exec > /dev/null", "exec < /dev/zero"].map(|test| {
                let mut shell = Command::new("sh");
                shell.args(["-c", &script, test]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
                shell.output().unwrap().status.success()
            })
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            // A process that has just ended may be booked for a moment.
            let gone = (0..400).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(5));
                fs::remove_dir(&self.0).is_ok()
            });
            assert!(gone || std::thread::panicking(), "{} stays", self.0.display());
        }
    }

    #[test]
    fn the_kernel_takes_the_rules_and_their_successors() {
        let group = Group::new("devices");
        assert_eq!(group.can(), [true; 3]);
        let none = json!({"allow": false, "access": "rwm"});
        set(&group.0, &rules(json!([none]))).unwrap();
        assert_eq!(group.can(), [false; 3]);
        let reading = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"});
        set(&group.0, &rules(json!([none, reading]))).unwrap();
        assert_eq!(group.can(), [true, false, false]);
        set(&group.0, &rules(json!([{"allow": false, "type": "c", "major": 1, "minor": 3, "access": "w"}]))).unwrap();
        assert_eq!(group.can(), [true, false, true]);
        set(&group.0, &rules(json!([{"allow": true, "access": "rwm"}]))).unwrap();
        assert_eq!(group.can(), [true; 3]);
    }
}
