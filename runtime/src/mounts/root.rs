//! Paths below a root file system that a hostile image may have filled: every look-up stays inside, every result is a
//! descriptor. Owns no mounting.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};
use nix::unistd::UnlinkatFlags;

use crate::init::failure::{Context, Failure, Step};

/// As many symbolic links as the kernel follows (MAXSYMLINKS).
const MAX_LINKS: u32 = 40;

/// What to make where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory, mode 0755.
    Directory,
    /// An empty file, mode 0644.
    File,
}

/// The container's root directory, mounted but not necessarily entered yet.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
}

impl Root {
    /// `directory` is the root of the mounted root file system.
    pub fn new(directory: OwnedFd) -> Root {
        Root { directory }
    }

    /// Opens `path` with O_PATH as the container would see it; symbolic links are followed inside the root only, and
    /// never procfs' magic ones (openat2(2), RESOLVE_IN_ROOT).
    pub fn find(&self, path: &Path) -> Result<OwnedFd, Failure> {
        self.look_up(path, ResolveFlag::empty())
    }

    /// Like [`Root::find`]; EXDEV for what is not on the root file system itself.
    pub fn find_here(&self, path: &Path) -> Result<OwnedFd, Failure> {
        self.look_up(path, ResolveFlag::RESOLVE_NO_XDEV)
    }

    fn look_up(&self, path: &Path, besides: ResolveFlag) -> Result<OwnedFd, Failure> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | besides);
        loop {
            match openat2(&self.directory, path, how) {
                // Something was renamed during the look-up; the kernel asks to try again.
                Err(Errno::EAGAIN) => {}
                other => return other.on(Step::FindTarget, path.display()),
            }
        }
    }

    /// Like [`Root::find`], but no component may be a symbolic link: for places that must be what they are called.
    pub fn find_plain(&self, path: &Path) -> Result<OwnedFd, Failure> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
        openat2(&self.directory, path, how).on(Step::FindTarget, path.display())
    }

    /// Opens `path`, making what is missing of it: the last component as `kind`, directories on the way. A dangling
    /// link is followed and its target made, inside the root.
    pub fn find_or_make(&self, path: &Path, kind: Kind) -> Result<OwnedFd, Failure> {
        match self.find(path) {
            Err(failure) if failure.errno == Errno::ENOENT => {}
            other => return other,
        }
        Walk::new(self.directory.as_fd(), path).and_then(|walk| walk.run(kind)).on(Step::MakeTarget, path.display())
    }

    /// Text of a regular file of at most `limit` bytes: an image may have put a fifo or a device in its place.
    pub fn read_text(&self, path: &Path, limit: u64) -> Result<String, Failure> {
        let node = self.find(path)?;
        if file_type(&fstat(&node).on(Step::FindTarget, path.display())?) != SFlag::S_IFREG {
            return Err(Errno::EINVAL).on(Step::FindTarget, path.display());
        }
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file = openat2(&self.directory, path, how).on(Step::FindTarget, path.display())?;
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(limit).read_to_end(&mut bytes).on(Step::FindTarget, path.display())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Opens the directory that holds the last component of `path` (making it) and gives that component's name.
    pub fn parent(&self, path: &Path) -> Result<(OwnedFd, OsString), Failure> {
        let name = path.file_name().ok_or(Errno::EINVAL).on(Step::MakeTarget, path.display())?;
        let parent = self.find_or_make(path.parent().unwrap_or(Path::new("/")), Kind::Directory)?;
        Ok((parent, name.to_owned()))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Whether `fd` is a directory.
pub fn is_directory(fd: impl AsFd) -> Result<bool, Errno> {
    Ok(file_type(&fstat(fd)?) == SFlag::S_IFDIR)
}

/// The type bits of a file's mode.
pub fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Removes a plain directory entry that is in the way.
pub fn remove_entry(directory: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    nix::unistd::unlinkat(directory, name, UnlinkatFlags::NoRemoveDir)
}

/// A look-up in user space, one component at a time with O_NOFOLLOW. `..` goes back on the stack of what was opened,
/// so that nothing renamed meanwhile can lead outside.
struct Walk {
    stack: Vec<OwnedFd>,
    /// Components still to go, the next one last.
    pending: Vec<OsString>,
    links: u32,
}

impl Walk {
    fn new(root: BorrowedFd<'_>, path: &Path) -> Result<Walk, Errno> {
        let mut walk = Walk { stack: vec![nix::unistd::dup(root)?], pending: Vec::new(), links: 0 };
        walk.push(path);
        Ok(walk)
    }

    fn push(&mut self, path: &Path) {
        for component in path.components().rev() {
            match component {
                Component::Normal(name) => self.pending.push(name.to_owned()),
                Component::ParentDir => self.pending.push("..".into()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        if path.is_absolute() {
            self.stack.truncate(1);
        }
    }

    fn run(mut self, kind: Kind) -> Result<OwnedFd, Errno> {
        while let Some(name) = self.pending.pop() {
            if name == ".." {
                if self.stack.len() > 1 {
                    self.stack.pop();
                }
                continue;
            }
            let kind = if self.pending.is_empty() { kind } else { Kind::Directory };
            let next = self.open_or_make(&name, kind)?;
            if file_type(&fstat(&next)?) == SFlag::S_IFLNK {
                self.links += 1;
                if self.links > MAX_LINKS {
                    return Err(Errno::ELOOP);
                }
                let target = PathBuf::from(readlinkat(&next, "")?);
                self.push(&target);
            } else {
                self.stack.push(next);
            }
        }
        self.stack.pop().ok_or(Errno::ENOENT)
    }

    fn open_or_make(&self, name: &OsStr, kind: Kind) -> Result<OwnedFd, Errno> {
        let directory = self.stack.last().ok_or(Errno::ENOENT)?;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(directory, name, flags, Mode::empty()) {
            Err(Errno::ENOENT) => {}
            other => return other,
        }
        let made = match kind {
            Kind::Directory => mkdirat(directory, name, Mode::from_bits_truncate(0o755)),
            Kind::File => {
                let create = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                openat(directory, name, create, Mode::from_bits_truncate(0o644)).map(drop)
            }
        };
        match made {
            Ok(()) | Err(Errno::EEXIST) => openat(directory, name, flags, Mode::empty()),
            Err(errno) => Err(errno),
        }
    }
}

/// fstatat(2) of an entry, not following a link.
pub fn entry_stat(directory: impl AsFd, name: &OsStr) -> Result<FileStat, Errno> {
    nix::sys::stat::fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// Makes a symbolic link; one that is there already is left alone.
pub fn link(root: &Root, path: &Path, target: &OsStr) -> Result<(), Failure> {
    let (parent, name) = root.parent(path)?;
    match nix::unistd::symlinkat(target, &parent, OsStr::from_bytes(name.as_bytes())) {
        Err(Errno::EEXIST) => Ok(()),
        other => other.on(Step::Device, path.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn root(directory: &Path) -> Root {
        Root::new(std::fs::File::open(directory).unwrap().into())
    }

    #[test]
    fn links_never_lead_outside() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("root");
        std::fs::create_dir_all(inner.join("etc")).unwrap();
        symlink("../../../../../../tmp/escape", inner.join("etc/resolv.conf")).unwrap();
        symlink("/abs/dir", inner.join("etc/dangling")).unwrap();
        let root = root(&inner);
        root.find_or_make(Path::new("/etc/resolv.conf"), Kind::File).unwrap();
        root.find_or_make(Path::new("/etc/dangling/x/../y"), Kind::Directory).unwrap();
        assert!(inner.join("tmp/escape").is_file());
        assert!(inner.join("abs/dir/y").is_dir());
    }

    #[test]
    fn a_loop_of_links_ends() {
        let directory = tempfile::tempdir().unwrap();
        symlink("b", directory.path().join("a")).unwrap();
        symlink("a", directory.path().join("b")).unwrap();
        let failure = root(directory.path()).find_or_make(Path::new("/a/x"), Kind::File).unwrap_err();
        assert_eq!(failure.errno, Errno::ELOOP);
    }

    #[test]
    fn plain_means_plain() {
        let directory = tempfile::tempdir().unwrap();
        symlink("/", directory.path().join("proc")).unwrap();
        assert_eq!(root(directory.path()).find_plain(Path::new("/proc")).unwrap_err().errno, Errno::ELOOP);
    }
}
