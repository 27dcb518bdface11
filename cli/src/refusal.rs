//! A gRPC error as people read it: the agent's message, ECS's name for it, and every field that is at fault.

use std::fmt;

use tonic_types::StatusExt as _;

use crate::text;

/// What the agent answered instead of what was asked for.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// ECS's exception name, where the agent told one.
    reason: Option<String>,
    message: String,
    /// (path, message) of each field at fault.
    violations: Vec<(String, String)>,
}

impl From<tonic::Status> for Refusal {
    fn from(status: tonic::Status) -> Refusal {
        let details = status.get_error_details();
        let info = details.error_info();
        let mut violations: Vec<_> = details
            .bad_request()
            .map(|bad| bad.field_violations.iter().map(|v| (v.field.clone(), v.description.clone())).collect())
            .unwrap_or_default();
        if violations.is_empty()
            && let Some(field) = info.and_then(|info| info.metadata.get("field"))
        {
            violations.push((field.clone(), status.message().to_owned()));
        }
        let message = if status.message().is_empty() {
            status.code().description().to_owned()
        } else {
            status.message().to_owned()
        };
        Refusal { reason: info.map(|info| info.reason.clone()), message, violations }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One problem whose text is the message itself is told once, with its path.
        let told_below = matches!(&self.violations[..], [(_, only)] if self.message.contains(only.as_str()));
        match &self.violations[..] {
            [(path, message)] if told_below => write!(f, "{}", located(path, message))?,
            _ => f.write_str(&text::plain(&self.message))?,
        }
        if let Some(reason) = self.reason.as_deref().filter(|reason| !reason.is_empty()) {
            write!(f, " ({})", text::plain(reason))?;
        }
        if !told_below {
            for (path, message) in &self.violations {
                write!(f, "\n  {}", located(path, message))?;
            }
        }
        Ok(())
    }
}

/// `path: message`, without saying the path twice.
pub(crate) fn located(path: &str, message: &str) -> String {
    if path.is_empty() || message.starts_with(path) {
        text::plain(message)
    } else {
        format!("{}: {}", text::plain(path), text::plain(message))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic::{Code, Status};
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_bare_status_shows_its_message() {
        assert_eq!(Refusal::from(Status::not_found("Cluster not found.")).to_string(), "Cluster not found.");
        assert_eq!(Refusal::from(Status::new(Code::NotFound, "")).to_string(), Code::NotFound.description());
    }

    #[test]
    fn every_field_at_fault_is_told_with_its_path() {
        let mut details = ErrorDetails::with_error_info("ClientException", "neargate", HashMap::new());
        details.add_bad_request_violation(
            "containerDefinitions[0].links",
            "containerDefinitions[0].links is not supported",
        );
        details.add_bad_request_violation("memory", "must\x1b be a number");
        let status = Status::with_error_details(Code::InvalidArgument, "2 problems", details);
        assert_eq!(
            Refusal::from(status).to_string(),
            "2 problems (ClientException)\n  containerDefinitions[0].links is not supported\n  memory: must\\x1b be a number"
        );
    }

    #[test]
    fn a_single_problem_is_told_once() {
        let metadata = HashMap::from([("field".to_owned(), "launchType".to_owned())]);
        let details = ErrorDetails::with_error_info("InvalidParameterException", "neargate", metadata);
        let status = Status::with_error_details(Code::InvalidArgument, "FARGATE does not run here", details);
        assert_eq!(
            Refusal::from(status).to_string(),
            "launchType: FARGATE does not run here (InvalidParameterException)"
        );
    }
}
