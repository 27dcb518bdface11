//! HostService: decode → engine → encode. No logic.

use proto::v1::{
    DescribeHostRequest, DescribeHostResponse, SetStateRequest, SetStateResponse, host_service_server::HostService,
};
use tonic::{Request, Response, Status};

use super::status;
use crate::engine::Engine;

/// The service.
pub(super) struct Hosts {
    engine: Engine,
}

impl Hosts {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl HostService for Hosts {
    async fn describe_host(&self, _: Request<DescribeHostRequest>) -> Result<Response<DescribeHostResponse>, Status> {
        let container_instance = Some(self.engine.container_instance());
        Ok(Response::new(DescribeHostResponse { container_instance }))
    }

    async fn set_state(&self, request: Request<SetStateRequest>) -> Result<Response<SetStateResponse>, Status> {
        let wanted = request.into_inner().status.unwrap_or_default();
        let instance = self.engine.set_state(&wanted).await.map_err(status::engine)?;
        Ok(Response::new(SetStateResponse { container_instance: Some(instance) }))
    }
}
