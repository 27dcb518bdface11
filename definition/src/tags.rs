//! Tags, by ECS's rules: at most 50, keys unique, `aws:` kept for AWS.

use std::collections::BTreeSet;

use proto::v1::Tag;

use crate::problem::Problems;

const MAX_TAGS: usize = 50;
const MAX_KEY: usize = 128;
const MAX_VALUE: usize = 256;

pub(crate) fn check(problems: &mut Problems, tags: &[Tag]) {
    if tags.len() > MAX_TAGS {
        problems.parameter("tags", format!("At most {MAX_TAGS} tags can be given, not {}.", tags.len()));
    }
    let mut keys = BTreeSet::new();
    for (index, tag) in tags.iter().enumerate() {
        let path = format!("tags[{index}]");
        let (key, value) = (tag.key(), tag.value());
        let allowed = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '_' | '.' | ':' | '/' | '=' | '+' | '-' | '@');
        if key.is_empty() || key.chars().count() > MAX_KEY || !key.chars().all(allowed) {
            let message = format!("{path}.key must be 1 to {MAX_KEY} letters, digits, spaces and _.:/=+-@.");
            problems.parameter(format!("{path}.key"), message);
        } else if key.to_ascii_lowercase().starts_with("aws:") {
            problems.parameter(format!("{path}.key"), format!("{path}.key must not begin with aws:."));
        } else if !keys.insert(key) {
            problems.parameter(format!("{path}.key"), format!("The tag '{key}' is given more than once."));
        }
        if value.chars().count() > MAX_VALUE || !value.chars().all(allowed) {
            let message = format!("{path}.value must be up to {MAX_VALUE} letters, digits, spaces and _.:/=+-@.");
            problems.parameter(format!("{path}.value"), message);
        }
    }
}
