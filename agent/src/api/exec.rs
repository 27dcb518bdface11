//! ExecuteCommand: the command that a client asks for, and its messages as the session's (`api/session.rs`).

mod process;

use futures_util::{Stream, StreamExt as _};
use proto::v1::{ExecuteCommandRequest, ExecuteCommandResponse, ExecuteCommandStart};
use runtime::monitor::protocol::Request;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::session::{Asked, Session, Step, Told, bridge};
use super::status;
use crate::engine::{Engine, ExecTarget};

/// Runs the command that the first message of `input` asks for; the rest of `input` feeds it.
pub(super) async fn execute(
    engine: &Engine,
    mut input: impl Stream<Item = Result<ExecuteCommandRequest, Status>> + Send + Unpin + 'static,
    stop: CancellationToken,
) -> Result<impl Stream<Item = Result<ExecuteCommandResponse, Status>> + Send + 'static, Status> {
    let first = input.next().await.transpose()?.and_then(|message| message.start);
    let Some(start) = first else {
        return Err(status::invalid_parameter("start", "must be in the first message"));
    };
    let task = start.task.as_deref().unwrap_or_default();
    let target =
        engine.exec_target(start.cluster.as_deref(), task, start.container.as_deref()).map_err(status::engine)?;
    let resumable = start.session.is_some();
    let session = session(target, &start)?;
    let told = bridge(session, input.map(|message| message.map(step)), stop).await?;
    Ok(told.filter_map(move |told| std::future::ready(told.map(|told| response(told, resumable)).transpose())))
}

fn session(target: ExecTarget, start: &ExecuteCommandStart) -> Result<Session, Status> {
    let asked = Asked::new(start.session.as_ref())?;
    let process = Box::new(process::changed(target.process, start)?);
    let stdin = start.interactive.unwrap_or_default();
    let request = asked.request(|key| Request::Exec { process, stdin, session: Some(key) });
    Ok(Session { socket: target.socket, asked, request, size: start.size, stdin_ends: stdin })
}

fn step(message: ExecuteCommandRequest) -> Step {
    let ExecuteCommandRequest { start, stdin, stdin_closed, resize, signal, output_acknowledged } = message;
    let (is_start, stdin_closed) = (start.is_some(), stdin_closed.unwrap_or_default());
    Step { is_start, stdin, stdin_closed, resize, signal, output_acknowledged, detach: false }
}

/// None for what only a client that may come back wants to know.
fn response(told: Told, resumable: bool) -> Option<ExecuteCommandResponse> {
    let empty = ExecuteCommandResponse::default();
    let offset = |offset| Some(offset).filter(|_| resumable);
    match told {
        Told::Stdout(bytes, behind) => {
            Some(ExecuteCommandResponse { stdout: Some(bytes), output_offset: offset(behind), ..empty })
        }
        Told::Stderr(bytes, behind) => {
            Some(ExecuteCommandResponse { stderr: Some(bytes), output_offset: offset(behind), ..empty })
        }
        Told::Exited(code) => Some(ExecuteCommandResponse { exit_code: Some(code), ..empty }),
        Told::Opened(opened) => resumable.then_some(ExecuteCommandResponse { opened: Some(opened), ..empty }),
        Told::Taken(bytes) => resumable.then_some(ExecuteCommandResponse { stdin_offset: Some(bytes), ..empty }),
        // A command waits for its client.
        Told::Missed(..) => None,
    }
}
