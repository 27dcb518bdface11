//! Tasks as they are and as they change, over restarts of the agent.

use proto::v1::{Task, WatchTasksRequest, WatchTasksResponse};
use tonic::{Status, Streaming};

use crate::{
    client::{Client, Patience, went_away},
    error::Error,
};

/// Watches the tasks of a request.
#[derive(Debug)]
pub(crate) struct Watch {
    client: Client,
    request: WatchTasksRequest,
    stream: Option<Streaming<WatchTasksResponse>>,
    patience: Patience,
}

impl Watch {
    /// Nothing is asked for before the first [`Watch::next`].
    pub(crate) fn new(client: Client, request: WatchTasksRequest) -> Watch {
        Watch { client, request, stream: None, patience: Patience::default() }
    }

    /// Each task as it is now, then each one that changed; after a restart of the agent all of them again.
    pub(crate) async fn next(&mut self) -> Result<Task, Error> {
        loop {
            match self.step().await {
                Ok(Some(task)) => {
                    self.patience.answered();
                    return Ok(task);
                }
                // An agent that ends in order ends its streams in order; the tasks are not at their end.
                outcome => {
                    let failure = outcome.err();
                    self.stream = None;
                    if failure.as_ref().is_none_or(went_away) && self.patience.wait().await {
                        continue;
                    }
                    let status = failure.unwrap_or_else(|| Status::unavailable("the agent does not come back"));
                    return Err(Error::refused("cannot watch the task")(status));
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Task>, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => self.stream.insert(self.client.tasks().watch_tasks(self.request.clone()).await?.into_inner()),
        };
        Ok(stream.message().await?.and_then(|answer| answer.task))
    }
}

/// Whether it is over.
pub(crate) fn has_stopped(task: &Task) -> bool {
    task.last_status.as_deref() == Some("STOPPED")
}
