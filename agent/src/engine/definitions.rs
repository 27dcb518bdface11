//! Task definitions: registered, found, listed, deregistered. Revisions only ever grow.

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
            let mut known = lock(&shared.definitions);
            let of_family = known.range((spec.family.clone(), i32::MIN)..=(spec.family.clone(), i32::MAX));
            let revision = of_family.map(|((_, revision), _)| *revision).max().unwrap_or(0) + 1;
            definition.revision = Some(revision);
            definition.task_definition_arn = Some(shared.names.task_definition_arn(&spec.family, revision));
            let record = DefinitionRecord { definition: definition.clone(), tags: request.tags };
            shared.store.put_definition(&record)?;
            known.insert((spec.family, revision), record);
            Ok(definition)
        })
        .await
    }

    /// Finds a definition, whatever its status; a family alone means its latest ACTIVE revision. Tags come where they
    /// are asked for.
    pub fn describe_task_definition(
        &self,
        request: &DescribeTaskDefinitionRequest,
    ) -> Result<DescribeTaskDefinitionResponse, EngineError> {
        let unknown = || EngineError::Client { message: "Unable to describe task definition.".to_owned() };
        let DefinitionRecord { definition, mut tags } =
            self.find_definition(request.task_definition()).ok_or_else(unknown)?;
        if !with_tags(&request.include)? {
            tags.clear();
        }
        Ok(DescribeTaskDefinitionResponse { task_definition: Some(definition), tags })
    }

    pub(super) fn find_definition(&self, name: &str) -> Option<DefinitionRecord> {
        let (family, revision) = definition_name(name)?;
        let known = lock(&self.shared.definitions);
        match revision {
            Some(revision) => known.get(&(family.to_owned(), revision)).cloned(),
            None => known
                .range((family.to_owned(), i32::MIN)..=(family.to_owned(), i32::MAX))
                .rev()
                .map(|(_, record)| record)
                .find(|record| record.definition.status() == ACTIVE)
                .cloned(),
        }
    }

    /// Lists ARNs by family and revision, a page at a time.
    pub fn list_task_definitions(
        &self,
        request: &ListTaskDefinitionsRequest,
    ) -> Result<ListTaskDefinitionsResponse, EngineError> {
        let status = request.status.as_deref().unwrap_or(ACTIVE);
        if ![ACTIVE, INACTIVE].contains(&status) {
            let message = format!("Invalid status '{status}': use {ACTIVE} or {INACTIVE}.");
            return Err(EngineError::InvalidParameter { field: "status", message });
        }
        let descending = match request.sort.as_deref() {
            None | Some("ASC") => false,
            Some("DESC") => true,
            Some(other) => {
                let message = format!("Invalid sort '{other}': use ASC or DESC.");
                return Err(EngineError::InvalidParameter { field: "sort", message });
            }
        };
        let known = lock(&self.shared.definitions);
        let mut arns: Vec<String> = known
            .values()
            .map(|record| &record.definition)
            .filter(|definition| definition.status() == status)
            .filter(|definition| request.family_prefix.as_deref().is_none_or(|family| family == definition.family()))
            .map(|definition| definition.task_definition_arn().to_owned())
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
        let (shared, key) = (self.shared.clone(), (family.to_owned(), revision));
        blocking(move || {
            let mut known = lock(&shared.definitions);
            let record = known.get_mut(&key).ok_or_else(unknown)?;
            if record.definition.status() == ACTIVE {
                let mut inactive = record.clone();
                inactive.definition.status = Some(INACTIVE.to_owned());
                inactive.definition.deregistered_at = Some(now());
                shared.store.put_definition(&inactive)?;
                *record = inactive;
            }
            Ok(record.definition.clone())
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
