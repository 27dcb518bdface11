//! What is known of images on disk: one record per image, one per name. When something last happened to them is the
//! modification time of the record's file, which costs no sync to set and which a power cut can only set back.

use std::fmt;
use std::fs::{File, FileTimes};
use std::io;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::content::{CONTENT, FORMAT, IMAGES, NAMES, Record, Store, StoreError};
use crate::digest::{Digest, DigestError};
use crate::reference::Reference;

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
    /// When it was last pulled, leased or released.
    pub used_at: SystemTime,
    /// Who holds a lease on it.
    pub owners: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    format: u32,
    pub(crate) id: ImageId,
    pub(crate) manifest: Digest,
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) size_bytes: u64,
}

impl ImageRecord {
    pub(crate) fn new(id: ImageId, manifest: Digest, diff_ids: Vec<Digest>, size_bytes: u64) -> Self {
        Self { format: FORMAT, id, manifest, diff_ids, size_bytes }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NameRecord {
    format: u32,
    pub(crate) reference: String,
    pub(crate) id: ImageId,
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

fn without_damaged<R>(record: Result<Option<R>, StoreError>) -> Result<Option<R>, StoreError> {
    match record {
        Err(error @ StoreError::Record(..)) => {
            tracing::warn!(error = %error, "the name of an image is left out");
            Ok(None)
        }
        other => other,
    }
}

impl Store {
    /// Every name with the image it means. One that is damaged hides no other; the next pull by that name replaces it.
    pub(crate) fn names(&self) -> Result<Vec<NameRecord>, StoreError> {
        let records = self.list(NAMES)?.into_iter().map(|name| self.read_record(NAMES, name));
        records.filter_map(|record| without_damaged(record).transpose()).collect()
    }

    /// The record of one name; one that is damaged means nothing.
    pub(crate) fn name(&self, reference: &str) -> Result<Option<NameRecord>, StoreError> {
        without_damaged(self.read_record(NAMES, name_file(reference)))
    }

    /// Lets `reference` mean the image `id` and keeps the time. The caller holds the change lock.
    pub(crate) fn save_name(&self, reference: &str, id: &ImageId) -> Result<(), StoreError> {
        let file = name_file(reference);
        if self.name(reference)?.is_some_and(|name| name.id == *id) {
            return self.touch(NAMES, &file);
        }
        let name = NameRecord { format: FORMAT, reference: reference.to_owned(), id: id.clone() };
        self.save_record(NAMES, &file, &name)
    }

    /// Takes the name away, durably.
    pub(crate) fn forget_name(&self, reference: &str) -> Result<(), StoreError> {
        self.forget(NAMES, name_file(reference))
    }

    /// When the image was last pulled by that name.
    pub(crate) fn pulled_at(&self, reference: &str) -> SystemTime {
        self.touched_at(NAMES, &name_file(reference))
    }

    pub(crate) fn image_records(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let records = self.list(IMAGES)?.into_iter().map(|name| self.read_record(IMAGES, name));
        records.filter_map(Result::transpose).collect()
    }

    pub(crate) fn image_record(&self, id: &ImageId) -> Result<Option<ImageRecord>, StoreError> {
        self.read_record(IMAGES, id.digest().hex())
    }

    /// Keeps that the image was used now; one that is not there is fine.
    pub(crate) fn image_used(&self, id: &ImageId) -> Result<(), StoreError> {
        self.touch(IMAGES, id.digest().hex())
    }

    /// When the image was last used.
    pub(crate) fn image_used_at(&self, id: &ImageId) -> SystemTime {
        self.touched_at(IMAGES, id.digest().hex())
    }

    /// The whole image of a record.
    pub(crate) fn image(&self, reference: Reference, record: ImageRecord) -> Result<Image, StoreError> {
        let bytes = self.read_content(record.id.digest())?;
        let config = serde_json::from_slice(&bytes)
            .map_err(|e| StoreError::Record(self.path(CONTENT, record.id.digest().hex()), e))?;
        let pulled_at = self.pulled_at(&reference.to_string());
        let ImageRecord { id, manifest: manifest_digest, diff_ids, size_bytes, .. } = record;
        Ok(Image { id, reference, manifest_digest, config, diff_ids, size_bytes, pulled_at })
    }

    fn touch(&self, area: &str, name: &str) -> Result<(), StoreError> {
        let path = self.path(area, name);
        let now = FileTimes::new().set_modified(SystemTime::now());
        match File::open(&path).and_then(|file| file.set_times(now)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::Write(path, e)),
            _ => Ok(()),
        }
    }

    /// A file that is gone was touched when time began.
    fn touched_at(&self, area: &str, name: &str) -> SystemTime {
        let meta = std::fs::metadata(self.path(area, name));
        meta.and_then(|meta| meta.modified()).unwrap_or(UNIX_EPOCH)
    }
}
