//! `neargate definitions` and `neargate deregister`.

use proto::v1::{
    DeregisterTaskDefinitionRequest, DescribeTaskDefinitionRequest, DescribeTaskDefinitionResponse,
    ListTaskDefinitionsRequest, ListTaskDefinitionsResponse, TaskDefinition,
};

use super::DONE;
use crate::{
    args::{Definitions, Deregister, Globals},
    client::Client,
    error::Error,
    output,
    table::table,
    text,
};

/// The registered definition with that name.
pub(super) async fn find(client: &Client, name: &str) -> Result<TaskDefinition, Error> {
    Ok(describe(client, name).await?.task_definition.unwrap_or_default())
}

async fn describe(client: &Client, name: &str) -> Result<DescribeTaskDefinitionResponse, Error> {
    let doing = Error::refused(format!(
        "{} is neither a file nor a task definition that `neargate definitions` lists",
        text::plain(name)
    ));
    let request =
        DescribeTaskDefinitionRequest { task_definition: Some(name.to_owned()), include: vec!["TAGS".to_owned()] };
    Ok(client.tasks().describe_task_definition(request).await.map_err(doing)?.into_inner())
}

/// Lists revisions, or prints one as ECS JSON.
pub(super) async fn list(globals: &Globals, args: Definitions) -> Result<u8, Error> {
    let client = Client::connect(&globals.socket).await?;
    if let Some(name) = &args.definition {
        output::json(&describe(&client, name).await?).map_err(Error::Output)?;
        return Ok(DONE);
    }
    let status = args.status.as_str();
    let mut request = ListTaskDefinitionsRequest { status: Some(status.to_owned()), ..Default::default() };
    let mut all = ListTaskDefinitionsResponse::default();
    loop {
        let doing = Error::refused("cannot list task definitions");
        let answer = client.tasks().list_task_definitions(request.clone()).await.map_err(doing)?.into_inner();
        all.task_definition_arns.extend(answer.task_definition_arns);
        match answer.next_token {
            Some(token) if !token.is_empty() => request.next_token = Some(token),
            _ => break,
        }
    }
    // ECS's familyPrefix matches whole names only; ours is a prefix for people.
    if let Some(prefix) = &args.family {
        all.task_definition_arns.retain(|arn| text::id(arn).starts_with(prefix.as_str()));
    }
    if globals.json {
        output::json(&all).map_err(Error::Output)?;
    } else {
        let rows: Vec<_> = all
            .task_definition_arns
            .iter()
            .map(|arn| [text::definition(arn), status.to_owned(), text::plain(arn)])
            .collect();
        output::line(&table(["DEFINITION", "STATUS", "ARN"], &rows)).map_err(Error::Output)?;
    }
    Ok(DONE)
}

/// Makes a revision INACTIVE.
pub(super) async fn deregister(globals: &Globals, args: Deregister) -> Result<u8, Error> {
    let client = Client::connect(&globals.socket).await?;
    let doing = Error::refused(format!("cannot deregister {}", text::plain(&args.definition)));
    let request = DeregisterTaskDefinitionRequest { task_definition: Some(args.definition) };
    let answer = client.tasks().deregister_task_definition(request).await.map_err(doing)?.into_inner();
    if globals.json {
        output::json(&answer).map_err(Error::Output)?;
    } else {
        let definition = answer.task_definition.unwrap_or_default();
        let arn = definition.task_definition_arn.unwrap_or_default();
        let status = text::plain(definition.status.as_deref().unwrap_or("INACTIVE"));
        output::line(&format!("{} {status}", text::definition(&arn))).map_err(Error::Output)?;
    }
    Ok(DONE)
}
