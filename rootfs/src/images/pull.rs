//! How an image gets here: resolve, choose the platform, fetch and unpack the layers that are missing side by side, then
//! make record and name visible in one step and lease it to whoever waits.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::FutureExt;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use oci_spec::image::ImageManifest;
use tokio::sync::mpsc;

use crate::content::StoreError;
use crate::digest::Digest;
use crate::images::pull::error::MAX_LAYERS;
use crate::images::pull::meter::{Meter, ProgressStatus, Report, Reports};
use crate::images::pull::publish::Made;
use crate::images::record::{Image, ImageId};
use crate::images::source::{Source, SourceError};
use crate::images::{Images, flight::Pulled};
use crate::manifest::{self, Blob, Document, Layer, ManifestError};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::{RegistryError, Sink};
use crate::snapshot::LayerRecord;
use crate::unpack::{self, Budget};

mod error;
pub(crate) mod meter;
mod publish;

pub use error::PullError;

/// Chunks between download and unpacker. With the chunks of a TCP read, some hundred KiB at most.
const CHANNEL_DEPTH: usize = 16;
/// An index may name an index; more than a few levels are nobody's honest work.
const MAX_INDEX_DEPTH: usize = 4;
/// How often an image that others remove as it arrives is pulled again.
const MAX_TRIES: usize = 3;

/// One pull, for all who wait for it.
struct Pull {
    images: Images,
    reference: Reference,
    source: Source,
    platform: Platform,
    reports: Arc<Reports>,
    /// Whoever unpacks has one: the receiver sees when all have ended.
    working: mpsc::Sender<()>,
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
pub(crate) async fn run(images: &Images, reference: &Reference, owner: Option<&str>, report: Report) -> Pulled {
    for _ in 0..MAX_TRIES {
        let start = |reports| fly(images.clone(), reference.clone(), reports).boxed();
        let image = images.0.flights.pull(reference.to_string(), &report, start).await?;
        let Some(owner) = owner else { return Ok(image) };
        if lease(images, owner, &image).await? {
            return Ok(image);
        }
    }
    Err(Arc::new(PullError::Removed(Box::new(reference.clone()))))
}

/// See [`Images::held`].
pub(crate) async fn held(images: &Images, reference: &Reference, owner: &str) -> Result<Option<Image>, Arc<PullError>> {
    let (here, wanted) = (images.clone(), reference.clone());
    let found = tokio::task::spawn_blocking(move || here.get(&wanted)).await;
    let name = || Box::new(reference.clone());
    let found = found.map_err(|source| PullError::Interrupted { reference: name(), source })?;
    let Some(image) = found.map_err(|source| PullError::Store { reference: name(), source })? else { return Ok(None) };
    Ok(lease(images, owner, &image).await?.then_some(image))
}

/// Leases the image to `owner`, unless that has gone when it is its turn. False: the image was removed meanwhile.
async fn lease(images: &Images, owner: &str, image: &Image) -> Result<bool, Arc<PullError>> {
    let asking = Arc::new(());
    let (images, owner, id, asked) = (images.clone(), owner.to_owned(), image.id.clone(), Arc::downgrade(&asking));
    let reference = || Box::new(image.reference.clone());
    let leased = tokio::task::spawn_blocking(move || images.lease_while(&asked, &owner, &id)).await;
    let leased = leased.map_err(|source| PullError::Interrupted { reference: reference(), source })?;
    leased.map_err(|source| Arc::new(PullError::Store { reference: reference(), source }))
}

/// One pull from beginning to end. When it has failed nothing works on any more, and nothing is left that the next has no
/// use for.
async fn fly(images: Images, reference: Reference, reports: Arc<Reports>) -> Pulled {
    let source = Source::open(&images, &reference).await.map_err(|e| PullError::of_source(&reference, e))?;
    let (working, mut ended) = mpsc::channel(1);
    let pull = Pull { images, reference, source, platform: Platform::host(), reports, working };
    let limit = pull.images.0.config.limits.pull_timeout;
    let timed_out = || PullError::TimedOut { reference: pull.name(), limit };
    let pulled = tokio::time::timeout(limit, pull.run()).await.unwrap_or_else(|_| Err(timed_out()));
    let Pull { images, reference, working, .. } = pull;
    let Err(error) = pulled else { return pulled.map_err(Arc::new) };
    // What was unpacked beside the layer that failed has lost its source and ends.
    drop(working);
    ended.recv().await;
    if error.drops_layers() {
        let collected = tokio::task::spawn_blocking(move || images.collect_garbage()).await;
        if let Ok(Err(error)) = collected {
            tracing::warn!(%reference, ?error, "what the failed pull left could not be removed yet");
        }
    }
    Err(Arc::new(error))
}

impl Pull {
    async fn run(&self) -> Result<Image, PullError> {
        let (manifest, manifest_bytes, manifest_digest) = self.resolve().await?;
        if let Some(image) = self.here(&manifest, &manifest_digest).await? {
            return Ok(image);
        }
        let config_blob = manifest::config_blob(&manifest).map_err(|e| self.unusable(e))?;
        let config_bytes = match self.local(&config_blob.digest).await? {
            Some(bytes) => bytes,
            None => self.source.small_blob(&config_blob).await.map_err(|e| self.source_error(e))?,
        };
        let config = manifest::parse_config(&config_bytes).map_err(|e| self.unusable(e))?;
        if !self.platform.runs(&config) {
            return Err(self.mismatch(vec![Platform::of(&config)]));
        }
        let layers = manifest::layers(&manifest, &config).map_err(|e| self.unusable(e))?;
        if layers.len() > MAX_LAYERS {
            return Err(PullError::TooManyLayers { reference: self.name(), layers: layers.len() });
        }
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let _pinned = self.pin(&diff_ids);
        self.fetch_layers(layers).await?;
        let made = Made {
            reference: self.reference.clone(),
            id: ImageId::new(config_blob.digest),
            manifest_digest,
            manifest_bytes,
            config_bytes,
            config,
            diff_ids,
        };
        let images = self.images.clone();
        // The pins outlive this: it is awaited, and a drop in the middle of the await leaves a whole image or none.
        self.blocking(move || made.publish(&images)).await?.map_err(|e| self.store(e))
    }

    fn pin(&self, layers: &[Digest]) -> Pinned<'_> {
        self.images.changes().pin(layers);
        Pinned { images: &self.images, layers: layers.to_owned() }
    }

    /// From the reference through indexes to the manifest for this host.
    async fn resolve(&self) -> Result<(ImageManifest, Bytes, Digest), PullError> {
        let resolved = self.source.resolve(&self.reference, &self.platform).await;
        let fetched = resolved.map_err(|e| self.source_error(e))?;
        let (mut bytes, mut digest, mut told) = (fetched.bytes, fetched.digest, fetched.content_type);
        for _ in 0..MAX_INDEX_DEPTH {
            let index = match Document::parse(&bytes, told.as_deref()).map_err(|e| self.unusable(e))? {
                Document::Manifest(manifest) => return Ok((*manifest, bytes, digest)),
                Document::Index(index) => index,
            };
            let chosen = self.platform.choose(&index).ok_or_else(|| self.mismatch(Platform::offered(&index)))?;
            digest = Blob::document(chosen).map_err(|e| self.unusable(e))?.digest;
            told = Some(chosen.media_type().to_string());
            bytes = match self.local(&digest).await? {
                Some(bytes) => bytes,
                None => self.source.manifest(&digest).await.map_err(|e| self.source_error(e))?,
            };
        }
        Err(PullError::IndexDepth(self.name()))
    }

    /// A document that is here already: whoever named it by digest cannot mean another.
    async fn local(&self, digest: &Digest) -> Result<Option<Bytes>, PullError> {
        let (images, digest) = (self.images.clone(), digest.clone());
        self.blocking(move || images.0.store.read_content(&digest).ok().map(Bytes::from)).await
    }

    /// The image, where nothing of it has to be fetched.
    async fn here(&self, manifest: &ImageManifest, digest: &Digest) -> Result<Option<Image>, PullError> {
        let (images, reference, digest) = (self.images.clone(), self.reference.clone(), digest.clone());
        let confirmed = self.blocking(move || images.confirm(&reference, &digest)).await?;
        let image = confirmed.map_err(|e| self.store(e))?;
        if image.is_some() {
            for blob in manifest.layers().iter().filter_map(|layer| Blob::new(layer).ok()) {
                Meter::new(&blob, &self.reports).report(ProgressStatus::Exists, blob.size);
            }
        }
        Ok(image)
    }

    async fn fetch_layers(&self, layers: Vec<Layer>) -> Result<(), PullError> {
        // An image may have the same layer twice, the empty one as a rule.
        let mut seen = HashSet::new();
        let distinct: Vec<Layer> = layers.into_iter().filter(|layer| seen.insert(layer.diff_id.clone())).collect();
        let limits = &self.images.0.config.limits;
        let budget = Arc::new(Budget::new(limits));
        let parallel = limits.parallel_layers.max(1);
        stream::iter(distinct.into_iter().map(Ok))
            .map(|layer: Result<Layer, PullError>| async { self.fetch_layer(layer?, budget.clone()).await })
            .buffer_unordered(parallel)
            .try_collect()
            .await
    }

    async fn fetch_layer(&self, layer: Layer, budget: Arc<Budget>) -> Result<(), PullError> {
        let _flight = self.images.0.flights.layer(layer.diff_id.to_string()).await;
        let meter = Meter::new(&layer.blob, &self.reports);
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
            self.source.blob(&layer.blob, &mut sink).await
        };
        let work = self.unpack_work(&layer, arriving, budget);
        let unpacking = self.images.0.unpackers.spawn(work);
        let unpacked =
            async { unpacking.await.map_err(|source| PullError::Interrupted { reference: self.name(), source }) };
        let (downloaded, unpacked) = tokio::join!(download, unpacked);
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
        budget: Arc<Budget>,
    ) -> impl FnOnce() -> Result<(), PullError> + Send + 'static {
        let (images, reference, layer) = (self.images.clone(), self.name(), layer.clone());
        let (is_named, working) = (self.source.names_blobs(), self.working.clone());
        move || {
            let _until_done = working;
            let store = &images.0.store;
            let store_error = |source| PullError::Store { reference: reference.clone(), source };
            let half = store.begin_layer().map_err(store_error)?;
            let outcome = unpack::run(arriving, half.path(), &budget);
            let mismatch = |expected: &Digest, found| PullError::LayerMismatch {
                reference: reference.clone(),
                layer: layer.blob.digest.clone(),
                expected: expected.clone(),
                found,
            };
            // A whole blob with the wrong digest is the cause of whatever its content did.
            let is_other = is_named && outcome.blob != layer.blob.digest;
            if is_other && outcome.blob_bytes == layer.blob.size {
                return Err(mismatch(&layer.blob.digest, outcome.blob));
            }
            let unpacked = outcome.unpacked.map_err(|source| PullError::Unpack {
                reference: reference.clone(),
                layer: layer.blob.digest.clone(),
                source,
            })?;
            if is_other {
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
            error => self.source_error(error),
        }
    }

    fn name(&self) -> Box<Reference> {
        Box::new(self.reference.clone())
    }

    fn source_error(&self, error: SourceError) -> PullError {
        PullError::of_source(&self.reference, error)
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
