//! What a monitor and the agent tell each other: records in the bundle directory, the line on the monitor's stdout, and
//! frames on its socket. Owns the forms; who writes what when is `monitor`'s.
//!
//! A frame is one byte of type, four bytes of payload length (big-endian) and the payload, [`MAX_PAYLOAD`] at most.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use oci_spec::runtime::Process;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::container::moments::Moments;
use crate::process::ProcessRef;

/// Format of the records; a newer one is refused.
pub const FORMAT: u32 = 1;
/// Largest payload of a frame, bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// Longest message of a failure, characters; ECS cuts reasons there.
const MAX_MESSAGE: usize = 1024;
/// Room for a record, bytes: a message in JSON, at six bytes a character, and as much again as the rest can be.
const RECORD_BYTES: u16 = 8 * 1024;
/// Type and length.
const HEADER: usize = 5;
/// Exit status of a monitor that finds another one at work on its bundle.
pub const EXIT_BUSY: u8 = 3;

/// Bytes of stdin that a resumable session takes before they are written.
pub const STDIN_WINDOW: usize = 1 << 20;
/// [`Failure::kind`] of a request that is none.
pub const INVALID_REQUEST: &str = "InvalidRequest";
/// [`Failure::kind`] of a session that would be one too many.
pub const SESSION_LIMIT: &str = "SessionLimit";
/// [`Failure::kind`] of a session to go on with that is not there, or no longer.
pub const UNKNOWN_SESSION: &str = "UnknownSession";

/// Held by the monitor from its first step to its last.
pub const LOCK_FILE: &str = "monitor.lock";
/// [`MonitorRecord`], from the moment the program runs.
pub const MONITOR_FILE: &str = "monitor.json";
/// [`ExitRecord`], once everything is over.
pub const EXIT_FILE: &str = "exit.json";
/// The monitor's socket.
pub const SOCKET_FILE: &str = "monitor.sock";

/// A running container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MonitorRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// The monitor itself.
    pub monitor: ProcessRef,
    /// The container's pid 1, by its pid outside.
    pub init: ProcessRef,
    /// Seconds since the epoch.
    pub started_at: f64,
    /// How it came to run; a monitor of an earlier version tells nothing of it.
    #[serde(default)]
    pub moments: Moments,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// The program's exit status, 128 + n for signal n; 127 and 126 where it could not be executed; absent where
    /// nothing was executed.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the container for want of memory.
    pub oom_killed: bool,
    /// Seconds since the epoch; absent when the program never ran.
    pub started_at: Option<f64>,
    /// Seconds since the epoch.
    pub finished_at: f64,
    /// Why it could not be created or started.
    pub error: Option<Failure>,
}

/// Why a container could not be created or started, in ECS's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `CannotCreateContainerError` or `CannotStartContainerError`; on the socket [`INVALID_REQUEST`],
    /// [`SESSION_LIMIT`] or [`UNKNOWN_SESSION`] too.
    pub kind: String,
    /// For people.
    pub message: String,
}

impl Failure {
    /// A failure whose message is cut where it is too long to be kept.
    pub fn new(kind: &str, message: &str) -> Failure {
        Failure { kind: kind.to_owned(), message: message.chars().take(MAX_MESSAGE).collect() }
    }
}

/// The one line on the monitor's stdout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ready {
    /// The program runs.
    Started(MonitorRecord),
    /// It does not; the exit record says the same.
    Failed(Failure),
}

/// A client's first frame.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Request {
    /// Runs a further process. Answered by [`Kind::Done`] once it runs, then its output, then [`Kind::Exit`].
    Exec {
        /// What to run.
        process: Box<Process>,
        /// Whether [`Kind::Stdin`] frames will come.
        stdin: bool,
        /// Absent for what nobody looks at, such as a health check: it is not counted and cannot be come back to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<SessionKey>,
    },
    /// Attaches to the container's own streams. Answered by [`Kind::Done`], then its output from now on, then
    /// [`Kind::Exit`] with the container's exit code.
    Attach {
        /// Whether [`Kind::Stdin`] frames will come.
        stdin: bool,
        /// Its name.
        session: SessionKey,
    },
    /// Goes on with a session whose connection was lost, which this one replaces.
    Resume {
        /// [`SessionKey::id`].
        session: String,
        /// Bytes of output that the client has.
        received: u64,
    },
    /// Ends a session: its client has gone for good. Answered by [`Kind::Done`], for an unknown one too.
    Hangup {
        /// [`SessionKey::id`].
        session: String,
    },
}

/// What a session is called, and whether it outlives its connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionKey {
    /// Unique among the container's sessions. Asking for one that is there goes on with it from its beginning, so that
    /// a request may be repeated whose answer was lost.
    pub id: String,
    /// Output is kept until [`Kind::Acknowledge`] covers it, and the session for a while when the connection is lost.
    pub resumable: bool,
}

/// A session that is open, in [`Kind::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opened {
    /// Whether stdin goes anywhere.
    pub stdin: bool,
    /// Whether there is a terminal.
    pub terminal: bool,
    /// Bytes of stdin that the monitor has, written or not: those after them are to be sent.
    pub stdin_offset: u64,
    /// Offset of the first byte of output that follows.
    pub output_offset: u64,
}

/// A place in a stream of bytes, or a number of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// Since the session's beginning, unless the frame is [`Kind::Missed`].
    pub bytes: u64,
}

/// A terminal's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Characters.
    pub rows: u16,
    /// Characters.
    pub columns: u16,
}

/// A signal for an executed process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Its number.
    pub signal: i32,
}

/// How an executed process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exited {
    /// 128 + n for signal n.
    pub exit_code: i32,
}

/// A frame's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`Request`], to the monitor.
    Request = b'R',
    /// Bytes for the process, to the monitor. In a resumable session at most [`STDIN_WINDOW`] beyond [`Kind::Taken`];
    /// in others the monitor stops to read when they are too many.
    Stdin = b'I',
    /// No more bytes, to the monitor.
    StdinClosed = b'C',
    /// [`Window`], to the monitor.
    Resize = b'W',
    /// [`Signal`], to the monitor.
    Signal = b'S',
    /// [`Bytes`], to the monitor: output up to there will not be asked for again.
    Acknowledge = b'A',
    /// Leaves the container's streams, to the monitor; answered by [`Kind::Done`], the last frame.
    Detach = b'D',
    /// Done: with [`Opened`] where a session is open.
    Done = b'K',
    /// [`Bytes`]: stdin up to there was written to its reader, or nobody reads it.
    Taken = b'T',
    /// [`Bytes`] of output that this client was too slow for; they count as output.
    Missed = b'M',
    /// [`Failure`].
    Failed = b'!',
    /// Bytes of the process.
    Stdout = b'O',
    /// Bytes of the process.
    Stderr = b'E',
    /// [`Exited`]; the last frame.
    Exit = b'X',
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        use Kind::{
            Acknowledge, Detach, Done, Exit, Failed, Missed, Request, Resize, Signal, Stderr, Stdin, StdinClosed,
            Stdout, Taken,
        };
        let to_monitor = [Request, Stdin, StdinClosed, Resize, Signal, Acknowledge, Detach];
        let to_client = [Done, Failed, Taken, Missed, Stdout, Stderr, Exit];
        to_monitor.into_iter().chain(to_client).find(|kind| *kind as u8 == byte)
    }
}

/// A frame as bytes. The payload is [`MAX_PAYLOAD`] at most.
pub fn encode(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len().min(MAX_PAYLOAD)).unwrap_or_default();
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.push(kind as u8);
    frame.extend(length.to_be_bytes());
    frame.extend(&payload[..payload.len().min(MAX_PAYLOAD)]);
    frame
}

/// Takes the first whole frame off `buffer`; None where it is not whole yet. InvalidData for a type or a length that
/// no frame has.
pub fn decode(buffer: &mut Vec<u8>) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let Some((header, rest)) = buffer.split_first_chunk() else { return Ok(None) };
    let (kind, length) = parse(header)?;
    if rest.len() < length {
        return Ok(None);
    }
    let payload = rest[..length].to_vec();
    buffer.drain(..HEADER + length);
    Ok(Some((kind, payload)))
}

fn parse(&[kind, a, b, c, d]: &[u8; HEADER]) -> io::Result<(Kind, usize)> {
    let kind = Kind::of(kind).ok_or(io::ErrorKind::InvalidData)?;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > MAX_PAYLOAD { Err(io::ErrorKind::InvalidData.into()) } else { Ok((kind, length)) }
}

/// Sends one request and waits for the one frame that answers it. What comes after that frame is left to be read.
pub fn ask(stream: &mut (impl Read + Write), request: &Request) -> io::Result<(Kind, Vec<u8>)> {
    stream.write_all(&encode(Kind::Request, &serde_json::to_vec(request)?))?;
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let (kind, length) = parse(&header)?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok((kind, payload))
}

/// Reads a record of the bundle directory; None when it is not there. InvalidData when it is newer or damaged.
pub fn read_record<T: DeserializeOwned>(directory: &Path, file: &str) -> io::Result<Option<T>> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let bytes = match fs::read(directory.join(file)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if serde_json::from_slice::<Format>(&bytes)?.format > FORMAT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the record is of a newer format"));
    }
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// Takes the room that [`write_record`] will need for this record, as the disk may be full by then.
pub fn reserve_record(directory: &Path, file: &str) -> io::Result<()> {
    let mut open = open_temporary(&temporary(directory, file))?;
    match fallocate(&open, FallocateFlags::empty(), 0, RECORD_BYTES.into()) {
        // A file system without it, such as NFS before 4.2, takes room for what is written.
        Err(Errno::EOPNOTSUPP) => open.write_all(&[0; RECORD_BYTES as usize]),
        other => Ok(other?),
    }
}

/// Writes a record so that it is there whole or not at all, and on disk when this returns.
pub fn write_record(directory: &Path, file: &str, record: &impl Serialize) -> io::Result<()> {
    let temporary = temporary(directory, file);
    let bytes = serde_json::to_vec(record)?;
    // Not truncated before it is written: that would give away what was reserved.
    let mut open = open_temporary(&temporary)?;
    open.write_all(&bytes)?;
    open.set_len(bytes.len() as u64)?;
    open.sync_all()?;
    fs::rename(&temporary, directory.join(file))?;
    fs::File::open(directory)?.sync_all()
}

fn temporary(directory: &Path, file: &str) -> PathBuf {
    directory.join(format!(".{file}.new"))
}

fn open_temporary(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_being_torn() {
        let mut bytes = encode(Kind::Stdout, b"hello");
        bytes.extend(encode(Kind::Exit, br#"{"exitCode":3}"#));
        let mut buffer = Vec::new();
        let mut frames = Vec::new();
        for byte in bytes {
            buffer.push(byte);
            frames.extend(decode(&mut buffer).unwrap());
        }
        assert_eq!(frames[0], (Kind::Stdout, b"hello".to_vec()));
        assert_eq!(serde_json::from_slice::<Exited>(&frames[1].1).unwrap().exit_code, 3);
        assert!(buffer.is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(decode(&mut b"?\0\0\0\0".to_vec()).is_err());
        assert!(decode(&mut b"O\xff\xff\xff\xff".to_vec()).is_err());
    }

    #[test]
    fn newer_records_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        write_record(directory.path(), EXIT_FILE, &serde_json::json!({ "format": 2 })).unwrap();
        assert!(read_record::<ExitRecord>(directory.path(), EXIT_FILE).is_err());
        assert!(read_record::<MonitorRecord>(directory.path(), MONITOR_FILE).unwrap().is_none());
    }
}
