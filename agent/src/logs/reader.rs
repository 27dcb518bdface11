//! Reads one container's log files in the order they were written, while the monitor may rotate them. Blocking;
//! merging and waiting are `logs`'.
//!
//! The monitor rotates by rename: `PATH.1` becomes `PATH.2`, `PATH` becomes `PATH.1`, a new `PATH` is made; it never
//! writes to a file that it renamed. So a file is known by its inode, files move towards higher numbers only, and
//! the end of a file that is not `PATH` any more is final.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::entry::Entry;

/// Bytes read at once: some hundred usual lines.
const CHUNK: usize = 64 * 1024;

/// A line longer than this is none: 16 KiB of text, six bytes each at most, and a short frame.
const LONGEST: usize = 256 * 1024;

/// What a read came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Read on, there may be more.
    More,
    /// Everything written until now was read.
    CaughtUp,
}

/// A place in a log.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    /// Files to read, oldest first; the first one is being read.
    files: VecDeque<LogFile>,
    /// Bytes behind the last newline.
    partial: Vec<u8>,
    /// Lines that are not wanted.
    skip: usize,
    /// Wanted lines at the end; None once their beginning was looked for.
    tail: Option<usize>,
    /// Read what comes later too, else stop at what was written when the reading began.
    follow: bool,
}

#[derive(Debug)]
struct LogFile {
    file: File,
    identity: Identity,
    offset: u64,
    /// Do not read beyond.
    end: Option<u64>,
}

/// A file whatever its name is; unique as long as the file is open.
type Identity = (u64, u64);

impl Reader {
    /// Reads the log at `path`, only its last `tail` lines if given. The file may not exist yet.
    pub(super) fn new(path: PathBuf, tail: Option<usize>, follow: bool) -> Self {
        Self { path, files: VecDeque::new(), partial: Vec::new(), skip: 0, tail, follow }
    }

    /// Appends some entries in the order they were written.
    pub(super) fn read(&mut self, entries: &mut VecDeque<Entry>) -> io::Result<Progress> {
        if self.files.is_empty() {
            self.files = files_after(&self.path, None)?;
            if let Some(newest) = self.files.back_mut().filter(|_| !self.follow) {
                newest.end = Some(newest.file.metadata()?.len());
            }
            if let Some(wanted) = self.tail.take() {
                self.seek_tail(wanted)?;
            }
        }
        let is_last = self.files.len() == 1;
        let Some(file) = self.files.front_mut() else { return Ok(Progress::CaughtUp) };
        // Asked before reading: a rename in between only means that we look once more.
        let is_current = is_last && identity_at(&self.path)? == Some(file.identity);

        let mut chunk = vec![0; file.end.map_or(CHUNK, |end| clipped(end - file.offset))];
        let length = file.file.read_at(&mut chunk, file.offset)?;
        if length > 0 {
            file.offset += length as u64;
            self.take_lines(&chunk[..length], entries);
            return Ok(Progress::More);
        }
        if is_current || file.end.is_some() {
            return Ok(Progress::CaughtUp);
        }
        if is_last {
            let newer = files_after(&self.path, Some(file.identity))?;
            if newer.is_empty() {
                // Between the monitor's rename and its new file.
                return Ok(Progress::CaughtUp);
            }
            self.files.extend(newer);
        }
        entries.extend(self.take_rest());
        self.files.pop_front();
        Ok(Progress::More)
    }

    /// The bytes behind the last newline, if they are a whole entry: nothing will be appended to them.
    pub(super) fn take_rest(&mut self) -> Option<Entry> {
        let entry = Entry::parse(&std::mem::take(&mut self.partial))?;
        self.is_wanted(&entry).then_some(entry)
    }

    fn take_lines(&mut self, bytes: &[u8], entries: &mut VecDeque<Entry>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.partial);
                match Entry::parse(&line) {
                    Some(entry) if self.is_wanted(&entry) => entries.push_back(entry),
                    Some(_) => {}
                    None => tracing::warn!(path = %self.path.display(), "skipped a log line that is no log entry"),
                }
            } else if self.partial.len() > LONGEST {
                self.partial.clear();
            }
        }
    }

    fn is_wanted(&mut self, entry: &Entry) -> bool {
        if self.skip == 0 {
            return true;
        }
        if entry.ends_line() {
            self.skip -= 1;
        }
        false
    }

    /// Drops the files and counts the lines before the last `wanted` lines.
    fn seek_tail(&mut self, wanted: usize) -> io::Result<()> {
        let mut missing = wanted;
        for index in (0..self.files.len()).rev() {
            let is_newest = index + 1 == self.files.len();
            let lines = count_lines(&self.files[index].file, is_newest)?;
            if lines >= missing {
                self.files.drain(..index);
                self.skip = lines - missing;
                break;
            }
            missing -= lines;
        }
        Ok(())
    }
}

/// Lines of a file; in the newest one, a line of which only parts are written counts too.
fn count_lines(file: &File, is_newest: bool) -> io::Result<usize> {
    // A reader of its own, so that parts and torn lines are judged alike here and there.
    let mut reader = Reader::new(PathBuf::new(), None, false);
    let mut chunk = vec![0; CHUNK];
    let (mut offset, mut lines, mut open) = (0, 0, false);
    loop {
        let length = file.read_at(&mut chunk, offset)?;
        if length == 0 {
            return Ok(lines + usize::from(open && is_newest));
        }
        offset += length as u64;
        let mut entries = VecDeque::new();
        reader.take_lines(&chunk[..length], &mut entries);
        for entry in entries {
            lines += usize::from(entry.ends_line());
            open = !entry.ends_line();
        }
    }
}

/// The log's files, oldest first; only those written after `known` if given, all where that one is gone.
fn files_after(path: &Path, known: Option<Identity>) -> io::Result<VecDeque<LogFile>> {
    let mut files: VecDeque<LogFile> = VecDeque::new();
    let mut missing = 0;
    // Upwards: a rotation meanwhile shows a file twice under two names, but never hides one.
    for number in 0.. {
        let Some(file) = open(&numbered(path, number))? else {
            missing += 1;
            // While the monitor rotates, PATH or any one number may be missing for a moment.
            if missing > 1 {
                break;
            }
            continue;
        };
        if known == Some(file.identity) {
            break;
        }
        if !files.iter().any(|seen| seen.identity == file.identity) {
            files.push_front(file);
        }
    }
    Ok(files)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn open(path: &Path) -> io::Result<Option<LogFile>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    Ok(Some(LogFile { file, identity: (metadata.dev(), metadata.ino()), offset: 0, end: None }))
}

/// A chunk, or less where less is left.
fn clipped(left: u64) -> usize {
    usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK))
}

fn identity_at(path: &Path) -> io::Result<Option<Identity>> {
    match path.metadata() {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
