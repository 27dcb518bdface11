//! A layer's compressed tar to a directory, in one pass: digests, whiteouts, links, devices, owners, modes, xattrs,
//! times. The tar is a stranger's: nothing is made, read or changed outside the directory (see `unpack/root.rs`), and
//! what it makes this host do is bounded.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, linkat, symlinkat};
use tokio::sync::mpsc::Receiver;

use crate::digest::Digest;
use crate::excerpt;
use crate::unpack::root::{EntryPath, Place, Root};
use crate::unpack::stream::{Compressed, Plain};
use crate::unpack::tar::Member;

mod budget;
mod root;
mod stream;
mod tar;

pub(crate) use crate::unpack::budget::Budget;
pub use crate::unpack::budget::LimitError;
pub(crate) use crate::unpack::stream::{compression, inflate};
pub use crate::unpack::tar::TarError;
pub(crate) use crate::unpack::tar::{Kind, Tar};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Book-keeping of aufs that old layers contain; no reader gives it meaning any more.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// Why one entry of a layer cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// Its name contains a NUL.
    #[error("the name contains a NUL")]
    Nul,
    /// Its name climbs out of the layer.
    #[error("the name leads outside the layer")]
    Outside,
    /// It is nested deeper than any tool could handle.
    #[error("the entry is nested too deeply")]
    TooDeep,
    /// A whiteout of nothing, of `.` or of `..`.
    #[error("the whiteout names nothing that can be deleted")]
    Whiteout,
    /// Its directory cannot be reached or made.
    #[error("cannot open its directory")]
    Parent(#[source] Errno),
    /// What had its name cannot be removed.
    #[error("cannot replace what has this name")]
    Replace(#[source] Errno),
    /// It cannot be made.
    #[error("cannot make it")]
    Make(#[source] Errno),
    /// The file that a hard link names is not in this layer.
    #[error("cannot link to {target:?}")]
    Link {
        /// The name linked to.
        target: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// Its owner cannot be set.
    #[error("cannot set its owner")]
    Owner(#[source] Errno),
    /// Its mode cannot be set.
    #[error("cannot set its mode")]
    Mode(#[source] Errno),
    /// Its modification time cannot be set.
    #[error("cannot set its modification time")]
    Time(#[source] Errno),
    /// An extended attribute cannot be set.
    #[error("cannot set its extended attribute {name}")]
    Xattr {
        /// The attribute.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Its data cannot be written.
    #[error("cannot write its data")]
    Write(#[source] io::Error),
}

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The directory to unpack into cannot be opened.
    #[error("cannot open {}", .0.display())]
    Root(PathBuf, #[source] io::Error),
    /// The tar, its compression or its source is damaged.
    #[error("the layer is damaged")]
    Tar(#[source] TarError),
    /// An entry cannot be made.
    #[error("entry {entry:?}")]
    Entry {
        /// Its name.
        entry: String,
        /// What went wrong.
        #[source]
        source: EntryError,
    },
    /// The image costs more than one may.
    #[error("the image is refused")]
    Limit(#[source] LimitError),
}

/// What was unpacked.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) diff_id: Digest,
    /// Bytes of file content.
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

/// What was unpacked, and what the blob was, whether or not unpacking succeeded: a damaged blob explains everything else.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) blob: Digest,
    pub(crate) blob_bytes: u64,
    pub(crate) unpacked: Result<Unpacked, UnpackError>,
}

/// Unpacks a compressed layer that arrives in `chunks` into the directory `into`. Blocks.
pub(crate) fn run(chunks: Receiver<Bytes>, into: &Path, budget: &Budget) -> Outcome {
    let mut compressed = Compressed::new(chunks);
    let unpacked = unpack_blob(&mut compressed, into, budget);
    match unpacked {
        // The disk is full or the layer hostile: the rest of the blob would change nothing, and the sender is told by
        // the closing channel.
        Err(error @ (UnpackError::Root(..) | UnpackError::Entry { .. } | UnpackError::Limit(_))) => {
            let (blob, blob_bytes) = compressed.so_far();
            Outcome { blob, blob_bytes, unpacked: Err(error) }
        }
        unpacked => {
            let (blob, blob_bytes) = compressed.finish();
            Outcome { blob, blob_bytes, unpacked }
        }
    }
}

fn unpack_blob(compressed: &mut Compressed, into: &Path, budget: &Budget) -> Result<Unpacked, UnpackError> {
    let root = Root::open(into).map_err(|e| UnpackError::Root(into.to_owned(), e))?;
    let inflated = stream::inflate(compressed).map_err(read_error)?;
    let mut tar = Tar::new(Plain::new(inflated, budget, root.directory()));
    let mut unpacker = Unpacker { root, budget, counted: 0, bytes: 0, entries: 0, directory_times: HashMap::new() };
    while let Some(member) = tar.next().map_err(tar_error)? {
        unpacker.member(&member, &mut tar)?;
    }
    unpacker.set_directory_times()?;
    let diff_id = tar.into_inner().finish().map_err(read_error)?;
    Ok(Unpacked { diff_id, bytes: unpacker.bytes, entries: unpacker.entries })
}

fn read_error(error: io::Error) -> UnpackError {
    tar_error(TarError::Read(error))
}

/// A limit that was hit inside the stream comes out of it wrapped.
fn tar_error(error: TarError) -> UnpackError {
    if let TarError::Read(io_error) = &error
        && let Some(limit) = io_error.get_ref().and_then(|inner| inner.downcast_ref::<LimitError>())
    {
        return UnpackError::Limit(*limit);
    }
    UnpackError::Tar(error)
}

struct Unpacker<'a> {
    root: Root,
    budget: &'a Budget,
    /// Of entries and what they imply, what the budget knows of.
    counted: u64,
    bytes: u64,
    entries: u64,
    /// Times of directories, set at the end: every entry made in one changes it.
    directory_times: HashMap<EntryPath, (i64, u32)>,
}

impl Unpacker<'_> {
    fn member(&mut self, member: &Member, data: &mut impl Read) -> Result<(), UnpackError> {
        self.entries += 1;
        // What an entry implies costs as much as what it says.
        let files = self.entries.saturating_add(self.root.implied());
        self.budget.files(files - self.counted).map_err(UnpackError::Limit)?;
        self.counted = files;
        self.entry(member, data).map_err(|failure| match failure {
            Failure::Entry(source) => UnpackError::Entry { entry: member.name(), source },
            Failure::Data(error) => read_error(error),
        })
    }

    fn entry(&mut self, member: &Member, data: &mut impl Read) -> Result<(), Failure> {
        let path = EntryPath::new(&member.path)?;
        if let Some((parent, name)) = path.split()
            && let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT_PREFIX)
        {
            return Ok(self.whiteout(&parent, name.as_bytes(), hidden)?);
        }
        let place = self.root.place(&path, true)?;
        if member.kind != Kind::Directory && !is_link_to_itself(member, &path)? {
            self.root.clear(&place)?;
        }
        match &member.kind {
            Kind::Directory => {
                self.directory(&place)?;
                self.directory_times.insert(path, member.mtime);
            }
            Kind::File(size) => self.file(&place, *size, data)?,
            Kind::Symlink(target) => {
                symlinkat(root::c_string(target)?.as_c_str(), place.dir.as_fd(), place.name.as_os_str())
                    .map_err(EntryError::Make)?;
            }
            // The inode has its owner, mode and times from the entry that made it.
            Kind::Hardlink(target) => return Ok(self.hardlink(&place, &path, target)?),
            Kind::CharDevice(major, minor) => node(&place, SFlag::S_IFCHR, (*major, *minor))?,
            Kind::BlockDevice(major, minor) => node(&place, SFlag::S_IFBLK, (*major, *minor))?,
            Kind::Fifo => node(&place, SFlag::S_IFIFO, (0, 0))?,
        }
        Ok(attributes(&place, member)?)
    }

    fn whiteout(&mut self, parent: &EntryPath, name: &[u8], hidden: &[u8]) -> Result<(), EntryError> {
        if name == OPAQUE {
            let place = self.root.place(parent, true)?;
            self.root.make_dir(&place)?;
            return root::make_opaque(&place);
        }
        if name.starts_with(AUFS_PREFIX) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(EntryError::Whiteout);
        }
        let place = self.root.place(&parent.join(hidden), true)?;
        self.root.whiteout(&place)
    }

    fn directory(&mut self, place: &Place) -> Result<(), EntryError> {
        match self.root.make_dir(place) {
            // Something that is no directory has the name; the later entry wins.
            Err(EntryError::Make(Errno::EEXIST)) => {
                self.root.clear(place)?;
                self.root.make_dir(place)
            }
            made => made,
        }
    }

    fn file(&mut self, place: &Place, size: u64, data: &mut impl Read) -> Result<(), Failure> {
        let mut file = self.root.create(place)?;
        let mut buffer = [0; 64 << 10];
        let mut left = size;
        while left > 0 {
            let amount = match data.read(&mut buffer) {
                Ok(0) => return Err(Failure::Data(io::ErrorKind::UnexpectedEof.into())),
                Ok(amount) => amount,
                Err(e) => return Err(Failure::Data(e)),
            };
            io::Write::write_all(&mut file, &buffer[..amount]).map_err(EntryError::Write)?;
            left -= amount as u64;
        }
        self.bytes += size;
        Ok(())
    }

    fn hardlink(&mut self, place: &Place, path: &EntryPath, target: &[u8]) -> Result<(), EntryError> {
        let link_error = |source| EntryError::Link { target: excerpt::text(target), source };
        let target_path = EntryPath::new(target)?;
        let from = match self.root.place(&target_path, false) {
            Err(EntryError::Parent(errno)) => return Err(link_error(errno)),
            from => from?,
        };
        if target_path == *path {
            return Ok(());
        }
        // Without AT_SYMLINK_FOLLOW a symlink is linked itself, wherever it points.
        let linked = linkat(
            from.dir.as_fd(),
            from.name.as_os_str(),
            place.dir.as_fd(),
            place.name.as_os_str(),
            AtFlags::empty(),
        );
        linked.map_err(link_error)
    }

    fn set_directory_times(&mut self) -> Result<(), UnpackError> {
        for (path, mtime) in std::mem::take(&mut self.directory_times) {
            let set = match self.root.place(&path, false) {
                Ok(place) => match set_time(&place, mtime) {
                    // A later entry replaced the directory or one above it.
                    Err(EntryError::Time(Errno::ENOENT)) => Ok(()),
                    set => set,
                },
                Err(EntryError::Parent(Errno::ENOENT | Errno::ENOTDIR)) => Ok(()),
                Err(error) => Err(error),
            };
            set.map_err(|source| UnpackError::Entry { entry: excerpt::text(path.to_string()), source })?;
        }
        Ok(())
    }
}

/// An entry fails by what it asks for, or because its data does not come.
enum Failure {
    Entry(EntryError),
    Data(io::Error),
}

impl From<EntryError> for Failure {
    fn from(error: EntryError) -> Self {
        Self::Entry(error)
    }
}

/// Clearing the name of such a link would remove its target.
fn is_link_to_itself(member: &Member, path: &EntryPath) -> Result<bool, EntryError> {
    match &member.kind {
        Kind::Hardlink(target) => Ok(EntryPath::new(target)? == *path),
        _ => Ok(false),
    }
}

fn node(place: &Place, kind: SFlag, (major, minor): (u32, u32)) -> Result<(), EntryError> {
    let device = makedev(u64::from(major), u64::from(minor));
    mknodat(place.dir.as_fd(), place.name.as_os_str(), kind, Mode::empty(), device).map_err(EntryError::Make)
}

/// Owner first: changing it clears setuid bits and file capabilities.
fn attributes(place: &Place, member: &Member) -> Result<(), EntryError> {
    let (uid, gid) = (Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)));
    fchownat(place.dir.as_fd(), place.name.as_os_str(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(EntryError::Owner)?;
    if !matches!(member.kind, Kind::Symlink(_)) {
        root::set_mode(place, member.mode)?;
    }
    for (name, value) in &member.xattrs {
        xattr(place, OsStr::from_bytes(name), value)?;
    }
    set_time(place, member.mtime)
}

/// Attributes that steer overlayfs are ours alone: a layer that brought its own could redirect directories of others.
fn xattr(place: &Place, name: &OsStr, value: &[u8]) -> Result<(), EntryError> {
    let steers_overlay = [&b"trusted.overlay."[..], b"user.overlay."].iter().any(|p| name.as_bytes().starts_with(p));
    if steers_overlay {
        return Ok(());
    }
    match root::set_xattr(place, name, value) {
        // The file system, or the kind of file, has no such attributes; docker leaves them out as well.
        Err(EntryError::Xattr { source, .. })
            if matches!(source.raw_os_error().map(Errno::from_raw), Some(Errno::EOPNOTSUPP)) =>
        {
            tracing::debug!(name = %name.display(), "extended attribute left out, not supported here");
            Ok(())
        }
        set => set,
    }
}

fn set_time(place: &Place, (seconds, nanos): (i64, u32)) -> Result<(), EntryError> {
    let time = TimeSpec::new(seconds, i64::from(nanos));
    utimensat(place.dir.as_fd(), place.name.as_os_str(), &time, &time, UtimensatFlags::NoFollowSymlink)
        .map_err(EntryError::Time)
}

#[cfg(test)]
mod tests;
