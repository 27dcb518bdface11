//! The door of the crate: pull, get, list, lease, remove, collect. What is on disk is told in the crate's head; how an
//! image gets here in `images/pull.rs`.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

use crate::content::{IMAGES, Store, StoreError, TakeError};
use crate::digest::Digest;
use crate::gc::Collected;
use crate::images::flight::Flights;
use crate::reference::Reference;

mod clean;
pub(crate) mod config;
mod flight;
pub(crate) mod pull;
pub(crate) mod record;
mod remove;
mod source;

pub use clean::{Cleanup, Removed};
pub use config::{Config, Limits, RegistryConfig};
pub use pull::PullError;
pub use pull::meter::{Progress, ProgressStatus};
pub use record::{Image, ImageId, ImageSummary};
pub use remove::RemoveError;
pub use source::SourceError;

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process works on it.
    #[error("{} is in use by another process", .0.display())]
    Busy(PathBuf),
    /// Its directory is unusable.
    #[error("cannot open the image store")]
    Store(#[source] StoreError),
    /// A registry's certificate authority is unusable.
    #[error("cannot set up the registry client")]
    Client(#[source] crate::registry::RegistryError),
    /// The threads for unpacking cannot be had.
    #[error("cannot set up the unpackers")]
    Unpackers(#[source] io::Error),
}

/// Layers that running pulls rely on, which are no one's yet; counted, as pulls may share them.
#[derive(Debug, Default)]
pub(crate) struct Pins(HashMap<Digest, usize>);

impl Pins {
    /// The pinned layers.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Digest> {
        self.0.keys()
    }

    fn pin(&mut self, layers: &[Digest]) {
        layers.iter().for_each(|layer| *self.0.entry(layer.clone()).or_default() += 1);
    }

    fn unpin(&mut self, layers: &[Digest]) {
        for layer in layers {
            if let Some(count) = self.0.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(layer);
                }
            }
        }
    }
}

#[derive(Debug)]
struct Inner {
    store: Store,
    config: Config,
    /// The change lock: whoever adds or removes names, records, leases or visible layers of records holds it. Never
    /// held across an await or a download.
    changes: Mutex<Pins>,
    flights: Flights,
    unpackers: Unpackers,
    clients: crate::registry::Clients,
}

/// Threads of their own: a layer that arrives slowly must not keep the host's other work from those that tokio has for
/// what blocks.
#[derive(Debug)]
pub(crate) struct Unpackers {
    /// Some until it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

/// As many layers arrive at once; further ones wait.
const MAX_UNPACKERS: usize = 128;

impl Unpackers {
    fn new() -> io::Result<Unpackers> {
        let runtime =
            Builder::new_current_thread().thread_name("unpack").max_blocking_threads(MAX_UNPACKERS).build()?;
        Ok(Unpackers { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Runs what waits for a layer's bytes.
    pub(crate) fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.handle.spawn_blocking(work)
    }
}

impl Drop for Unpackers {
    fn drop(&mut self) {
        // A runtime that is dropped where others run would wait, which they may not.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The images of one host, below one directory. Cheap to clone. All methods that are not async block on the disk.
#[derive(Debug, Clone)]
pub struct Images(Arc<Inner>);

impl Images {
    /// Opens or makes the store in `dir`, removing what a crash left half-made.
    pub fn open(dir: &Path, config: Config) -> Result<Self, OpenError> {
        let store = Store::take(dir).map_err(|error| match error {
            TakeError::Busy(path) => OpenError::Busy(path),
            TakeError::Store(source) => OpenError::Store(source),
        })?;
        let clients = crate::registry::Clients::new(&config).map_err(OpenError::Client)?;
        let (changes, flights) = (Mutex::default(), Flights::default());
        let unpackers = Unpackers::new().map_err(OpenError::Unpackers)?;
        Ok(Self(Arc::new(Inner { store, config, changes, flights, unpackers, clients })))
    }

    /// Brings the image here and answers it; asks the source which image the reference means now. With an `owner` it is
    /// leased to it. Those who ask for the same reference while it is on its way share one pull and how it ends;
    /// dropping the future leaves it to the others, and the last one abandons it.
    pub async fn pull(
        &self,
        reference: &Reference,
        owner: Option<&str>,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Image, Arc<PullError>> {
        pull::run(self, reference, owner, Arc::new(progress)).await
    }

    /// The image last pulled by that reference, if it is here, leased to `owner`. The source is not asked.
    pub async fn held(&self, reference: &Reference, owner: &str) -> Result<Option<Image>, Arc<PullError>> {
        pull::held(self, reference, owner).await
    }

    /// The image last pulled by that reference, if it is here.
    pub fn get(&self, reference: &Reference) -> Result<Option<Image>, StoreError> {
        let _changes = self.changes();
        let Some(name) = self.0.store.name(&reference.to_string())? else {
            return Ok(None);
        };
        let Some(record) = self.0.store.image_record(&name.id)? else {
            // A kill between the steps of a removal: the name goes last to be noticed, and means nothing any more.
            return Ok(None);
        };
        self.0.store.image(reference.clone(), record).map(Some)
    }

    /// The image with that id, whatever `reference`, by which it was once pulled, means now; None when it is gone.
    pub fn get_by_id(&self, id: &ImageId, reference: &Reference) -> Result<Option<Image>, StoreError> {
        let _changes = self.changes();
        let record = self.0.store.image_record(id)?;
        record.map(|record| self.0.store.image(reference.clone(), record)).transpose()
    }

    /// Every image that is here, by name.
    pub fn list(&self) -> Result<Vec<ImageSummary>, StoreError> {
        let _changes = self.changes();
        self.summaries()
    }

    /// The caller holds the change lock.
    fn summaries(&self) -> Result<Vec<ImageSummary>, StoreError> {
        let store = &self.0.store;
        let (names, mut leases) = (store.names()?, store.leases()?);
        let mut list: Vec<ImageSummary> = Vec::new();
        for record in store.image_records()? {
            let mine = || names.iter().filter(|name| name.id == record.id);
            let used_at = store.image_used_at(&record.id);
            list.push(ImageSummary {
                references: mine().filter_map(|name| name.reference.parse().ok()).collect(),
                manifest_digest: record.manifest.clone(),
                size_bytes: record.size_bytes,
                // An image that lost its names is one that was not pulled since it was last used.
                pulled_at: mine().map(|name| store.pulled_at(&name.reference)).max().unwrap_or(used_at),
                used_at,
                owners: leases.remove(&record.id).unwrap_or_default(),
                id: record.id,
            });
        }
        list.iter_mut().for_each(|summary| summary.references.sort());
        list.sort_by(|a, b| a.references.cmp(&b.references).then_with(|| a.id.cmp(&b.id)));
        Ok(list)
    }

    /// Adds the image to what `owner` holds; it stays until [`Images::release`].
    pub fn lease(&self, owner: &str, id: &ImageId) -> Result<(), StoreError> {
        let asking = Arc::new(());
        if self.lease_while(&Arc::downgrade(&asking), owner, id)? {
            return Ok(());
        }
        Err(StoreError::Missing(self.0.store.path(IMAGES, id.digest().hex())))
    }

    /// The same for an owner who may go, having released all it held: then nothing is leased. False: the image is gone.
    pub(crate) fn lease_while(&self, asking: &Weak<()>, owner: &str, id: &ImageId) -> Result<bool, StoreError> {
        let _changes = self.changes();
        if asking.strong_count() == 0 {
            return Ok(true);
        }
        let here = self.0.store.image_record(id)?.is_some();
        if here {
            self.0.store.add_lease(owner, id)?;
        }
        Ok(here)
    }

    /// Drops all that `owner` holds; an owner that holds nothing is fine.
    pub fn release(&self, owner: &str) -> Result<(), StoreError> {
        let _changes = self.changes();
        self.0.store.drop_leases(owner)
    }

    /// Drops the leases of all owners that are not in `owners`.
    pub fn retain_owners(&self, owners: &HashSet<String>) -> Result<(), StoreError> {
        let _changes = self.changes();
        self.0.store.drop_unknown_leases(owners)
    }

    /// Removes images that have neither a name nor a lease, and layers that no image and no running pull needs.
    pub fn collect_garbage(&self) -> Result<Collected, StoreError> {
        let (images, trash) = {
            let changes = self.changes();
            (self.0.store.drop_unrooted_images()?, self.0.store.retire_unused(&changes)?)
        };
        let layers = trash.layers();
        Ok(Collected { images, layers, freed_bytes: trash.empty(&self.0.store)? })
    }

    /// The image's layers as an overlay wants its lower directories: top first, absolute.
    pub fn layers(&self, image: &Image) -> Vec<PathBuf> {
        image.diff_ids.iter().rev().map(|diff_id| self.0.store.layer_path(diff_id)).collect()
    }

    #[cfg(test)]
    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    fn changes(&self) -> MutexGuard<'_, Pins> {
        // Pins are counts that are changed in one step: a panic elsewhere cannot have left them half-changed.
        self.0.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
