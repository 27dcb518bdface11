//! From a JSON value to a message, telling every member that does not fit and not the first one only. Owns the words in
//! which serde's errors are told.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

/// As many as anybody reads.
const MOST: usize = 100;
/// How similar a name has to be to be offered: `env` is to `environment`.
const SIMILAR: f64 = 0.8;

/// A member that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Its path, as `containerDefinitions[0].memory`; empty for the value itself.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// Reads `value` as `T`. Each misfit is told, taken out, and the rest is read again.
pub fn read<T: DeserializeOwned>(mut value: Value) -> Result<T, Vec<Misfit>> {
    let mut misfits: Vec<Misfit> = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize(&value) {
            Ok(read) if misfits.is_empty() => return Ok(read),
            Ok(_) => return Err(misfits),
            Err(error) => error,
        };
        let mut segments: Vec<Segment> =
            error.path().iter().filter(|segment| !matches!(segment, Segment::Unknown)).cloned().collect();
        let inner = error.inner().to_string();
        // serde tells the object that holds an unknown member, not the member.
        if let Some(key) = unknown_member(&inner) {
            let is_told = matches!(segments.last(), Some(Segment::Map { key: last }) if last == key);
            if !is_told {
                segments.push(Segment::Map { key: key.to_owned() });
            }
        }
        let misfit = Misfit { path: path(&segments), message: words(&inner) };
        let is_new = misfits.last() != Some(&misfit);
        if is_new {
            misfits.push(misfit);
        }
        if !is_new || misfits.len() >= MOST || !take_out(&mut value, &segments, &inner) {
            return Err(misfits);
        }
    }
}

fn unknown_member(message: &str) -> Option<&str> {
    message.strip_prefix("unknown field `")?.split('`').next()
}

/// The most similar of the names that serde lists, if one is similar.
fn near<'a>(member: &str, message: &'a str) -> Option<&'a str> {
    let plain = |name: &str| name.replace(['_', '-'], "").to_lowercase();
    let member = plain(member);
    let names = message.split("`, expected ").nth(1)?.split('`').skip(1).step_by(2);
    let similar = names.map(|name| (strsim::jaro_winkler(&member, &plain(name)), name));
    let best = similar.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(similarity, _)| *similarity >= SIMILAR).map(|(_, name)| name)
}

fn path(segments: &[Segment]) -> String {
    let mut path = String::new();
    for segment in segments {
        match segment {
            Segment::Seq { index } => path += &format!("[{index}]"),
            Segment::Map { key } | Segment::Enum { variant: key } if path.is_empty() => path += key,
            Segment::Map { key } | Segment::Enum { variant: key } => path += &format!(".{key}"),
            Segment::Unknown => {}
        }
    }
    path
}

/// Removes a member. An item of a list becomes an empty object or string instead, so that the others keep their numbers.
fn take_out(value: &mut Value, segments: &[Segment], message: &str) -> bool {
    let Some((last, holders)) = segments.split_last() else { return false };
    let holder = holders.iter().try_fold(value, |holder, segment| match segment {
        Segment::Seq { index } => holder.get_mut(*index),
        Segment::Map { key } | Segment::Enum { variant: key } => holder.get_mut(key),
        Segment::Unknown => None,
    });
    match (holder, last) {
        (Some(Value::Object(members)), Segment::Map { key }) => members.remove(key).is_some(),
        (Some(Value::Array(items)), Segment::Seq { index }) => {
            let Some(item) = items.get_mut(*index) else { return false };
            let of_strings = message.ends_with("expected a string");
            *item = if of_strings { Value::String(String::new()) } else { Value::Object(Map::new()) };
            true
        }
        _ => false,
    }
}

/// serde's message in JSON's words: `must be an integer, not string "64"`. No decision hangs on it.
fn words(message: &str) -> String {
    if let Some(member) = unknown_member(message) {
        let offer = near(member, message).map_or_else(String::new, |near| format!(": did you mean `{near}`?"));
        return format!("unknown field `{member}`{offer}");
    }
    let told = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    let Some((found, expected)) = told.and_then(|told| told.rsplit_once(", expected ")) else {
        return message.to_owned();
    };
    let expected = match expected {
        "i32" if found.starts_with("integer") => "an integer of at most 2147483647",
        "i32" | "i64" => "an integer",
        "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "an object",
        "a boolean" => "true or false",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    let found = match found {
        "map" => "an object".to_owned(),
        "sequence" => "a list".to_owned(),
        other => other.replace('`', ""),
    };
    format!("must be {expected}, not {found}")
}
