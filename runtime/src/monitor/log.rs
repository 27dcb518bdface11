//! A container's output as docker's json-file lines, rotated by size. A line is never torn between two files, and none
//! is lost while there is space; where there is none, what was dropped is counted and told once there is again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::cli::report::timestamp;

/// docker splits longer lines there, bytes.
const MAX_LINE: usize = 16 * 1024;

/// Which of the container's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

#[derive(Serialize)]
struct Entry<'a> {
    log: &'a str,
    stream: Stream,
    time: String,
}

/// The log of one container.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines in the file.
    size: u64,
    max_size: u64,
    max_files: u32,
    /// What was read of the line that each stream is in.
    partial: [Vec<u8>; 2],
    /// Lines not written yet.
    pending: Vec<u8>,
    /// Lines that could not be written.
    dropped: u64,
}

impl Log {
    /// Opens the log at its end, making it if need be.
    pub(super) fn open(path: &Path, max_size: u64, max_files: u32) -> io::Result<Log> {
        let file = open(path)?;
        let size = file.metadata()?.len();
        let (partial, pending) = ([Vec::new(), Vec::new()], Vec::new());
        Ok(Log { path: path.to_owned(), file, size, max_size, max_files, partial, pending, dropped: 0 })
    }

    /// Takes what was read of a stream.
    pub(super) fn take(&mut self, stream: Stream, mut bytes: &[u8]) {
        let index = stream as usize;
        while !bytes.is_empty() {
            let room = MAX_LINE - self.partial[index].len();
            let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |newline| newline + 1);
            let (part, rest) = bytes.split_at(end.min(room));
            self.partial[index].extend(part);
            bytes = rest;
            let line = &self.partial[index];
            if line.last() == Some(&b'\n') {
                self.end_line(stream, line.len());
            } else if line.len() == MAX_LINE {
                self.end_line(stream, whole_characters(line));
            }
        }
    }

    /// Writes the lines taken so far.
    pub(super) fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        if self.dropped > 0 {
            let note = format!("neargate: {} lines were lost for want of space\n", self.dropped);
            let entry = entry(&note, Stream::Stderr);
            if self.write(&entry).is_ok() {
                self.dropped = 0;
            }
        }
        let pending = std::mem::take(&mut self.pending);
        if self.write(&pending).is_err() {
            self.dropped += u64::try_from(pending.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(u64::MAX);
        }
        self.pending = pending;
        self.pending.clear();
    }

    /// Writes what is left, a last line without newline too, and has it on disk.
    pub(super) fn finish(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let length = self.partial[stream as usize].len();
            if length > 0 {
                self.end_line(stream, length);
            }
        }
        self.flush();
        // A disk that fails here has failed the container's log; its exit is recorded all the same.
        let _ = self.file.sync_data();
    }

    fn end_line(&mut self, stream: Stream, length: usize) {
        let partial = &mut self.partial[stream as usize];
        let line = entry(&String::from_utf8_lossy(&partial[..length]), stream);
        partial.drain(..length);
        let waiting = u64::try_from(self.pending.len() + line.len()).unwrap_or(u64::MAX);
        if self.size + waiting > self.max_size && self.size + waiting > u64::try_from(line.len()).unwrap_or(u64::MAX) {
            self.flush();
            self.rotate();
        }
        self.pending.extend(line);
    }

    /// Whole lines or nothing: what a failed write left of a line is cut off again.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self.file.write_all(lines) {
            Ok(()) => {
                self.size += u64::try_from(lines.len()).unwrap_or(u64::MAX);
                Ok(())
            }
            Err(error) => {
                self.file.set_len(self.size)?;
                Err(error)
            }
        }
    }

    /// LOG.1 becomes LOG.2 and so on, the oldest goes, LOG becomes LOG.1. Where that fails the file grows instead.
    fn rotate(&mut self) {
        if self.max_files <= 1 {
            if self.file.set_len(0).is_ok() {
                self.size = 0;
            }
            return;
        }
        // Before anything is renamed: on a disk that has no room for one more file the names would move on, each time
        // with the loss of the oldest, and nothing would be gained.
        let next = suffixed(&self.path, "next");
        let Ok(file) = open(&next) else { return };
        for number in (1..self.max_files - 1).rev() {
            // Not there yet, most of the time.
            let _ = fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1));
        }
        if fs::rename(&self.path, numbered(&self.path, 1)).is_ok() && fs::rename(&next, &self.path).is_ok() {
            self.file = file;
            self.size = 0;
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    suffixed(path, &number.to_string())
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{suffix}"));
    name.into()
}

fn entry(log: &str, stream: Stream) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = timestamp(now.as_secs());
    let time = format!("{}.{:09}Z", seconds.trim_end_matches('Z'), now.subsec_nanos());
    // Strings always have a JSON form.
    let mut line = serde_json::to_vec(&Entry { log, stream, time }).unwrap_or_default();
    line.push(b'\n');
    line
}

/// How much of a part can be cut off without cutting a character of UTF-8.
fn whole_characters(part: &[u8]) -> usize {
    let start = part.iter().rposition(|byte| byte & 0xc0 != 0x80).unwrap_or(part.len());
    let needed = match part.get(start) {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => 1,
    };
    if start > 0 && start + needed > part.len() { start } else { part.len() }
}

#[cfg(test)]
mod tests {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    use super::*;

    fn read(path: &Path) -> Vec<(String, String)> {
        let text = fs::read_to_string(path).unwrap_or_default();
        let field = |line: &str, name: &str| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()[name].as_str().unwrap().to_owned()
        };
        text.lines().map(|line| (field(line, "stream"), field(line, "log"))).collect()
    }

    #[test]
    fn nothing_is_lost_or_torn_by_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.log");
        let mut log = Log::open(&path, 4096, 1000).unwrap();
        let text: String = (0..2000).map(|number| format!("line {number}\n")).collect();
        for chunk in text.as_bytes().chunks(777) {
            log.take(Stream::Stdout, chunk);
            log.flush();
        }
        log.finish();
        let mut files: Vec<u32> = (1..1000).filter(|number| numbered(&path, *number).exists()).collect();
        files.reverse();
        let mut lines = Vec::new();
        for number in &files {
            assert!(fs::metadata(numbered(&path, *number)).unwrap().len() <= 4096);
            lines.extend(read(&numbered(&path, *number)));
        }
        lines.extend(read(&path));
        assert!(files.len() > 10);
        assert_eq!(lines.into_iter().map(|(_, line)| line).collect::<String>(), text);
    }

    #[test]
    fn only_so_many_files_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.log");
        let mut log = Log::open(&path, 1024, 3).unwrap();
        for number in 0..500 {
            log.take(Stream::Stderr, format!("{number}\n").as_bytes());
        }
        log.finish();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
        assert_eq!(read(&path).last().unwrap().1, "499\n");
    }

    #[test]
    fn a_disk_without_room_for_one_more_file_loses_none() {
        let directory = tempfile::tempdir().unwrap();
        // The directory, three files and no more.
        mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some("nr_inodes=4")).unwrap();
        let path = directory.path().join("c.log");
        let mut log = Log::open(&path, 1024, 10).unwrap();
        for number in 0..200 {
            log.take(Stream::Stdout, format!("{number}\n").as_bytes());
        }
        log.finish();
        let files: Vec<PathBuf> = (1..10).rev().map(|number| numbered(&path, number)).chain([path.clone()]).collect();
        let lines: Vec<String> = files.iter().flat_map(|file| read(file)).map(|(_, line)| line).collect();
        umount2(directory.path(), MntFlags::MNT_DETACH).unwrap();
        assert_eq!(lines.concat(), (0..200).map(|number| format!("{number}\n")).collect::<String>());
    }

    #[test]
    fn streams_do_not_mix_and_the_last_line_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.log");
        let mut log = Log::open(&path, 1 << 20, 3).unwrap();
        log.take(Stream::Stdout, b"out");
        log.take(Stream::Stderr, b"err\n");
        log.take(Stream::Stdout, b"put");
        log.finish();
        let pair = |stream: &str, line: &str| (stream.to_owned(), line.to_owned());
        assert_eq!(read(&path), [pair("stderr", "err\n"), pair("stdout", "output")]);
    }

    #[test]
    fn long_lines_are_split_between_characters() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.log");
        let mut log = Log::open(&path, 1 << 20, 3).unwrap();
        let line = format!("a{}\n", "é".repeat(20_000));
        log.take(Stream::Stdout, line.as_bytes());
        log.finish();
        let parts = read(&path);
        assert_eq!(parts.len(), 3);
        assert!(parts.iter().all(|(_, part)| part.len() <= MAX_LINE && !part.contains('\u{fffd}')));
        assert_eq!(parts.into_iter().map(|(_, part)| part).collect::<String>(), line);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.log");
        let mut log = Log::open(&path, 1 << 20, 3).unwrap();
        log.take(Stream::Stdout, b"\xff\xfe\n");
        log.finish();
        assert_eq!(read(&path)[0].1, "\u{fffd}\u{fffd}\n");
    }
}
