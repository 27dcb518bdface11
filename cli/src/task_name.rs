//! Finds the task that a person means by an ARN, an id or the beginning of an id.

use proto::v1::ListTasksRequest;

use crate::{client::Client, error::Error, text};

/// Digits of a whole id.
const ID: usize = 32;
/// Fewest digits that may stand for an id.
const SHORTEST: usize = 4;

/// Why a name does not lead to one task.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NameError {
    #[error("{} is no task: name one by its ARN, its id or the first {SHORTEST} or more digits of its id, as `neargate ps -a` \
             lists them", text::plain(.0))]
    NotAName(String),
    #[error("there is no task {0}: `neargate ps -a` lists the tasks of this host")]
    NotFound(String),
    #[error("{prefix} is the beginning of several tasks: type more digits\n  {}", candidates.join("\n  "))]
    Ambiguous { prefix: String, candidates: Vec<String> },
}

/// The ARN or whole id of the task that `name` stands for. A whole one is passed on as it is: the agent knows whether
/// it exists.
pub(crate) async fn resolve(client: &Client, name: &str) -> Result<String, Error> {
    if name.starts_with("arn:") {
        return Ok(name.to_owned());
    }
    let prefix = name.to_ascii_lowercase();
    if prefix.len() < SHORTEST || prefix.len() > ID || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(NameError::NotAName(name.to_owned()).into());
    }
    if prefix.len() == ID {
        return Ok(prefix);
    }
    for desired in ["RUNNING", "STOPPED"] {
        if let Some(arn) = pick(&prefix, &list(client, desired).await?)? {
            return Ok(arn);
        }
    }
    Err(NameError::NotFound(prefix).into())
}

/// The ARNs of all tasks that are to be `desired` (RUNNING or STOPPED).
pub(crate) async fn list(client: &Client, desired: &str) -> Result<Vec<String>, Error> {
    let mut arns = Vec::new();
    let mut request = ListTasksRequest { desired_status: Some(desired.to_owned()), ..Default::default() };
    loop {
        let answer =
            client.tasks().list_tasks(request.clone()).await.map_err(Error::refused("cannot list tasks"))?.into_inner();
        arns.extend(answer.task_arns);
        match answer.next_token {
            Some(token) if !token.is_empty() => request.next_token = Some(token),
            _ => return Ok(arns),
        }
    }
}

fn pick(prefix: &str, arns: &[String]) -> Result<Option<String>, NameError> {
    let found: Vec<&String> = arns.iter().filter(|arn| text::id(arn).starts_with(prefix)).collect();
    match &found[..] {
        [] => Ok(None),
        [one] => Ok(Some((*one).clone())),
        several => Err(NameError::Ambiguous {
            prefix: prefix.to_owned(),
            candidates: several.iter().map(|arn| text::plain(text::id(arn))).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arn(id: &str) -> String {
        format!("arn:aws:ecs:local:000000000000:task/default/{id}")
    }

    #[test]
    fn a_prefix_finds_its_task_by_the_id_alone() {
        let arns = [arn("abcd0000"), arn("abce0000")];
        assert_eq!(pick("abcd", &arns).unwrap(), Some(arn("abcd0000")));
        assert_eq!(pick("0000", &arns).unwrap(), None);
    }

    #[test]
    fn several_candidates_are_all_named() {
        let error = pick("abc", &[arn("abcd0000"), arn("abce0000")]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("abcd0000") && text.contains("abce0000"), "{text}");
    }
}
