//! Seccomp: an OCI profile to BPF by libseccomp, and its installation. Owns the default profile's shape; its system
//! call lists are in `profile`. Source: OCI config `linux.seccomp`.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;

use libseccomp::error::SeccompError as LibraryError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};

use crate::sys;

mod cache;
mod profile;

pub use cache::Cache;
pub use profile::default_profile;

/// SECCOMP_FILTER_FLAG_* of linux/seccomp.h.
const FLAG_TSYNC: u64 = 1;
const FLAG_LOG: u64 = 2;
const FLAG_SPEC_ALLOW: u64 = 4;
const FLAG_TSYNC_ESRCH: u64 = 16;
const FLAG_WAIT_KILLABLE_RECV: u64 = 32;
/// Value of libseccomp's SCMP_FLTATR_CTL_OPTIMIZE.
const BINARY_TREE: u32 = 2;

/// What [`compile`] takes, in OCI's words.
pub const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
/// Comparisons of arguments.
pub const OPERATORS: [&str; 7] =
    ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];
/// Architectures.
const ARCHITECTURES: [(Arch, ScmpArch); 23] = [
    (Arch::ScmpArchNative, ScmpArch::Native),
    (Arch::ScmpArchX86, ScmpArch::X86),
    (Arch::ScmpArchX86_64, ScmpArch::X8664),
    (Arch::ScmpArchX32, ScmpArch::X32),
    (Arch::ScmpArchArm, ScmpArch::Arm),
    (Arch::ScmpArchAarch64, ScmpArch::Aarch64),
    (Arch::ScmpArchMips, ScmpArch::Mips),
    (Arch::ScmpArchMips64, ScmpArch::Mips64),
    (Arch::ScmpArchMips64n32, ScmpArch::Mips64N32),
    (Arch::ScmpArchMipsel, ScmpArch::Mipsel),
    (Arch::ScmpArchMipsel64, ScmpArch::Mipsel64),
    (Arch::ScmpArchMipsel64n32, ScmpArch::Mipsel64N32),
    (Arch::ScmpArchPpc, ScmpArch::Ppc),
    (Arch::ScmpArchPpc64, ScmpArch::Ppc64),
    (Arch::ScmpArchPpc64le, ScmpArch::Ppc64Le),
    (Arch::ScmpArchS390, ScmpArch::S390),
    (Arch::ScmpArchS390x, ScmpArch::S390X),
    (Arch::ScmpArchParisc, ScmpArch::Parisc),
    (Arch::ScmpArchParisc64, ScmpArch::Parisc64),
    (Arch::ScmpArchRiscv64, ScmpArch::Riscv64),
    (Arch::ScmpArchLoongarch64, ScmpArch::Loongarch64),
    (Arch::ScmpArchM68k, ScmpArch::M68k),
    (Arch::ScmpArchSh, ScmpArch::Sh),
];

/// Those that the linked libseccomp takes beside the host's own: it knows not all, and mixes no byte orders.
pub fn architectures() -> Vec<Arch> {
    let takes = |arch: ScmpArch| {
        ScmpFilterContext::new(ScmpAction::Allow).is_ok_and(|mut context| context.add_arch(arch).is_ok())
    };
    ARCHITECTURES.iter().filter(|(_, arch)| takes(*arch)).map(|(arch, _)| *arch).collect()
}

/// Flags of seccomp(2).
pub const FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// Why a profile could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// Something of OCI's schema that this runtime does not do.
    #[error("linux.seccomp.{field} is not supported: {value}")]
    Unsupported {
        /// Field below linux.seccomp.
        field: &'static str,
        /// As written.
        value: String,
    },
    /// libseccomp refused a part of the profile.
    #[error("cannot compile the seccomp profile: {what}")]
    Compile {
        /// Which part.
        what: String,
        /// The library's answer.
        #[source]
        source: LibraryError,
    },
    /// The compiled program could not be taken over.
    #[error("cannot read the compiled seccomp profile")]
    Export(#[source] io::Error),
    /// The kernel refused the program.
    #[error("cannot install the seccomp filter")]
    Install(#[source] Errno),
}

/// A compiled profile.
#[derive(Debug, Clone)]
pub struct Filter {
    program: Vec<u8>,
    flags: u64,
}

impl Filter {
    /// Binds the calling thread, for good. Needs no_new_privs or CAP_SYS_ADMIN in its user namespace. Gives the
    /// descriptor of the notifications where the profile has SCMP_ACT_NOTIFY.
    pub fn install(&self) -> Result<Option<OwnedFd>, SeccompError> {
        sys::seccomp::set_filter(&self.program, self.flags).map_err(SeccompError::Install)
    }
}

/// Compiles an OCI profile. System calls that the installed libseccomp does not know are left out, as runc does.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, SeccompError> {
    compiled(profile, BINARY_TREE)
}

fn compiled(profile: &LinuxSeccomp, optimize: u32) -> Result<Filter, SeccompError> {
    check_notify(profile)?;
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default).map_err(compiling("default action"))?;
    for arch in profile.architectures().iter().flatten() {
        context.add_arch(architecture(*arch)?).map_err(compiling(format!("architecture {arch:?}")))?;
    }
    for rule in profile.syscalls().iter().flatten() {
        add_rule(&mut context, rule, default)?;
    }
    // Short ways to each call's rule: the kernel runs the filter for every call number when it is installed, and for
    // calls with arguments to look at from then on.
    context.set_ctl_optimize(optimize).map_err(compiling("optimization"))?;
    Ok(Filter { program: export(&context)?, flags: flags(profile)? })
}

/// For seccomp(2).
fn flags(profile: &LinuxSeccomp) -> Result<u64, SeccompError> {
    let notifies = notifies(profile);
    let mut flags = if notifies { sys::seccomp::NEW_LISTENER } else { 0 };
    for flag in profile.flags().iter().flatten() {
        match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => flags |= FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => flags |= FLAG_SPEC_ALLOW,
            // The two results of one call cannot be told apart otherwise.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync if notifies => flags |= FLAG_TSYNC | FLAG_TSYNC_ESRCH,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => flags |= FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if notifies => flags |= FLAG_WAIT_KILLABLE_RECV,
            other @ LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                let value = format!("{other} without SCMP_ACT_NOTIFY");
                return Err(SeccompError::Unsupported { field: "flags", value });
            }
        }
    }
    Ok(flags)
}

/// Whether some call is to be answered by whoever listens at `listenerPath`.
pub fn notifies(profile: &LinuxSeccomp) -> bool {
    let rules = profile.syscalls().iter().flatten();
    rules.into_iter().any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify)
}

/// The descriptor of notifications is handed over by write(2): nobody could answer that one yet.
fn check_notify(profile: &LinuxSeccomp) -> Result<(), SeccompError> {
    let refused = |field, value: &str| Err(SeccompError::Unsupported { field, value: value.to_owned() });
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        return refused("defaultAction", "SCMP_ACT_NOTIFY");
    }
    let asks_for_write = |rule: &&LinuxSyscall| {
        rule.action() == LinuxSeccompAction::ScmpActNotify && rule.names().iter().any(|name| name == "write")
    };
    if profile.syscalls().iter().flatten().any(|rule| asks_for_write(&rule)) {
        return refused("syscalls", "SCMP_ACT_NOTIFY for write");
    }
    if notifies(profile) && profile.listener_path().is_none() {
        return refused("listenerPath", "none, with SCMP_ACT_NOTIFY");
    }
    Ok(())
}

fn add_rule(context: &mut ScmpFilterContext, rule: &LinuxSyscall, default: ScmpAction) -> Result<(), SeccompError> {
    let action = action(rule.action(), rule.errno_ret())?;
    if action == default {
        return Ok(());
    }
    for name in rule.names() {
        let Ok(call) = ScmpSyscall::from_name(name) else { continue };
        let arguments = rule.args().as_deref().unwrap_or_default();
        let compares = arguments.iter().map(compare).collect::<Vec<_>>();
        let mut indexes: Vec<usize> = arguments.iter().map(LinuxSeccompArg::index).collect();
        indexes.sort_unstable();
        indexes.dedup();
        let added = if indexes.len() == arguments.len() {
            context.add_rule_conditional(action, call, &compares).map(drop)
        } else {
            // libseccomp takes one comparison per argument; several for one mean any of them, as in runc.
            compares.iter().try_for_each(|compare| context.add_rule_conditional(action, call, &[*compare]).map(drop))
        };
        added.map_err(compiling(format!("system call {name}")))?;
    }
    Ok(())
}

fn compiling(what: impl Into<String>) -> impl FnOnce(LibraryError) -> SeccompError {
    move |source| SeccompError::Compile { what: what.into(), source }
}

fn export(context: &ScmpFilterContext) -> Result<Vec<u8>, SeccompError> {
    let file = memfd_create("seccomp", MFdFlags::MFD_CLOEXEC).map_err(|errno| SeccompError::Export(errno.into()))?;
    let mut file = File::from(file);
    context.export_bpf(&file).map_err(compiling("export"))?;
    let mut program = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut program)).map_err(SeccompError::Export)?;
    Ok(program)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, SeccompError> {
    let errno = errno.unwrap_or(libc::EPERM.unsigned_abs());
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(
            i32::try_from(errno)
                .map_err(|_| SeccompError::Unsupported { field: "errnoRet", value: errno.to_string() })?,
        ),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(
            u16::try_from(errno)
                .map_err(|_| SeccompError::Unsupported { field: "errnoRet", value: errno.to_string() })?,
        ),
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
    })
}

fn compare(argument: &LinuxSeccompArg) -> ScmpArgCompare {
    // The index is at most 5 by OCI's schema; libseccomp refuses what is larger.
    let index = u32::try_from(argument.index()).unwrap_or(u32::MAX);
    let operator = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => ScmpCompareOp::Less,
        LinuxSeccompOperator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpEq => ScmpCompareOp::Equal,
        LinuxSeccompOperator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        LinuxSeccompOperator::ScmpCmpGt => ScmpCompareOp::Greater,
        LinuxSeccompOperator::ScmpCmpMaskedEq => ScmpCompareOp::MaskedEqual(argument.value()),
    };
    let datum = match argument.op() {
        LinuxSeccompOperator::ScmpCmpMaskedEq => argument.value_two().unwrap_or_default(),
        _ => argument.value(),
    };
    ScmpArgCompare::new(index, operator, datum)
}

fn architecture(arch: Arch) -> Result<ScmpArch, SeccompError> {
    let found = ARCHITECTURES.iter().find(|(name, _)| *name == arch).map(|(_, known)| *known);
    found.ok_or_else(|| SeccompError::Unsupported { field: "architectures", value: format!("{arch:?}") })
}

#[cfg(test)]
mod tests;
