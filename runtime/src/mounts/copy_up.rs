//! What the image has at a volume's place, copied into the volume while that is empty, as docker does with its volumes:
//! a program that is not root finds its directory as the image's author left it.
//!
//! Runs inside the container's namespaces, so that owners are the container's. Extended attributes, devices and sockets
//! stay behind.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, mkfifoat, symlinkat};

use super::root::{Root, file_type, is_directory};
use crate::init::failure::{Context, Failure, Step};

/// Directories below each other; an image with more of them means harm.
const MAX_DEPTH: u32 = 128;
/// How long another container may take to fill the volume that both share.
const LOCK_TIMEOUT: Duration = Duration::from_secs(20);
const LOCK_POLL: Duration = Duration::from_millis(2);

/// Fills the volume behind `mount`, which is about to be attached at `destination`.
pub(super) fn fill(root: &Root, destination: &Path, mount: &OwnedFd) -> Result<(), Failure> {
    let on = |result: Result<(), Errno>| result.on(Step::CopyUp, destination.display());
    let image = match root.find_here(destination) {
        Ok(image) => image,
        // Nothing there, or not of the image.
        Err(failure) if matches!(failure.errno, Errno::ENOENT | Errno::ENOTDIR | Errno::EXDEV) => return Ok(()),
        Err(failure) => return Err(failure),
    };
    on(copy(&image, mount))
}

fn copy(image: &OwnedFd, mount: &OwnedFd) -> Result<(), Errno> {
    if !is_directory(image)? || !is_directory(mount)? {
        return Ok(());
    }
    let (from, to) = (directory(image.as_fd(), c".")?, directory(mount.as_fd(), c".")?);
    if !names(to.as_fd())?.is_empty() {
        return Ok(());
    }
    let _lock = lock(&to)?;
    if names(to.as_fd())?.is_empty() {
        copy_entries(from.as_fd(), to.as_fd(), 0)?;
        copy_owner(to.as_fd(), &fstat(&from)?)?;
    }
    Ok(())
}

/// Containers that share the volume start side by side. One that runs may hold the lock too, for as long as it likes,
/// so it is not waited for longer than a copy should take: then it is done without.
fn lock(volume: &OwnedFd) -> Result<Option<Flock<File>>, Errno> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    let mut file = File::from(directory(volume.as_fd(), c".")?);
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) if Instant::now() > deadline => return Ok(None),
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => file = back,
            Err((_, errno)) => return Err(errno),
        }
        std::thread::sleep(LOCK_POLL);
    }
}

fn copy_entries(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::ELOOP);
    }
    for name in names(from)? {
        match copy_entry(from, to, &name, depth) {
            // Something is mounted there, which is not the image's.
            Err(Errno::EXDEV) => {}
            other => other?,
        }
    }
    Ok(())
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: u32) -> Result<(), Errno> {
    let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    match file_type(&stat) {
        SFlag::S_IFDIR => {
            let from = directory(from, name)?;
            mkdirat(to, name, Mode::S_IRWXU)?;
            let to = directory(to, name)?;
            copy_entries(from.as_fd(), to.as_fd(), depth + 1)?;
            copy_owner(to.as_fd(), &stat)
        }
        SFlag::S_IFREG => {
            let mut source = File::from(open_here(from, name, OFlag::O_RDONLY)?);
            let create = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
            let mut target = File::from(openat(to, name, create, Mode::S_IRUSR | Mode::S_IWUSR)?);
            std::io::copy(&mut source, &mut target)
                .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
            copy_owner(target.as_fd(), &stat)
        }
        SFlag::S_IFLNK => {
            symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?;
            let (uid, gid) = owner(&stat);
            fchownat(to, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
        }
        SFlag::S_IFIFO => {
            mkfifoat(to, name, Mode::from_bits_truncate(stat.st_mode & 0o777))?;
            let (uid, gid) = owner(&stat);
            fchownat(to, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
        }
        _ => Ok(()),
    }
}

/// Owner first: a change of it clears setuid bits.
fn copy_owner(target: BorrowedFd<'_>, stat: &FileStat) -> Result<(), Errno> {
    let (uid, gid) = owner(stat);
    fchown(target, Some(uid), Some(gid))?;
    fchmod(target, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
    let (accessed, modified) =
        (TimeSpec::new(stat.st_atime, stat.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec));
    futimens(target, &accessed, &modified)
}

fn owner(stat: &FileStat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

fn directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    open_here(parent, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
}

/// EXDEV for what is mounted over the name.
fn open_here(parent: BorrowedFd<'_>, name: &CStr, flags: OFlag) -> Result<OwnedFd, Errno> {
    let here = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new().flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(here);
    loop {
        match openat2(parent, name, how) {
            // Something was renamed during the look-up; the kernel asks to try again.
            Err(Errno::EAGAIN) => {}
            other => return other,
        }
    }
}

fn names(of: BorrowedFd<'_>) -> Result<Vec<std::ffi::CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::from_fd(directory(of, c".")?)?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
