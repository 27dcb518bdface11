//! Names of images: docker's rules for registry references, and `oci:DIR[:TAG]`. Parsing only; nothing is asked.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

const DEFAULT_HOST: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const LAYOUT: &str = "oci:";
const ARCHIVE: &str = "docker-archive:";
/// Longest repository name, host included, that a registry has to accept (distribution reference grammar).
const MAX_NAME: usize = 255;
/// Longest tag: OCI distribution-spec, "Pulling manifests".
const MAX_TAG: usize = 128;

/// Where an image comes from. Its `Display` is canonical: equal references print alike, and the text parses back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// An image in a registry that speaks the OCI distribution protocol.
    Registry {
        /// `HOST` or `HOST:PORT`; `docker.io` when the text named none.
        host: String,
        /// Repository below the host, e.g. `library/busybox`.
        repository: String,
        /// Tag; `latest` when the text had neither tag nor digest.
        tag: Option<String>,
        /// Digest of the manifest or index; wins over the tag.
        digest: Option<Digest>,
    },
    /// An image in an OCI image layout directory.
    Layout {
        /// Absolute path of the layout (the directory that holds `index.json`).
        directory: PathBuf,
        /// The `org.opencontainers.image.ref.name` wanted; `None` takes the only image, or `latest` among several.
        tag: Option<String>,
    },
    /// An image in a tar as `docker save` writes it.
    Archive {
        /// Absolute path of the tar.
        file: PathBuf,
        /// One of the image's names (`NAME[:TAG]`, or a tag alone); `None` takes the only image, or the one tagged
        /// `latest` among several.
        name: Option<String>,
    },
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The empty text.
    #[error("image reference is empty")]
    Empty,
    /// The repository breaks the grammar.
    #[error(
        "image reference {0:?} has an invalid repository name (lower case letters, digits, separators . _ - and /)"
    )]
    Repository(String),
    /// The host breaks the grammar.
    #[error("image reference {0:?} has an invalid registry host")]
    Host(String),
    /// The tag breaks the grammar.
    #[error("image reference {0:?} has an invalid tag (up to 128 of letters, digits, _ . -)")]
    Tag(String),
    /// The name is too long.
    #[error("image reference {0:?} has a name longer than 255 characters")]
    TooLong(String),
    /// The part after `@` is not a digest.
    #[error("image reference {reference:?} has an invalid digest")]
    Digest {
        /// The whole text.
        reference: String,
        /// What is wrong with the digest.
        #[source]
        source: DigestError,
    },
    /// `oci:` or `docker-archive:` without an absolute path: the agent's working directory means nothing to a client.
    #[error("image reference {reference:?} needs an absolute path after {scheme}")]
    RelativePath {
        /// The whole text.
        reference: String,
        /// The scheme with its colon.
        scheme: &'static str,
    },
}

impl Reference {
    /// The tag, where there is one.
    pub fn tag(&self) -> Option<&str> {
        match self {
            Self::Registry { tag, .. } | Self::Layout { tag, .. } => tag.as_deref(),
            Self::Archive { .. } => None,
        }
    }

    /// The name in an archive, where one is given.
    pub(crate) fn archived_name(&self) -> Option<&str> {
        match self {
            Self::Archive { name, .. } => name.as_deref(),
            Self::Registry { .. } | Self::Layout { .. } => None,
        }
    }

    /// The digest that the reference pins, where it does.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Registry { digest, .. } => digest.as_ref(),
            Self::Layout { .. } | Self::Archive { .. } => None,
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let local = |scheme| text.strip_prefix(scheme).filter(|rest| rest.contains('/'));
        if let Some(rest) = local(LAYOUT) {
            parse_layout(text, rest)
        } else if let Some(rest) = local(ARCHIVE) {
            parse_archive(text, rest)
        } else {
            parse_registry(text)
        }
    }
}

fn parse_layout(text: &str, rest: &str) -> Result<Reference, ReferenceError> {
    let (directory, tag) = match rest.rsplit_once(':') {
        Some((directory, tag)) if !tag.contains('/') => (directory, Some(tag)),
        _ => (rest, None),
    };
    let directory = absolute(text, LAYOUT, directory)?;
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(ReferenceError::Tag(text.to_owned()));
    }
    Ok(Reference::Layout { directory, tag: tag.map(str::to_owned) })
}

/// What follows the first colon is a name, which has colons of its own; skopeo splits there too.
fn parse_archive(text: &str, rest: &str) -> Result<Reference, ReferenceError> {
    let (file, name) = rest.split_once(':').map_or((rest, None), |(file, name)| (file, Some(name)));
    let file = absolute(text, ARCHIVE, file)?;
    // A tag alone is a name of the same grammar but for its capitals.
    if let Some(name) = name.filter(|name| !is_tag(name)) {
        parse_registry(name)?;
    }
    Ok(Reference::Archive { file, name: name.map(str::to_owned) })
}

/// Components drop doubled and trailing slashes, so that one path has one name.
fn absolute(text: &str, scheme: &'static str, path: &str) -> Result<PathBuf, ReferenceError> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err(ReferenceError::RelativePath { reference: text.to_owned(), scheme });
    }
    Ok(Path::new(path).components().collect())
}

fn parse_registry(text: &str) -> Result<Reference, ReferenceError> {
    let (name_and_tag, digest) = match text.split_once('@') {
        Some((name, digest)) => {
            let digest =
                digest.parse().map_err(|source| ReferenceError::Digest { reference: text.to_owned(), source })?;
            (name, Some(digest))
        }
        None => (text, None),
    };
    let (name, tag) = match name_and_tag.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name_and_tag, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(ReferenceError::Tag(text.to_owned()));
    }
    let (host, path) = match name.split_once('/') {
        Some((first, rest)) if names_a_host(first) => (first, rest),
        _ => (DEFAULT_HOST, name),
    };
    if !is_host(host) {
        return Err(ReferenceError::Host(text.to_owned()));
    }
    let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
    if !path.split('/').all(is_path_component) {
        return Err(ReferenceError::Repository(text.to_owned()));
    }
    let repository =
        if host == DEFAULT_HOST && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
    if host.len() + 1 + repository.len() > MAX_NAME {
        return Err(ReferenceError::TooLong(text.to_owned()));
    }
    let tag = match (tag, &digest) {
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference::Registry { host: host.to_owned(), repository, tag, digest })
}

/// Docker's rule for telling `host/name` from `user/name`.
fn names_a_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_host(host: &str) -> bool {
    let (name, port) = if host.starts_with('[') {
        match host.split_once(']') {
            Some((name, rest)) => (&name[1..], rest.strip_prefix(':').or(rest.is_empty().then_some("0"))),
            None => return false,
        }
    } else {
        match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("0")),
        }
    };
    let valid_name = if host.starts_with('[') {
        name.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        !name.is_empty()
            && name.split('.').all(|label| {
                !label.is_empty()
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            })
    };
    valid_name && port.is_some_and(|port| !port.starts_with('+') && port.parse::<u16>().is_ok())
}

fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= MAX_TAG
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry { host, repository, tag, digest } => {
                write!(f, "{host}/{repository}")?;
                if let Some(tag) = tag {
                    write!(f, ":{tag}")?;
                }
                digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
            }
            Self::Layout { directory, tag } => {
                write!(f, "{LAYOUT}{}", directory.display())?;
                tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
            }
            Self::Archive { file, name } => {
                write!(f, "{ARCHIVE}{}", file.display())?;
                name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn dockers_short_names_are_completed() {
        for (text, canonical) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("user/app", "docker.io/user/app:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("127.0.0.1:5000/a/b__c/d-e.f:T_1", "127.0.0.1:5000/a/b__c/d-e.f:T_1"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("Registry/app", "Registry/app:latest"),
            ("oci:/srv/layout", "oci:/srv/layout"),
            ("oci:/srv//layout/:v1", "oci:/srv/layout:v1"),
            ("oci:latest", "docker.io/library/oci:latest"),
            ("docker-archive:/srv//app.tar", "docker-archive:/srv/app.tar"),
            ("docker-archive:/srv/app.tar:V1", "docker-archive:/srv/app.tar:V1"),
            ("docker-archive:/app.tar:localhost:5000/app:v1", "docker-archive:/app.tar:localhost:5000/app:v1"),
            ("docker-archive:1", "docker.io/library/docker-archive:1"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), canonical, "{text}");
            assert_eq!(canonical.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn a_digest_pins_and_keeps_the_tag() {
        let text = format!("host:5000/name:tag@sha256:{HEX}");
        let reference: Reference = text.parse().unwrap();
        assert_eq!(reference.to_string(), text);
        assert_eq!((reference.tag(), reference.digest().unwrap().hex()), (Some("tag"), HEX));
        let untagged: Reference = format!("busybox@sha256:{HEX}").parse().unwrap();
        assert_eq!(untagged.tag(), None);
    }

    #[test]
    fn what_breaks_the_grammar_is_refused_by_part() {
        let parse = |text: &str| text.parse::<Reference>().unwrap_err();
        assert_eq!(parse(""), ReferenceError::Empty);
        for bad in ["Busybox", "a//b", "/a", "a/", "a/../b", "-a", "a..b", "a___b", "host:5000/", "a b", "host:x/a b"] {
            assert!(
                matches!(parse(bad), ReferenceError::Repository(_) | ReferenceError::Host(_)),
                "{bad}: {:?}",
                parse(bad)
            );
        }
        for bad in ["a:", "a:.b", "a:b c", &format!("a:{}", "x".repeat(129))] {
            assert!(matches!(parse(bad), ReferenceError::Tag(_)), "{bad}");
        }
        for bad in ["host:99999/a", "a_b.c/d", "[::g]/a", ".x/a", "ho..st/a", "host:+5/a"] {
            assert!(matches!(parse(bad), ReferenceError::Host(_)), "{bad}");
        }
        assert!(matches!(parse("a@sha256:12"), ReferenceError::Digest { .. }));
        assert!(matches!(parse("a@sha512:12"), ReferenceError::Digest { .. }));
        for relative in ["oci:layout/dir", "docker-archive:dir/app.tar"] {
            assert!(matches!(parse(relative), ReferenceError::RelativePath { .. }));
        }
        assert!(matches!(parse("docker-archive:/a.tar:b c"), ReferenceError::Repository(_)));
        assert!(matches!(parse("a/".repeat(200).trim_end_matches('/')), ReferenceError::TooLong(_)));
    }
}
