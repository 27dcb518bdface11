//! ExecuteCommand and AttachTask as one: steps out, answers in.

use proto::v1::{
    AttachTaskRequest, AttachTaskResponse, AttachTaskStart, ExecuteCommandRequest, ExecuteCommandResponse,
    ExecuteCommandStart, ResumableSession, SessionOpened, TerminalSize,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::client::Client;

/// Messages on their way to the channel; more wait.
const AHEAD: usize = 4;

/// What a session is with.
#[derive(Debug)]
pub(crate) enum Start {
    /// A command.
    Exec(ExecuteCommandStart),
    /// A container's own streams.
    Attach(AttachTaskStart),
}

/// One message to the agent.
#[derive(Debug)]
pub(super) enum Step {
    Stdin(Vec<u8>),
    /// Means nothing to a container: its stdin is there for whoever attaches next.
    StdinClosed,
    Resize(TerminalSize),
    Signal(&'static str),
    Acknowledge(i64),
    Detach,
}

/// One message of the agent.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) opened: Option<SessionOpened>,
    pub(super) stdout: Option<Vec<u8>>,
    pub(super) stderr: Option<Vec<u8>>,
    pub(super) exit_code: Option<i32>,
    pub(super) stdin_offset: Option<i64>,
    pub(super) output_offset: Option<i64>,
    pub(super) missed: Option<i64>,
}

/// One connection of a session.
pub(super) enum Stream {
    Exec(mpsc::Sender<ExecuteCommandRequest>, Streaming<ExecuteCommandResponse>),
    Attach(mpsc::Sender<AttachTaskRequest>, Streaming<AttachTaskResponse>),
}

/// Begins the session, or goes on with it.
pub(super) async fn open(client: &Client, start: &Start, session: ResumableSession) -> Result<Stream, Status> {
    match start {
        Start::Exec(start) => {
            let (requests, outgoing) = mpsc::channel(AHEAD);
            let start = ExecuteCommandStart { session: Some(session), ..start.clone() };
            push(&requests, ExecuteCommandRequest { start: Some(start), ..Default::default() }).await;
            let answers = client.tasks().execute_command(ReceiverStream::new(outgoing)).await?.into_inner();
            Ok(Stream::Exec(requests, answers))
        }
        Start::Attach(start) => {
            let (requests, outgoing) = mpsc::channel(AHEAD);
            let start = AttachTaskStart { session: Some(session), ..start.clone() };
            push(&requests, AttachTaskRequest { start: Some(start), ..Default::default() }).await;
            let answers = client.tasks().attach_task(ReceiverStream::new(outgoing)).await?.into_inner();
            Ok(Stream::Attach(requests, answers))
        }
    }
}

/// A session that has ended takes nothing more; its answers say so.
async fn push<T>(requests: &mpsc::Sender<T>, request: T) {
    let _ = requests.send(request).await;
}

impl Stream {
    pub(super) async fn send(&self, step: Step) {
        match self {
            Stream::Exec(requests, _) => push(requests, exec_request(step)).await,
            Stream::Attach(_, _) if matches!(step, Step::StdinClosed) => {}
            Stream::Attach(requests, _) => push(requests, attach_request(step)).await,
        }
    }

    /// The next answer. May be given up and called again.
    pub(super) async fn next(&mut self) -> Result<Option<Answer>, Status> {
        Ok(match self {
            Stream::Exec(_, answers) => answers.message().await?.map(|answer| Answer {
                opened: answer.opened,
                stdout: answer.stdout,
                stderr: answer.stderr,
                exit_code: answer.exit_code,
                stdin_offset: answer.stdin_offset,
                output_offset: answer.output_offset,
                missed: None,
            }),
            Stream::Attach(_, answers) => answers.message().await?.map(|answer| Answer {
                opened: answer.opened,
                stdout: answer.stdout,
                stderr: answer.stderr,
                exit_code: answer.exit_code,
                stdin_offset: answer.stdin_offset,
                output_offset: answer.output_offset,
                missed: answer.missed,
            }),
        })
    }
}

fn exec_request(step: Step) -> ExecuteCommandRequest {
    let empty = ExecuteCommandRequest::default();
    match step {
        Step::Stdin(bytes) => ExecuteCommandRequest { stdin: Some(bytes), ..empty },
        Step::StdinClosed => ExecuteCommandRequest { stdin_closed: Some(true), ..empty },
        Step::Resize(size) => ExecuteCommandRequest { resize: Some(size), ..empty },
        Step::Signal(name) => ExecuteCommandRequest { signal: Some(name.to_owned()), ..empty },
        Step::Acknowledge(offset) => ExecuteCommandRequest { output_acknowledged: Some(offset), ..empty },
        // A command is not left, it ends with its client.
        Step::Detach => empty,
    }
}

fn attach_request(step: Step) -> AttachTaskRequest {
    let empty = AttachTaskRequest::default();
    match step {
        Step::Stdin(bytes) => AttachTaskRequest { stdin: Some(bytes), ..empty },
        Step::StdinClosed => empty,
        Step::Resize(size) => AttachTaskRequest { resize: Some(size), ..empty },
        Step::Signal(name) => AttachTaskRequest { signal: Some(name.to_owned()), ..empty },
        Step::Acknowledge(offset) => AttachTaskRequest { output_acknowledged: Some(offset), ..empty },
        Step::Detach => AttachTaskRequest { detach: Some(true), ..empty },
    }
}
