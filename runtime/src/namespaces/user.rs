//! User namespaces: writing mappings, and becoming root of one. Mappings are written by host root, so that any range
//! and `setgroups` are allowed (user_namespaces(7)).

use std::fmt::Write;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2, read};
use oci_spec::runtime::LinuxIdMapping;

use crate::init::failure::{Context, Failure, Step};
use crate::sys::clone3::{Child, Clone3};
use crate::sys::credentials::{set_gid, set_groups, set_uid};

/// Writes both maps of `pid`, which has to be a child that was not waited for.
pub fn write_maps(pid: i32, uid: &[LinuxIdMapping], gid: &[LinuxIdMapping]) -> Result<(), Failure> {
    for (name, mappings) in [("gid_map", gid), ("uid_map", uid)] {
        let mut text = String::new();
        for mapping in mappings {
            writeln!(text, "{} {} {}", mapping.container_id(), mapping.host_id(), mapping.size())
                .map_err(|_| Errno::ENOMEM)
                .at(Step::MapIds)?;
        }
        // The kernel takes a map in one write only.
        let mut file = File::options().write(true).open(format!("/proc/{pid}/{name}")).on(Step::MapIds, name)?;
        file.write_all(text.as_bytes()).on(Step::MapIds, format!("{name} {}", text.trim_end()))?;
    }
    Ok(())
}

/// Host uid and gid of the root of `pid`'s user namespace.
pub fn host_root(pid: i32) -> Result<(u32, u32), Failure> {
    let id = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{name}")).on(Step::MapIds, name)?;
        text.lines().find_map(host_id_of_zero).ok_or(Errno::EINVAL).on(Step::MapIds, format!("{name} without id 0"))
    };
    Ok((id("uid_map")?, id("gid_map")?))
}

fn host_id_of_zero(line: &str) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace();
    if fields.next()? == "0" { fields.next()?.parse().ok() } else { None }
}

/// Opens the user namespace of `pid`.
pub fn of(pid: i32) -> Result<OwnedFd, Failure> {
    let path = format!("/proc/{pid}/ns/user");
    File::open(&path).map(OwnedFd::from).on(Step::OpenNamespace, path)
}

/// Takes id 0 and with it every capability inside the user namespace that the caller has just entered.
pub fn become_root() -> Result<(), Failure> {
    match set_groups(&[]) {
        // A namespace made by an unprivileged user denies setgroups; there are no groups of the host's root to lose.
        Ok(()) | Err(Errno::EPERM) => {}
        Err(errno) => return Err(errno).at(Step::BecomeRoot),
    }
    set_gid(0).at(Step::BecomeRoot)?;
    set_uid(0).at(Step::BecomeRoot)
}

/// A child that only holds new namespaces open until it is released.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    release: Option<OwnedFd>,
}

impl Holder {
    /// Clones a process into new namespaces; it runs `work` once it is released by [`Holder::finish`].
    pub fn spawn(flags: CloneFlags, work: impl FnOnce() -> i32) -> Result<Holder, Failure> {
        let (wait, release) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).at(Step::Clone)?;
        let clone = Clone3 { flags: u64::from(flags.bits().unsigned_abs()), cgroup: None };
        let parents_end = std::os::fd::AsRawFd::as_raw_fd(&release);
        let child = clone
            .spawn(|| {
                // Only the runtime may hold the other end, or its death would go unnoticed.
                if crate::sys::close_range::close_one(parents_end).is_err() {
                    return 1;
                }
                match read(wait.as_fd(), &mut [0]) {
                    Ok(1) => work(),
                    _ => 1,
                }
            })
            .at(Step::Clone)?;
        Ok(Holder { child, release: Some(release) })
    }

    /// Pid of the holder.
    pub fn pid(&self) -> i32 {
        self.child.pid
    }

    /// Lets the work run, which goes on after it has written an errno, or 0, to the other end of `ready`.
    pub fn stay(mut self, ready: &OwnedFd) -> Result<(), Errno> {
        self.release()?;
        let mut errno = [0; size_of::<i32>()];
        // So few bytes come at once; fewer are none: it has ended without a word.
        let told = read(ready, &mut errno)? == errno.len();
        match i32::from_ne_bytes(errno) {
            0 if told => Ok(()),
            code => {
                waitpid(Pid::from_raw(self.child.pid), None)?;
                Err(if told { Errno::from_raw(code) } else { Errno::ECHILD })
            }
        }
    }

    fn release(&mut self) -> Result<(), Errno> {
        if let Some(release) = self.release.take() {
            nix::unistd::write(&release, &[1])?;
        }
        Ok(())
    }

    /// Lets the work run and waits for it.
    pub fn finish(mut self) -> Result<(), Errno> {
        self.release()?;
        match waitpid(Pid::from_raw(self.child.pid), None)? {
            nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(()),
            nix::sys::wait::WaitStatus::Exited(_, code) => Err(Errno::from_raw(code)),
            _ => Err(Errno::ECHILD),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Not released: the end of the pipe ends the child. ECHILD when it was waited for.
        if self.release.take().is_some() {
            let _ = waitpid(Pid::from_raw(self.child.pid), None);
        }
    }
}

/// A user namespace that exists only for its mappings: what id-mapped mounts take them from.
pub fn with_mappings(uid: &[LinuxIdMapping], gid: &[LinuxIdMapping]) -> Result<OwnedFd, Failure> {
    let holder = Holder::spawn(CloneFlags::CLONE_NEWUSER, || 0)?;
    write_maps(holder.pid(), uid, gid)?;
    of(holder.pid())
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxIdMappingBuilder;

    use super::*;

    #[test]
    fn mappings_are_found_again() {
        let map =
            [LinuxIdMappingBuilder::default().container_id(0u32).host_id(700_000u32).size(65536u32).build().unwrap()];
        let holder = Holder::spawn(CloneFlags::CLONE_NEWUSER, || 0).unwrap();
        write_maps(holder.pid(), &map, &map).unwrap();
        assert_eq!(host_root(holder.pid()).unwrap(), (700_000, 700_000));
        holder.finish().unwrap();
    }
}
