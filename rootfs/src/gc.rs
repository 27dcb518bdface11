//! Removal and collection: which records and layers nobody needs, and the order in which they go (record first, then
//! layers by rename, then the bytes), so that a kill in between leaves nothing visible that is incomplete.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

use crate::content::{CONTENT, IMAGES, LAYER_RECORDS, LAYERS, Store, StoreError};
use crate::digest::Digest;
use crate::images::{ImageId, Pins};

/// What a collection found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Image records that had neither a name nor a lease.
    pub images: u64,
    /// Layers that no remaining record needs.
    pub layers: u64,
    /// Bytes of file content in those layers.
    pub freed_bytes: u64,
}

/// Layers that are out of sight and wait for deletion, which needs no lock.
#[derive(Debug, Default)]
pub(crate) struct Trash {
    paths: Vec<PathBuf>,
    bytes: u64,
}

impl Trash {
    /// Deletes it all and answers the bytes of file content.
    pub(crate) fn empty(self, store: &Store) -> Result<u64, StoreError> {
        for path in &self.paths {
            store.delete(path)?;
        }
        Ok(self.bytes)
    }
}

impl Store {
    /// Drops the records of images that are neither named nor leased. Answers how many. The caller holds the change lock.
    pub(crate) fn drop_unrooted_images(&self) -> Result<u64, StoreError> {
        let mut roots: BTreeSet<ImageId> = self.leases()?.into_keys().collect();
        roots.extend(self.names()?.into_iter().map(|name| name.id));
        let mut dropped = 0;
        for name in self.list(IMAGES)? {
            if !roots.iter().any(|id| name == id.digest().hex()) {
                self.forget(IMAGES, name)?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }

    /// Takes every layer and every content out of sight that no image record and no running pull needs. The caller holds
    /// the change lock.
    pub(crate) fn retire_unused(&self, pins: &Pins) -> Result<Trash, StoreError> {
        let mut layers: HashSet<String> = pins.layers().map(|d| d.hex().to_owned()).collect();
        let mut content = HashSet::new();
        for image in self.image_records()? {
            layers.extend(image.diff_ids.iter().map(|d| d.hex().to_owned()));
            content.extend([image.manifest, image.id.digest().clone()].map(|d| d.hex().to_owned()));
        }
        let unused = |names: Vec<std::ffi::OsString>, used: &HashSet<String>| -> Vec<String> {
            names.into_iter().filter_map(|n| n.into_string().ok()).filter(|n| !used.contains(n)).collect()
        };
        let mut trash = Trash::default();
        for name in unused(self.list(LAYERS)?, &layers) {
            // A name that is no digest was not put there by us; it stays.
            let Ok(diff_id) = format!("sha256:{name}").parse::<Digest>() else { continue };
            if let Some((path, bytes)) = self.retire_layer(&diff_id)? {
                trash.paths.push(path);
                trash.bytes += bytes;
            }
        }
        for name in unused(self.list(LAYER_RECORDS)?, &layers) {
            self.forget(LAYER_RECORDS, name)?;
        }
        for name in unused(self.list(CONTENT)?, &content) {
            self.forget(CONTENT, name)?;
        }
        Ok(trash)
    }
}

impl Trash {
    /// How many layers are in it.
    pub(crate) fn layers(&self) -> u64 {
        self.paths.len() as u64
    }
}
