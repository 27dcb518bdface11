//! Domain errors as gRPC statuses: the code, ECS's exception name as `google.rpc.ErrorInfo.reason`, fields at fault
//! as `google.rpc.BadRequest`. Every error is mapped by an exhaustive match, so a new variant forces a decision.

use std::{collections::HashMap, error::Error, fmt::Write as _};

use rootfs::{PullError, ReferenceError, RemoveError, StoreError};
use runtime::cli::report::chain;
use runtime::monitor::protocol::{self, Failure};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::{engine::EngineError, logs::LogError};

/// `google.rpc.ErrorInfo.domain` of every error.
const DOMAIN: &str = "neargate";

/// Bytes of problems told in one status: it travels as HTTP/2 trailers, twice and once of it in base64, and clients
/// refuse trailers beyond 8 KiB.
const PROBLEM_BYTES: usize = 2_400;

/// ECS's exceptions (ecs-semantics section 3) that the agent answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exception {
    Client,
    InvalidParameter,
    Server,
    AccessDenied,
    ClusterNotFound,
    ResourceNotFound,
    ResourceInUse,
    Conflict,
    TargetNotConnected,
    LimitExceeded,
    Unavailable,
}

impl Exception {
    /// ECS's name.
    fn reason(self) -> &'static str {
        match self {
            Exception::Client => "ClientException",
            Exception::InvalidParameter => "InvalidParameterException",
            Exception::AccessDenied => "AccessDeniedException",
            Exception::ClusterNotFound => "ClusterNotFoundException",
            Exception::ResourceNotFound => "ResourceNotFoundException",
            Exception::ResourceInUse => "ResourceInUseException",
            Exception::Conflict => "ConflictException",
            Exception::TargetNotConnected => "TargetNotConnectedException",
            Exception::LimitExceeded => "LimitExceededException",
            Exception::Server | Exception::Unavailable => "ServerException",
        }
    }

    fn code(self) -> Code {
        match self {
            Exception::Client | Exception::InvalidParameter => Code::InvalidArgument,
            Exception::Server => Code::Internal,
            Exception::AccessDenied => Code::PermissionDenied,
            Exception::ClusterNotFound | Exception::ResourceNotFound => Code::NotFound,
            Exception::ResourceInUse | Exception::TargetNotConnected => Code::FailedPrecondition,
            Exception::Conflict => Code::AlreadyExists,
            Exception::LimitExceeded => Code::ResourceExhausted,
            Exception::Unavailable => Code::Unavailable,
        }
    }

    fn status(self, message: impl Into<String>) -> Status {
        self.with_fields(message, Vec::new())
    }

    fn with_fields(self, message: impl Into<String>, fields: Vec<FieldViolation>) -> Status {
        let metadata: HashMap<String, String> =
            fields.first().map(|first| ("field".to_owned(), first.field.clone())).into_iter().collect();
        let mut details = ErrorDetails::with_error_info(self.reason(), DOMAIN, metadata);
        if !fields.is_empty() {
            details.set_bad_request(fields);
        }
        Status::with_error_details(self.code(), message, details)
    }
}

/// A parameter that is wrong; the message begins with its name.
pub(super) fn invalid_parameter(field: &str, problem: &str) -> Status {
    let message = format!("{field} {problem}");
    let fields = vec![FieldViolation::new(field, &message)];
    Exception::InvalidParameter.with_fields(message, fields)
}

/// The caller may not call.
pub(super) fn access_denied(message: &str) -> Status {
    Exception::AccessDenied.status(message)
}

/// The agent stops; its containers go on.
pub(super) fn stopping() -> Status {
    Exception::Unavailable.status("the agent is stopping; its containers go on, ask again")
}

/// Something of ours failed.
pub(super) fn internal(error: &(dyn Error + 'static)) -> Status {
    Exception::Server.status(chain(error))
}

/// The container that a command should run in is gone.
pub(super) fn not_connected(error: &(dyn Error + 'static)) -> Status {
    Exception::TargetNotConnected.status(chain(error))
}

/// The caller's doing, in words of the layer that refused it.
fn client(message: &str) -> Status {
    Exception::Client.status(message)
}

/// A session that the container's monitor refused.
pub(super) fn refused(failure: &Failure) -> Status {
    let exception = match failure.kind.as_str() {
        protocol::SESSION_LIMIT => Exception::LimitExceeded,
        protocol::UNKNOWN_SESSION => Exception::ResourceNotFound,
        _ => Exception::Client,
    };
    exception.status(failure.message.as_str())
}

/// A log file that cannot be read.
pub(super) fn logs(error: LogError) -> Status {
    internal(&error)
}

/// An error of the engine.
pub(super) fn engine(error: EngineError) -> Status {
    match &error {
        EngineError::Invalid { problems: found } => problems(found),
        EngineError::Client { message } => client(message),
        EngineError::InvalidParameter { field, message } => {
            let fields = vec![FieldViolation::new(*field, message)];
            Exception::InvalidParameter.with_fields(message, fields)
        }
        EngineError::ClusterNotFound => Exception::ClusterNotFound.status(chain(&error)),
        EngineError::Conflict { .. } => Exception::Conflict.status(chain(&error)),
        EngineError::Draining => Exception::Unavailable.status(chain(&error)),
        EngineError::NotRunning { .. } => not_connected(&error),
        EngineError::Stopped { .. } => not_connected(&error),
        EngineError::NotMeasured { .. } => Exception::ResourceNotFound.status(chain(&error)),
        EngineError::Store(_) | EngineError::File { .. } => internal(&error),
    }
}

/// A text that names no image.
pub(super) fn reference(error: &ReferenceError) -> Status {
    let message = chain(error);
    let fields = vec![FieldViolation::new("image", &message)];
    Exception::InvalidParameter.with_fields(message, fields)
}

/// The image store failed.
pub(super) fn store(error: &StoreError) -> Status {
    internal(error)
}

/// An image that could not be pulled.
pub(super) fn pull(error: &PullError) -> Status {
    let exception = match error {
        PullError::NotFound { .. } => Exception::ResourceNotFound,
        PullError::Unauthorized { .. } => Exception::AccessDenied,
        PullError::Network { .. } | PullError::TimedOut { .. } | PullError::Removed(_) => Exception::Unavailable,
        PullError::PlatformMismatch { .. }
        | PullError::Manifest { .. }
        | PullError::IndexDepth(_)
        | PullError::TooManyLayers { .. }
        | PullError::ForeignLayer { .. }
        | PullError::Unpack { .. } => Exception::Client,
        // The source's doing, the disk's or ours; the message says whose.
        PullError::DigestMismatch { .. }
        | PullError::LayerMismatch { .. }
        | PullError::Source { .. }
        | PullError::Store { .. }
        | PullError::Interrupted { .. } => Exception::Server,
    };
    exception.status(chain(error))
}

/// An image that was not removed.
pub(super) fn remove(error: &RemoveError) -> Status {
    let exception = match error {
        RemoveError::NotFound(_) => Exception::ResourceNotFound,
        RemoveError::Ambiguous { .. } => Exception::InvalidParameter,
        RemoveError::InUse { .. } => Exception::ResourceInUse,
        RemoveError::Store { .. } => Exception::Server,
    };
    exception.status(chain(error))
}

/// All problems of a definition: as many as a status can carry, none of them cut.
fn problems(problems: &[definition::Problem]) -> Status {
    let mut left = PROBLEM_BYTES;
    let fits = |problem: &&definition::Problem| {
        let bytes = problem.path.len() + problem.message.len();
        let fits = left >= bytes;
        left = left.saturating_sub(bytes);
        fits
    };
    let told: Vec<_> = problems.iter().take_while(fits).collect();
    let mut message = told.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ");
    if told.len() < problems.len() {
        // Writing to a String cannot fail.
        let _ = write!(message, "; and {} more", problems.len() - told.len());
    }
    let fields = told.iter().map(|problem| FieldViolation::new(&problem.path, &problem.message)).collect();
    let exception = match problems.first().map(|problem| problem.code) {
        Some(definition::Code::InvalidParameterException) => Exception::InvalidParameter,
        Some(definition::Code::ClientException) | None => Exception::Client,
    };
    exception.with_fields(message, fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use definition::{Code as DefinitionCode, Problem};

    fn problem(path: &str, code: DefinitionCode, message: &str) -> Problem {
        Problem { path: path.into(), code, message: message.into() }
    }

    #[test]
    fn all_problems_of_a_definition_are_told() {
        let status = problems(&[
            problem(
                "containerDefinitions[0].image",
                DefinitionCode::ClientException,
                "Container.image should not be null or empty.",
            ),
            problem("family", DefinitionCode::InvalidParameterException, "family is not valid"),
        ]);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "Container.image should not be null or empty.; family is not valid");
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("ClientException", "neargate"));
        assert_eq!(info.metadata["field"], "containerDefinitions[0].image");
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(
            (violations[1].field.as_str(), violations[1].description.as_str()),
            ("family", "family is not valid")
        );
    }

    #[test]
    fn a_status_fits_into_the_trailers_that_clients_take() {
        let many: Vec<_> = (0..500)
            .map(|index| {
                let path = format!("containerDefinitions[{index}].proxyConfiguration");
                problem(&path, DefinitionCode::ClientException, &format!("{path} is not supported"))
            })
            .collect();
        let status = problems(&many);
        let details = status.details().len().div_ceil(3) * 4;
        assert!(status.message().len() + details < 7 * 1024, "{} and {details}", status.message().len());
        assert!(status.message().ends_with(" more"), "{}", status.message());
    }

    #[test]
    fn causes_are_told_in_one_line() {
        let source = std::io::Error::from_raw_os_error(nix::libc::EACCES);
        let error = LogError { path: "/l/web.log".into(), source };
        let status = logs(error);
        assert_eq!(status.code(), Code::Internal);
        assert_eq!(status.message(), "cannot read log file /l/web.log: Permission denied (os error 13)");
    }
}
