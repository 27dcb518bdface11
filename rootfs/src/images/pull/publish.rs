//! The last step of a pull: what has arrived, or was here all along, becomes an image with a name.

use std::path::PathBuf;

use bytes::Bytes;
use oci_spec::image::ImageConfiguration;

use crate::content::{IMAGES, Store, StoreError};
use crate::digest::Digest;
use crate::images::Images;
use crate::images::record::{Image, ImageId, ImageRecord};
use crate::reference::Reference;

/// An image whose layers are all here, to be made visible.
pub(crate) struct Made {
    pub(crate) reference: Reference,
    pub(crate) id: ImageId,
    pub(crate) manifest_digest: Digest,
    pub(crate) manifest_bytes: Bytes,
    pub(crate) config_bytes: Bytes,
    pub(crate) config: ImageConfiguration,
    pub(crate) diff_ids: Vec<Digest>,
}

impl Made {
    /// Content, record, name, in this order: each needs those before it, and the name is what makes it count. What is on
    /// disk already with the same words is not written again.
    pub(crate) fn publish(self, images: &Images) -> Result<Image, StoreError> {
        let _changes = images.changes();
        let store = &images.0.store;
        let mut size_bytes = 0;
        for diff_id in &self.diff_ids {
            let layer = store.layer(diff_id)?.ok_or_else(|| missing_layer(store, diff_id))?;
            size_bytes += layer.bytes;
        }
        store.save_content(&self.manifest_digest, &self.manifest_bytes)?;
        store.save_content(self.id.digest(), &self.config_bytes)?;
        let record = ImageRecord::new(self.id.clone(), self.manifest_digest.clone(), self.diff_ids.clone(), size_bytes);
        // One that cannot be read is replaced.
        if store.image_record(&self.id).ok().flatten().as_ref() != Some(&record) {
            store.save_record(IMAGES, self.id.digest().hex(), &record)?;
        }
        store.image_used(&self.id)?;
        let reference = self.reference.to_string();
        store.save_name(&reference, &self.id)?;
        Ok(Image {
            id: self.id,
            reference: self.reference,
            manifest_digest: self.manifest_digest,
            config: self.config,
            diff_ids: self.diff_ids,
            size_bytes,
            pulled_at: store.pulled_at(&reference),
        })
    }
}

fn missing_layer(store: &Store, diff_id: &Digest) -> StoreError {
    let path: PathBuf = store.layer_path(diff_id);
    StoreError::Missing(path)
}

impl Images {
    /// The image that the reference meant last, where the source still means it by this manifest and all of it is here.
    /// It counts as pulled now.
    ///
    /// Nothing is synced: every file that says so was durable before it could be read here (see [`Store::save`] and
    /// what a start does), and all that changes are times, which a power cut may only set back.
    pub(crate) fn confirm(&self, reference: &Reference, manifest: &Digest) -> Result<Option<Image>, StoreError> {
        let _changes = self.changes();
        let store = &self.0.store;
        let name = reference.to_string();
        let Some(id) = store.name(&name)?.map(|name| name.id) else { return Ok(None) };
        let Some(record) = store.image_record(&id)?.filter(|record| record.manifest == *manifest) else {
            return Ok(None);
        };
        for diff_id in &record.diff_ids {
            if store.layer(diff_id)?.is_none() {
                return Ok(None);
            }
        }
        if store.read_content(manifest).is_err() || store.read_content(id.digest()).is_err() {
            // Damaged or gone: fetched anew.
            return Ok(None);
        }
        store.save_name(&name, &id)?;
        store.image_used(&id)?;
        store.image(reference.clone(), record).map(Some)
    }
}
