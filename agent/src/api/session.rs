//! The bridge between a client's stream and a session in a container's monitor (`runtime::monitor::protocol`), for
//! ExecuteCommand and AttachTask alike. Starts no process and keeps no output itself: sessions live in the monitor, so
//! that they outlive the agent ([ADR 10](../../../docs/adr/0010-sessions-live-in-the-monitor.md)).

use std::{future, path::PathBuf, str::FromStr as _, time::Duration};

use futures_util::{Stream, StreamExt as _};
use nix::sys::signal::Signal;
use proto::v1::{ResumableSession, SessionOpened, TerminalSize};
use runtime::monitor::protocol::{self, Opened, Request, SessionKey, Window};
use tokio::{
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    runtime::Handle,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::Status;

use super::status;
use crate::sandbox::connection::{self, ConnectionError, Input, Output, Outputs};

/// Longest id of a session that a client may choose.
const MAX_ID: usize = 64;
/// How long a client may take to confirm the exit code by ending its stream. Until then it may come back for it.
const CONFIRMATION: Duration = Duration::from_secs(5);

/// Why a session has no or no more contact with its container.
#[derive(Debug, thiserror::Error)]
pub(super) enum BridgeError {
    #[error("cannot reach the container's monitor")]
    Connect(#[source] ConnectionError),
    #[error("cannot send to the container's monitor")]
    Send(#[source] ConnectionError),
    #[error("cannot receive from the container's monitor")]
    Receive(#[source] ConnectionError),
    #[error("the container's monitor ended the connection")]
    Closed,
}

/// One message of a client.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) is_start: bool,
    pub(super) stdin: Option<Vec<u8>>,
    pub(super) stdin_closed: bool,
    pub(super) resize: Option<TerminalSize>,
    pub(super) signal: Option<String>,
    pub(super) output_acknowledged: Option<i64>,
    pub(super) detach: bool,
}

/// One message for a client. Offsets are those behind what it carries.
#[derive(Debug)]
pub(super) enum Told {
    Opened(SessionOpened),
    Stdout(Vec<u8>, i64),
    Stderr(Vec<u8>, i64),
    Missed(i64, i64),
    Taken(i64),
    Exited(i32),
}

/// The session that a client asks for.
#[derive(Debug)]
pub(super) struct Asked {
    key: SessionKey,
    /// Bytes of output that it has: it comes back.
    received: Option<u64>,
}

impl Asked {
    /// Checks what the client says of it; without a word it gets one that ends with its stream.
    pub(super) fn new(session: Option<&ResumableSession>) -> Result<Asked, Status> {
        let Some(session) = session else {
            let key = SessionKey { id: uuid::Uuid::new_v4().simple().to_string(), resumable: false };
            return Ok(Asked { key, received: None });
        };
        let id = session.id.clone().unwrap_or_default();
        let is_word = |id: &str| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if id.is_empty() || id.len() > MAX_ID || !is_word(&id) {
            return Err(status::invalid_parameter("session.id", "must be 1 to 64 letters, digits, - and _"));
        }
        let offset = |offset: i64| {
            u64::try_from(offset)
                .map_err(|_| status::invalid_parameter("session.output_offset", "must not be negative"))
        };
        let received = session.output_offset.map(offset).transpose()?;
        Ok(Asked { key: SessionKey { id, resumable: true }, received })
    }

    /// What to ask the monitor for: `new` makes the request of a new session.
    pub(super) fn request(&self, new: impl FnOnce(SessionKey) -> Request) -> Request {
        match self.received {
            Some(received) => Request::Resume { session: self.key.id.clone(), received },
            None => new(self.key.clone()),
        }
    }
}

/// What the bridge has to know of a session.
#[derive(Debug)]
pub(super) struct Session {
    /// The monitor's socket.
    pub(super) socket: PathBuf,
    pub(super) asked: Asked,
    pub(super) request: Request,
    /// Size of the client's terminal.
    pub(super) size: Option<TerminalSize>,
    /// Whether the end of the client's messages is the end of stdin.
    pub(super) stdin_ends: bool,
}

/// Ends the session when the client has gone for good: when its stream is dropped though the agent goes on.
struct Client {
    socket: PathBuf,
    id: String,
    stop: CancellationToken,
    /// The monitor has ended the session, or given it to another stream.
    is_gone: bool,
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.is_gone || self.stop.is_cancelled() {
            return;
        }
        let (socket, id) = (std::mem::take(&mut self.socket), std::mem::take(&mut self.id));
        let hang_up = async move {
            if let Err(error) = connection::hang_up(&socket, id).await {
                // With the container the session has ended too.
                tracing::debug!(%error, "a session was not hung up");
            }
        };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(hang_up);
        }
    }
}

/// Connects to the monitor, opens the session and answers what comes of it. Dropping the answer ends the session,
/// unless `stop` is cancelled: then the client may come back to the next agent.
pub(super) async fn bridge(
    session: Session,
    input: impl Stream<Item = Result<Step, Status>> + Send + Unpin + 'static,
    stop: CancellationToken,
) -> Result<impl Stream<Item = Result<Told, Status>> + Send + 'static, Status> {
    let Session { socket, asked, request, size, stdin_ends } = session;
    let size = size.as_ref().map(window).transpose()?.flatten();
    let lost = |error: BridgeError| status::not_connected(&error);

    let stream = connection::connect(&socket).await.map_err(BridgeError::Connect).map_err(lost)?;
    // A session that cannot be resumed ends with its connection.
    let mut client = Client { socket, id: asked.key.id, stop, is_gone: !asked.key.resumable };
    let (from_monitor, mut to_monitor) = stream.into_split();
    let mut outputs = Outputs::new(from_monitor);
    match connection::request(&mut to_monitor, &request).await {
        Ok(()) => {}
        Err(ConnectionError::TooLong(_)) => {
            client.is_gone = true;
            return Err(status::invalid_parameter("command", "and environment are longer than 64 KiB"));
        }
        Err(error) => return Err(lost(BridgeError::Send(error))),
    }
    let opened = match outputs.next().await.map_err(BridgeError::Receive).map_err(lost)? {
        Some(Output::Opened(opened)) => opened,
        Some(Output::Refused(failure)) => {
            client.is_gone = true;
            return Err(status::refused(&failure));
        }
        Some(_) | None => return Err(lost(BridgeError::Closed)),
    };
    if let Some(size) = size {
        connection::send(&mut to_monitor, size).await.map_err(BridgeError::Send).map_err(lost)?;
    }
    let over = CancellationToken::new();
    let feeding = feed(input, to_monitor, stdin_ends, over.clone());
    let feeding = AbortOnDropHandle::new(tokio::spawn(feeding));
    Ok(answers(opened, asked.key.resumable, outputs, feeding, client, over))
}

/// What the session's output is, until it ends or its input is refused.
fn answers(
    opened: Opened,
    resumable: bool,
    mut outputs: Outputs<OwnedReadHalf>,
    mut feeding: AbortOnDropHandle<Status>,
    client: Client,
    over: CancellationToken,
) -> impl Stream<Item = Result<Told, Status>> + Send + 'static {
    async_stream::try_stream! {
        // The whole of it, as it acts when it is dropped.
        let mut client = client;
        let mut offset = signed(opened.output_offset);
        let mut behind = |length: usize| {
            offset = offset.saturating_add(i64::try_from(length).unwrap_or(i64::MAX));
            offset
        };
        yield Told::Opened(SessionOpened {
            stdin: Some(opened.stdin),
            pseudo_terminal: Some(opened.terminal),
            stdin_offset: Some(signed(opened.stdin_offset)),
            output_offset: Some(signed(opened.output_offset)),
        });
        loop {
            let frame = tokio::select! {
                frame = outputs.next() => frame.map_err(|error| status::not_connected(&BridgeError::Receive(error))),
                // It ends with a failure only: input that is over is no reason to end.
                refused = &mut feeding => Err(refused.unwrap_or_else(|_| status::stopping())),
            };
            match frame? {
                Some(Output::Stdout(bytes)) => {
                    let behind = behind(bytes.len());
                    yield Told::Stdout(bytes, behind);
                }
                Some(Output::Stderr(bytes)) => {
                    let behind = behind(bytes.len());
                    yield Told::Stderr(bytes, behind);
                }
                Some(Output::Missed(bytes)) => {
                    let behind = behind(usize::try_from(bytes).unwrap_or(usize::MAX));
                    yield Told::Missed(signed(bytes), behind);
                }
                Some(Output::Taken(bytes)) => yield Told::Taken(signed(bytes)),
                Some(Output::Exited(code)) => {
                    yield Told::Exited(code);
                    if resumable {
                        // One that has it ends its stream, which drops this one.
                        let _either = tokio::time::timeout(CONFIRMATION, over.cancelled()).await;
                    }
                    break;
                }
                Some(Output::Done) => {
                    client.is_gone = true;
                    break;
                }
                Some(Output::Refused(failure)) => Err(status::refused(&failure))?,
                Some(Output::Opened(_)) => {}
                None => {
                    client.is_gone = true;
                    Err(status::not_connected(&BridgeError::Closed))?;
                }
            }
        }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Sends the client's messages to the monitor; answers why it failed, and else not at all: to drop `to_monitor`
/// would tell the monitor that the connection is lost.
async fn feed(
    mut input: impl Stream<Item = Result<Step, Status>> + Unpin,
    mut to_monitor: OwnedWriteHalf,
    stdin_ends: bool,
    over: CancellationToken,
) -> Status {
    let mut stdin_open = stdin_ends;
    while let Some(message) = input.next().await {
        let step = match message {
            Ok(step) => step,
            Err(status) => return status,
        };
        let inputs = match inputs(step) {
            Ok(inputs) => inputs,
            Err(status) => return status,
        };
        for input in inputs {
            stdin_open &= input != Input::StdinClosed;
            if let Err(error) = connection::send(&mut to_monitor, input).await {
                return given_up(&error).await;
            }
        }
    }
    over.cancel();
    // A client that half-closes has no more stdin.
    if stdin_open && let Err(error) = connection::send(&mut to_monitor, Input::StdinClosed).await {
        return given_up(&error).await;
    }
    future::pending().await
}

/// The monitor takes nothing any more: the session has ended, and the output tells how.
async fn given_up(error: &ConnectionError) -> Status {
    tracing::debug!(%error, "a session's input ended early");
    future::pending().await
}

/// One message as frames for the monitor.
fn inputs(step: Step) -> Result<Vec<Input>, Status> {
    if step.is_start {
        return Err(status::invalid_parameter("start", "must be in the first message only"));
    }
    let mut inputs = Vec::new();
    if let Some(bytes) = step.stdin.filter(|bytes| !bytes.is_empty()) {
        inputs.push(Input::Stdin(bytes));
    }
    if step.stdin_closed {
        inputs.push(Input::StdinClosed);
    }
    if let Some(size) = step.resize {
        inputs.extend(window(&size)?);
    }
    if let Some(name) = step.signal {
        inputs.push(Input::Signal(protocol::Signal { signal: number(&name)? }));
    }
    if let Some(offset) = step.output_acknowledged {
        let offset = u64::try_from(offset);
        let problem = |_| status::invalid_parameter("output_acknowledged", "must not be negative");
        inputs.push(Input::Acknowledge(offset.map_err(problem)?));
    }
    if step.detach {
        inputs.push(Input::Detach);
    }
    Ok(inputs)
}

/// None for a terminal that does not know its size: it says 0.
fn window(size: &TerminalSize) -> Result<Option<Input>, Status> {
    let side = |name: &str, value: Option<i32>| {
        let value = u16::try_from(value.unwrap_or_default());
        value.map_err(|_| status::invalid_parameter(name, "must be between 0 and 65535"))
    };
    let (rows, columns) = (side("rows", size.rows)?, side("columns", size.columns)?);
    Ok((rows > 0 && columns > 0).then_some(Input::Resize(Window { rows, columns })))
}

/// `SIGINT`, `INT` or `2`.
fn number(name: &str) -> Result<i32, Status> {
    let signal = match name.parse::<i32>() {
        Ok(number) => Signal::try_from(number),
        Err(_) if name.starts_with("SIG") => Signal::from_str(name),
        Err(_) => Signal::from_str(&format!("SIG{name}")),
    };
    signal.map(|signal| signal as i32).map_err(|_| status::invalid_parameter("signal", "is unknown"))
}

#[cfg(test)]
mod tests;
