//! The tar stream as a sequence of members: ustar, GNU long names, PAX records. Framing and bounds are kept here (a
//! member's description must not take unbounded memory), and so are numbers and PAX records: xattrs are binary, a
//! newline in their value ends nothing, and blank numbers are zero. Names are put together by the `tar` crate.

use std::io::{self, ErrorKind, Read};
use std::ops::Range;

use tar::{EntryType, Header};

use crate::excerpt;

const BLOCK: u64 = 512;
/// Longest name, link target or PAX block before a member. 1 MiB is what Go's reader, and so every docker, takes; of
/// PAX records, xattrs need it.
const MAX_DESCRIPTION: u64 = 1 << 20;
/// Longest name and link target: PATH_MAX of linux/limits.h, beyond which the kernel takes none.
const MAX_PATH: usize = 4096;
/// Fields of the header: pax(1), "ustar Header Block".
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// Why a tar stream cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream itself failed, or its compression is damaged.
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// The stream ends within a member.
    #[error("the tar ends in the middle of an entry")]
    Truncated,
    /// A header's checksum does not hold.
    #[error("the tar has a damaged header at byte {0}")]
    Checksum(u64),
    /// A field is not a number, or too large for what it means.
    #[error("entry {entry:?} has an invalid {field}")]
    Field {
        /// Name of the entry.
        entry: String,
        /// The field.
        field: &'static str,
    },
    /// A long name or PAX block is too long.
    #[error("an entry is described by {0} bytes, more than the {MAX_DESCRIPTION} allowed")]
    Description(u64),
    /// A name or link target that is longer than any path.
    #[error("entry {entry:?} has a {what} of {bytes} bytes, more than the {MAX_PATH} of a path")]
    Path {
        /// The beginning of the entry's name.
        entry: String,
        /// Which of the two.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A type of entry that cannot be made.
    #[error("entry {entry:?} is of the unsupported type {kind:?}")]
    Type {
        /// Name of the entry.
        entry: String,
        /// The type flag, or the extension's name.
        kind: String,
    },
}

/// PAX records or xattrs: keys and values, in their order.
type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file with that many bytes of data, which follow.
    File(u64),
    Directory,
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// A member's description; the data of a file is read from [`Tar`] next.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Records,
}

impl Member {
    /// The name as a message shows it.
    pub(crate) fn name(&self) -> String {
        excerpt::text(&self.path)
    }
}

/// A tar stream being read.
pub(crate) struct Tar<R> {
    inner: R,
    position: u64,
    /// Bytes of the current member's data not read yet, and of the padding behind it.
    data: u64,
    padding: u64,
}

/// What extension headers said about the next member.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Records,
}

impl Extensions {
    fn pax(&self, key: &[u8]) -> Option<&[u8]> {
        self.pax.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_slice())
    }

    /// `None`: no such record; `Some(None)`: one that is no number.
    fn number<T: std::str::FromStr>(&self, key: &str) -> Option<Option<T>> {
        let value = self.pax(key.as_bytes())?;
        Some(std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()))
    }
}

impl<R: Read> Tar<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, position: 0, data: 0, padding: 0 }
    }

    /// The stream behind the archive's end.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// The next member, or `None` at the archive's end.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header.entry_type();
            if !(kind.is_gnu_longname()
                || kind.is_gnu_longlink()
                || kind.is_pax_local_extensions()
                || kind.is_pax_global_extensions())
            {
                return self.member(&header, &extensions).map(Some);
            }
            let size = number(&header.as_bytes()[SIZE]).ok_or_else(|| field("an extension header", "size"))?;
            let text = self.description(size)?;
            match kind {
                EntryType::GNULongName => extensions.name = Some(until_nul(text)),
                EntryType::GNULongLink => extensions.link = Some(until_nul(text)),
                EntryType::XHeader => extensions.pax = parse_pax(&text)?,
                // Global records carry comments (git's commit id); no image tool gives them meaning.
                _ => {}
            }
        }
    }

    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut header = Header::new_old();
        let mut filled = 0;
        while filled < header.as_bytes().len() {
            match self.inner.read(&mut header.as_mut_bytes()[filled..]) {
                // Some writers leave out the two closing blocks.
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated),
                Ok(amount) => filled += amount,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(TarError::Read(e)),
            }
        }
        let at = self.position;
        self.position += BLOCK;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let bytes = header.as_bytes();
        let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
        if number(&bytes[CHECKSUM]) != Some(u64::from(sum)) {
            return Err(TarError::Checksum(at));
        }
        Ok(Some(header))
    }

    fn description(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_DESCRIPTION {
            return Err(TarError::Description(size));
        }
        self.begin_data(size);
        let mut text = Vec::new();
        self.read_to_end(&mut text).map_err(TarError::Read)?;
        if text.len() as u64 == size { Ok(text) } else { Err(TarError::Truncated) }
    }

    fn begin_data(&mut self, size: u64) {
        self.data = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
    }

    /// Where in the stream the current member's data begins, before any of it was read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        self.skip_data(|inner, left| io::copy(&mut inner.take(left), &mut io::sink()))
    }

    /// Leaves out the current member's data by the stream's own means, which answer how much they left out.
    pub(crate) fn skip_data(&mut self, skip: impl FnOnce(&mut R, u64) -> io::Result<u64>) -> Result<(), TarError> {
        let (data, padding) = (std::mem::take(&mut self.data), std::mem::take(&mut self.padding));
        let skipped = skip(&mut self.inner, data + padding).map_err(TarError::Read)?;
        self.position += skipped;
        // Some writers (umoci's insert) end with the last byte of the last file, and docker takes that.
        if skipped >= data { Ok(()) } else { Err(TarError::Truncated) }
    }

    fn member(&mut self, header: &Header, extensions: &Extensions) -> Result<Member, TarError> {
        let pax_path = extensions.pax(b"path").map(<[u8]>::to_vec);
        let path = pax_path.or_else(|| extensions.name.clone()).unwrap_or_else(|| header.path_bytes().into_owned());
        let name = excerpt::text(&path);
        within_path_max(&path, "name", &path)?;
        let field = |what| field(&name, what);
        if extensions.pax.iter().any(|(key, _)| key.starts_with(b"GNU.sparse.")) {
            return Err(TarError::Type { entry: name, kind: "sparse file".to_owned() });
        }
        let bytes = header.as_bytes();
        let id = |key: &str, what: &'static str, at: Range<usize>| -> Result<u32, TarError> {
            let value = extensions.number::<u64>(key).unwrap_or_else(|| number(&bytes[at]));
            value.and_then(|value| u32::try_from(value).ok()).ok_or_else(|| field(what))
        };
        let (uid, gid) = (id("uid", "owner", UID)?, id("gid", "group", GID)?);
        let mode = number(&bytes[MODE]).ok_or_else(|| field("mode"))?;
        let mode = u32::try_from(mode & 0o7777).map_err(|_| field("mode"))?;
        let mtime = match extensions.pax(b"mtime") {
            Some(text) => parse_time(text).ok_or_else(|| field("mtime"))?,
            // Times before the epoch come as two's complement.
            None => (number(&bytes[MTIME]).ok_or_else(|| field("mtime"))?.cast_signed(), 0),
        };
        let size = extensions.number::<u64>("size").unwrap_or_else(|| number(&bytes[SIZE]));
        let size = size.ok_or_else(|| field("size"))?;
        let kind = self.kind(header, extensions, &path, size)?;
        let xattrs = extensions
            .pax
            .iter()
            .filter_map(|(key, value)| key.strip_prefix(XATTR_PREFIX).map(|name| (name.to_vec(), value.clone())));
        Ok(Member { kind, mode, uid, gid, mtime, xattrs: xattrs.collect(), path })
    }

    fn kind(&mut self, header: &Header, extensions: &Extensions, path: &[u8], size: u64) -> Result<Kind, TarError> {
        let name = || excerpt::text(path);
        let target = || {
            let long = extensions.pax(b"linkpath").map(<[u8]>::to_vec).or_else(|| extensions.link.clone());
            let short = || header.link_name_bytes().map(std::borrow::Cow::into_owned);
            let target = long.or_else(short).unwrap_or_default();
            within_path_max(path, "link target", &target).map(|()| target)
        };
        let device = || {
            let part = |at: Range<usize>| number(&header.as_bytes()[at]).and_then(|value| u32::try_from(value).ok());
            part(MAJOR).zip(part(MINOR)).ok_or_else(|| field(&name(), "device number"))
        };
        Ok(match header.entry_type() {
            // Before POSIX a directory was a file whose name ends with a slash.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => {
                if size > i64::MAX.cast_unsigned() {
                    return Err(field(&name(), "size"));
                }
                self.begin_data(size);
                Kind::File(size)
            }
            // These have no data, whatever their size says: old writers left the linked file's size there.
            EntryType::Link => Kind::Hardlink(target()?),
            EntryType::Symlink => Kind::Symlink(target()?),
            EntryType::Directory => Kind::Directory,
            EntryType::Char => device().map(|(major, minor)| Kind::CharDevice(major, minor))?,
            EntryType::Block => device().map(|(major, minor)| Kind::BlockDevice(major, minor))?,
            EntryType::Fifo => Kind::Fifo,
            other => {
                return Err(TarError::Type { entry: name(), kind: char::from(other.as_byte()).to_string() });
            }
        })
    }
}

/// The data of the current member.
impl<R: Read> Read for Tar<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.data).unwrap_or(usize::MAX).min(out.len());
        // The zstd decoder takes a read without room for one that gets nowhere.
        if room == 0 {
            return Ok(0);
        }
        let amount = self.inner.read(&mut out[..room])?;
        self.data -= amount as u64;
        self.position += amount as u64;
        Ok(amount)
    }
}

fn field(entry: &str, field: &'static str) -> TarError {
    TarError::Field { entry: entry.to_owned(), field }
}

fn within_path_max(entry: &[u8], what: &'static str, path: &[u8]) -> Result<(), TarError> {
    if path.len() > MAX_PATH {
        return Err(TarError::Path { entry: excerpt::text(entry), what, bytes: path.len() });
    }
    Ok(())
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
    text
}

/// `length SP key=value NL` repeated, the length covering itself: pax(1), "pax Extended Header".
fn parse_pax(mut text: &[u8]) -> Result<Records, TarError> {
    let malformed = || field("an extension header", "PAX record");
    let mut records = Vec::new();
    while !text.is_empty() {
        let space = text.iter().take(20).position(|byte| *byte == b' ').ok_or_else(malformed)?;
        let length = std::str::from_utf8(&text[..space]).ok().and_then(|digits| digits.parse::<usize>().ok());
        let record = length.and_then(|length| text.get(space + 1..length)).ok_or_else(malformed)?;
        let record = record.strip_suffix(b"\n").ok_or_else(malformed)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        text = &text[length.unwrap_or_default()..];
    }
    Ok(records)
}

/// A numeric field: octal digits amid blanks and NULs, blank for zero, or base-256 where the first bit is set (negative
/// ones as two's complement of 64 bits). `None` for anything else and for what needs more than 64 bits.
fn number(raw: &[u8]) -> Option<u64> {
    match raw.first() {
        Some(first) if first & 0x80 != 0 => {
            let negative = first & 0x40 != 0;
            let fill: u8 = if negative { 0xff } else { 0 };
            let (high, low) = raw.split_at(raw.len().saturating_sub(8));
            let mut value = low.iter().fold(0u64, |value, byte| (value << 8) | u64::from(*byte));
            if high.is_empty() && !negative {
                value &= i64::MAX.cast_unsigned();
            }
            let rest_fits = high.iter().enumerate().all(|(at, byte)| {
                let byte = if at == 0 && !negative { byte & 0x7f } else { *byte };
                byte == fill
            });
            rest_fits.then_some(value)
        }
        _ => {
            let text = std::str::from_utf8(raw).ok()?.trim_matches([' ', '\0']);
            if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
        }
    }
}

/// `seconds[.fraction]`, negative before the epoch: pax(1), "mtime".
fn parse_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    // -1.25 is 0.75 after second -2.
    if whole.starts_with('-') && nanos > 0 {
        Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos))
    } else {
        Some((seconds, nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_and_can_lie_before_the_epoch() {
        assert_eq!(parse_time(b"12"), Some((12, 0)));
        assert_eq!(parse_time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(parse_time(b"12.1234567891"), Some((12, 123_456_789)));
        assert_eq!(parse_time(b"-1.25"), Some((-2, 750_000_000)));
        for bad in [&b""[..], b"x", b"1.-5", b"1e9", b"99999999999999999999"] {
            assert_eq!(parse_time(bad), None);
        }
    }

    #[test]
    fn numbers_are_octal_blank_or_binary() {
        assert_eq!(number(b"0000755\0"), Some(0o755));
        assert_eq!(number(b"  755 \0 "), Some(0o755));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"\x80\0\0\0\0\x01\0\x05"), Some(65541));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\0\x01\x00"), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(u64::MAX));
        assert_eq!(number(b"\x80\x01\0\0\0\0\0\0\0\0\x01\x00"), None);
        for bad in [&b"-1"[..], b"9", b"7x", b"\xc3"] {
            assert!(number(bad).is_none() || bad[0] & 0x80 != 0);
        }
    }

    #[test]
    fn a_newline_in_a_pax_value_ends_nothing() {
        let records = parse_pax(b"9 a=b\nc=\n12 key=v=1\n\n").unwrap();
        assert_eq!(records, [(b"a".to_vec(), b"b\nc=".to_vec()), (b"key".to_vec(), b"v=1\n".to_vec())]);
        for bad in [&b"9 a=b"[..], b"x a=b\n", b"6 ab\n", b"99999999999999999999999 a=b\n", b"0 a=b\n", b"1 a=b\n"] {
            assert!(parse_pax(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_description_of_gigabytes_is_refused_before_it_is_read() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        let stream = header.as_bytes().chain(io::repeat(b'a'));
        assert!(matches!(Tar::new(stream).next(), Err(TarError::Description(_))));
    }

    #[test]
    fn names_and_targets_beyond_path_max_are_refused_and_other_records_are_not() {
        let archive = |kind, name: &str, target: &str, record: &[u8]| {
            let mut archive = tar::Builder::new(Vec::new());
            archive.append_pax_extensions([("SCHILY.xattr.user.x", record)]).unwrap();
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            archive.append_link(&mut header, name, target).unwrap();
            archive.into_inner().unwrap()
        };
        let (fits, long) = ("n".repeat(4096), "n".repeat(4097));
        let taken = archive(EntryType::Symlink, &fits, &fits, &[b'x'; 60_000]);
        let member = Tar::new(&taken[..]).next().unwrap().unwrap();
        assert_eq!((member.path.len(), member.xattrs[0].1.len()), (4096, 60_000));
        for (kind, name, target) in
            [(EntryType::Regular, &long, &fits), (EntryType::Symlink, &fits, &long), (EntryType::Link, &fits, &long)]
        {
            let refused = Tar::new(&archive(kind, name, target, b"x")[..]).next();
            assert!(format!("{refused:?}").starts_with("Err(Path"), "{kind:?}");
        }
        let mut pax = tar::Builder::new(Vec::new());
        pax.append_pax_extensions([("path", long.as_bytes())]).unwrap();
        let mut header = Header::new_gnu();
        header.set_size(0);
        header.set_cksum();
        pax.append(&header, io::empty()).unwrap();
        let refused = Tar::new(&pax.into_inner().unwrap()[..]).next();
        assert!(format!("{refused:?}").starts_with("Err(Path"), "PAX");
    }

    #[test]
    fn damage_is_told_from_the_end() {
        assert!(Tar::new(&b""[..]).next().unwrap().is_none());
        assert!(Tar::new(&[0; 1024][..]).next().unwrap().is_none());
        assert!(matches!(Tar::new(&[0; 100][..]).next(), Err(TarError::Truncated)));
        assert!(matches!(Tar::new(&[7; 512][..]).next(), Err(TarError::Checksum(0))));
    }

    #[test]
    fn the_last_files_padding_may_be_missing_but_none_of_its_data() {
        let mut archive = Header::new_gnu();
        archive.set_path("file").unwrap();
        archive.set_size(3);
        archive.set_cksum();
        let archive = [archive.as_bytes().as_slice(), b"abc"].concat();
        let mut tar = Tar::new(&archive[..]);
        assert_eq!(tar.next().unwrap().unwrap().path, b"file");
        assert!(tar.next().unwrap().is_none());
        let mut tar = Tar::new(&archive[..archive.len() - 1]);
        tar.next().unwrap();
        assert!(matches!(tar.next(), Err(TarError::Truncated)));
    }
}
