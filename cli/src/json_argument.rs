//! Options whose value is ECS JSON, given on the command line or in a file as `@FILE`.

use std::{fs, io, path::PathBuf};

use definition::file::{Misfit, read_members};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::refusal::located;

/// Why an option's JSON was not understood; wrong usage.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    #[error("cannot read {} for {option}", path.display())]
    Read {
        option: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{option} is not JSON")]
    Syntax {
        option: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("{option}: {}", .misfits.iter().map(told).collect::<Vec<_>>().join("; "))]
    Members { option: &'static str, misfits: Vec<Misfit> },
}

/// Reads `argument`, the value of `option`. Members that are null count as absent.
pub(crate) fn parse<T: DeserializeOwned>(option: &'static str, argument: &str) -> Result<T, JsonError> {
    let text = match argument.strip_prefix('@') {
        Some(path) => {
            fs::read_to_string(path).map_err(|source| JsonError::Read { option, path: PathBuf::from(path), source })?
        }
        None => argument.to_owned(),
    };
    let mut value: Value = serde_json::from_str(&text).map_err(|source| JsonError::Syntax { option, source })?;
    drop_nulls(&mut value);
    read_members(value).map_err(|misfits| JsonError::Members { option, misfits })
}

fn told(Misfit { path, message }: &Misfit) -> String {
    located(path, message)
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::TaskOverride;

    use super::*;

    #[test]
    fn overrides_are_ecs_json_and_nulls_are_absent() {
        let text = r#"{"memory":null,"containerOverrides":[{"name":"a","command":null,"environment":[{"name":"A","value":"b"}]}]}"#;
        let overrides: TaskOverride = parse("--overrides", text).unwrap();
        assert_eq!(overrides.memory, None);
        assert_eq!(overrides.container_overrides[0].environment[0].value.as_deref(), Some("b"));
    }

    #[test]
    fn errors_name_the_option_and_the_member() {
        let error = parse::<TaskOverride>("--overrides", r#"{"containerOverrides":[{"nam":"a"}]}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--overrides: containerOverrides[0].nam: unknown field `nam`: did you mean `name`?"
        );
        let error = parse::<TaskOverride>("--overrides", r#"{"\u001b[2J":1}"#).unwrap_err().to_string();
        assert!(error.contains(r"\x1b[2J") && !error.contains('\x1b'), "{error}");
        let error = parse::<TaskOverride>("--overrides", "{").unwrap_err();
        assert_eq!(error.to_string(), "--overrides is not JSON");
        let error = parse::<TaskOverride>("--overrides", "@/does/not/exist").unwrap_err();
        assert_eq!(error.to_string(), "cannot read /does/not/exist for --overrides");
    }
}
