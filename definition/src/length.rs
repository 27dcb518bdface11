//! How long a request is as the JSON that people write: ECS has bounds for some. What is empty was not written.

use serde_json::Value;

/// The JSON without white space and without empty members.
pub(crate) fn written(value: &Value) -> String {
    given(value).map_or_else(String::new, |value| value.to_string())
}

fn given(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => Some(items.iter().map(|item| given(item).unwrap_or_default()).collect()),
        Value::Object(members) => {
            let members = members.iter().filter_map(|(name, member)| Some((name.clone(), given(member)?)));
            let members: serde_json::Map<String, Value> = members.collect();
            (!members.is_empty()).then_some(Value::Object(members))
        }
        plain => Some(plain.clone()),
    }
}
