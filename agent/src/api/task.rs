//! TaskService: decode → engine → encode. No logic; logs and sessions are bridged by `api/logs.rs` and `api/session.rs`.

use futures_util::StreamExt as _;
use proto::v1::{
    AttachTaskRequest, AttachTaskResponse, DeregisterTaskDefinitionRequest, DeregisterTaskDefinitionResponse,
    DescribeTaskDefinitionRequest, DescribeTaskDefinitionResponse, DescribeTasksRequest, DescribeTasksResponse,
    ExecuteCommandRequest, ExecuteCommandResponse, GetLogsRequest, GetLogsResponse, ListTaskDefinitionsRequest,
    ListTaskDefinitionsResponse, ListTasksRequest, ListTasksResponse, RegisterTaskDefinitionRequest,
    RegisterTaskDefinitionResponse, RunTaskRequest, RunTaskResponse, StopTaskRequest, StopTaskResponse,
    WatchTasksRequest, WatchTasksResponse, task_service_server::TaskService,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, attach, exec, logs, status, until_stopped};
use crate::engine::Engine;

/// The service.
pub(super) struct Tasks {
    engine: Engine,
    stop: CancellationToken,
}

impl Tasks {
    pub(super) fn new(engine: Engine, stop: CancellationToken) -> Self {
        Self { engine, stop }
    }
}

#[tonic::async_trait]
impl TaskService for Tasks {
    async fn register_task_definition(
        &self,
        request: Request<RegisterTaskDefinitionRequest>,
    ) -> Result<Response<RegisterTaskDefinitionResponse>, Status> {
        let request = request.into_inner();
        let tags = request.tags.clone();
        let definition = self.engine.register_task_definition(request).await.map_err(status::engine)?;
        Ok(Response::new(RegisterTaskDefinitionResponse { task_definition: Some(definition), tags }))
    }

    async fn describe_task_definition(
        &self,
        request: Request<DescribeTaskDefinitionRequest>,
    ) -> Result<Response<DescribeTaskDefinitionResponse>, Status> {
        let answer = self.engine.describe_task_definition(request.get_ref()).await;
        answer.map(Response::new).map_err(status::engine)
    }

    async fn list_task_definitions(
        &self,
        request: Request<ListTaskDefinitionsRequest>,
    ) -> Result<Response<ListTaskDefinitionsResponse>, Status> {
        self.engine.list_task_definitions(request.get_ref()).map(Response::new).map_err(status::engine)
    }

    async fn deregister_task_definition(
        &self,
        request: Request<DeregisterTaskDefinitionRequest>,
    ) -> Result<Response<DeregisterTaskDefinitionResponse>, Status> {
        let name = request.into_inner().task_definition.unwrap_or_default();
        let definition = self.engine.deregister_task_definition(&name).await.map_err(status::engine)?;
        Ok(Response::new(DeregisterTaskDefinitionResponse { task_definition: Some(definition) }))
    }

    async fn run_task(&self, request: Request<RunTaskRequest>) -> Result<Response<RunTaskResponse>, Status> {
        self.engine.run_task(request.into_inner()).await.map(Response::new).map_err(status::engine)
    }

    async fn stop_task(&self, request: Request<StopTaskRequest>) -> Result<Response<StopTaskResponse>, Status> {
        let task = self.engine.stop_task(request.into_inner()).await.map_err(status::engine)?;
        Ok(Response::new(StopTaskResponse { task: Some(task) }))
    }

    async fn describe_tasks(
        &self,
        request: Request<DescribeTasksRequest>,
    ) -> Result<Response<DescribeTasksResponse>, Status> {
        self.engine.describe_tasks(request.get_ref()).map(Response::new).map_err(status::engine)
    }

    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> Result<Response<ListTasksResponse>, Status> {
        self.engine.list_tasks(request.get_ref()).map(Response::new).map_err(status::engine)
    }

    type WatchTasksStream = Answers<WatchTasksResponse>;

    async fn watch_tasks(
        &self,
        request: Request<WatchTasksRequest>,
    ) -> Result<Response<Self::WatchTasksStream>, Status> {
        let tasks = self.engine.watch_tasks(request.get_ref()).map_err(status::engine)?;
        let answers = tasks.map(|task| Ok(WatchTasksResponse { task: Some(task) }));
        Ok(Response::new(until_stopped(answers, self.stop.clone())))
    }

    type GetLogsStream = Answers<GetLogsResponse>;

    async fn get_logs(&self, request: Request<GetLogsRequest>) -> Result<Response<Self::GetLogsStream>, Status> {
        let lines = logs::lines(&self.engine, request.get_ref())?;
        Ok(Response::new(until_stopped(lines, self.stop.clone())))
    }

    type ExecuteCommandStream = Answers<ExecuteCommandResponse>;

    async fn execute_command(
        &self,
        request: Request<Streaming<ExecuteCommandRequest>>,
    ) -> Result<Response<Self::ExecuteCommandStream>, Status> {
        let output = exec::execute(&self.engine, request.into_inner(), self.stop.clone()).await?;
        Ok(Response::new(until_stopped(output, self.stop.clone())))
    }

    type AttachTaskStream = Answers<AttachTaskResponse>;

    async fn attach_task(
        &self,
        request: Request<Streaming<AttachTaskRequest>>,
    ) -> Result<Response<Self::AttachTaskStream>, Status> {
        let output = attach::attach(&self.engine, request.into_inner(), self.stop.clone()).await?;
        Ok(Response::new(until_stopped(output, self.stop.clone())))
    }
}
