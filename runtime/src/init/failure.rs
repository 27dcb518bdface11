//! One failed step on the way into a container: which step, on what, with which errno. Small and serialisable, as most
//! of these steps run in a child that can only tell its parent about them.

use std::fmt::{self, Display};
use std::io;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// A step of preparing or entering a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names and the texts below say it")]
pub enum Step {
    Channel,
    Clone,
    JoinCgroup,
    OpenNamespace,
    JoinNamespace,
    NewNamespace,
    MapIds,
    BecomeRoot,
    OomScore,
    RaiseLimit,
    Scheduler,
    IoPriority,
    Affinity,
    Personality,
    TimeOffsets,
    Keyring,
    Session,
    Console,
    Streams,
    OpenSource,
    CopyMount,
    CopyUp,
    MapMount,
    ChangeMount,
    OverlayLayer,
    OverlayMount,
    FileSystem,
    FileSystemOption,
    UnknownOption,
    FindTarget,
    MakeTarget,
    ProcTarget,
    AttachMount,
    Propagation,
    PivotRoot,
    Device,
    DeviceMismatch,
    Mask,
    ReadOnly,
    Loopback,
    Hostname,
    DomainName,
    Sysctl,
    Label,
    FindUser,
    WorkingDirectory,
    OutsideRoot,
    Groups,
    User,
    NoNewPrivileges,
    Capabilities,
    Seccomp,
    Listener,
    ParentDeath,
    Descriptors,
    Hook,
    Started,
    Execute,
}

impl Step {
    fn text(self) -> &'static str {
        match self {
            Step::Channel => "talk between runtime and init",
            Step::Clone => "clone",
            Step::JoinCgroup => "join the cgroup",
            Step::OpenNamespace => "open namespace",
            Step::JoinNamespace => "join namespace",
            Step::NewNamespace => "make namespace",
            Step::MapIds => "write the id map",
            Step::BecomeRoot => "become root of the user namespace",
            Step::OomScore => "set oom_score_adj to",
            Step::RaiseLimit => "set rlimit",
            Step::Scheduler => "set the scheduler",
            Step::IoPriority => "set ioPriority",
            Step::Affinity => "run on processors",
            Step::Personality => "set the personality",
            Step::TimeOffsets => "set the clock offsets of the time namespace",
            Step::Keyring => "join a session keyring",
            Step::Session => "start a session",
            Step::Console => "set up the terminal",
            Step::Streams => "set up the standard streams",
            Step::OpenSource => "open mount source",
            Step::CopyMount => "copy mount source",
            Step::CopyUp => "copy what the image has into the volume at",
            Step::MapMount => "map the ids of mount",
            Step::ChangeMount => "set attributes of mount",
            Step::OverlayLayer => "add overlay layer",
            Step::OverlayMount => "mount the overlay",
            Step::FileSystem => "mount file system",
            Step::FileSystemOption => "use file system option",
            Step::UnknownOption => "use mount option",
            Step::FindTarget => "find in the root file system",
            Step::MakeTarget => "make mount target",
            Step::ProcTarget => "accept mount target inside procfs",
            Step::AttachMount => "attach mount",
            Step::Propagation => "set propagation of",
            Step::PivotRoot => "change the root file system",
            Step::Device => "make device",
            Step::DeviceMismatch => "accept device, as the host's node is another one,",
            Step::Mask => "mask path",
            Step::ReadOnly => "make read-only",
            Step::Loopback => "bring the loopback interface up",
            Step::Hostname => "set host name",
            Step::DomainName => "set domain name",
            Step::Sysctl => "set sysctl",
            Step::Label => "set security label",
            Step::FindUser => "find user or group",
            Step::WorkingDirectory => "enter working directory",
            Step::OutsideRoot => "accept working directory outside the root",
            Step::Groups => "set supplementary groups",
            Step::User => "change to user",
            Step::NoNewPrivileges => "set no_new_privs",
            Step::Capabilities => "set capabilities",
            Step::Seccomp => "install the seccomp filter",
            Step::Listener => "pass seccomp notifications on to",
            Step::ParentDeath => "tie the container to its monitor",
            Step::Descriptors => "close descriptors",
            Step::Hook => "run hook",
            Step::Started => "wait for the start",
            Step::Execute => "execute",
        }
    }
}

/// A [`Step`] that did not work out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// What was tried.
    pub step: Step,
    /// On which path, name or value.
    pub subject: Option<String>,
    /// Why the kernel (or the equivalent check of ours) refused.
    #[source]
    #[serde(with = "errno_number")]
    pub errno: Errno,
}

impl Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "cannot {}", self.step.text())?;
        self.subject.as_ref().map_or(Ok(()), |subject| write!(out, " {subject}"))
    }
}

/// Turns errno results into [`Failure`]s.
pub trait Context<T> {
    /// Names the step.
    fn at(self, step: Step) -> Result<T, Failure>;
    /// Names the step and what it was done on.
    fn on(self, step: Step, subject: impl Display) -> Result<T, Failure>;
}

impl<T, E: IntoErrno> Context<T> for Result<T, E> {
    fn at(self, step: Step) -> Result<T, Failure> {
        self.map_err(|error| Failure { step, subject: None, errno: error.into_errno() })
    }

    fn on(self, step: Step, subject: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure { step, subject: Some(subject.to_string()), errno: error.into_errno() })
    }
}

/// Errors that are, or carry, an errno.
pub trait IntoErrno {
    /// EIO when the error carries none.
    fn into_errno(self) -> Errno;
}

impl IntoErrno for Errno {
    fn into_errno(self) -> Errno {
        self
    }
}

impl IntoErrno for io::Error {
    fn into_errno(self) -> Errno {
        self.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
    }
}

impl IntoErrno for std::ffi::NulError {
    fn into_errno(self) -> Errno {
        Errno::EINVAL
    }
}

mod errno_number {
    use nix::errno::Errno;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's with-module signature")]
    pub(super) fn serialize<S: Serializer>(errno: &Errno, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(*errno as i32)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<Errno, D::Error> {
        i32::deserialize(deserializer).map(Errno::from_raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_channel_and_reads_well() {
        let failure = Err::<(), _>(Errno::EACCES).on(Step::Execute, "/bin/x").unwrap_err();
        let text = serde_json::to_string(&failure).unwrap();
        assert_eq!(serde_json::from_str::<Failure>(&text).unwrap(), failure);
        assert_eq!(failure.to_string(), "cannot execute /bin/x");
    }
}
