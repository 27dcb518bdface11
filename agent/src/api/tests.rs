//! The server on a real socket with a real engine.

use std::{fs, path::PathBuf, sync::Arc};

use futures_util::StreamExt as _;
use proto::v1::{
    DescribeHostRequest, DescribeTasksRequest, RegisterTaskDefinitionRequest, SetStateRequest, WatchTasksRequest,
    host_service_client::HostServiceClient, task_service_client::TaskServiceClient,
};
use tokio::task::JoinHandle;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_types::StatusExt as _;

use super::*;
use crate::config::Config;

struct Agent {
    root: tempfile::TempDir,
    channel: Channel,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
    engine: Engine,
}

impl Agent {
    async fn start() -> Agent {
        let root = tempfile::tempdir().unwrap();
        let config = Config { root: root.path().to_owned(), runtime: PathBuf::from("/bin/false"), ..Config::default() };
        let engine = Engine::open(Arc::new(config)).await.unwrap();
        let socket = Socket::bind(&socket::default_path(root.path())).unwrap();
        let uri = format!("unix://{}", socket.path().display());
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(socket, engine.clone(), stop.clone()));
        let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
        Agent { root, channel, stop, serving, engine }
    }

    fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.channel.clone())
    }

    async fn end(self) {
        self.stop.cancel();
        self.serving.await.unwrap().unwrap();
        self.engine.shutdown().await;
        assert!(!self.root.path().join("run/neargated.sock").exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_lists_all_services_and_health_serves() {
    use tonic_reflection::pb::{v1, v1alpha};
    let agent = Agent::start().await;
    let wanted = ["neargate.v1.HostService", "neargate.v1.ImageService", "neargate.v1.TaskService"];

    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(agent.channel.clone());
    let mut answers = client.server_reflection_info(futures_util::stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(listed) = answer else {
        panic!("{answer:?}")
    };
    for name in wanted {
        assert!(listed.service.iter().any(|service| service.name == name), "{name} is not in {listed:?}");
    }

    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            wanted[2].to_owned(),
        )),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(agent.channel.clone());
    let mut answers = client.server_reflection_info(futures_util::stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(answer, v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_)));

    let mut health = HealthClient::new(agent.channel.clone());
    for service in ["", wanted[0], wanted[1], wanted[2]] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_describes_itself_and_takes_a_state() {
    let agent = Agent::start().await;
    let mut hosts = HostServiceClient::new(agent.channel.clone());
    let host = hosts.describe_host(DescribeHostRequest {}).await.unwrap().into_inner().container_instance.unwrap();
    assert_eq!(host.status.as_deref(), Some("ACTIVE"));
    let request = SetStateRequest { status: Some("DRAINING".into()) };
    let host = hosts.set_state(request).await.unwrap().into_inner().container_instance.unwrap();
    assert_eq!(host.status.as_deref(), Some("DRAINING"));
    let refused = hosts.set_state(SetStateRequest { status: Some("AWAY".into()) }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_carry_ecs_exceptions_and_all_fields_at_fault() {
    let agent = Agent::start().await;
    let text = r#"{"family":"f","containerDefinitions":[
        {"name":"a","memory":64,"firelensConfiguration":{"type":"fluentd"}},
        {"image":"busybox","memory":64}]}"#;
    let request: RegisterTaskDefinitionRequest = serde_json::from_str(text).unwrap();
    let refused = agent.tasks().register_task_definition(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let details = refused.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "ClientException");
    assert_eq!(details.error_info().unwrap().domain, "neargate");
    let fields: Vec<_> =
        details.bad_request().unwrap().field_violations.iter().map(|violation| violation.field.as_str()).collect();
    for field in [
        "containerDefinitions[0].image",
        "containerDefinitions[0].firelensConfiguration",
        "containerDefinitions[1].name",
    ] {
        assert!(fields.contains(&field), "{field} is not in {fields:?}");
    }

    let refused = agent.tasks().describe_tasks(DescribeTasksRequest::default()).await.unwrap_err();
    assert_eq!(refused.get_error_details().error_info().unwrap().reason, "InvalidParameterException");
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_when_the_agent_stops() {
    let agent = Agent::start().await;
    let mut watching = agent.tasks().watch_tasks(WatchTasksRequest::default()).await.unwrap().into_inner();
    agent.stop.cancel();
    assert_eq!(watching.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_too_long_is_refused() {
    let agent = Agent::start().await;
    let tasks = vec!["x".repeat(MAX_REQUEST_BYTES)];
    let refused = agent.tasks().describe_tasks(DescribeTasksRequest { tasks, ..Default::default() }).await;
    assert_eq!(refused.unwrap_err().code(), Code::OutOfRange);
    assert!(fs::exists(agent.root.path().join("run/neargated.sock")).unwrap());
    agent.end().await;
}
