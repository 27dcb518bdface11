//! Standard descriptors of a container's process: the caller's own, three given ones, or a pty of the container's own
//! devpts. Owns neither logs nor attaching.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchown};

use super::channel::{Channel, Message};
use super::failure::{Context, Failure, Step};
use crate::mounts::attach::place;
use crate::mounts::root::{Kind, Root, file_type};
use crate::process::user::Identity;
use crate::sys::{mount_api, terminal};

/// What a caller of create or exec chooses.
#[derive(Debug)]
pub enum Stdio {
    /// The caller's own.
    Inherit,
    /// These three.
    Fds {
        /// Read by the container.
        stdin: OwnedFd,
        /// Written by the container.
        stdout: OwnedFd,
        /// Written by the container.
        stderr: OwnedFd,
    },
    /// A pty made inside the container; its master is handed back.
    Terminal,
}

/// The same, with what a terminal needs.
#[derive(Debug)]
pub struct ChildStdio {
    stdio: Stdio,
    /// Rows and columns.
    size: Option<(u16, u16)>,
}

impl ChildStdio {
    /// `size` are rows and columns of a terminal.
    pub fn new(stdio: Stdio, size: Option<(u16, u16)>) -> ChildStdio {
        ChildStdio { stdio, size }
    }

    /// Whether the child will send the master of a pty.
    pub fn is_terminal(&self) -> bool {
        matches!(self.stdio, Stdio::Terminal)
    }

    /// Descriptors that the child needs.
    pub fn raw(&self) -> Vec<RawFd> {
        match &self.stdio {
            Stdio::Fds { stdin, stdout, stderr } => [stdin, stdout, stderr].map(AsRawFd::as_raw_fd).to_vec(),
            Stdio::Inherit | Stdio::Terminal => Vec::new(),
        }
    }

    /// Parent side: pipes become the container root's, or nothing inside could open /dev/stdout.
    pub fn give_to_root(&self, uid: u32, gid: u32) -> Result<(), Failure> {
        let Stdio::Fds { stdin, stdout, stderr } = &self.stdio else { return Ok(()) };
        for fd in [stdin, stdout, stderr] {
            chown_pipe(fd, uid, gid)?;
        }
        Ok(())
    }

    /// Child side: puts given descriptors in place.
    pub fn install(&self) -> Result<(), Failure> {
        let Stdio::Fds { stdin, stdout, stderr } = &self.stdio else { return Ok(()) };
        dup2_stdin(stdin).on(Step::Descriptors, "stdin")?;
        dup2_stdout(stdout).on(Step::Descriptors, "stdout")?;
        dup2_stderr(stderr).on(Step::Descriptors, "stderr")
    }

    /// Child side, for an init: opens a pty of the devpts below `root`, binds it to /dev/console too.
    pub fn open_terminal(&self, root: &Root, channel: &Channel) -> Result<(), Failure> {
        let Some(slave) = self.connect_terminal(root, channel)? else { return Ok(()) };
        let console = Path::new("/dev/console");
        let mount = mount_api::clone_tree(&slave, "", false).on(Step::Console, console.display())?;
        place(root, &mount, console, Kind::File)
    }

    /// Child side: opens a pty, makes it the controlling terminal and stdio, sends its master.
    pub fn connect_terminal(&self, root: &Root, channel: &Channel) -> Result<Option<OwnedFd>, Failure> {
        if !self.is_terminal() {
            return Ok(None);
        }
        let path = "dev/pts/ptmx";
        let how = OpenHow::new()
            .flags(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let master = openat2(root, path, how).on(Step::Console, path)?;
        // Anything else would be a file of the image that pretends.
        if fstatfs(&master).on(Step::Console, path)?.filesystem_type() != DEVPTS_SUPER_MAGIC {
            return Err(Errno::ENOTTY).on(Step::Console, path);
        }
        terminal::unlock(&master).on(Step::Console, path)?;
        let slave = terminal::peer(&master).on(Step::Console, path)?;
        if let Some((rows, columns)) = self.size {
            terminal::set_size(&master, rows, columns).on(Step::Console, "size")?;
        }
        terminal::set_controlling(&slave).on(Step::Console, "control")?;
        channel.send(&Message::Console, &[master.as_raw_fd()])?;
        dup2_stdin(&slave).on(Step::Console, "stdin")?;
        dup2_stdout(&slave).on(Step::Console, "stdout")?;
        dup2_stderr(&slave).on(Step::Console, "stderr")?;
        Ok(Some(slave))
    }

    /// Child side: the user may reopen its own stdio through /proc/self/fd.
    pub fn give_to(&self, identity: &Identity) -> Result<(), Failure> {
        if identity.uid == 0 {
            return Ok(());
        }
        match &self.stdio {
            Stdio::Inherit => Ok(()),
            Stdio::Fds { stdin, stdout, stderr } => {
                [stdin, stdout, stderr].iter().try_for_each(|fd| chown_pipe(fd, identity.uid, identity.gid))
            }
            Stdio::Terminal => {
                fchown(std::io::stdin(), Some(Uid::from_raw(identity.uid)), None).on(Step::Console, "owner")
            }
        }
    }
}

/// Files and devices of the caller keep their owner.
fn chown_pipe(fd: impl AsFd, uid: u32, gid: u32) -> Result<(), Failure> {
    if file_type(&fstat(&fd).on(Step::Descriptors, "stdio")?) != SFlag::S_IFIFO {
        return Ok(());
    }
    match fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
        // A pipe that somebody else made, of a user that the container does not know.
        Ok(()) | Err(Errno::EPERM | Errno::EINVAL) => Ok(()),
        Err(errno) => Err(errno).on(Step::Descriptors, "stdio"),
    }
}
