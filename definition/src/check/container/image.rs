//! `image`: the grammar of references, so that a definition is refused when it is registered and not when it is pulled.
//! `rootfs` reads them; a test of the agent holds the two together.

use crate::problem::Problems;

/// ECS's bound of what stands before the digest, characters.
const MAX_NAME: usize = 255;
/// OCI distribution-spec, "Pulling manifests".
const MAX_TAG: usize = 128;
/// A layout's directory and a tag.
const LAYOUT: &str = "oci:";
/// A file and a name, which has colons of its own.
const ARCHIVE: &str = "docker-archive:";

pub(super) fn check(problems: &mut Problems, path: &str, image: Option<&str>) -> String {
    let path = format!("{path}.image");
    let image = image.unwrap_or_default();
    if image.is_empty() {
        problems.client(&path, "Container.image should not be null or empty.");
    } else if let Err(reason) = judge(image) {
        problems.client(&path, format!("Container.image contains invalid characters: '{image}' {reason}."));
    }
    image.to_owned()
}

fn judge(image: &str) -> Result<(), &'static str> {
    // Without a slash after it, it is a repository called `oci`.
    let local = |scheme| image.strip_prefix(scheme).filter(|rest| rest.contains('/'));
    if let Some(place) = local(LAYOUT) {
        let tagged = place.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
        let (directory, tag) = tagged.map_or((place, None), |(directory, tag)| (directory, Some(tag)));
        absolute(directory)?;
        if tag.is_some_and(|tag| !is_tag(tag)) { Err(TAG) } else { Ok(()) }
    } else if let Some(place) = local(ARCHIVE) {
        let (file, name) = place.split_once(':').map_or((place, None), |(file, name)| (file, Some(name)));
        absolute(file)?;
        name.filter(|name| !is_tag(name)).map_or(Ok(()), registry)
    } else {
        registry(image)
    }
}

fn absolute(path: &str) -> Result<(), &'static str> {
    if path.starts_with('/') && !path.contains('\0') { Ok(()) } else { Err("is not an absolute path of this host") }
}

const TAG: &str = "has a tag that is not 1 to 128 of letters, digits, _ . and -";

fn registry(image: &str) -> Result<(), &'static str> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    if name.chars().count() > MAX_NAME {
        return Err("is longer than 255 characters");
    }
    if !digest.is_none_or(is_digest) {
        return Err("has a digest that is not sha256: and 64 digits");
    }
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(TAG);
    }
    let (host, repository) = match name.split_once('/') {
        Some((first, rest)) if names_a_host(first) => (Some(first), rest),
        _ => (None, name),
    };
    if !host.is_none_or(is_host) {
        return Err("has an invalid registry host");
    }
    if !repository.split('/').all(is_component) {
        return Err("has a repository that is not lower case letters, digits and the separators . _ - and /");
    }
    Ok(())
}

/// docker's rule for telling `host/name` from `user/name`.
fn names_a_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((name, rest))) => (name, (!rest.is_empty()).then_some(rest)),
        Some(None) => return false,
        None => host.find(':').map_or((host, None), |colon| (&host[..colon], Some(&host[colon..]))),
    };
    let label = |label: &str| {
        let allowed = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        allowed && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    let sound =
        if host.starts_with('[') { name.parse::<std::net::Ipv6Addr>().is_ok() } else { name.split('.').all(label) };
    let is_port = |port: &str| {
        let digits = port.strip_prefix(':').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        digits.is_some_and(|digits| digits.parse::<u16>().is_ok())
    };
    sound && port.is_none_or(is_port)
}

fn is_component(component: &str) -> bool {
    let within = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator = |gap: &str| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|byte| byte == b'-');
    component.starts_with(within) && component.ends_with(within) && component.split(within).all(separator)
}

fn is_tag(tag: &str) -> bool {
    let within = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    tag.len() <= MAX_TAG && tag.chars().all(within) && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
}

fn is_digest(digest: &str) -> bool {
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    digest.strip_prefix("sha256:").is_some_and(|digits| digits.len() == 64 && digits.chars().all(hex))
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn references_by_their_grammar() {
        let digest = format!("a@sha256:{}", "0f".repeat(32));
        let long = "a/".repeat(127) + "b";
        for good in [
            "busybox",
            "busybox:1.36",
            "user/app",
            "localhost:5000/a/b__c/d-e.f:T_1",
            "[::1]:5000/app",
            "Registry/app",
            "oci:latest",
            "oci:/srv/layout:v1",
            "docker-archive:/srv/image.tar",
            "docker-archive:/srv/image.tar:localhost:5000/app:v1",
            &digest,
            &long,
        ] {
            assert_eq!(judge(good), Ok(()), "{good}");
        }
        let long = long + "c";
        for bad in [
            "Busybox",
            "a//b",
            "/a",
            "a/",
            "a/../b",
            "-a",
            "a..b",
            "a___b",
            "a b",
            "a:",
            "a:.b",
            "a:b c",
            "host:99999/a",
            "a_b.c/d",
            "[::g]/a",
            ".x/a",
            "a@sha256:12",
            "a@sha512:12",
            "oci:layout/dir",
            "oci:/x:a b",
            &long,
        ] {
            assert!(judge(bad).is_err(), "{bad}");
        }
    }
}
