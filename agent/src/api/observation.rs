//! ObservationService: decode → engine → encode. No logic.

use proto::v1::{GetTimingRequest, GetTimingResponse, observation_service_server::ObservationService};
use tonic::{Request, Response, Status};

use super::status;
use crate::engine::Engine;

/// The service.
pub(super) struct Observations {
    engine: Engine,
}

impl Observations {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl ObservationService for Observations {
    async fn get_timing(&self, request: Request<GetTimingRequest>) -> Result<Response<GetTimingResponse>, Status> {
        self.engine.timing(request.get_ref()).map(Response::new).map_err(status::engine)
    }
}
