//! A connection to a container's monitor: `runtime::monitor::protocol` on tokio, the frames of a session typed by
//! direction.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use runtime::monitor::protocol::{self, Bytes, Exited, Failure, Kind, MAX_PAYLOAD, Opened, Request, Signal, Window};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Why a frame could not be sent or received.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ConnectionError {
    #[error("cannot connect to it")]
    Connect(#[source] io::Error),
    #[error("cannot write to the socket")]
    Write(#[source] io::Error),
    #[error("cannot read from the socket")]
    Read(#[source] io::Error),
    #[error("bytes received are no frame")]
    NoFrame(#[source] io::Error),
    #[error("the connection ended within a frame")]
    Torn,
    #[error("a request of {0} bytes is too long")]
    TooLong(usize),
    #[error("frame {0:?} was not expected")]
    Unexpected(Kind),
    #[error("the content of frame {0:?} is not as agreed")]
    Content(Kind, #[source] serde_json::Error),
}

/// What the agent sends after the request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Stdin(Vec<u8>),
    StdinClosed,
    Resize(Window),
    Signal(Signal),
    /// Output up to there is the client's.
    Acknowledge(u64),
    Detach,
}

/// What the monitor answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Opened(Opened),
    Done,
    Refused(Failure),
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// As many bytes of output passed by.
    Missed(u64),
    /// Stdin up to there is the monitor's.
    Taken(u64),
    Exited(i32),
}

/// A socket's path may have 107 bytes; through its directory's descriptor it has fewer.
pub(crate) async fn connect(socket: &Path) -> Result<UnixStream, ConnectionError> {
    let directory = File::open(socket.parent().unwrap_or(Path::new("/"))).map_err(ConnectionError::Connect)?;
    let name = socket.file_name().unwrap_or_default();
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    UnixStream::connect(short).await.map_err(ConnectionError::Connect)
}

/// Makes the connection's request.
pub(crate) async fn request(writer: &mut (impl AsyncWrite + Unpin), request: &Request) -> Result<(), ConnectionError> {
    let request = json(Kind::Request, request)?;
    if request.len() > MAX_PAYLOAD {
        return Err(ConnectionError::TooLong(request.len()));
    }
    write(writer, Kind::Request, &request).await
}

/// Ends a session whose client has gone for good; one that is not there is success.
pub(crate) async fn hang_up(socket: &Path, session: String) -> Result<(), ConnectionError> {
    let mut stream = connect(socket).await?;
    request(&mut stream, &Request::Hangup { session }).await?;
    Outputs::new(stream).next().await.map(drop)
}

/// Sends one input; stdin in as many frames as it needs.
pub(crate) async fn send(writer: &mut (impl AsyncWrite + Unpin), input: Input) -> Result<(), ConnectionError> {
    match input {
        Input::Stdin(bytes) => {
            for piece in bytes.chunks(MAX_PAYLOAD) {
                write(writer, Kind::Stdin, piece).await?;
            }
            Ok(())
        }
        Input::StdinClosed => write(writer, Kind::StdinClosed, &[]).await,
        Input::Resize(window) => write(writer, Kind::Resize, &json(Kind::Resize, &window)?).await,
        Input::Signal(signal) => write(writer, Kind::Signal, &json(Kind::Signal, &signal)?).await,
        Input::Acknowledge(bytes) => {
            write(writer, Kind::Acknowledge, &json(Kind::Acknowledge, &Bytes { bytes })?).await
        }
        Input::Detach => write(writer, Kind::Detach, &[]).await,
    }
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), kind: Kind, payload: &[u8]) -> Result<(), ConnectionError> {
    writer.write_all(&protocol::encode(kind, payload)).await.map_err(ConnectionError::Write)
}

fn json(kind: Kind, value: &impl Serialize) -> Result<Vec<u8>, ConnectionError> {
    serde_json::to_vec(value).map_err(|error| ConnectionError::Content(kind, error))
}

/// The monitor's frames.
#[derive(Debug)]
pub(crate) struct Outputs<R> {
    reader: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Outputs<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new() }
    }

    /// The next frame; None where the monitor closed the connection between two. May be given up and called again:
    /// what was read stays in the buffer.
    pub(crate) async fn next(&mut self) -> Result<Option<Output>, ConnectionError> {
        loop {
            if let Some((kind, payload)) = protocol::decode(&mut self.buffer).map_err(ConnectionError::NoFrame)? {
                return output(kind, payload).map(Some);
            }
            if self.reader.read_buf(&mut self.buffer).await.map_err(ConnectionError::Read)? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(ConnectionError::Torn) };
            }
        }
    }
}

fn output(kind: Kind, payload: Vec<u8>) -> Result<Output, ConnectionError> {
    let content = |error| ConnectionError::Content(kind, error);
    match kind {
        Kind::Done if payload.is_empty() => Ok(Output::Done),
        Kind::Done => serde_json::from_slice(&payload).map(Output::Opened).map_err(content),
        Kind::Failed => serde_json::from_slice(&payload).map(Output::Refused).map_err(content),
        Kind::Stdout => Ok(Output::Stdout(payload)),
        Kind::Stderr => Ok(Output::Stderr(payload)),
        Kind::Missed => serde_json::from_slice(&payload).map(|Bytes { bytes }| Output::Missed(bytes)).map_err(content),
        Kind::Taken => serde_json::from_slice(&payload).map(|Bytes { bytes }| Output::Taken(bytes)).map_err(content),
        Kind::Exit => {
            serde_json::from_slice(&payload).map(|exited: Exited| Output::Exited(exited.exit_code)).map_err(content)
        }
        Kind::Request
        | Kind::Stdin
        | Kind::StdinClosed
        | Kind::Resize
        | Kind::Signal
        | Kind::Acknowledge
        | Kind::Detach => Err(ConnectionError::Unexpected(kind)),
    }
}
