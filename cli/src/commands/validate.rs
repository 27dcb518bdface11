//! `neargate validate`: says where a definition would be refused, without an agent.

use proto::v1::RegisterTaskDefinitionRequest;
use serde::Serialize;

use super::DONE;
use crate::{
    args::{Globals, Validate},
    definition_file::{self, Definition, FileError},
    error::{self, Error, FAILED},
    output, text,
};

/// What `--json` prints: ECS has no such call, so the shape is ours.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    files: Vec<FileReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FileReport {
    file: String,
    valid: bool,
    warnings: Vec<String>,
    problems: Vec<ProblemReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProblemReport {
    line: Option<usize>,
    column: Option<usize>,
    path: String,
    message: String,
}

/// Checks every file, however many are wrong.
pub(super) fn validate(globals: &Globals, args: &Validate) -> Result<u8, Error> {
    let mut report = Report { files: Vec::new() };
    for path in &args.files {
        let file = definition_file::name(path);
        let outcome = definition_file::read(path);
        if globals.json {
            report.files.push(file_report(file, outcome));
            continue;
        }
        match outcome {
            Ok(definition) => {
                output::line(&summary(&file, &definition)).map_err(Error::Output)?;
                report.files.push(file_report(file, Ok(definition)));
            }
            Err(error) => {
                output::note(&told(&error));
                report.files.push(file_report(file, Err(error)));
            }
        }
    }
    if globals.json {
        output::json(&report).map_err(Error::Output)?;
    }
    Ok(if report.files.iter().all(|file| file.valid) { DONE } else { FAILED })
}

fn told(error: &FileError) -> String {
    match error {
        FileError::Problems { problems, .. } => problems.to_string(),
        other => format!("neargate: {}", error::chain(other)),
    }
}

fn summary(file: &str, definition: &Definition) -> String {
    let mut lines = vec![format!("{file}: ok: {}", outline(&definition.request))];
    lines.extend(warnings(definition).map(|warning| format!("{file}: warning: {}", text::plain(warning))));
    lines.join("\n")
}

fn warnings(definition: &Definition) -> impl Iterator<Item = &String> {
    definition.warnings.iter().chain(&definition.refused_here)
}

/// `family web, 3 containers (page, server, client), 1 volume`
fn outline(request: &RegisterTaskDefinitionRequest) -> String {
    let containers = &request.container_definitions;
    let names: Vec<String> = containers.iter().filter_map(|c| c.name.as_deref()).map(text::plain).collect();
    let family = text::plain(request.family.as_deref().unwrap_or_default());
    let mut outline = format!("family {family}, {} ({})", text::count(containers.len(), "container"), names.join(", "));
    if !request.volumes.is_empty() {
        outline.push_str(&format!(", {}", text::count(request.volumes.len(), "volume")));
    }
    outline
}

fn file_report(file: String, outcome: Result<Definition, FileError>) -> FileReport {
    let (warnings, problems) = match outcome {
        Ok(definition) => (warnings(&definition).cloned().collect(), Vec::new()),
        Err(FileError::Problems { problems, .. }) => {
            let report = |p: definition_file::Problem| ProblemReport {
                line: Some(p.at.0),
                column: Some(p.at.1),
                path: p.path,
                message: p.message,
            };
            (Vec::new(), problems.problems.into_iter().map(report).collect())
        }
        Err(other) => {
            let message = error::chain(&other);
            (Vec::new(), vec![ProblemReport { line: None, column: None, path: String::new(), message }])
        }
    };
    FileReport { file, valid: problems.is_empty(), warnings, problems }
}

#[cfg(test)]
mod tests {
    use proto::v1::{ContainerDefinition, Volume};

    use super::*;

    #[test]
    fn the_summary_names_what_would_run() {
        let container = |name: &str| ContainerDefinition { name: Some(name.into()), ..Default::default() };
        let request = RegisterTaskDefinitionRequest {
            family: Some("web".into()),
            container_definitions: vec![container("page"), container("server")],
            volumes: vec![Volume::default()],
            ..Default::default()
        };
        let definition =
            Definition { request, warnings: vec!["revision is ignored".into()], refused_here: vec!["ARM".into()] };
        assert_eq!(
            summary("t.json", &definition),
            "t.json: ok: family web, 2 containers (page, server), 1 volume\n\
             t.json: warning: revision is ignored\n\
             t.json: warning: ARM"
        );
    }
}
