//! GetLogs: the request as `logs::Options`, lines as messages. Reading is `logs`'.

use futures_util::{Stream, StreamExt as _};
use proto::v1::{GetLogsRequest, GetLogsResponse};
use tonic::Status;

use super::status;
use crate::{
    engine::Engine,
    logs::{self, Line, Options, Source, Timestamp},
};

/// The lines that `request` asks for.
pub(super) fn lines(
    engine: &Engine,
    request: &GetLogsRequest,
) -> Result<impl Stream<Item = Result<GetLogsResponse, Status>> + Send + 'static, Status> {
    let options = options(request)?;
    let task = request.task.as_deref().unwrap_or_default();
    let found = engine
        .container_logs(request.cluster.as_deref(), task, request.container.as_deref())
        .map_err(status::engine)?;
    let sources =
        found.into_iter().map(|log| Source { container: log.container, path: log.path, ended: log.ended }).collect();
    Ok(logs::read(sources, options).map(|line| line.map(response).map_err(status::logs)))
}

fn options(request: &GetLogsRequest) -> Result<Options, Status> {
    let tail = request.tail.map(usize::try_from).transpose();
    let tail = tail.map_err(|_| status::invalid_parameter("tail", "must not be negative"))?;
    let time = |name: &str, seconds: Option<f64>| {
        let problem = || status::invalid_parameter(name, "must be seconds since the epoch");
        seconds.map(|seconds| Timestamp::from_epoch_seconds(seconds).ok_or_else(problem)).transpose()
    };
    let (since, until) = (time("since", request.since)?, time("until", request.until)?);
    Ok(Options { follow: request.follow.unwrap_or_default(), tail, since, until })
}

fn response(line: Line) -> GetLogsResponse {
    GetLogsResponse {
        container: Some(line.container.to_string()),
        stream: Some(line.stream.as_str().to_owned()),
        timestamp: Some(line.time.epoch_seconds()),
        data: Some(line.data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let refused = |request: GetLogsRequest| options(&request).unwrap_err().message().to_owned();
        assert_eq!(refused(GetLogsRequest { tail: Some(-1), ..Default::default() }), "tail must not be negative");
        let request = GetLogsRequest { since: Some(f64::NAN), ..Default::default() };
        assert_eq!(refused(request), "since must be seconds since the epoch");
        let request = GetLogsRequest { until: Some(f64::INFINITY), ..Default::default() };
        assert_eq!(refused(request), "until must be seconds since the epoch");
        let all = options(&GetLogsRequest::default()).unwrap();
        assert!(!all.follow && all.tail.is_none() && all.since.is_none() && all.until.is_none());
    }
}
