//! Indexes, manifests and configurations: reading them. Pure; bytes in, decision out. Which of an index's manifests runs
//! here is `platform`'s.

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;

use crate::digest::{Digest, DigestError};
use crate::excerpt;

/// Largest manifest, index or configuration accepted (OCI distribution-spec asks registries to take manifests of 4 MiB).
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// What is asked for in `Accept`, best first.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

const SCHEMA1_PREFIX: &str = "application/vnd.docker.distribution.manifest.v1";

/// Why a document of an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of the expected shape.
    #[error("{what} is malformed")]
    Malformed {
        /// Which document.
        what: &'static str,
        /// Where the JSON breaks.
        #[source]
        source: serde_json::Error,
    },
    /// Docker's schema 1, which signs instead of hashing its layers.
    #[error("docker image manifest schema 1 is not supported; push the image again with a current tool")]
    Schema1,
    /// A manifest for something that is not a container image.
    #[error("the manifest is neither an image nor an index (media type {0:?})")]
    NotAnImage(String),
    /// A layer type that cannot be unpacked.
    #[error("layer {digest} has unsupported media type {media_type:?}")]
    LayerType {
        /// The layer.
        digest: String,
        /// Its media type.
        media_type: String,
    },
    /// A digest in the document is unusable.
    #[error("the image has an unusable digest")]
    Digest(#[source] DigestError),
    /// A size in the document is out of bounds.
    #[error("{digest} claims {size} bytes, more than the {MAX_DOCUMENT_BYTES} allowed for a document")]
    TooLarge {
        /// The document.
        digest: String,
        /// What its descriptor claims.
        size: u64,
    },
    /// Manifest and configuration contradict each other.
    #[error("the manifest has {layers} layers but the configuration has {diff_ids} diff ids")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// Diff ids of the configuration.
        diff_ids: usize,
    },
}

impl ManifestError {
    /// Of a document that is no JSON of the expected shape. What does not fit is quoted there, whatever its length.
    pub(crate) fn malformed(what: &'static str, source: serde_json::Error) -> Self {
        let (words, line, column) = (source.to_string(), source.line(), source.column());
        let cut = excerpt::text(&words);
        if cut == words {
            return Self::Malformed { what, source };
        }
        Self::Malformed { what, source: serde::de::Error::custom(format!("{cut} at line {line} column {column}")) }
    }
}

/// What a manifest request can answer.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Box<ImageIndex>),
    Manifest(Box<ImageManifest>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a document by what it says itself, then by what the transport said: registries serve manifests as
    /// `application/json`, and OCI documents need no `mediaType`.
    pub(crate) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestError> {
        let malformed = |source| ManifestError::malformed("manifest", source);
        let shape: Shape = serde_json::from_slice(bytes).map_err(malformed)?;
        let told = shape.media_type.as_deref().or(content_type).unwrap_or_default();
        if shape.schema_version == Some(1) || shape.fs_layers.is_some() || told.starts_with(SCHEMA1_PREFIX) {
            return Err(ManifestError::Schema1);
        }
        match (shape.manifests.is_some(), shape.layers.is_some()) {
            (true, false) => serde_json::from_slice(bytes).map(Box::new).map(Self::Index).map_err(malformed),
            (false, true) => serde_json::from_slice(bytes).map(Box::new).map(Self::Manifest).map_err(malformed),
            // Both would let two readers see two images (CVE-2021-41190); neither is something else.
            _ => Err(ManifestError::NotAnImage(excerpt::text(told))),
        }
    }
}

/// A blob that the image consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Where a foreign layer can be had besides the registry.
    pub(crate) urls: Vec<String>,
}

impl Blob {
    pub(crate) fn new(descriptor: &Descriptor) -> Result<Self, ManifestError> {
        let digest = descriptor.digest().to_string().parse().map_err(ManifestError::Digest)?;
        Ok(Self { digest, size: descriptor.size(), urls: descriptor.urls().clone().unwrap_or_default() })
    }

    /// A blob that will be held in memory.
    pub(crate) fn document(descriptor: &Descriptor) -> Result<Self, ManifestError> {
        let blob = Self::new(descriptor)?;
        if blob.size > MAX_DOCUMENT_BYTES {
            return Err(ManifestError::TooLarge { digest: blob.digest.to_string(), size: blob.size });
        }
        Ok(blob)
    }
}

/// A layer to fetch: its blob and what its tar must hash to.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Blob,
    pub(crate) diff_id: Digest,
}

/// The configuration blob of an image manifest; something that is not a container image is refused here, by name.
pub(crate) fn config_blob(manifest: &ImageManifest) -> Result<Blob, ManifestError> {
    let media_type = manifest.config().media_type().to_string();
    let known = ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
    // Old tools wrote octet-stream or nothing; what says that it is something else is.
    if !known.contains(&media_type.as_str()) && !["", "application/octet-stream"].contains(&media_type.as_str()) {
        return Err(ManifestError::NotAnImage(excerpt::text(media_type)));
    }
    Blob::document(manifest.config())
}

/// Reads an image configuration.
pub(crate) fn parse_config(bytes: &[u8]) -> Result<ImageConfiguration, ManifestError> {
    serde_json::from_slice(bytes).map_err(|source| ManifestError::malformed("image configuration", source))
}

/// Pairs the manifest's layers with the configuration's diff ids, bottom first.
pub(crate) fn layers(manifest: &ImageManifest, config: &ImageConfiguration) -> Result<Vec<Layer>, ManifestError> {
    let diff_ids = config.rootfs().diff_ids();
    if manifest.layers().len() != diff_ids.len() {
        return Err(ManifestError::LayerCount { layers: manifest.layers().len(), diff_ids: diff_ids.len() });
    }
    let pairs = manifest.layers().iter().zip(diff_ids);
    pairs
        .map(|(descriptor, diff_id)| {
            let media_type = descriptor.media_type().to_string();
            if !is_layer(&media_type) {
                let (digest, media_type) = (descriptor.digest().to_string(), excerpt::text(media_type));
                return Err(ManifestError::LayerType { digest: excerpt::text(digest), media_type });
            }
            let diff_id = diff_id.to_string().parse().map_err(ManifestError::Digest)?;
            Ok(Layer { blob: Blob::new(descriptor)?, diff_id })
        })
        .collect()
}

/// Tars, compressed or not, foreign ones too; how they are compressed is told by their first bytes.
fn is_layer(media_type: &str) -> bool {
    let (base, suffix) = media_type.split_once("+").unwrap_or((media_type, ""));
    let tar = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ];
    tar.contains(&base) && ["", "gzip", "zstd"].contains(&suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn documents_are_told_apart_by_content() {
        let digest = format!("sha256:{HEX}");
        let config =
            serde_json::json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2});
        let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": []});
        let parse = |value: &serde_json::Value, told| Document::parse(value.to_string().as_bytes(), told);
        assert!(matches!(parse(&manifest, Some("application/json")), Ok(Document::Manifest(_))));
        let list = serde_json::json!({"schemaVersion": 2, "manifests": []});
        assert!(matches!(parse(&list, None), Ok(Document::Index(_))));

        let mut both = manifest.clone();
        both["manifests"] = serde_json::json!([]);
        assert!(matches!(parse(&both, None), Err(ManifestError::NotAnImage(_))));
        for schema1 in [serde_json::json!({"schemaVersion": 1}), serde_json::json!({"fsLayers": []})] {
            assert!(matches!(parse(&schema1, None), Err(ManifestError::Schema1)));
        }
        let told = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        assert!(matches!(parse(&serde_json::json!({}), Some(told)), Err(ManifestError::Schema1)));
        assert!(matches!(Document::parse(b"<html>", None), Err(ManifestError::Malformed { .. })));
    }

    #[test]
    fn artifacts_and_odd_layers_are_refused_by_name() {
        let digest = format!("sha256:{HEX}");
        let parse = |config_type: &str, layer_type: &str, config_size: u64| -> ImageManifest {
            serde_json::from_value(serde_json::json!({
                "schemaVersion": 2,
                "config": {"mediaType": config_type, "digest": digest, "size": config_size},
                "layers": [{"mediaType": layer_type, "digest": digest, "size": 1}],
            }))
            .unwrap()
        };
        let (image, tar) = ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+zstd");
        let config: ImageConfiguration = serde_json::from_value(serde_json::json!({
            "os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest]},
        }))
        .unwrap();
        assert_eq!(layers(&parse(image, tar, 2), &config).unwrap().len(), 1);
        assert!(matches!(
            config_blob(&parse("application/vnd.cncf.helm.config.v1+json", tar, 2)),
            Err(ManifestError::NotAnImage(_))
        ));
        assert!(matches!(config_blob(&parse(image, tar, u64::MAX)), Err(ManifestError::TooLarge { .. })));
        assert!(matches!(
            layers(&parse(image, "application/vnd.cncf.helm.chart.content.v1.tar+gzip", 2), &config),
            Err(ManifestError::LayerType { .. })
        ));
        let mut short = config.clone();
        short.rootfs_mut().set_diff_ids(vec![]);
        assert!(matches!(layers(&parse(image, tar, 2), &short), Err(ManifestError::LayerCount { .. })));
    }
}
