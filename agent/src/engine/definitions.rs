//! Task definitions: registered, found, listed, deregistered. Revisions only ever grow, for as long as the host lives:
//! in memory is only which there are, what is in them is read from the store.

use std::collections::BTreeMap;

use definition::task::LaunchType;
use proto::v1::{
    DescribeTaskDefinitionRequest, DescribeTaskDefinitionResponse, ListTaskDefinitionsRequest,
    ListTaskDefinitionsResponse, RegisterTaskDefinitionRequest, TaskDefinition,
};

use super::{Engine, EngineError, lock};
use crate::identity::definition_name;
use crate::store::DefinitionRecord;
use crate::trace::now;

const ACTIVE: &str = "ACTIVE";
const INACTIVE: &str = "INACTIVE";
/// ECS's page.
pub(super) const PAGE: usize = 100;

/// Which revisions there are.
#[derive(Debug, Default)]
pub(super) struct Revisions(BTreeMap<String, BTreeMap<i32, Status>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Active,
    Inactive,
}

impl Status {
    fn of(definition: &TaskDefinition) -> Status {
        if definition.status() == ACTIVE { Status::Active } else { Status::Inactive }
    }
}

impl Revisions {
    pub(super) fn of(records: Vec<DefinitionRecord>) -> Revisions {
        let mut known = Revisions::default();
        records.iter().for_each(|record| known.insert(&record.definition));
        known
    }

    fn insert(&mut self, definition: &TaskDefinition) {
        let family = self.0.entry(definition.family().to_owned()).or_default();
        family.insert(definition.revision(), Status::of(definition));
    }

    /// The number of the family's next one.
    fn next(&self, family: &str) -> i32 {
        self.0.get(family).and_then(|revisions| revisions.keys().next_back()).map_or(1, |last| last.saturating_add(1))
    }

    fn latest_active(&self, family: &str) -> Option<i32> {
        let mut newest_first = self.0.get(family)?.iter().rev();
        newest_first.find(|(_, status)| **status == Status::Active).map(|(revision, _)| *revision)
    }

    /// Family and revision of each, in order.
    fn with(&self, status: Status) -> impl Iterator<Item = (&str, i32)> {
        self.0.iter().flat_map(move |(family, revisions)| {
            let wanted = revisions.iter().filter(move |(_, is)| **is == status);
            wanted.map(move |(revision, _)| (family.as_str(), *revision))
        })
    }
}

impl Engine {
    /// Checks a definition and stores it as its family's next revision.
    pub async fn register_task_definition(
        &self,
        request: RegisterTaskDefinitionRequest,
    ) -> Result<TaskDefinition, EngineError> {
        let spec = definition::check(&request).map_err(|problems| EngineError::Invalid { problems })?;
        let mut definition = definition::registered(&request);
        let fargate = spec.requires_compatibilities.contains(&LaunchType::Fargate);
        definition.compatibilities =
            ["EXTERNAL", "EC2"].into_iter().chain(fargate.then_some("FARGATE")).map(str::to_owned).collect();
        definition.status = Some(ACTIVE.to_owned());
        definition.registered_at = Some(now());
        let shared = self.shared.clone();
        blocking(move || {
            // Held over the write: the next revision is this one's number plus one.
            let mut known = lock(&shared.revisions);
            let revision = known.next(&spec.family);
            definition.revision = Some(revision);
            definition.task_definition_arn = Some(shared.names.task_definition_arn(&spec.family, revision));
            let record = DefinitionRecord { definition: definition.clone(), tags: request.tags };
            shared.store.put_definition(&record)?;
            known.insert(&definition);
            Ok(definition)
        })
        .await
    }

    /// Finds a definition, whatever its status; a family alone means its latest ACTIVE revision. Tags come where they
    /// are asked for.
    pub async fn describe_task_definition(
        &self,
        request: &DescribeTaskDefinitionRequest,
    ) -> Result<DescribeTaskDefinitionResponse, EngineError> {
        let unknown = || EngineError::Client { message: "Unable to describe task definition.".to_owned() };
        let DefinitionRecord { definition, mut tags } =
            self.find_definition(request.task_definition()).await?.ok_or_else(unknown)?;
        if !with_tags(&request.include)? {
            tags.clear();
        }
        Ok(DescribeTaskDefinitionResponse { task_definition: Some(definition), tags })
    }

    pub(super) async fn find_definition(&self, name: &str) -> Result<Option<DefinitionRecord>, EngineError> {
        let Some((family, revision)) = definition_name(name) else { return Ok(None) };
        let Some(revision) = revision.or_else(|| lock(&self.shared.revisions).latest_active(family)) else {
            return Ok(None);
        };
        let (shared, family) = (self.shared.clone(), family.to_owned());
        blocking(move || Ok(shared.store.definition(&family, revision)?)).await
    }

    /// Lists ARNs by family and revision, a page at a time.
    pub fn list_task_definitions(
        &self,
        request: &ListTaskDefinitionsRequest,
    ) -> Result<ListTaskDefinitionsResponse, EngineError> {
        let status = match request.status.as_deref() {
            None | Some(ACTIVE) => Status::Active,
            Some(INACTIVE) => Status::Inactive,
            Some(other) => {
                let message = format!("Invalid status '{other}': use {ACTIVE} or {INACTIVE}.");
                return Err(EngineError::InvalidParameter { field: "status", message });
            }
        };
        let descending = match request.sort.as_deref() {
            None | Some("ASC") => false,
            Some("DESC") => true,
            Some(other) => {
                let message = format!("Invalid sort '{other}': use ASC or DESC.");
                return Err(EngineError::InvalidParameter { field: "sort", message });
            }
        };
        let known = lock(&self.shared.revisions);
        let mut arns: Vec<String> = known
            .with(status)
            .filter(|(family, _)| request.family_prefix.as_deref().is_none_or(|wanted| wanted == *family))
            .map(|(family, revision)| self.shared.names.task_definition_arn(family, revision))
            .collect();
        drop(known);
        if descending {
            arns.reverse();
        }
        let (task_definition_arns, next_token) = page(arns, request.next_token.as_deref(), request.max_results)?;
        Ok(ListTaskDefinitionsResponse { task_definition_arns, next_token })
    }

    /// Makes a revision INACTIVE. Repeating it changes nothing.
    pub async fn deregister_task_definition(&self, name: &str) -> Result<TaskDefinition, EngineError> {
        let unknown = || EngineError::Client { message: "Unable to describe task definition.".to_owned() };
        let Some((family, Some(revision))) = definition_name(name) else {
            let message = "taskDefinition must be an ARN or family:revision.".to_owned();
            return Err(EngineError::InvalidParameter { field: "taskDefinition", message });
        };
        let (shared, family) = (self.shared.clone(), family.to_owned());
        blocking(move || {
            // Held over the write: it is deregistered once.
            let mut known = lock(&shared.revisions);
            let mut record = shared.store.definition(&family, revision)?.ok_or_else(unknown)?;
            if record.definition.status() == ACTIVE {
                record.definition.status = Some(INACTIVE.to_owned());
                record.definition.deregistered_at = Some(now());
                shared.store.put_definition(&record)?;
                known.insert(&record.definition);
            }
            Ok(record.definition)
        })
        .await
    }
}

/// Whether tags are among what is asked for.
pub(super) fn with_tags(include: &[String]) -> Result<bool, EngineError> {
    match include.iter().find(|word| *word != "TAGS") {
        Some(other) => {
            let message = format!("Invalid include '{other}': use TAGS.");
            Err(EngineError::InvalidParameter { field: "include", message })
        }
        None => Ok(!include.is_empty()),
    }
}

/// A page of a list; the token is the place where it goes on.
pub(super) fn page(
    mut items: Vec<String>,
    token: Option<&str>,
    most: Option<i32>,
) -> Result<(Vec<String>, Option<String>), EngineError> {
    let invalid = |field, message: &str| EngineError::InvalidParameter { field, message: message.to_owned() };
    let from = token.map_or(Ok(0), str::parse::<usize>).map_err(|_| invalid("nextToken", "Invalid token."))?;
    let most = match most {
        None => PAGE,
        Some(most) => usize::try_from(most)
            .ok()
            .filter(|most| (1..=PAGE).contains(most))
            .ok_or_else(|| invalid("maxResults", "maxResults must be 1 to 100."))?,
    };
    let mut page = items.split_off(from.min(items.len()));
    let next = (page.len() > most).then(|| (from + most).to_string());
    page.truncate(most);
    Ok((page, next))
}

/// Runs what blocks on the disk where it may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_join_to_the_whole() {
        let items: Vec<String> = (0..250).map(|item| item.to_string()).collect();
        let (mut token, mut got) = (None::<String>, Vec::new());
        loop {
            let (page, next) = page(items.clone(), token.as_deref(), None).unwrap();
            got.extend(page);
            token = next;
            if token.is_none() {
                break;
            }
        }
        assert_eq!(got, items);
        assert!(page(items, Some("x"), None).is_err());
    }
}
