//! The way to the agent: one gRPC channel over its Unix socket, and what to say when nobody answers there.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use proto::v1::{
    host_service_client::HostServiceClient, image_service_client::ImageServiceClient,
    observation_service_client::ObservationServiceClient, task_service_client::TaskServiceClient,
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// How long a command that was already following waits for an agent that restarts.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries to reach it again.
const RETRY: Duration = Duration::from_millis(100);

/// Why there is no agent to talk to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cannot reach neargated at {}: there is no such socket. Is it running? Start it by \
             `neargated --root DIR --socket {}`, or name its socket by --socket or NEARGATE_SOCKET", .0.display(), .0.display())]
    Missing(PathBuf),
    #[error("cannot reach neargated at {}: nobody listens there. Is it running? It may have been killed; start it again by \
             `neargated --root DIR`", .0.display())]
    NotListening(PathBuf),
    #[error("cannot reach neargated at {}: permission denied. Use sudo, or become a member of the group neargate", .0.display())]
    NotPermitted(PathBuf),
    #[error("cannot reach neargated at {}: a socket's path may have 107 bytes at most", .0.display())]
    TooLong(PathBuf),
    #[error("cannot reach neargated at {}", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("neargated at {} does not speak gRPC", path.display())]
    Protocol {
        path: PathBuf,
        #[source]
        source: tonic::transport::Error,
    },
}

/// A connection to the agent; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to the socket at `path`.
    pub(crate) async fn connect(path: &Path) -> Result<Client, ConnectError> {
        let stream = UnixStream::connect(path).await.map_err(|source| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::NotFound => ConnectError::Missing(path),
                io::ErrorKind::ConnectionRefused => ConnectError::NotListening(path),
                io::ErrorKind::InvalidInput => ConnectError::TooLong(path),
                io::ErrorKind::PermissionDenied => ConnectError::NotPermitted(path),
                _ => ConnectError::Socket { path, source },
            }
        })?;
        // The first connection is this stream, so that a failure has a name; after it the channel makes its own.
        let first = Arc::new(Mutex::new(Some(stream)));
        let socket = path.to_owned();
        let connector = tower::service_fn(move |_| {
            let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let socket = socket.clone();
            async move {
                let stream = match ready {
                    Some(stream) => stream,
                    None => UnixStream::connect(socket).await?,
                };
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        let channel = Endpoint::from_static("http://neargated")
            .connect_with_connector(connector)
            .await
            .map_err(|source| ConnectError::Protocol { path: path.to_owned(), source })?;
        Ok(Client { channel })
    }

    /// Tasks and definitions.
    pub(crate) fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.channel.clone())
    }

    /// Images.
    pub(crate) fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    /// How tasks are doing.
    pub(crate) fn observation(&self) -> ObservationServiceClient<Channel> {
        ObservationServiceClient::new(self.channel.clone())
    }

    /// The host.
    pub(crate) fn host(&self) -> HostServiceClient<Channel> {
        HostServiceClient::new(self.channel.clone())
    }
}

/// Whether the agent went away, as opposed to having answered with an error.
pub(crate) fn went_away(status: &tonic::Status) -> bool {
    // A status that this side made from a broken connection has a source; one from the wire has none.
    status.code() == tonic::Code::Unavailable || std::error::Error::source(status).is_some()
}

/// Decides how long to go on trying after the agent went away.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    since: Option<Instant>,
}

impl Patience {
    /// Waits before the next try; false once the agent has been away for too long.
    pub(crate) async fn wait(&mut self) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() > PATIENCE {
            return false;
        }
        tokio::time::sleep(RETRY).await;
        true
    }

    /// How long the agent has been away.
    pub(crate) fn waited(&self) -> Duration {
        self.since.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// The agent answered.
    pub(crate) fn answered(&mut self) {
        self.since = None;
    }
}
