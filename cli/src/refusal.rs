//! A gRPC error as people read it: the agent's message, ECS's name for it, and every field that is at fault.

use std::{error::Error as _, fmt};

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
        let message = match status.message() {
            // Made on this side, where the connection broke.
            told if status.source().is_some() => {
                format!("lost neargated while it answered; is it still running? ({told})")
            }
            "" => status.code().description().to_owned(),
            told => told.to_owned(),
        };
        Refusal { reason: info.map(|info| info.reason.clone()), message, violations }
    }
}

impl Refusal {
    /// Whether `path` is among the fields at fault.
    pub(crate) fn blames(&self, path: &str) -> bool {
        self.violations.iter().any(|(field, _)| field == path)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = match &self.violations[..] {
            [(path, message)] if self.message.contains(message.as_str()) => located(path, message),
            violations => header(&self.message, violations),
        };
        f.write_str(&header)?;
        if let Some(reason) = self.reason.as_deref().filter(|reason| !reason.is_empty()) {
            write!(f, " ({})", text::plain(reason))?;
        }
        let told = |(path, message): &&(String, String)| header == located(path, message);
        for (path, message) in self.violations.iter().filter(|violation| !told(violation)) {
            write!(f, "\n  {}", located(path, message))?;
        }
        Ok(())
    }
}

/// The message, or what is left of one that lists the fields, which are told below it.
fn header(message: &str, violations: &[(String, String)]) -> String {
    let left = violations.iter().fold(message.to_owned(), |left, (_, told)| left.replacen(told.as_str(), "", 1));
    if left == message {
        return text::plain(message);
    }
    let problems = text::count(violations.len(), "problem");
    match left.trim_matches([';', ' ']) {
        "" => problems,
        more => format!("{problems} {}", text::plain(more)),
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
    fn problems_that_the_message_lists_are_told_once() {
        let mut details = ErrorDetails::with_bad_request_violation("a", "a is wrong");
        details.add_bad_request_violation("b", "b is wrong");
        let told = |message: &str| {
            Refusal::from(Status::with_error_details(Code::InvalidArgument, message, details.clone())).to_string()
        };
        assert_eq!(told("a is wrong; b is wrong"), "2 problems\n  a is wrong\n  b is wrong");
        assert_eq!(told("a is wrong; b is wrong; and 3 more"), "2 problems and 3 more\n  a is wrong\n  b is wrong");
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
