//! `neargate register`, and for `neargate run` the same unless the family's latest revision says the same already.

use std::path::Path;

use proto::v1::{
    DescribeTaskDefinitionRequest, ListTaskDefinitionsRequest, RegisterTaskDefinitionRequest,
    RegisterTaskDefinitionResponse, TaskDefinition,
};

use super::DONE;
use crate::{
    args::{Globals, Register},
    client::Client,
    definition_file,
    error::Error,
    output, text,
};

/// Registers the definition in a file.
pub(super) async fn register(globals: &Globals, args: &Register) -> Result<u8, Error> {
    let request = read(&args.file)?;
    let client = Client::connect(&globals.socket).await?;
    let answer = register_new(&client, request).await?;
    if globals.json {
        output::json(&answer).map_err(Error::Output)?;
    } else {
        let arn = answer.task_definition.and_then(|definition| definition.task_definition_arn).unwrap_or_default();
        output::line(&text::definition(&arn)).map_err(Error::Output)?;
    }
    Ok(DONE)
}

/// Reads and checks a file, telling its warnings on stderr.
pub(super) fn read(path: &Path) -> Result<RegisterTaskDefinitionRequest, Error> {
    let definition = definition_file::read(path)?;
    for warning in &definition.warnings {
        output::note(&format!("{}: warning: {}", definition_file::name(path), text::plain(warning)));
    }
    Ok(definition.request)
}

/// The family's latest ACTIVE revision where it says the same as `request`, or a new one.
pub(super) async fn register_if_new(
    client: &Client,
    request: RegisterTaskDefinitionRequest,
) -> Result<TaskDefinition, Error> {
    if let Some(latest) = latest(client, request.family.as_deref().unwrap_or_default()).await?
        && definition::content_equal(&definition::registered(&request), &latest)
    {
        return Ok(latest);
    }
    Ok(register_new(client, request).await?.task_definition.unwrap_or_default())
}

async fn register_new(
    client: &Client,
    request: RegisterTaskDefinitionRequest,
) -> Result<RegisterTaskDefinitionResponse, Error> {
    let doing = Error::refused("cannot register the task definition");
    Ok(client.tasks().register_task_definition(request).await.map_err(doing)?.into_inner())
}

/// The latest ACTIVE revision of `family`. Asked by a list, as describing a family that does not exist is an error
/// that ECS does not tell from others.
async fn latest(client: &Client, family: &str) -> Result<Option<TaskDefinition>, Error> {
    let mut request = ListTaskDefinitionsRequest {
        family_prefix: Some(family.to_owned()),
        status: Some("ACTIVE".to_owned()),
        sort: Some("DESC".to_owned()),
        ..Default::default()
    };
    let mut latest: Option<(i32, String)> = None;
    loop {
        let answer = client
            .tasks()
            .list_task_definitions(request.clone())
            .await
            .map_err(Error::refused("cannot list task definitions"))?
            .into_inner();
        let of_family =
            answer.task_definition_arns.iter().filter_map(|arn| Some((revision_of(family, arn)?, arn.clone())));
        latest = latest.into_iter().chain(of_family).max();
        match answer.next_token {
            Some(token) if !token.is_empty() => request.next_token = Some(token),
            _ => break,
        }
    }
    let Some((_, arn)) = latest else { return Ok(None) };
    let request = DescribeTaskDefinitionRequest { task_definition: Some(arn), ..Default::default() };
    let doing = Error::refused("cannot describe the family's latest task definition");
    Ok(client.tasks().describe_task_definition(request).await.map_err(doing)?.into_inner().task_definition)
}

/// The revision that `arn` names, where it is one of `family`.
fn revision_of(family: &str, arn: &str) -> Option<i32> {
    let (name, revision) = text::id(arn).rsplit_once(':')?;
    if name == family { revision.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_belong_to_their_whole_family_name() {
        let arn = "arn:aws:ecs:local:000000000000:task-definition/web:12";
        assert_eq!(revision_of("web", arn), Some(12));
        assert_eq!(revision_of("we", arn), None);
        assert_eq!(revision_of("web-2", arn), None);
    }
}
