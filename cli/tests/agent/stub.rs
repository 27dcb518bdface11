//! A scripted agent on a real Unix socket: answers from a fixed list of tasks, plays states and logs, and runs a few
//! make-believe commands. Owns no behaviour of the real one.

mod images;

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
};

use proto::v1::{
    image_service_server::ImageServiceServer,
    task_service_server::{TaskService, TaskServiceServer},
    *,
};
use tokio::{net::UnixListener, runtime::Runtime, sync::mpsc};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{ReceiverStream, UnixListenerStream},
};
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

type Answer<T> = Result<Response<T>, Status>;
type Flow<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the stub plays, and what it was asked.
#[derive(Default)]
pub(crate) struct Script {
    /// All tasks there are.
    pub(crate) tasks: Vec<Task>,
    /// RunTask's failures; without any it answers the first task.
    pub(crate) failures: Vec<Failure>,
    /// What WatchTasks sends, then it stays open.
    pub(crate) states: Vec<Task>,
    /// What each GetLogs in turn sends; the last error or end is its end.
    pub(crate) logs: VecDeque<Vec<Result<GetLogsResponse, Status>>>,
    /// GetLogs does not end after its lines.
    pub(crate) logs_stay_open: bool,
    /// Definitions as registered.
    pub(crate) definitions: Vec<TaskDefinition>,
    /// `since` of each GetLogs.
    pub(crate) since: Vec<Option<f64>>,
    /// `until` of each GetLogs.
    pub(crate) until: Vec<Option<f64>>,
    /// AttachTask is with a container that has no terminal.
    pub(crate) attach_is_plain: bool,
    /// `session` of each ExecuteCommand and AttachTask.
    pub(crate) sessions: Vec<ResumableSession>,
    /// Nothing is known of sessions that began before.
    pub(crate) sessions_are_lost: bool,
}

/// A running stub; ends with its process.
pub(crate) struct Stub {
    pub(crate) script: Arc<Mutex<Script>>,
    pub(crate) socket: PathBuf,
    _directory: tempfile::TempDir,
    runtime: Option<Runtime>,
}

impl Stub {
    pub(crate) fn start(script: Script) -> Stub {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("sock");
        let script = Arc::new(Mutex::new(script));
        let runtime = Some(serve(&socket, &script));
        Stub { script, socket, _directory: directory, runtime }
    }

    /// Breaks every connection and leaves the socket behind, as SIGKILL would.
    pub(crate) fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_timeout(std::time::Duration::from_secs(10));
    }

    /// Starts again after [`Stub::kill`].
    pub(crate) fn restart(&mut self) {
        std::fs::remove_file(&self.socket).unwrap();
        self.runtime = Some(serve(&self.socket, &self.script));
    }
}

fn serve(socket: &Path, script: &Arc<Mutex<Script>>) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(async { UnixListener::bind(socket).unwrap() });
    runtime.spawn(
        tonic::transport::Server::builder()
            .add_service(TaskServiceServer::new(Service(script.clone())))
            .add_service(ImageServiceServer::new(images::Images))
            .serve_with_incoming(UnixListenerStream::new(listener)),
    );
    runtime
}

struct Service(Arc<Mutex<Script>>);

impl Service {
    fn with<T>(&self, f: impl FnOnce(&mut Script) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }
}

fn ok<T>(answer: T) -> Answer<T> {
    Ok(Response::new(answer))
}

fn arn(definition: &TaskDefinition) -> String {
    definition.task_definition_arn.clone().unwrap()
}

#[tonic::async_trait]
impl TaskService for Service {
    async fn register_task_definition(
        &self,
        request: Request<RegisterTaskDefinitionRequest>,
    ) -> Answer<RegisterTaskDefinitionResponse> {
        let mut definition = definition::registered(request.get_ref());
        let family = definition.family.clone().unwrap();
        if family == "refused" {
            let mut details = ErrorDetails::with_error_info("ClientException", "neargate", [("a".into(), "b".into())]);
            details.add_bad_request_violation("family", "no such\u{1b} family");
            details.add_bad_request_violation("memory", "too little");
            return Err(Status::with_error_details(tonic::Code::InvalidArgument, "2 problems", details));
        }
        self.with(|script| {
            let revision = script.definitions.len() + 1;
            definition.task_definition_arn = Some(format!("arn:aws:ecs:local:0:task-definition/{family}:{revision}"));
            definition.status = Some("ACTIVE".into());
            script.definitions.push(definition.clone());
        });
        ok(RegisterTaskDefinitionResponse { task_definition: Some(definition), tags: Vec::new() })
    }

    async fn describe_task_definition(
        &self,
        request: Request<DescribeTaskDefinitionRequest>,
    ) -> Answer<DescribeTaskDefinitionResponse> {
        let wanted = request.into_inner().task_definition.unwrap();
        let found = self.with(|script| script.definitions.iter().find(|d| arn(d) == wanted).cloned());
        let definition = found.ok_or_else(|| Status::invalid_argument("Unable to describe task definition."))?;
        ok(DescribeTaskDefinitionResponse { task_definition: Some(definition), tags: Vec::new() })
    }

    async fn list_task_definitions(
        &self,
        _: Request<ListTaskDefinitionsRequest>,
    ) -> Answer<ListTaskDefinitionsResponse> {
        let task_definition_arns = self.with(|script| script.definitions.iter().map(arn).collect());
        ok(ListTaskDefinitionsResponse { task_definition_arns, next_token: None })
    }

    async fn deregister_task_definition(
        &self,
        _: Request<DeregisterTaskDefinitionRequest>,
    ) -> Answer<DeregisterTaskDefinitionResponse> {
        Err(Status::unimplemented("not in the stub"))
    }

    async fn run_task(&self, _: Request<RunTaskRequest>) -> Answer<RunTaskResponse> {
        ok(self.with(|script| {
            let failures = script.failures.clone();
            let tasks = if failures.is_empty() { script.tasks[..1].to_vec() } else { Vec::new() };
            RunTaskResponse { tasks, failures }
        }))
    }

    async fn stop_task(&self, request: Request<StopTaskRequest>) -> Answer<StopTaskResponse> {
        let wanted = request.into_inner().task.unwrap();
        let found = self.with(|script| script.tasks.iter().find(|t| t.task_arn.as_ref() == Some(&wanted)).cloned());
        let task = found.ok_or_else(|| Status::invalid_argument("The referenced task was not found."))?;
        ok(StopTaskResponse { task: Some(task) })
    }

    async fn describe_tasks(&self, request: Request<DescribeTasksRequest>) -> Answer<DescribeTasksResponse> {
        let wanted = request.into_inner().tasks;
        let found = |script: &mut Script| {
            let named = |task: &&Task| task.task_arn.as_ref().is_some_and(|arn| wanted.contains(arn));
            script.tasks.iter().filter(named).cloned().collect()
        };
        ok(DescribeTasksResponse { tasks: self.with(found), failures: Vec::new() })
    }

    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> Answer<ListTasksResponse> {
        let request = request.into_inner();
        let desired = |task: &&Task| task.desired_status == request.desired_status;
        let all: Vec<String> =
            self.with(|script| script.tasks.iter().filter(desired).filter_map(|t| t.task_arn.clone()).collect());
        // One a page, so that whoever forgets the token is found out.
        let page: usize = request.next_token.map_or(0, |token| token.parse().unwrap());
        let next_token = (page + 1 < all.len()).then(|| (page + 1).to_string());
        ok(ListTasksResponse { task_arns: all.into_iter().skip(page).take(1).collect(), next_token })
    }

    type WatchTasksStream = Flow<WatchTasksResponse>;

    async fn watch_tasks(&self, _: Request<WatchTasksRequest>) -> Answer<Self::WatchTasksStream> {
        let states = self.with(|script| script.states.clone());
        let answers = states.into_iter().map(|task| Ok(WatchTasksResponse { task: Some(task) }));
        ok(Box::pin(tokio_stream::iter(answers).chain(tokio_stream::pending())))
    }

    type GetLogsStream = Flow<GetLogsResponse>;

    async fn get_logs(&self, request: Request<GetLogsRequest>) -> Answer<Self::GetLogsStream> {
        let (lines, open) = self.with(|script| {
            script.since.push(request.get_ref().since);
            script.until.push(request.get_ref().until);
            (script.logs.pop_front(), script.logs_stay_open)
        });
        match lines {
            Some(lines) if open => ok(Box::pin(tokio_stream::iter(lines).chain(tokio_stream::pending()))),
            Some(lines) => ok(Box::pin(tokio_stream::iter(lines))),
            None => ok(Box::pin(tokio_stream::pending())),
        }
    }

    type ExecuteCommandStream = Flow<ExecuteCommandResponse>;

    async fn execute_command(
        &self,
        request: Request<Streaming<ExecuteCommandRequest>>,
    ) -> Answer<Self::ExecuteCommandStream> {
        let mut input = request.into_inner();
        let start =
            input.message().await?.and_then(|first| first.start).ok_or_else(|| Status::invalid_argument("no start"))?;
        let session = start.session.clone().unwrap();
        let resumed = session.output_offset;
        let lost = self.with(|script| {
            script.sessions.push(session);
            script.sessions_are_lost
        });
        if lost && resumed.is_some() {
            return Err(Status::not_found("the session is not there"));
        }
        let (output, answers) = mpsc::channel(4);
        tokio::spawn(async move {
            let terminal = start.pseudo_terminal == Some(true);
            let mut output = Output { answers: output, offset: resumed.unwrap_or_default() };
            output.opened(terminal).await;
            let code = match start.command[0].as_str() {
                "cat" => cat(&mut input, &mut output).await,
                "trap" => trap(&mut input, &mut output).await,
                _ => {
                    output.say(&serde_json::to_string(&ExecuteCommandStart { session: None, ..start }).unwrap()).await;
                    0
                }
            };
            output.answer(ExecuteCommandResponse { exit_code: Some(code), ..Default::default() }).await;
        });
        ok(Box::pin(ReceiverStream::new(answers)))
    }

    type AttachTaskStream = Flow<AttachTaskResponse>;

    /// A container with a terminal, unless the script says otherwise, that tells what is typed and the signals.
    async fn attach_task(&self, request: Request<Streaming<AttachTaskRequest>>) -> Answer<Self::AttachTaskStream> {
        let mut input = request.into_inner();
        let start =
            input.message().await?.and_then(|first| first.start).ok_or_else(|| Status::invalid_argument("no start"))?;
        let terminal = self.with(|script| {
            script.sessions.extend(start.session);
            !script.attach_is_plain
        });
        let (output, answers) = mpsc::channel(4);
        tokio::spawn(async move {
            let (stdin, pseudo_terminal) = (start.interactive, Some(terminal));
            let opened = SessionOpened { stdin, pseudo_terminal, stdin_offset: Some(0), output_offset: Some(0) };
            output.send(Ok(AttachTaskResponse { opened: Some(opened), ..Default::default() })).await.unwrap();
            let missed = AttachTaskResponse { missed: Some(5), output_offset: Some(5), ..Default::default() };
            output.send(Ok(missed)).await.unwrap();
            let hello = AttachTaskResponse { stdout: Some(b"hello\n".to_vec()), ..Default::default() };
            output.send(Ok(hello)).await.unwrap();
            while let Ok(Some(request)) = input.message().await {
                if request.detach == Some(true) {
                    return;
                }
                if let Some(signal) = request.signal {
                    let stdout = Some(format!("{signal}\n").into_bytes());
                    output.send(Ok(AttachTaskResponse { stdout, ..Default::default() })).await.unwrap();
                }
                if let Some(keys) = request.stdin {
                    let stdout = Some(format!("keys {keys:?}\n").into_bytes());
                    output.send(Ok(AttachTaskResponse { stdout, ..Default::default() })).await.unwrap();
                }
            }
        });
        ok(Box::pin(ReceiverStream::new(answers)))
    }
}

/// A command's answers; a client that has gone is none to panic for.
struct Output {
    answers: mpsc::Sender<Result<ExecuteCommandResponse, Status>>,
    offset: i64,
}

impl Output {
    async fn answer(&self, answer: ExecuteCommandResponse) {
        let _gone = self.answers.send(Ok(answer)).await;
    }

    async fn opened(&self, terminal: bool) {
        let opened = SessionOpened {
            stdin: Some(true),
            pseudo_terminal: Some(terminal),
            stdin_offset: Some(0),
            output_offset: Some(self.offset),
        };
        self.answer(ExecuteCommandResponse { opened: Some(opened), ..Default::default() }).await;
    }

    async fn bytes(&mut self, bytes: Vec<u8>) {
        self.offset += i64::try_from(bytes.len()).unwrap();
        let (stdout, output_offset) = (Some(bytes), Some(self.offset));
        self.answer(ExecuteCommandResponse { stdout, output_offset, ..Default::default() }).await;
    }

    async fn say(&mut self, text: &str) {
        self.bytes(text.as_bytes().to_vec()).await;
    }
}

/// Copies stdin to stdout and ends with 7.
async fn cat(input: &mut Streaming<ExecuteCommandRequest>, output: &mut Output) -> i32 {
    let mut read = 0;
    while let Ok(Some(request)) = input.message().await {
        if request.stdin_closed == Some(true) {
            return 7;
        }
        let bytes = request.stdin.unwrap_or_default();
        read += i64::try_from(bytes.len()).unwrap();
        output.bytes(bytes).await;
        output.answer(ExecuteCommandResponse { stdin_offset: Some(read), ..Default::default() }).await;
    }
    1
}

/// Says what happens to it: changes of its terminal's size, keys, signals. Ends at a signal or the key q.
async fn trap(input: &mut Streaming<ExecuteCommandRequest>, output: &mut Output) -> i32 {
    output.say(if output.offset == 0 { "ready\n" } else { "resumed\n" }).await;
    let mut known = None;
    while let Ok(Some(request)) = input.message().await {
        if let Some(signal) = request.signal {
            output.say(&format!("{signal}\n")).await;
            return 128 + 15;
        }
        // Its first size it had from the start.
        if let Some(size) = request.resize
            && known.replace(size).is_some_and(|before| before != size)
        {
            output.say(&format!("{}x{}\n", size.columns.unwrap(), size.rows.unwrap())).await;
        }
        if let Some(keys) = request.stdin {
            output.say(&format!("keys {keys:?}\n")).await;
            if keys.contains(&b'q') {
                return 3;
            }
        }
    }
    1
}
