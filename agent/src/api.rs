//! The gRPC front door: mounts the services on the agent's Unix socket and ends them in order. Knows no task.
//!
//! | file | owns |
//! |---|---|
//! | `api/socket.rs` | making, protecting and removing the socket |
//! | `api/peer.rs` | who may call |
//! | `api/task.rs`, `api/image.rs`, `api/host.rs`, `api/observation.rs` | decode → engine → encode, one service each |
//! | `api/logs.rs` | the streams of GetLogs |
//! | `api/session.rs` | the streams of ExecuteCommand and AttachTask, which `api/exec.rs` and `api/attach.rs` begin |
//! | `api/status.rs` | domain errors as gRPC statuses |

mod attach;
mod exec;
mod host;
mod image;
mod logs;
mod observation;
mod peer;
mod session;
pub mod socket;
mod status;
mod task;

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use proto::v1::{
    host_service_server::HostServiceServer, image_service_server::ImageServiceServer,
    observation_service_server::ObservationServiceServer, task_service_server::TaskServiceServer,
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, service::InterceptorLayer, transport::Server};

use crate::engine::Engine;
use socket::Socket;

/// Largest request: a task definition is 64 KiB at most, a piece of stdin may be longer.
const MAX_REQUEST_BYTES: usize = 1024 * 1024;

/// Calls in flight per connection: enough for a client that watches a host's tasks one by one.
const MAX_CONCURRENT_CALLS: u32 = 1_024;

/// How long calls may take to end once the agent stops: they answer at once by design, so this is for a client that
/// does not read its answer.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the API could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The compiled `.proto` files cannot be served by reflection.
    #[error("cannot serve gRPC reflection")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// The server failed.
    #[error("cannot serve gRPC")]
    Transport(#[source] tonic::transport::Error),
}

/// Serves until `stop` is cancelled, then ends all streams with UNAVAILABLE and lets the other calls finish.
pub async fn serve(socket: Socket, engine: Engine, stop: CancellationToken) -> Result<(), ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let tasks = task::Tasks::new(engine.clone(), stop.clone());
    let images = image::Images::new(engine.pulls(), stop.clone());
    let tasks = TaskServiceServer::new(tasks).max_decoding_message_size(MAX_REQUEST_BYTES);
    let images = ImageServiceServer::new(images).max_decoding_message_size(MAX_REQUEST_BYTES);
    let observations = observation::Observations::new(engine.clone(), stop.clone());
    let observations = ObservationServiceServer::new(observations).max_decoding_message_size(MAX_REQUEST_BYTES);
    let hosts = HostServiceServer::new(host::Hosts::new(engine)).max_decoding_message_size(MAX_REQUEST_BYTES);
    health.set_serving::<TaskServiceServer<task::Tasks>>().await;
    health.set_serving::<ImageServiceServer<image::Images>>().await;
    health.set_serving::<HostServiceServer<host::Hosts>>().await;
    health.set_serving::<ObservationServiceServer<observation::Observations>>().await;

    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflection_v1 = reflection().build_v1().map_err(ServeError::Reflection)?;
    // What grpcurl asked for before 2024.
    let reflection_v1alpha = reflection().build_v1alpha().map_err(ServeError::Reflection)?;

    let connections = peer::accept(socket.listener());
    let serving = Server::builder()
        .max_concurrent_streams(MAX_CONCURRENT_CALLS)
        .layer(InterceptorLayer::new(peer::check))
        .add_service(health_service)
        .add_service(reflection_v1)
        .add_service(reflection_v1alpha)
        .add_service(tasks)
        .add_service(images)
        .add_service(hosts)
        .add_service(observations)
        .serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
    tokio::select! {
        served = serving => served.map_err(ServeError::Transport),
        () = drained_too_long(stop) => {
            tracing::warn!(seconds = DRAIN.as_secs(), "some calls did not end in time, closing their connections");
            Ok(())
        }
    }
}

async fn drained_too_long(stop: CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(DRAIN).await;
}

/// The answer of a streaming call.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// `answers` until the agent stops: streams may have no end of their own.
fn until_stopped<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    stop: CancellationToken,
) -> Answers<T> {
    let goodbye = stop.clone();
    // Its item exists only where the stream was cut.
    let cut = stream::once(async move { goodbye.is_cancelled().then(|| Err(status::stopping())) });
    Box::pin(answers.take_until(stop.cancelled_owned()).chain(cut.filter_map(std::future::ready)))
}

/// Runs blocking work of a call away from the threads that serve.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|_| status::stopping())
}

#[cfg(test)]
mod tests;
