//! Why an image was not pulled, in one enum that every caller can branch on.

use std::time::Duration;

use crate::archive::ArchiveError;
use crate::content::StoreError;
use crate::digest::Digest;
use crate::images::source::SourceError;
use crate::layout::LayoutError;
use crate::manifest::ManifestError;
use crate::reference::Reference;
use crate::registry::RegistryError;
use crate::unpack::UnpackError;

/// Layers of one image: twice what docker makes, and overlayfs takes 500.
pub(crate) const MAX_LAYERS: usize = 256;

/// Why an image was not pulled. Each variant names the reference.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The source has no such image, or not all of it.
    #[error("image {reference} was not found")]
    NotFound {
        /// What was asked for.
        reference: Box<Reference>,
        /// What exactly is missing.
        #[source]
        source: Box<SourceError>,
    },
    /// The source wants other credentials.
    #[error("pull access to image {reference} is denied")]
    Unauthorized {
        /// What was asked for.
        reference: Box<Reference>,
        /// Where.
        #[source]
        source: Box<SourceError>,
    },
    /// The image does not run on this host.
    #[error("no matching manifest for {wanted} in image {reference}, which has {}", offers(offered))]
    PlatformMismatch {
        /// What was asked for.
        reference: Box<Reference>,
        /// This host.
        wanted: String,
        /// What the source has.
        offered: Vec<String>,
    },
    /// What came is not what was named: a damaged or lying source.
    #[error("image {reference} is damaged at the source")]
    DigestMismatch {
        /// What was asked for.
        reference: Box<Reference>,
        /// What does not match.
        #[source]
        source: Box<SourceError>,
    },
    /// A blob, or its uncompressed form, does not hash to what it is named by.
    #[error("layer {layer} of image {reference} should be {expected} but is {found}")]
    LayerMismatch {
        /// What was asked for.
        reference: Box<Reference>,
        /// The layer, as the manifest names it.
        layer: Digest,
        /// Digest or diff id expected.
        expected: Digest,
        /// Digest or diff id found.
        found: Digest,
    },
    /// The source cannot be reached, or the connection broke too often.
    #[error("cannot reach the source of image {reference}")]
    Network {
        /// What was asked for.
        reference: Box<Reference>,
        /// What failed.
        #[source]
        source: Box<SourceError>,
    },
    /// The source did something else that it should not.
    #[error("cannot read image {reference} from its source")]
    Source {
        /// What was asked for.
        reference: Box<Reference>,
        /// What failed.
        #[source]
        source: Box<SourceError>,
    },
    /// The image's documents are unusable.
    #[error("image {reference} is not usable")]
    Manifest {
        /// What was asked for.
        reference: Box<Reference>,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
    /// Indexes that name indexes without end.
    #[error("image {0} has an index nested too deeply")]
    IndexDepth(Box<Reference>),
    /// More layers than can be mounted.
    #[error("image {reference} has {layers} layers, more than the {MAX_LAYERS} allowed")]
    TooManyLayers {
        /// What was asked for.
        reference: Box<Reference>,
        /// How many it has.
        layers: usize,
    },
    /// A layer that the registry does not hold, only addresses elsewhere: those are not followed.
    #[error("layer {layer} of image {reference} is a foreign layer that the registry does not hold")]
    ForeignLayer {
        /// What was asked for.
        reference: Box<Reference>,
        /// The layer.
        layer: Digest,
    },
    /// A layer cannot be unpacked.
    #[error("cannot unpack layer {layer} of image {reference}")]
    Unpack {
        /// What was asked for.
        reference: Box<Reference>,
        /// The layer, as the manifest names it.
        layer: Digest,
        /// Why not.
        #[source]
        source: UnpackError,
    },
    /// The store failed.
    #[error("cannot store image {reference}")]
    Store {
        /// What was asked for.
        reference: Box<Reference>,
        /// What failed.
        #[source]
        source: StoreError,
    },
    /// It took longer than allowed.
    #[error("the pull of image {reference} took longer than {} s", limit.as_secs())]
    TimedOut {
        /// What was asked for.
        reference: Box<Reference>,
        /// How long it may take.
        limit: Duration,
    },
    /// Others removed it each time it had arrived.
    #[error("image {0} was removed as soon as it was pulled")]
    Removed(Box<Reference>),
    /// The runtime shut down, or the unpacker panicked.
    #[error("the pull of image {reference} was interrupted")]
    Interrupted {
        /// What was asked for.
        reference: Box<Reference>,
        /// How.
        #[source]
        source: tokio::task::JoinError,
    },
}

fn offers(offered: &[String]) -> String {
    if offered.is_empty() { "none".to_owned() } else { format!("{} only", offered.join(", ")) }
}

impl PullError {
    /// A source's failure, sorted by what a caller can do about it.
    pub(crate) fn of_source(reference: &Reference, error: SourceError) -> Self {
        let reference = Box::new(reference.clone());
        match error {
            SourceError::Registry(RegistryError::NotFound(_))
            | SourceError::Layout(LayoutError::NotFound(_) | LayoutError::NoSuchTag { .. })
            | SourceError::Archive(ArchiveError::NotFound(_) | ArchiveError::NoSuchName { .. }) => {
                Self::NotFound { reference, source: Box::new(error) }
            }
            SourceError::Registry(RegistryError::Unauthorized(_)) => {
                Self::Unauthorized { reference, source: Box::new(error) }
            }
            SourceError::Registry(RegistryError::Network(_)) => Self::Network { reference, source: Box::new(error) },
            SourceError::Registry(RegistryError::DigestMismatch { .. })
            | SourceError::Layout(LayoutError::DigestMismatch { .. })
            | SourceError::Archive(ArchiveError::DigestMismatch { .. }) => {
                Self::DigestMismatch { reference, source: Box::new(error) }
            }
            SourceError::Layout(LayoutError::Platform { wanted, offered, .. }) => {
                Self::PlatformMismatch { reference, wanted, offered }
            }
            error => Self::Source { reference, source: Box::new(error) },
        }
    }

    /// Whether the layers that did arrive go: a source that broke off gives the rest another time, and then they are of
    /// use, while one that lies, and a disk that is full, do not get better by keeping them.
    pub(crate) fn drops_layers(&self) -> bool {
        matches!(
            self,
            Self::Unpack { .. } | Self::Store { .. } | Self::LayerMismatch { .. } | Self::DigestMismatch { .. }
        )
    }
}
