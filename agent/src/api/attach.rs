//! AttachTask: a client's messages as those of a session (`api/session.rs`) with the container's own streams.

use futures_util::{Stream, StreamExt as _};
use proto::v1::{AttachTaskRequest, AttachTaskResponse};
use runtime::monitor::protocol::Request;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::session::{Asked, Session, Step, Told, bridge};
use super::status;
use crate::engine::Engine;

/// Attaches to the container that the first message of `input` names; the rest of `input` is for it.
pub(super) async fn attach(
    engine: &Engine,
    mut input: impl Stream<Item = Result<AttachTaskRequest, Status>> + Send + Unpin + 'static,
    stop: CancellationToken,
) -> Result<impl Stream<Item = Result<AttachTaskResponse, Status>> + Send + 'static, Status> {
    let first = input.next().await.transpose()?.and_then(|message| message.start);
    let Some(start) = first else {
        return Err(status::invalid_parameter("start", "must be in the first message"));
    };
    let task = start.task.as_deref().unwrap_or_default();
    let socket =
        engine.attach_target(start.cluster.as_deref(), task, start.container.as_deref()).map_err(status::engine)?;
    let asked = Asked::new(start.session.as_ref())?;
    let stdin = start.interactive.unwrap_or_default();
    let request = asked.request(|session| Request::Attach { stdin, session });
    let session = Session { socket, asked, request, size: start.size, stdin_ends: false };
    let told = bridge(session, input.map(|message| message.map(step)), stop).await?;
    Ok(told.map(|told| told.map(response)))
}

fn step(message: AttachTaskRequest) -> Step {
    let AttachTaskRequest { start, stdin, resize, signal, output_acknowledged, detach } = message;
    let (is_start, detach) = (start.is_some(), detach.unwrap_or_default());
    Step { is_start, stdin, stdin_closed: false, resize, signal, output_acknowledged, detach }
}

fn response(told: Told) -> AttachTaskResponse {
    let empty = AttachTaskResponse::default();
    match told {
        Told::Opened(opened) => AttachTaskResponse { opened: Some(opened), ..empty },
        Told::Stdout(bytes, behind) => AttachTaskResponse { stdout: Some(bytes), output_offset: Some(behind), ..empty },
        Told::Stderr(bytes, behind) => AttachTaskResponse { stderr: Some(bytes), output_offset: Some(behind), ..empty },
        Told::Missed(bytes, behind) => AttachTaskResponse { missed: Some(bytes), output_offset: Some(behind), ..empty },
        Told::Taken(bytes) => AttachTaskResponse { stdin_offset: Some(bytes), ..empty },
        Told::Exited(code) => AttachTaskResponse { exit_code: Some(code), ..empty },
    }
}
