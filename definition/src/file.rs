//! A task definition's file: what `aws ecs register-task-definition --cli-input-json` takes, and also what
//! `describe-task-definition` answers, so that a definition can be copied out of AWS. Errors tell line and column.

use proto::v1::{ContainerDefinition, RegisterTaskDefinitionRequest};
use serde_json::{Map, Value};

use crate::Problem;

mod locate;
mod members;

pub use members::{Misfit, read as read_members};

/// Members that ECS answers with and does not take.
const ANSWER_ONLY: [&str; 9] = [
    "taskDefinitionArn",
    "revision",
    "status",
    "requiresAttributes",
    "compatibilities",
    "registeredAt",
    "registeredBy",
    "deregisteredAt",
    "deleteRequestedAt",
];
const WRAPPER: &str = "taskDefinition";

/// A file that could be read; whether its definition is sound is [`crate::check`]'s business.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// The definition.
    pub request: RegisterTaskDefinitionRequest,
    /// What was dropped, and what may not mean what was meant.
    pub warnings: Vec<String>,
}

/// Something wrong, and where in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The member; empty where the file is no JSON.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// Reads a definition from JSON text.
pub fn read(text: &str) -> Result<Read, Vec<Located>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut value: Value = serde_json::from_str(text).map_err(|error| {
        let message = without_position(&error);
        vec![Located { line: error.line(), column: error.column().max(1), path: String::new(), message }]
    })?;
    let duplicates: Vec<_> = locate::Positions::of(text)
        .duplicates()
        .map(|(path, (line, column))| Located { line, column, message: format!("{path} is given twice"), path })
        .collect();
    if !duplicates.is_empty() {
        return Err(duplicates);
    }
    unwrap(&mut value);
    let Value::Object(members) = &mut value else {
        return Err(vec![located(text, "", "a task definition is a JSON object")]);
    };
    let mut warnings: Vec<String> = drop_answer_only(members).into_iter().collect();
    drop_nulls(&mut value);
    let request: RegisterTaskDefinitionRequest = members::read(value).map_err(|misfits| {
        let told = misfits.iter().map(|misfit| located(text, &misfit.path, &misfit.message));
        let mut told: Vec<Located> = told.collect();
        told.sort_by_key(|located| (located.line, located.column));
        told
    })?;
    warnings.extend(bare_health_checks(&request));
    Ok(Read { request, warnings })
}

/// Those that are executed as they are: most who write so expect a shell.
fn bare_health_checks(request: &RegisterTaskDefinitionRequest) -> impl Iterator<Item = String> {
    let first = |container: &ContainerDefinition| container.health_check.as_ref()?.command.first().cloned();
    let firsts = request.container_definitions.iter().map(first).enumerate();
    firsts.filter(|(_, first)| first.as_deref().is_some_and(|first| !["CMD", "CMD-SHELL"].contains(&first))).map(
        |(index, _)| {
            format!(
                "containerDefinitions[{index}].healthCheck.command begins with neither CMD nor CMD-SHELL: it is executed \
                 without a shell, as after CMD"
            )
        },
    )
}

/// Line and column of the member at `path`, or of the nearest one that holds it, both from 1.
pub fn locate(text: &str, path: &str) -> Option<(usize, usize)> {
    let positions = locate::Positions::of(text);
    let mut path = path;
    loop {
        for candidate in [path.to_owned(), format!("{WRAPPER}.{path}")] {
            if let Some(position) = positions.get(&candidate) {
                return Some(position);
            }
        }
        path = &path[..path.rfind(['.', '['])?];
    }
}

/// A problem found by [`crate::check`], with its place in the file.
pub fn place(text: &str, problem: &Problem) -> Located {
    located(text, &problem.path, &problem.message)
}

fn located(text: &str, path: &str, message: &str) -> Located {
    let (line, column) = locate(text, path).unwrap_or((1, 1));
    Located { line, column, path: path.to_owned(), message: message.to_owned() }
}

fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

/// Takes the definition out of describe-task-definition's answer.
fn unwrap(value: &mut Value) {
    let Value::Object(members) = value else { return };
    if !members.get(WRAPPER).is_some_and(Value::is_object) || members.contains_key("containerDefinitions") {
        return;
    }
    let tags = members.remove("tags");
    if let Some(Value::Object(mut inner)) = members.remove(WRAPPER) {
        if let Some(tags) = tags {
            inner.entry("tags").or_insert(tags);
        }
        // Whatever else stood beside the definition is told as unknown.
        inner.append(members);
        *value = Value::Object(inner);
    }
}

fn drop_answer_only(members: &mut Map<String, Value>) -> Option<String> {
    let dropped: Vec<_> = ANSWER_ONLY.into_iter().filter(|name| members.remove(*name).is_some()).collect();
    (!dropped.is_empty()).then(|| format!("ignored what only answers have: {}", dropped.join(", ")))
}

/// null is absent, in objects and in lists alike.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => {
            items.retain(|item| !item.is_null());
            items.iter_mut().for_each(drop_nulls);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
