//! What OCI's `process` object says about the process itself, made ready before the clone, and applied in the child in
//! the only order that works: bounding set, groups, user, working directory; after the start seccomp and capabilities;
//! then execve.

use std::convert::Infallible;
use std::error::Error;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use caps::CapSet;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, execve, getcwd};
use oci_spec::runtime::{LinuxSeccomp, Process, Spec, User};

use super::procfs::Procfs;
use super::scheduling;
use super::user::Identity;
use crate::capabilities::{self, CapabilitySets};
use crate::init::channel::Channel;
use crate::init::failure::{Context, Failure, Step};
use crate::seccomp::{Cache, Filter};
use crate::sys::credentials::{set_gid, set_groups, set_uid};
use crate::sys::scheduler::set_personality;

/// Where programs are looked for when the container's environment has no PATH, as execvp(3).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A checked `process` object.
#[derive(Debug)]
pub struct Settings {
    args: Vec<CString>,
    env: Vec<CString>,
    cwd: PathBuf,
    /// `process.user`.
    pub user: User,
    capabilities: CapabilitySets,
    filter: Option<Filter>,
    /// Domain of `linux.personality`.
    personality: Option<u32>,
    no_new_privileges: bool,
    apparmor: Option<String>,
    selinux: Option<String>,
}

/// What `linux` says about each process of a container.
#[derive(Debug, Clone, Default)]
pub struct Confinement {
    /// `linux.seccomp`.
    pub seccomp: Option<LinuxSeccomp>,
    personality: Option<u32>,
}

impl Confinement {
    /// Reads it; refuses a personality that is not one.
    pub fn of(config: &Spec) -> Result<Confinement, Failure> {
        let Some(linux) = config.linux() else { return Ok(Confinement::default()) };
        let personality = linux.personality().as_ref().map(scheduling::personality).transpose()?;
        Ok(Confinement { seccomp: linux.seccomp().clone(), personality })
    }
}

impl Settings {
    /// Checks `process`, takes what `confined` adds, and compiles its filter where `filters` does not keep it.
    pub fn new(process: &Process, confined: &Confinement, filters: &Cache) -> Result<Settings, Failure> {
        let text = |text: &String| CString::new(text.as_str()).on(Step::Execute, text.escape_debug());
        let args = process.args().iter().flatten().map(text).collect::<Result<Vec<_>, _>>()?;
        if args.is_empty() {
            return Err(Errno::EINVAL).on(Step::Execute, "nothing: process.args is empty");
        }
        let none = capabilities::none();
        let capabilities = CapabilitySets::from_oci(process.capabilities().as_ref().unwrap_or(&none))
            .map_err(|error| told(&error, Step::Capabilities))?;
        scheduling::check(process)?;
        let filter = confined
            .seccomp
            .as_ref()
            .map(|profile| filters.compile(profile))
            .transpose()
            .map_err(|error| told(&error, Step::Seccomp))?;
        let label = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
        Ok(Settings {
            args,
            env: process.env().iter().flatten().map(text).collect::<Result<_, _>>()?,
            cwd: process.cwd().clone(),
            user: process.user().clone(),
            capabilities,
            filter,
            personality: confined.personality,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            apparmor: label(process.apparmor_profile()),
            selinux: label(process.selinux_label()),
        })
    }

    /// `process.cwd`.
    pub fn cwd(&self) -> &PathBuf {
        &self.cwd
    }

    /// Becomes `identity`, keeping permitted capabilities for what is still to do.
    pub fn become_user(&self, identity: &Identity) -> Result<(), Failure> {
        if let Some(domain) = self.personality {
            set_personality(domain).at(Step::Personality)?;
        }
        umask(self.user.umask().map_or(Mode::from_bits_truncate(0o022), |mask| Mode::from_bits_truncate(mask & 0o777)));
        // Root may enter a directory that the user may not, and docker users rely on it.
        let entered = chdir(&self.cwd).is_ok();
        self.capabilities.drop_bounding().map_err(|error| told(&error, Step::Capabilities))?;
        prctl::set_keepcaps(true).at(Step::Capabilities)?;
        match set_groups(&identity.groups) {
            Err(Errno::EPERM) if identity.groups.is_empty() => {}
            other => other.on(Step::Groups, format!("{:?}", identity.groups))?,
        }
        set_gid(identity.gid).on(Step::User, format!("group {}", identity.gid))?;
        set_uid(identity.uid).on(Step::User, identity.uid)?;
        prctl::set_keepcaps(false).at(Step::Capabilities)?;
        if !entered {
            chdir(&self.cwd).on(Step::WorkingDirectory, self.cwd.display())?;
        }
        // A leaked descriptor could have made the working directory one of the host's (CVE-2024-21626).
        let now = getcwd().on(Step::OutsideRoot, self.cwd.display())?;
        if !now.is_absolute() {
            return Err(Errno::EXDEV).on(Step::OutsideRoot, now.display());
        }
        Ok(())
    }

    /// Security labels of the program to be executed.
    pub fn set_labels(&self, procfs: impl FnOnce() -> Result<Procfs, Errno>) -> Result<(), Failure> {
        if self.apparmor.is_none() && self.selinux.is_none() {
            return Ok(());
        }
        let procfs = procfs().on(Step::Label, "through procfs")?;
        if let Some(profile) = &self.apparmor {
            procfs.write("self/attr/apparmor/exec", &format!("exec {profile}")).on(Step::Label, profile)?;
        }
        if let Some(label) = &self.selinux {
            procfs.write("self/attr/exec", label).on(Step::Label, label)?;
        }
        Ok(())
    }

    /// Seccomp and capabilities. Without no_new_privs a filter needs CAP_SYS_ADMIN, so it comes before the drop then;
    /// otherwise last, so that it need not allow what the drop needs. Whoever is at the other end of `channel` passes
    /// notifications on to those who answer them.
    pub fn seal(&self, channel: &Channel) -> Result<(), Failure> {
        let drop_capabilities = || self.capabilities.apply().map_err(|error| told(&error, Step::Capabilities));
        let install = || {
            let Some(filter) = &self.filter else { return Ok(()) };
            let listener = filter.install().map_err(|error| told(&error, Step::Seccomp))?;
            listener.map_or(Ok(()), |listener| channel.hand_over(&listener))
        };
        if self.no_new_privileges {
            prctl::set_no_new_privs().at(Step::NoNewPrivileges)?;
            drop_capabilities()?;
            return install();
        }
        if self.filter.is_some() {
            // The change of user emptied the effective set.
            let permitted = caps::read(None, CapSet::Permitted).map_err(|_| Errno::EPERM).at(Step::Capabilities)?;
            caps::set(None, CapSet::Effective, &permitted).map_err(|_| Errno::EPERM).at(Step::Capabilities)?;
        }
        install()?;
        drop_capabilities()
    }

    /// execve(2), with the look-up in PATH of execvp(3) but the container's environment. Returns only on failure:
    /// ENOENT when there is no such program, EACCES when it may not be executed.
    pub fn execute(&self, home: &str) -> Result<Infallible, Failure> {
        let mut env = self.env.clone();
        if !env.iter().any(|entry| entry.to_bytes().starts_with(b"HOME=") && entry.to_bytes().len() > 5) {
            env.retain(|entry| entry.to_bytes() != b"HOME=");
            env.push(CString::new(format!("HOME={home}")).on(Step::Execute, "with HOME")?);
        }
        let program = &self.args[0];
        let mut failed = Errno::ENOENT;
        for candidate in candidates(program, &env)? {
            match execve(&candidate, &self.args, &env) {
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                // Another directory may still have one that we may execute.
                Err(Errno::EACCES) => failed = Errno::EACCES,
                Err(errno) => {
                    failed = errno;
                    break;
                }
                Ok(never) => match never {},
            }
        }
        Err(failed).on(Step::Execute, program.to_string_lossy())
    }
}

fn candidates(program: &CString, env: &[CString]) -> Result<Vec<CString>, Failure> {
    if program.to_bytes().contains(&b'/') || program.is_empty() {
        return Ok(vec![program.clone()]);
    }
    let path = env.iter().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="));
    let path = path.unwrap_or(DEFAULT_PATH.as_bytes());
    path.split(|byte| *byte == b':')
        .map(|directory| {
            // An empty entry means the working directory.
            let directory = if directory.is_empty() { b".".as_slice() } else { directory };
            let file = PathBuf::from(OsStr::from_bytes(directory)).join(OsStr::from_bytes(program.to_bytes()));
            CString::new(file.into_os_string().into_encoded_bytes()).on(Step::Execute, program.to_string_lossy())
        })
        .collect()
}

/// A failure of the other parts of this crate, with the errno that their chain of sources ends in.
fn told(error: &(dyn Error + 'static), step: Step) -> Failure {
    let mut current = Some(error);
    let mut errno = Errno::EPERM;
    while let Some(cause) = current {
        if let Some(found) = cause.downcast_ref::<Errno>() {
            errno = *found;
        } else if let Some(found) = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
            errno = Errno::from_raw(found);
        }
        current = cause.source();
    }
    Failure { step, subject: Some(format!("({error})")), errno }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_the_container_is_searched() {
        let env = [c"PATH=/a::/b".to_owned()];
        assert_eq!(candidates(&c"x".to_owned(), &env).unwrap(), [c"/a/x".to_owned(), c"./x".into(), c"/b/x".into()]);
        assert_eq!(candidates(&c"./x".to_owned(), &env).unwrap(), [c"./x".to_owned()]);
    }
}
