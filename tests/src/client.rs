//! gRPC to one agent over its Unix socket, without async for the tests: each call waits for its answer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::v1::host_service_client::HostServiceClient;
use proto::v1::image_service_client::ImageServiceClient;
use proto::v1::task_service_client::TaskServiceClient;
use proto::v1::{
    DescribeHostRequest, DescribeTasksRequest, DescribeTasksResponse, GetLogsRequest, GetLogsResponse,
    PullImageRequest, PullImageResponse, RemoveImageRequest, RunTaskRequest, RunTaskResponse, SetStateRequest,
    StopTaskRequest, Task, TaskDefinition, WatchTasksRequest,
};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::definition;

/// No call of a test takes longer.
const CALL: Duration = Duration::from_secs(60);

/// Clients of one agent. It connects anew with each call, so an agent may be restarted between two.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// A client of the agent that listens, or will listen, there.
    pub fn new(socket: &Path) -> Client {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Client { socket: socket.to_owned(), runtime: runtime.expect("an async runtime") }
    }

    /// Waits for `work`.
    #[track_caller]
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        let bounded = async { tokio::time::timeout(CALL, work).await };
        self.runtime.block_on(bounded).expect("the agent answers within a minute")
    }

    /// A connection.
    pub async fn channel(&self) -> Result<Channel, Status> {
        connect(self.socket.clone()).await
    }

    /// TaskService.
    pub async fn tasks(&self) -> Result<TaskServiceClient<Channel>, Status> {
        Ok(TaskServiceClient::new(self.channel().await?))
    }

    async fn images(&self) -> Result<ImageServiceClient<Channel>, Status> {
        Ok(ImageServiceClient::new(self.channel().await?))
    }

    async fn host(&self) -> Result<HostServiceClient<Channel>, Status> {
        Ok(HostServiceClient::new(self.channel().await?))
    }

    /// Whether the agent says that it serves.
    pub fn is_serving(&self) -> bool {
        let asked = self.wait(async {
            let mut health = HealthClient::new(self.channel().await?);
            health.check(HealthCheckRequest { service: String::new() }).await
        });
        asked.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
    }

    /// Registers a definition in ECS JSON.
    pub fn register(&self, definition: &Value) -> Result<TaskDefinition, Status> {
        let request = definition::request(definition);
        let answer = self.wait(async { self.tasks().await?.register_task_definition(request).await })?;
        Ok(answer.into_inner().task_definition.unwrap_or_default())
    }

    /// RunTask.
    pub fn run_task(&self, request: RunTaskRequest) -> Result<RunTaskResponse, Status> {
        Ok(self.wait(async { self.tasks().await?.run_task(request).await })?.into_inner())
    }

    /// Registers the definition and runs it once; answers the task's ARN.
    #[track_caller]
    pub fn run(&self, definition: &Value) -> String {
        let registered = self.register(definition).expect("the definition is good");
        let network_configuration = (registered.network_mode() == "awsvpc").then(definition::network);
        let task_definition = registered.task_definition_arn;
        let request = RunTaskRequest { task_definition, network_configuration, ..RunTaskRequest::default() };
        let answer = self.run_task(request).expect("the task is accepted");
        assert_eq!(answer.failures, [], "the task fits");
        answer.tasks[0].task_arn().to_owned()
    }

    /// DescribeTasks.
    pub fn describe_tasks(&self, tasks: &[&str]) -> Result<DescribeTasksResponse, Status> {
        let tasks = tasks.iter().map(ToString::to_string).collect();
        let request = DescribeTasksRequest { tasks, ..DescribeTasksRequest::default() };
        Ok(self.wait(async { self.tasks().await?.describe_tasks(request).await })?.into_inner())
    }

    /// One task as it is.
    #[track_caller]
    pub fn describe(&self, task: &str) -> Task {
        let answer = self.describe_tasks(&[task]).expect("DescribeTasks answers");
        answer.tasks.into_iter().next().expect("the task is known")
    }

    /// StopTask.
    pub fn stop(&self, task: &str, reason: Option<&str>) -> Result<Task, Status> {
        let request = StopTaskRequest {
            task: Some(task.to_owned()),
            reason: reason.map(str::to_owned),
            ..StopTaskRequest::default()
        };
        Ok(self.wait(async { self.tasks().await?.stop_task(request).await })?.into_inner().task.unwrap_or_default())
    }

    /// All that WatchTasks tells of a task until `done`.
    #[track_caller]
    pub fn watch(&self, task: &str, mut done: impl FnMut(&Task) -> bool) -> Vec<Task> {
        let request = WatchTasksRequest { tasks: vec![task.to_owned()], ..WatchTasksRequest::default() };
        let watched: Result<Vec<Task>, Status> = self.wait(async {
            let mut stream = self.tasks().await?.watch_tasks(request).await?.into_inner();
            let mut seen = Vec::new();
            while let Some(answer) = stream.next().await {
                seen.extend(answer?.task);
                if seen.last().is_some_and(&mut done) {
                    break;
                }
            }
            Ok(seen)
        });
        watched.expect("WatchTasks goes on")
    }

    /// Waits until a task has stopped.
    #[track_caller]
    pub fn stopped(&self, task: &str) -> Task {
        self.in_status(task, "STOPPED")
    }

    /// Waits until a task runs; panics if it stops instead.
    #[track_caller]
    pub fn running(&self, task: &str) -> Task {
        let found = self.watch(task, |task| ["RUNNING", "STOPPED"].contains(&task.last_status()));
        let last = found.into_iter().next_back().expect("at least one state");
        assert_eq!(last.last_status(), "RUNNING", "{:?} {:?}", last.stopped_reason, last.containers);
        last
    }

    #[track_caller]
    fn in_status(&self, task: &str, status: &str) -> Task {
        let found = self.watch(task, |task| task.last_status() == status);
        let last = found.into_iter().next_back().expect("at least one state");
        assert_eq!(last.last_status(), status, "the stream ended early");
        last
    }

    /// Registers, runs and waits for the end.
    #[track_caller]
    pub fn run_to_end(&self, definition: &Value) -> Task {
        let task = self.run(definition);
        self.stopped(&task)
    }

    /// GetLogs to its end.
    pub fn log_entries(&self, request: GetLogsRequest) -> Result<Vec<GetLogsResponse>, Status> {
        self.wait(async { collect(self.tasks().await?.get_logs(request).await?.into_inner()).await })
    }

    /// Text that a container has written so far, both streams in order.
    #[track_caller]
    pub fn logs(&self, task: &str, container: &str) -> String {
        let (task, container) = (Some(task.to_owned()), Some(container.to_owned()));
        let entries = self.log_entries(GetLogsRequest { task, container, ..GetLogsRequest::default() });
        let bytes: Vec<u8> =
            entries.expect("GetLogs answers").into_iter().flat_map(|e| e.data.unwrap_or_default()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// PullImage to its end.
    pub fn pull(&self, image: &str) -> Result<Vec<PullImageResponse>, Status> {
        let request = PullImageRequest { image: Some(image.to_owned()) };
        self.wait(async { collect(self.images().await?.pull_image(request).await?.into_inner()).await })
    }

    /// Names of the images that are here.
    #[track_caller]
    pub fn image_names(&self) -> Vec<String> {
        let listed = self.wait(async { self.images().await?.list_images(proto::v1::ListImagesRequest {}).await });
        let images = listed.expect("ListImages answers").into_inner().images;
        images.into_iter().map(|image| image.image.unwrap_or_default()).collect()
    }

    /// RemoveImage; answers the bytes freed.
    pub fn remove_image(&self, image: &str) -> Result<f64, Status> {
        let request = RemoveImageRequest { image: Some(image.to_owned()) };
        let answer = self.wait(async { self.images().await?.remove_image(request).await })?;
        Ok(answer.into_inner().freed_bytes())
    }

    /// The container instance.
    #[track_caller]
    pub fn container_instance(&self) -> proto::v1::ContainerInstance {
        let answer = self.wait(async { self.host().await?.describe_host(DescribeHostRequest {}).await });
        answer.expect("DescribeHost answers").into_inner().container_instance.expect("an instance")
    }

    /// ACTIVE or DRAINING.
    pub fn set_state(&self, status: &str) -> Result<(), Status> {
        let request = SetStateRequest { status: Some(status.to_owned()) };
        self.wait(async { self.host().await?.set_state(request).await }).map(drop)
    }
}

async fn connect(socket: PathBuf) -> Result<Channel, Status> {
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The address has no meaning on a Unix socket.
    let endpoint = Endpoint::from_static("http://agent");
    endpoint.connect_with_connector(connector).await.map_err(|error| Status::unavailable(format!("{error:?}")))
}

async fn collect<T>(mut stream: Streaming<T>) -> Result<Vec<T>, Status> {
    let mut found = Vec::new();
    while let Some(answer) = stream.next().await {
        found.push(answer?);
    }
    Ok(found)
}
