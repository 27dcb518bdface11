//! ExecuteCommand: bridges the gRPC stream to the container's monitor (`runtime::monitor::protocol`), which runs the
//! command. When the client goes, the socket is closed and the monitor ends the command. Starts no process itself.

mod process;

use std::{future, str::FromStr as _};

use futures_util::{Stream, StreamExt as _};
use nix::sys::signal::Signal;
use proto::v1::{ExecuteCommandRequest, ExecuteCommandResponse, ExecuteCommandStart, TerminalSize};
use runtime::monitor::protocol::{self, Failure, Window};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::status;
use crate::engine::{Engine, ExecTarget};
use crate::sandbox::connection::{self, ConnectionError, Input, Output, Outputs};

/// Why a command has no or no more contact with its container.
#[derive(Debug, thiserror::Error)]
enum BridgeError {
    #[error("cannot reach the container's monitor")]
    Connect(#[source] ConnectionError),
    #[error("cannot send to the container's monitor")]
    Send(#[source] ConnectionError),
    #[error("cannot receive from the container's monitor")]
    Receive(#[source] ConnectionError),
    #[error("the container's monitor ended the connection")]
    Closed,
}

/// Runs the command that the first message of `input` asks for; the rest of `input` feeds it.
pub(super) async fn execute(
    engine: &Engine,
    mut input: impl Stream<Item = Result<ExecuteCommandRequest, Status>> + Send + Unpin + 'static,
) -> Result<impl Stream<Item = Result<ExecuteCommandResponse, Status>> + Send + 'static, Status> {
    let first = input.next().await.transpose()?.and_then(|message| message.start);
    let Some(start) = first else {
        return Err(status::invalid_parameter("start", "must be in the first message"));
    };
    let task = start.task.as_deref().unwrap_or_default();
    let target =
        engine.exec_target(start.cluster.as_deref(), task, start.container.as_deref()).map_err(status::engine)?;
    bridge(target, start, input).await
}

/// Connects to the monitor, has it start the command and answers what the command writes.
async fn bridge(
    target: ExecTarget,
    start: ExecuteCommandStart,
    input: impl Stream<Item = Result<ExecuteCommandRequest, Status>> + Send + Unpin + 'static,
) -> Result<impl Stream<Item = Result<ExecuteCommandResponse, Status>> + Send + 'static, Status> {
    let process = process::changed(target.process, &start)?;
    let interactive = start.interactive.unwrap_or_default();
    let size = start.size.as_ref().map(window).transpose()?.flatten();
    let lost = |error: BridgeError| status::not_connected(&error);

    let stream = connection::connect(&target.socket).await.map_err(BridgeError::Connect).map_err(lost)?;
    let (from_monitor, mut to_monitor) = stream.into_split();
    let mut outputs = Outputs::new(from_monitor);
    match connection::request_exec(&mut to_monitor, process, interactive).await {
        Ok(()) => {}
        Err(ConnectionError::TooLong(_)) => {
            return Err(status::invalid_parameter("command", "and environment are longer than 64 KiB"));
        }
        Err(error) => return Err(lost(BridgeError::Send(error))),
    }
    match outputs.next().await.map_err(BridgeError::Receive).map_err(lost)? {
        Some(Output::Started) => {}
        Some(Output::Refused(Failure { message, .. })) => return Err(status::client(&message)),
        Some(_) | None => return Err(lost(BridgeError::Closed)),
    }
    if let Some(size) = size {
        connection::send(&mut to_monitor, size).await.map_err(BridgeError::Send).map_err(lost)?;
    }
    let feeding = AbortOnDropHandle::new(tokio::spawn(feed(input, to_monitor, interactive)));
    Ok(output(outputs, feeding))
}

/// What the command writes, until it exits or its input is refused. Dropping it ends the command.
fn output(
    mut outputs: Outputs<OwnedReadHalf>,
    mut feeding: AbortOnDropHandle<Status>,
) -> impl Stream<Item = Result<ExecuteCommandResponse, Status>> + Send + 'static {
    async_stream::try_stream! {
        loop {
            let frame = tokio::select! {
                frame = outputs.next() => frame.map_err(|error| status::not_connected(&BridgeError::Receive(error))),
                // It ends with a failure only: input that is over is no reason to end.
                refused = &mut feeding => Err(refused.unwrap_or_else(|_| status::stopping())),
            };
            match frame? {
                Some(Output::Stdout(bytes)) => {
                    yield ExecuteCommandResponse { stdout: Some(bytes), ..Default::default() };
                }
                Some(Output::Stderr(bytes)) => {
                    yield ExecuteCommandResponse { stderr: Some(bytes), ..Default::default() };
                }
                Some(Output::Exited(code)) => {
                    yield ExecuteCommandResponse { exit_code: Some(code), ..Default::default() };
                    break;
                }
                Some(Output::Refused(Failure { message, .. })) => Err(status::client(&message))?,
                Some(Output::Started) => {}
                None => Err(status::not_connected(&BridgeError::Closed))?,
            }
        }
    }
}

/// Sends the client's messages to the monitor; answers why it failed, and else not at all: to drop `to_monitor`
/// would tell the monitor that the client is gone.
async fn feed(
    mut input: impl Stream<Item = Result<ExecuteCommandRequest, Status>> + Unpin,
    mut to_monitor: OwnedWriteHalf,
    interactive: bool,
) -> Status {
    let mut stdin_open = interactive;
    while let Some(message) = input.next().await {
        let message = match message {
            Ok(message) => message,
            Err(status) => return status,
        };
        let inputs = match inputs(message, &mut stdin_open) {
            Ok(inputs) => inputs,
            Err(status) => return status,
        };
        for input in inputs {
            if let Err(error) = connection::send(&mut to_monitor, input).await {
                return given_up(&error).await;
            }
        }
    }
    // A client that half-closes has no more stdin.
    if stdin_open && let Err(error) = connection::send(&mut to_monitor, Input::StdinClosed).await {
        return given_up(&error).await;
    }
    future::pending().await
}

/// The monitor takes nothing any more: the command has exited, and the output tells how.
async fn given_up(error: &ConnectionError) -> Status {
    tracing::debug!(%error, "a command's input ended early");
    future::pending().await
}

/// One message as frames for the monitor. Stdin that the command does not have is dropped.
fn inputs(message: ExecuteCommandRequest, stdin_open: &mut bool) -> Result<Vec<Input>, Status> {
    let ExecuteCommandRequest { start, stdin, stdin_closed, resize, signal } = message;
    if start.is_some() {
        return Err(status::invalid_parameter("start", "must be in the first message only"));
    }
    let mut inputs = Vec::new();
    if let Some(bytes) = stdin.filter(|bytes| *stdin_open && !bytes.is_empty()) {
        inputs.push(Input::Stdin(bytes));
    }
    if stdin_closed == Some(true) && *stdin_open {
        *stdin_open = false;
        inputs.push(Input::StdinClosed);
    }
    if let Some(size) = resize {
        inputs.extend(window(&size)?);
    }
    if let Some(name) = signal {
        inputs.push(Input::Signal(protocol::Signal { signal: number(&name)? }));
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
