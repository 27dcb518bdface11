//! How an image gets here: resolve, choose the platform, fetch and unpack the layers that are missing side by side, then
//! make record, name and lease visible in one step.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use oci_spec::image::{ImageConfiguration, ImageManifest};
use tokio::sync::mpsc;

use crate::content::{FORMAT, IMAGES, NAMES, StoreError};
use crate::digest::Digest;
use crate::images::{Image, ImageId, ImageRecord, Images, Limits, NameRecord, Progress, ProgressStatus, name_file};
use crate::layout::{Layout, LayoutError};
use crate::manifest::{self, Blob, Document, Layer, ManifestError, Platform};
use crate::reference::Reference;
use crate::registry::{Fetched, RegistryError, Repository, Sink};
use crate::snapshot::LayerRecord;
use crate::unpack::{self, Bounds, UnpackError};

/// Chunks between download and unpacker. With the chunks of a TCP read, some hundred KiB at most.
const CHANNEL_DEPTH: usize = 16;
/// An index may name an index; more than a few levels are nobody's honest work.
const MAX_INDEX_DEPTH: usize = 4;
/// Layers of one image: twice what docker makes, and overlayfs takes 500.
const MAX_LAYERS: usize = 256;
/// Shortest time between two reports on one layer.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

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
    #[error("image {reference} is not available for {wanted}, only for {}", offered.join(", "))]
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

/// A failure of either kind of source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A registry's.
    #[error("registry")]
    Registry(#[source] RegistryError),
    /// A layout's.
    #[error("layout")]
    Layout(#[source] LayoutError),
}

/// Where an image comes from; a closed set.
enum Source {
    Registry(Repository),
    Layout(Layout),
}

type Report = Arc<dyn Fn(Progress) + Send + Sync>;

/// One pull.
struct Pull<'a> {
    images: &'a Images,
    reference: &'a Reference,
    source: Source,
    platform: Platform,
    report: Report,
}

/// Keeps layers from being collected while a pull relies on them.
struct Pinned<'a> {
    images: &'a Images,
    layers: Vec<Digest>,
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.images.changes().unpin(&self.layers);
    }
}

/// See [`Images::pull`].
pub(crate) async fn run(
    images: &Images,
    reference: &Reference,
    owner: Option<&str>,
    report: Report,
) -> Result<Image, PullError> {
    // Whoever comes second finds the layers here and asks the source for the manifest only.
    let _flight = images.0.flights.enter(format!("pull {reference}")).await;
    let source = match reference {
        Reference::Registry { host, repository, .. } => {
            let opened = Repository::open(&images.0.clients, &images.0.config, host, repository).await;
            Source::Registry(opened.map_err(|e| source_error(reference, SourceError::Registry(e)))?)
        }
        Reference::Layout { directory, .. } => Source::Layout(Layout::open(directory)),
    };
    Pull { images, reference, source, platform: Platform::host(), report }.run(owner).await
}

impl Pull<'_> {
    async fn run(&self, owner: Option<&str>) -> Result<Image, PullError> {
        let (manifest, manifest_bytes, manifest_digest) = self.resolve().await?;
        let config_blob = manifest::config_blob(&manifest).map_err(|e| self.unusable(e))?;
        let config_bytes = self.small_blob(&config_blob).await?;
        let config = manifest::parse_config(&config_bytes).map_err(|e| self.unusable(e))?;
        if !self.platform.runs(&config) {
            return Err(self.mismatch(vec![format!("{}/{}", config.os(), config.architecture())]));
        }
        let layers = manifest::layers(&manifest, &config).map_err(|e| self.unusable(e))?;
        if layers.len() > MAX_LAYERS {
            return Err(PullError::TooManyLayers { reference: self.name(), layers: layers.len() });
        }
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let _pinned = self.pin(&diff_ids);
        self.fetch_layers(layers).await?;
        let asking = Arc::new(());
        let made = Made {
            reference: self.reference.clone(),
            id: ImageId::new(config_blob.digest),
            manifest_digest,
            manifest_bytes,
            config_bytes,
            config,
            diff_ids,
            owner: owner.map(|owner| (owner.to_owned(), Arc::downgrade(&asking))),
        };
        let images = self.images.clone();
        // The pins outlive this: it is awaited, and a drop in the middle of the await leaves a whole image or none.
        self.blocking(move || made.publish(&images)).await?.map_err(|e| self.store(e))
    }

    fn pin(&self, layers: &[Digest]) -> Pinned<'_> {
        self.images.changes().pin(layers);
        Pinned { images: self.images, layers: layers.to_owned() }
    }

    /// From the reference through indexes to the manifest for this host.
    async fn resolve(&self) -> Result<(ImageManifest, Bytes, Digest), PullError> {
        let mut fetched = match &self.source {
            Source::Registry(repository) => repository.resolve(self.reference).await.map_err(SourceError::Registry),
            Source::Layout(layout) => {
                layout.resolve(self.reference.tag(), &self.platform).await.map_err(SourceError::Layout)
            }
        }
        .map_err(|e| source_error(self.reference, e))?;
        for _ in 0..MAX_INDEX_DEPTH {
            let told = fetched.content_type.as_deref();
            let index = match Document::parse(&fetched.bytes, told).map_err(|e| self.unusable(e))? {
                Document::Manifest(manifest) => return Ok((*manifest, fetched.bytes, fetched.digest)),
                Document::Index(index) => index,
            };
            let chosen = self.platform.choose(&index).ok_or_else(|| self.mismatch(Platform::offered(&index)))?;
            let blob = Blob::document(chosen).map_err(|e| self.unusable(e))?;
            fetched = self.manifest(&blob.digest).await?;
            fetched.content_type = fetched.content_type.or_else(|| Some(chosen.media_type().to_string()));
        }
        Err(PullError::IndexDepth(self.name()))
    }

    async fn manifest(&self, digest: &Digest) -> Result<Fetched, PullError> {
        match &self.source {
            Source::Registry(repository) => repository.manifest(digest).await.map_err(SourceError::Registry),
            Source::Layout(layout) => layout.manifest(digest).await.map_err(SourceError::Layout),
        }
        .map_err(|e| source_error(self.reference, e))
    }

    async fn small_blob(&self, blob: &Blob) -> Result<Bytes, PullError> {
        match &self.source {
            Source::Registry(repository) => repository.small_blob(blob).await.map_err(SourceError::Registry),
            Source::Layout(layout) => layout.small_blob(blob).await.map_err(SourceError::Layout),
        }
        .map_err(|e| source_error(self.reference, e))
    }

    async fn fetch_layers(&self, layers: Vec<Layer>) -> Result<(), PullError> {
        // An image may have the same layer twice, the empty one as a rule.
        let mut seen = HashSet::new();
        let distinct = layers.into_iter().filter(|layer| seen.insert(layer.diff_id.clone())).map(Ok);
        let parallel = self.images.0.config.limits.parallel_layers.max(1);
        stream::iter(distinct.collect::<Vec<_>>())
            .map(|layer: Result<Layer, PullError>| async { self.fetch_layer(layer?).await })
            .buffer_unordered(parallel)
            .try_collect()
            .await
    }

    async fn fetch_layer(&self, layer: Layer) -> Result<(), PullError> {
        let _flight = self.images.0.flights.enter(format!("layer {}", layer.diff_id)).await;
        let meter = Meter::new(&layer.blob, self.report.clone());
        let (images, diff_id) = (self.images.clone(), layer.diff_id.clone());
        let here = self.blocking(move || images.0.store.layer(&diff_id)).await?.map_err(|e| self.store(e))?;
        if here.is_some() {
            meter.report(ProgressStatus::Exists, layer.blob.size);
            return Ok(());
        }
        meter.report(ProgressStatus::Downloading, 0);
        let (chunks, arriving) = mpsc::channel(CHANNEL_DEPTH);
        let download = async {
            let told = |received| meter.advance(received);
            // The sink, and with it the channel, ends with the download: that is how the unpacker sees the end.
            let mut sink = Sink::new(chunks, &told);
            match &self.source {
                Source::Registry(repository) => {
                    repository.blob(&layer.blob, &mut sink).await.map_err(SourceError::Registry)
                }
                Source::Layout(layout) => layout.blob(&layer.blob, &mut sink).await.map_err(SourceError::Layout),
            }
        };
        let work = self.unpack_work(&layer, arriving);
        let (downloaded, unpacked) = tokio::join!(download, self.blocking(work));
        // A download that failed explains a stream that ended early.
        downloaded.map_err(|error| self.layer_source(&layer, error))?;
        unpacked??;
        meter.report(ProgressStatus::Complete, layer.blob.size);
        Ok(())
    }

    /// What the blocking thread does for one layer: unpack, verify, make visible.
    fn unpack_work(
        &self,
        layer: &Layer,
        arriving: mpsc::Receiver<Bytes>,
    ) -> impl FnOnce() -> Result<(), PullError> + Send + 'static {
        let (images, reference, layer) = (self.images.clone(), self.name(), layer.clone());
        let limits: &Limits = &images.0.config.limits;
        let bounds = Bounds { bytes: limits.layer_bytes, entries: limits.layer_entries };
        move || {
            let store = &images.0.store;
            let store_error = |source| PullError::Store { reference: reference.clone(), source };
            let half = store.begin_layer().map_err(store_error)?;
            let outcome = unpack::run(arriving, half.path(), bounds);
            let mismatch = |expected: &Digest, found| PullError::LayerMismatch {
                reference: reference.clone(),
                layer: layer.blob.digest.clone(),
                expected: expected.clone(),
                found,
            };
            // A whole blob with the wrong digest is the cause of whatever its content did.
            if outcome.blob_bytes == layer.blob.size && outcome.blob != layer.blob.digest {
                return Err(mismatch(&layer.blob.digest, outcome.blob));
            }
            let unpacked = outcome.unpacked.map_err(|source| PullError::Unpack {
                reference: reference.clone(),
                layer: layer.blob.digest.clone(),
                source,
            })?;
            if outcome.blob != layer.blob.digest {
                return Err(mismatch(&layer.blob.digest, outcome.blob));
            }
            if unpacked.diff_id != layer.diff_id {
                return Err(mismatch(&layer.diff_id, unpacked.diff_id));
            }
            let record = LayerRecord::new(unpacked.bytes, unpacked.entries);
            store.commit_layer(half, &layer.diff_id, &record).map_err(store_error)
        }
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PullError> {
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|source| PullError::Interrupted { reference: self.name(), source })
    }

    fn layer_source(&self, layer: &Layer, error: SourceError) -> PullError {
        match error {
            SourceError::Registry(RegistryError::NotFound(_)) if !layer.blob.urls.is_empty() => {
                PullError::ForeignLayer { reference: self.name(), layer: layer.blob.digest.clone() }
            }
            error => source_error(self.reference, error),
        }
    }

    fn name(&self) -> Box<Reference> {
        Box::new(self.reference.clone())
    }

    fn unusable(&self, source: ManifestError) -> PullError {
        PullError::Manifest { reference: self.name(), source }
    }

    fn store(&self, source: StoreError) -> PullError {
        PullError::Store { reference: self.name(), source }
    }

    fn mismatch(&self, offered: Vec<String>) -> PullError {
        let wanted = self.platform.to_string();
        PullError::PlatformMismatch { reference: self.name(), wanted, offered }
    }
}

fn source_error(reference: &Reference, error: SourceError) -> PullError {
    let reference = Box::new(reference.clone());
    match error {
        SourceError::Registry(RegistryError::NotFound(_))
        | SourceError::Layout(LayoutError::NotFound(_) | LayoutError::NoSuchTag { .. }) => {
            PullError::NotFound { reference, source: Box::new(error) }
        }
        SourceError::Registry(RegistryError::Unauthorized(_)) => {
            PullError::Unauthorized { reference, source: Box::new(error) }
        }
        SourceError::Registry(RegistryError::Network(_)) => PullError::Network { reference, source: Box::new(error) },
        SourceError::Registry(RegistryError::DigestMismatch { .. })
        | SourceError::Layout(LayoutError::DigestMismatch { .. }) => {
            PullError::DigestMismatch { reference, source: Box::new(error) }
        }
        SourceError::Layout(LayoutError::Platform { wanted, offered, .. }) => {
            PullError::PlatformMismatch { reference, wanted, offered }
        }
        error => PullError::Source { reference, source: Box::new(error) },
    }
}

/// An image whose layers are all here, to be made visible.
struct Made {
    reference: Reference,
    id: ImageId,
    manifest_digest: Digest,
    manifest_bytes: Bytes,
    config_bytes: Bytes,
    config: ImageConfiguration,
    diff_ids: Vec<Digest>,
    /// Who takes a lease, unless it has gone when the image becomes visible: it may have released all it held by then.
    owner: Option<(String, Weak<()>)>,
}

impl Made {
    /// Content, record, lease, name, in this order: each needs those before it, and the name is what makes it count.
    fn publish(self, images: &Images) -> Result<Image, StoreError> {
        let _changes = images.changes();
        let store = &images.0.store;
        let mut size_bytes = 0;
        for diff_id in &self.diff_ids {
            let layer = store.layer(diff_id)?.ok_or_else(|| StoreError::Missing(store.layer_path(diff_id)))?;
            size_bytes += layer.bytes;
        }
        store.save_content(&self.manifest_digest, &self.manifest_bytes)?;
        store.save_content(self.id.digest(), &self.config_bytes)?;
        let record = ImageRecord {
            format: FORMAT,
            id: self.id.clone(),
            manifest: self.manifest_digest.clone(),
            diff_ids: self.diff_ids.clone(),
            size_bytes,
        };
        store.save_record(IMAGES, self.id.digest().hex(), &record)?;
        if let Some((owner, asking)) = &self.owner
            && asking.strong_count() > 0
        {
            store.add_lease(owner, &self.id)?;
        }
        let reference = self.reference.to_string();
        let pulled_at_secs = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let name = NameRecord { format: FORMAT, reference, id: self.id.clone(), pulled_at_secs };
        store.save_record(NAMES, &name_file(&name.reference), &name)?;
        Ok(Image {
            id: self.id,
            reference: self.reference,
            manifest_digest: self.manifest_digest,
            config: self.config,
            diff_ids: self.diff_ids,
            size_bytes,
            pulled_at: UNIX_EPOCH + Duration::from_secs(pulled_at_secs),
        })
    }
}

/// Reports on one layer, not more often than anyone can see.
struct Meter {
    digest: Digest,
    total_bytes: u64,
    last: Mutex<Instant>,
    report: Report,
}

impl Meter {
    fn new(blob: &Blob, report: Report) -> Self {
        Self { digest: blob.digest.clone(), total_bytes: blob.size, last: Mutex::new(Instant::now()), report }
    }

    fn advance(&self, current_bytes: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= PROGRESS_INTERVAL {
            *last = Instant::now();
            self.report(ProgressStatus::Downloading, current_bytes);
        }
    }

    fn report(&self, status: ProgressStatus, current_bytes: u64) {
        let (digest, total_bytes) = (self.digest.clone(), self.total_bytes);
        (self.report)(Progress { digest, status, current_bytes, total_bytes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image without layers, asked for by `asking`.
    fn made(tag: &str, asking: &Arc<()>) -> Made {
        let digest: Digest = format!("sha256:{:064x}", 7).parse().unwrap();
        Made {
            reference: format!("oci:/layout:{tag}").parse().unwrap(),
            id: ImageId::new(digest.clone()),
            manifest_digest: digest,
            manifest_bytes: Bytes::new(),
            config_bytes: Bytes::new(),
            config: ImageConfiguration::default(),
            diff_ids: Vec::new(),
            owner: Some((tag.to_owned(), Arc::downgrade(asking))),
        }
    }

    #[test]
    fn who_has_gone_takes_no_lease() {
        let directory = tempfile::tempdir().unwrap();
        let images = Images::open(&directory.path().join("images"), crate::Config::default()).unwrap();
        let (waits, gone) = (Arc::new(()), Arc::new(()));
        made("waits", &waits).publish(&images).unwrap();
        let abandoned = made("gone", &gone);
        drop(gone);
        abandoned.publish(&images).unwrap();
        let listed = images.list().unwrap();
        assert_eq!((listed[0].references.len(), &listed[0].owners[..]), (2, &["waits".to_owned()][..]));
    }
}
