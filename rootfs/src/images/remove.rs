//! Removal by name or id, as people ask for it. What goes when nobody asks is `images/clean.rs`' and `gc.rs`'.

use std::collections::BTreeSet;

use crate::content::StoreError;
use crate::images::Images;
use crate::images::record::{ImageId, NameRecord};
use crate::reference::Reference;

/// Fewest digits that may stand for an id.
const SHORTEST_ID: usize = 4;

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

impl Images {
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
                self.0.store.forget_name(&name.reference).map_err(store_error)?;
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
            let record = self.0.store.image_record(&id);
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
