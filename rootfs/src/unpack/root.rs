//! The layer's root, and every way to touch something below it. Paths are walked by openat2(2) with RESOLVE_IN_ROOT: a
//! symlink that the layer itself made is followed as the container will see it, inside the root, which is what docker
//! does and some images need (`var/run -> /run`, then `var/run/x`); it can lead nowhere else. The last component is
//! never followed.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstatat, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::excerpt;
use crate::unpack::EntryError;

/// Deepest directory of a layer. Real trees stay below 100; removing one must not need a descriptor per level beyond
/// what a process may have.
const MAX_DEPTH: usize = 512;
/// Most bytes of a directory's real path, which symlinks in a name could otherwise stretch beyond what tools can open.
const MAX_REAL_PATH: usize = 3500;

const WHITEOUT_DEVICE: u64 = 0;

/// A name below the root: no empty, `.` or `..` components, no NUL. Empty for the root itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct EntryPath(Vec<OsString>);

impl EntryPath {
    /// Makes a name relative and plain the way docker does: a leading slash is dropped, `..` takes back the component
    /// before it, and what would climb out of the root is refused.
    pub(crate) fn new(raw: &[u8]) -> Result<Self, EntryError> {
        if raw.contains(&0) {
            return Err(EntryError::Nul);
        }
        let mut components: Vec<OsString> = Vec::new();
        for component in raw.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => drop(components.pop().ok_or(EntryError::Outside)?),
                name => components.push(OsString::from_vec(name.to_vec())),
            }
        }
        if components.len() > MAX_DEPTH {
            return Err(EntryError::TooDeep);
        }
        Ok(Self(components))
    }

    /// The directory and the name in it; `None` for the root.
    pub(crate) fn split(&self) -> Option<(EntryPath, &OsStr)> {
        let (name, parent) = self.0.split_last()?;
        Some((Self(parent.to_vec()), name))
    }

    /// The name of something in this directory. `name` is a single component.
    pub(crate) fn join(&self, name: &[u8]) -> EntryPath {
        let mut components = self.0.clone();
        components.push(OsString::from_vec(name.to_vec()));
        Self(components)
    }

    fn to_path(&self) -> PathBuf {
        if self.0.is_empty() { PathBuf::from(".") } else { self.0.iter().collect() }
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_path().display(), f)
    }
}

/// A place for an entry: an open directory and a name in it. The root is `.` in itself.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) dir: Rc<OwnedFd>,
    pub(crate) name: OsString,
}

impl Place {
    /// A path that leads here whatever the current directory is and follows no symlink of the layer: for system calls
    /// that have no `at` form.
    pub(crate) fn proc_path(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.dir.as_raw_fd().to_string()).join(&self.name)
    }

    /// What is here: type and permission bits, and the device number of a device.
    fn stat(&self) -> Result<Option<(SFlag, u64)>, Errno> {
        match fstatat(self.dir.as_fd(), self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()), stat.st_rdev))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

/// The directory that a layer is unpacked into.
#[derive(Debug)]
pub(crate) struct Root {
    fd: Rc<OwnedFd>,
    /// The directory of the entry before: most entries lie beside their predecessor.
    last: Option<(EntryPath, Rc<OwnedFd>)>,
    /// Directories that no entry asked for by itself.
    implied: u64,
}

impl Root {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { fd: Rc::new(File::open(path)?.into()), last: None, implied: 0 })
    }

    /// The root itself, open.
    pub(crate) fn directory(&self) -> Rc<OwnedFd> {
        self.fd.clone()
    }

    /// How many directories were made on the way to entries.
    pub(crate) fn implied(&self) -> u64 {
        self.implied
    }

    /// The place of `path`; directories on the way are made when `make` says so, owned by root with mode 0755.
    pub(crate) fn place(&mut self, path: &EntryPath, make: bool) -> Result<Place, EntryError> {
        let Some((parent, name)) = path.split() else {
            return Ok(Place { dir: self.fd.clone(), name: OsString::from(".") });
        };
        let name = name.to_owned();
        if let Some((last, dir)) = &self.last
            && *last == parent
        {
            return Ok(Place { dir: dir.clone(), name });
        }
        let dir = match self.open_dir(&parent) {
            Err(Errno::ENOENT | Errno::ENOTDIR) if make => self.make_dirs(&parent)?,
            opened => opened.map_err(EntryError::Parent)?,
        };
        self.check_real_path(&dir)?;
        let dir = Rc::new(dir);
        self.last = Some((parent, dir.clone()));
        Ok(Place { dir, name })
    }

    fn open_dir(&self, path: &EntryPath) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV);
        loop {
            match openat2(self.fd.as_fd(), &path.to_path(), how) {
                // A rename anywhere on the host while `..` of a symlink was walked: openat2(2), EAGAIN.
                Err(Errno::EAGAIN) => {}
                opened => return opened,
            }
        }
    }

    fn make_dirs(&mut self, path: &EntryPath) -> Result<OwnedFd, EntryError> {
        let Some((parent, name)) = path.split() else {
            return self.open_dir(path).map_err(EntryError::Parent);
        };
        match self.open_dir(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            opened => return opened.map_err(EntryError::Parent),
        }
        let place = Place { dir: Rc::new(self.make_dirs(&parent)?), name: name.to_owned() };
        self.make_dir(&place)?;
        self.implied += 1;
        set_mode(&place, 0o755)?;
        self.open_dir(path).map_err(EntryError::Parent)
    }

    /// Makes a directory, or keeps the one that is here. A whiteout gives way and leaves the directory opaque: it was to
    /// hide what lies below, and the new directory is not to show it again.
    pub(crate) fn make_dir(&mut self, place: &Place) -> Result<(), EntryError> {
        let was_whiteout = match place.stat().map_err(EntryError::Make)? {
            Some((kind, _)) if kind == SFlag::S_IFDIR => return Ok(()),
            Some((kind, device)) if kind == SFlag::S_IFCHR && device == WHITEOUT_DEVICE => {
                self.clear(place)?;
                true
            }
            _ => false,
        };
        mkdirat(place.dir.as_fd(), place.name.as_os_str(), Mode::from_bits_truncate(0o755))
            .map_err(EntryError::Make)?;
        if was_whiteout { make_opaque(place) } else { Ok(()) }
    }

    /// Notes that `name` in the directory is deleted in the lower layers. What this layer itself put there stays (OCI
    /// image-spec, layer.md, "Whiteouts"), a directory without what was in it below.
    pub(crate) fn whiteout(&mut self, place: &Place) -> Result<(), EntryError> {
        match place.stat().map_err(EntryError::Make)? {
            None => mknodat(place.dir.as_fd(), place.name.as_os_str(), SFlag::S_IFCHR, Mode::empty(), WHITEOUT_DEVICE)
                .map_err(EntryError::Make),
            Some((kind, _)) if kind == SFlag::S_IFDIR => make_opaque(place),
            Some(_) => Ok(()),
        }
    }

    /// Makes room for a new entry: whatever has the name goes, a directory with all that is in it.
    pub(crate) fn clear(&mut self, place: &Place) -> Result<(), EntryError> {
        match place.stat().map_err(EntryError::Replace)? {
            None => Ok(()),
            Some((kind, _)) if kind == SFlag::S_IFDIR => {
                // The remembered directory may be in there.
                self.last = None;
                if place.name == "." {
                    return Err(EntryError::Replace(Errno::EBUSY));
                }
                std::fs::remove_dir_all(place.proc_path())
                    .map_err(|e| EntryError::Replace(e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))
            }
            Some(_) => unlinkat(place.dir.as_fd(), place.name.as_os_str(), UnlinkatFlags::NoRemoveDir)
                .map_err(EntryError::Replace),
        }
    }

    /// Creates a regular file that nobody else can open before its owner and mode are right.
    pub(crate) fn create(&self, place: &Place) -> Result<File, EntryError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(place.dir.as_fd(), place.name.as_os_str(), flags, Mode::from_bits_truncate(0o600))
            .map(File::from)
            .map_err(EntryError::Make)
    }

    /// What an O_PATH descriptor refers to is told by its magic link; a path too long for it is refused likewise.
    fn check_real_path(&self, dir: &OwnedFd) -> Result<(), EntryError> {
        let real = |fd: &OwnedFd| nix::fcntl::readlink(&Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string()));
        let (root, path) = (real(&self.fd).map_err(EntryError::Parent)?, real(dir).map_err(|_| EntryError::TooDeep)?);
        let below = path.as_bytes().get(root.len()..).unwrap_or_default();
        let depth = below.iter().filter(|byte| **byte == b'/').count();
        if below.len() > MAX_REAL_PATH || depth > MAX_DEPTH { Err(EntryError::TooDeep) } else { Ok(()) }
    }
}

/// Hides what the lower layers have in this directory. The second name is for overlays that are mounted inside a user
/// namespace (`userxattr`), where the trusted one is not looked at.
pub(crate) fn make_opaque(place: &Place) -> Result<(), EntryError> {
    for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        set_xattr(place, OsStr::new(name), b"y")?;
    }
    Ok(())
}

pub(crate) fn set_xattr(place: &Place, name: &OsStr, value: &[u8]) -> Result<(), EntryError> {
    let set = xattr::set(place.proc_path(), name, value);
    set.map_err(|source| EntryError::Xattr { name: excerpt::text(name.as_bytes()), source })
}

/// Sets the mode, which the umask has no say in. Not for symlinks.
pub(crate) fn set_mode(place: &Place, mode: u32) -> Result<(), EntryError> {
    let mode = Mode::from_bits_truncate(mode);
    fchmodat(place.dir.as_fd(), place.name.as_os_str(), mode, FchmodatFlags::FollowSymlink).map_err(EntryError::Mode)
}

/// A name or link target for the kernel.
pub(crate) fn c_string(raw: &[u8]) -> Result<CString, EntryError> {
    CString::new(raw).map_err(|_| EntryError::Nul)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(raw: &str) -> Result<PathBuf, EntryError> {
        EntryPath::new(raw.as_bytes()).map(|path| path.to_path())
    }

    #[test]
    fn names_are_made_relative_and_cannot_climb_out() {
        for (raw, expected) in [
            ("./a//b/./c/", "a/b/c"),
            ("/etc/passwd", "etc/passwd"),
            ("a/../b", "b"),
            ("./", "."),
            ("", "."),
            ("a/...", "a/..."),
        ] {
            assert_eq!(plain(raw).unwrap(), Path::new(expected), "{raw}");
        }
        for raw in ["..", "../a", "/..", "a/../../b", "a/b/../../.."] {
            assert!(matches!(plain(raw), Err(EntryError::Outside)), "{raw}");
        }
        assert!(matches!(plain("a\0b"), Err(EntryError::Nul)));
        assert!(matches!(plain(&"a/".repeat(513)), Err(EntryError::TooDeep)));
    }
}
