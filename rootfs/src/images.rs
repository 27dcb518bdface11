//! The door of the crate: pull, get, list, lease, remove, collect. What is on disk is told in the crate's head; how an
//! image gets here in `images/pull.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::content::{IMAGES, NAMES, Record, Store, StoreError, TakeError};
use crate::digest::{Digest, DigestError};
use crate::gc::Collected;
use crate::images::flight::Flights;
use crate::images::pull::PullError;
use crate::reference::Reference;

mod flight;
pub(crate) mod pull;

/// Fewest digits that may stand for an id.
const SHORTEST_ID: usize = 4;

/// How registries are reached and what an image may cost.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Settings by `HOST[:PORT]` as it stands in a reference; a registry without settings is reached by https and
    /// anonymously, one on a loopback address by http.
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Bounds on what a source may make this host do.
    pub limits: Limits,
}

/// How one registry is reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    /// Speak http instead of https.
    pub plain_http: bool,
    /// `HOST[:PORT]` of registries that are asked first, in order; each may have settings of its own.
    pub mirrors: Vec<String>,
    /// User name for basic authentication or for the token service.
    pub username: Option<String>,
    /// File holding the password; read at every pull, so that it can be changed. One trailing newline is dropped.
    pub password_file: Option<PathBuf>,
    /// PEM file with a certificate authority to trust besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// Bounds on time and size. The defaults are ECS's times and sizes that no honest image reaches.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A source that sends nothing for this long is given up (and asked again, see `retries`).
    pub stall_timeout: Duration,
    /// How often in a row a broken transfer is taken up again without having got any further.
    pub retries: u32,
    /// Wait before the first retry; doubles with each.
    pub backoff: Duration,
    /// Uncompressed bytes of one layer's tar stream.
    pub layer_bytes: u64,
    /// Entries of one layer.
    pub layer_entries: u64,
    /// Layers of one pull that are fetched at the same time.
    pub parallel_layers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stall_timeout: Duration::from_secs(60),
            retries: 5,
            backoff: Duration::from_millis(200),
            layer_bytes: 256 << 30,
            layer_entries: 8 << 20,
            parallel_layers: 4,
        }
    }
}

/// The digest of an image's configuration, which names the image whatever it is called: docker's image id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(Digest);

impl ImageId {
    pub(crate) fn new(config: Digest) -> Self {
        Self(config)
    }

    /// The digest of the configuration.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for ImageId {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.parse().map(Self)
    }
}

/// An image that is here, whole.
#[derive(Debug, Clone)]
pub struct Image {
    /// What it is.
    pub id: ImageId,
    /// What it was asked for by.
    pub reference: Reference,
    /// The platform's manifest (not the index).
    pub manifest_digest: Digest,
    /// Its configuration: OCI image-spec, config.md.
    pub config: ImageConfiguration,
    /// Its layers, bottom first, as in the configuration.
    pub diff_ids: Vec<Digest>,
    /// Bytes of file content in all layers, uncompressed.
    pub size_bytes: u64,
    /// When it was last pulled by this reference.
    pub pulled_at: SystemTime,
}

/// A line of the list of images.
#[derive(Debug, Clone)]
pub struct ImageSummary {
    /// What it is.
    pub id: ImageId,
    /// All its names; empty for an image whose tag moved on while it is leased.
    pub references: Vec<Reference>,
    /// The platform's manifest.
    pub manifest_digest: Digest,
    /// Bytes of file content in all layers, uncompressed.
    pub size_bytes: u64,
    /// When it was last pulled by any name.
    pub pulled_at: SystemTime,
    /// Who holds a lease on it.
    pub owners: Vec<String>,
}

/// How far one blob of a pull has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The blob, as the manifest names it.
    pub digest: Digest,
    /// What is happening to it.
    pub status: ProgressStatus,
    /// Compressed bytes received.
    pub current_bytes: u64,
    /// Compressed bytes in all.
    pub total_bytes: u64,
}

/// What is happening to a blob of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressStatus {
    /// It is being received and unpacked.
    Downloading,
    /// It was received, verified, unpacked and synced.
    Complete,
    /// The layer was here already.
    Exists,
}

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
}

/// Why an image is not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// No image has that name or id.
    #[error("no such image: {0}")]
    NotFound(String),
    /// Several ids begin so.
    #[error("{prefix} is the beginning of several images: {}", ids.join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// All whole ids.
        ids: Vec<String>,
    },
    /// It is leased.
    #[error("image {name} is in use by {}", owners.join(", "))]
    InUse {
        /// The name or id asked for.
        name: String,
        /// Who holds leases.
        owners: Vec<String>,
    },
    /// The store failed.
    #[error("cannot remove image {name}")]
    Store {
        /// The name or id asked for.
        name: String,
        /// What failed.
        #[source]
        source: StoreError,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    format: u32,
    pub(crate) id: ImageId,
    pub(crate) manifest: Digest,
    pub(crate) diff_ids: Vec<Digest>,
    size_bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NameRecord {
    format: u32,
    reference: String,
    pub(crate) id: ImageId,
    pulled_at_secs: u64,
}

impl Record for ImageRecord {
    fn format(&self) -> u32 {
        self.format
    }
}

impl Record for NameRecord {
    fn format(&self) -> u32 {
        self.format
    }
}

fn name_file(reference: &str) -> String {
    Digest::of(reference.as_bytes()).hex().to_owned()
}

impl Store {
    pub(crate) fn names(&self) -> Result<Vec<NameRecord>, StoreError> {
        let records = self.list(NAMES)?.into_iter().map(|name| self.read_record(NAMES, name));
        records.filter_map(Result::transpose).collect()
    }

    pub(crate) fn image_records(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let records = self.list(IMAGES)?.into_iter().map(|name| self.read_record(IMAGES, name));
        records.filter_map(Result::transpose).collect()
    }
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
    clients: crate::registry::Clients,
}

/// The images of one host, below one directory. Cheap to clone. All methods but [`Images::pull`] block on the disk.
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
        Ok(Self(Arc::new(Inner { store, config, changes, flights, clients })))
    }

    /// Brings the image here and answers it; always asks the source which image the reference means now. With an
    /// `owner` the lease is taken in the same step that makes the image visible. Dropping the future abandons the pull.
    pub async fn pull(
        &self,
        reference: &Reference,
        owner: Option<&str>,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Image, PullError> {
        pull::run(self, reference, owner, Arc::new(progress)).await
    }

    /// The image last pulled by that reference, if it is here.
    pub fn get(&self, reference: &Reference) -> Result<Option<Image>, StoreError> {
        let _changes = self.changes();
        let Some(name) = self.0.store.read_record::<NameRecord>(NAMES, name_file(&reference.to_string()))? else {
            return Ok(None);
        };
        let Some(record) = self.0.store.read_record::<ImageRecord>(IMAGES, name.id.digest().hex())? else {
            // A kill between the steps of a removal: the name goes last to be noticed, and means nothing any more.
            return Ok(None);
        };
        self.image(reference.clone(), name.pulled_at_secs, record).map(Some)
    }

    /// The image with that id, whatever `reference`, by which it was once pulled, means now; None when it is gone.
    pub fn get_by_id(&self, id: &ImageId, reference: &Reference) -> Result<Option<Image>, StoreError> {
        let _changes = self.changes();
        let record = self.0.store.read_record::<ImageRecord>(IMAGES, id.digest().hex())?;
        let name = self.0.store.read_record::<NameRecord>(NAMES, name_file(&reference.to_string()))?;
        let pulled_at_secs = name.map_or(0, |name| name.pulled_at_secs);
        record.map(|record| self.image(reference.clone(), pulled_at_secs, record)).transpose()
    }

    fn image(&self, reference: Reference, pulled_at_secs: u64, record: ImageRecord) -> Result<Image, StoreError> {
        let store = &self.0.store;
        let bytes = store.read_content(record.id.digest())?;
        let config = serde_json::from_slice(&bytes)
            .map_err(|e| StoreError::Record(store.path(crate::content::CONTENT, record.id.digest().hex()), e))?;
        let pulled_at = UNIX_EPOCH + Duration::from_secs(pulled_at_secs);
        let ImageRecord { id, manifest: manifest_digest, diff_ids, size_bytes, .. } = record;
        Ok(Image { id, reference, manifest_digest, config, diff_ids, size_bytes, pulled_at })
    }

    /// Every image that is here, by id.
    pub fn list(&self) -> Result<Vec<ImageSummary>, StoreError> {
        let _changes = self.changes();
        let (names, mut leases) = (self.0.store.names()?, self.0.store.leases()?);
        let mut list: Vec<ImageSummary> = Vec::new();
        for record in self.0.store.image_records()? {
            let mine = || names.iter().filter(|name| name.id == record.id);
            let secs = mine().map(|name| name.pulled_at_secs).max().unwrap_or_default();
            list.push(ImageSummary {
                references: mine().filter_map(|name| name.reference.parse().ok()).collect(),
                manifest_digest: record.manifest.clone(),
                size_bytes: record.size_bytes,
                pulled_at: UNIX_EPOCH + Duration::from_secs(secs),
                owners: leases.remove(&record.id).unwrap_or_default(),
                id: record.id,
            });
        }
        list.iter_mut().for_each(|summary| summary.references.sort());
        list.sort_by(|a, b| a.references.cmp(&b.references).then_with(|| a.id.cmp(&b.id)));
        Ok(list)
    }

    /// Removes a name, or by id an image with all its names, and with the last name the layers that no other image
    /// needs. Answers the bytes of file content freed, which are off the disk by then.
    pub fn remove(&self, name_or_id: &str) -> Result<u64, RemoveError> {
        let store_error = |source| RemoveError::Store { name: name_or_id.to_owned(), source };
        let trash = {
            let changes = self.changes();
            let names = self.0.store.names().map_err(store_error)?;
            let (id, going) = self.named(&names, name_or_id)?;
            if names.iter().filter(|name| name.id == id).count() == going.len() {
                let owners = self.0.store.leases().map_err(store_error)?.remove(&id).unwrap_or_default();
                if !owners.is_empty() {
                    return Err(RemoveError::InUse { name: name_or_id.to_owned(), owners });
                }
            }
            for name in going {
                self.0.store.forget(NAMES, name_file(&name.reference)).map_err(store_error)?;
            }
            self.0.store.drop_unrooted_images().map_err(store_error)?;
            self.0.store.retire_unused(&changes).map_err(store_error)?
        };
        trash.empty(&self.0.store).map_err(store_error)
    }

    /// Which image is meant, and which of its names go.
    fn named<'a>(
        &self,
        names: &'a [NameRecord],
        name_or_id: &str,
    ) -> Result<(ImageId, Vec<&'a NameRecord>), RemoveError> {
        if let Ok(id) = name_or_id.parse::<ImageId>() {
            let record = self.0.store.read_record::<ImageRecord>(IMAGES, id.digest().hex());
            let record = record.map_err(|source| RemoveError::Store { name: name_or_id.to_owned(), source })?;
            record.ok_or_else(|| RemoveError::NotFound(name_or_id.to_owned()))?;
            let going = names.iter().filter(|name| name.id == id).collect();
            return Ok((id, going));
        }
        let canonical = name_or_id.parse::<Reference>().map(|reference| reference.to_string());
        if let Some(name) = names.iter().find(|name| canonical.as_ref().is_ok_and(|c| *c == name.reference)) {
            return Ok((name.id.clone(), vec![name]));
        }
        let id = by_prefix(names, name_or_id)?;
        Ok((id.clone(), names.iter().filter(|name| name.id == *id).collect()))
    }

    /// Adds the image to what `owner` holds; it stays until [`Images::release`].
    pub fn lease(&self, owner: &str, id: &ImageId) -> Result<(), StoreError> {
        let _changes = self.changes();
        let name = id.digest().hex();
        if self.0.store.read_record::<ImageRecord>(IMAGES, name)?.is_none() {
            return Err(StoreError::Missing(self.0.store.path(IMAGES, name)));
        }
        self.0.store.add_lease(owner, id)
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

    fn changes(&self) -> MutexGuard<'_, Pins> {
        // Pins are counts that are changed in one step: a panic elsewhere cannot have left them half-changed.
        self.0.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The image whose id begins like that, as lists of images show ids.
fn by_prefix<'a>(names: &'a [NameRecord], text: &str) -> Result<&'a ImageId, RemoveError> {
    let prefix = text.strip_prefix("sha256:").unwrap_or(text);
    let is_prefix = prefix.len() >= SHORTEST_ID && prefix.bytes().all(|byte| byte.is_ascii_hexdigit());
    let matching = |name: &&NameRecord| is_prefix && name.id.digest().hex().starts_with(prefix);
    let ids: BTreeSet<&ImageId> = names.iter().filter(matching).map(|name| &name.id).collect();
    let mut ids = ids.into_iter();
    match (ids.next(), ids.next()) {
        (None, _) => Err(RemoveError::NotFound(text.to_owned())),
        (Some(id), None) => Ok(id),
        (Some(first), Some(second)) => {
            let ids = [first, second].into_iter().chain(ids).map(ToString::to_string).collect();
            Err(RemoveError::Ambiguous { prefix: text.to_owned(), ids })
        }
    }
}
