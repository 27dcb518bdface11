//! Where an image comes from: a closed set of sources with the same questions.

use bytes::Bytes;

use crate::archive::{Archive, ArchiveError};
use crate::digest::Digest;
use crate::images::Images;
use crate::layout::{Layout, LayoutError};
use crate::manifest::Blob;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::{Fetched, RegistryError, Repository, Sink};

/// A failure of one kind of source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A registry's.
    #[error("registry")]
    Registry(#[source] RegistryError),
    /// A layout's.
    #[error("layout")]
    Layout(#[source] LayoutError),
    /// An archive's.
    #[error("archive")]
    Archive(#[source] ArchiveError),
}

/// Where an image comes from.
pub(crate) enum Source {
    Registry(Repository),
    Layout(Layout),
    Archive(Archive),
}

impl Source {
    /// The source that the reference names. Reads passwords; asks nobody yet.
    pub(crate) async fn open(images: &Images, reference: &Reference) -> Result<Self, SourceError> {
        match reference {
            Reference::Registry { host, repository, .. } => {
                let opened = Repository::open(&images.0.clients, &images.0.config, host, repository).await;
                opened.map(Self::Registry).map_err(SourceError::Registry)
            }
            Reference::Layout { directory, .. } => Ok(Self::Layout(Layout::open(directory))),
            Reference::Archive { file, .. } => Ok(Self::Archive(Archive::open(file, &images.0.config.limits))),
        }
    }

    /// The manifest or index that the reference means now.
    pub(crate) async fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<Fetched, SourceError> {
        match self {
            Self::Registry(repository) => repository.resolve(reference).await.map_err(SourceError::Registry),
            Self::Layout(layout) => layout.resolve(reference.tag(), platform).await.map_err(SourceError::Layout),
            Self::Archive(archive) => archive.resolve(reference.archived_name()).await.map_err(SourceError::Archive),
        }
    }

    /// Whether a layer's blob is named by its own digest. An archive names it by that of the tar in it, which is all that
    /// can be verified then, and enough.
    pub(crate) fn names_blobs(&self) -> bool {
        !matches!(self, Self::Archive(_))
    }

    /// The manifest or index with that digest.
    pub(crate) async fn manifest(&self, digest: &Digest) -> Result<Bytes, SourceError> {
        let fetched = match self {
            Self::Registry(repository) => repository.manifest(digest).await.map_err(SourceError::Registry),
            Self::Layout(layout) => layout.manifest(digest).await.map_err(SourceError::Layout),
            // What it resolved to is no index.
            Self::Archive(archive) => archive.resolve(None).await.map_err(SourceError::Archive),
        };
        fetched.map(|fetched| fetched.bytes)
    }

    /// A blob small enough for memory: the image configuration.
    pub(crate) async fn small_blob(&self, blob: &Blob) -> Result<Bytes, SourceError> {
        match self {
            Self::Registry(repository) => repository.small_blob(blob).await.map_err(SourceError::Registry),
            Self::Layout(layout) => layout.small_blob(blob).await.map_err(SourceError::Layout),
            Self::Archive(archive) => Ok(archive.config()),
        }
    }

    /// Sends the blob into the sink.
    pub(crate) async fn blob(&self, blob: &Blob, sink: &mut Sink<'_>) -> Result<(), SourceError> {
        match self {
            Self::Registry(repository) => repository.blob(blob, sink).await.map_err(SourceError::Registry),
            Self::Layout(layout) => layout.blob(blob, sink).await.map_err(SourceError::Layout),
            Self::Archive(archive) => archive.layer(blob, sink).await.map_err(SourceError::Archive),
        }
    }
}
