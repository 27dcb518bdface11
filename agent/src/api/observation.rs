//! ObservationService: decode → engine → encode. No logic.

use futures_util::StreamExt as _;
use proto::v1::{
    GetStatsRequest, GetStatsResponse, GetTimingRequest, GetTimingResponse, WatchEventsRequest, WatchEventsResponse,
    observation_service_server::ObservationService,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Answers, status, until_stopped};
use crate::engine::Engine;

/// The service.
pub(super) struct Observations {
    engine: Engine,
    stop: CancellationToken,
}

impl Observations {
    pub(super) fn new(engine: Engine, stop: CancellationToken) -> Self {
        Self { engine, stop }
    }
}

#[tonic::async_trait]
impl ObservationService for Observations {
    async fn get_timing(&self, request: Request<GetTimingRequest>) -> Result<Response<GetTimingResponse>, Status> {
        self.engine.timing(request.get_ref()).map(Response::new).map_err(status::engine)
    }

    type GetStatsStream = Answers<GetStatsResponse>;

    async fn get_stats(&self, request: Request<GetStatsRequest>) -> Result<Response<Self::GetStatsStream>, Status> {
        let stats = self.engine.stats(request.get_ref()).map_err(status::engine)?;
        Ok(Response::new(until_stopped(stats.map(Ok), self.stop.clone())))
    }

    type WatchEventsStream = Answers<WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let events = self.engine.watch_events(request.into_inner()).map_err(status::engine)?;
        let answers = events.map(|event| Ok(WatchEventsResponse { event: Some(event) }));
        Ok(Response::new(until_stopped(answers, self.stop.clone())))
    }
}
