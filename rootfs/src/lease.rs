//! Leases: who needs which images. One small file per owner; together with the names they are the roots of collection.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::{Deserialize, Serialize};

use crate::content::{FORMAT, LEASES, Record, Store, StoreError};
use crate::digest::Digest;
use crate::images::ImageId;

#[derive(Debug, Serialize, Deserialize)]
struct LeaseRecord {
    format: u32,
    owner: String,
    images: BTreeSet<ImageId>,
}

impl Record for LeaseRecord {
    fn format(&self) -> u32 {
        self.format
    }
}

/// Owners are free text, so a digest of it is the file's name.
fn file_name(owner: &str) -> String {
    Digest::of(owner.as_bytes()).hex().to_owned()
}

impl Store {
    /// Adds `id` to what `owner` holds. The caller holds the change lock.
    pub(crate) fn add_lease(&self, owner: &str, id: &ImageId) -> Result<(), StoreError> {
        let name = file_name(owner);
        let mut record = self.read_record::<LeaseRecord>(LEASES, &name)?.unwrap_or_else(|| LeaseRecord {
            format: FORMAT,
            owner: owner.to_owned(),
            images: BTreeSet::new(),
        });
        if record.images.insert(id.clone()) { self.save_record(LEASES, &name, &record) } else { Ok(()) }
    }

    /// Drops all that `owner` holds.
    pub(crate) fn drop_leases(&self, owner: &str) -> Result<(), StoreError> {
        self.forget(LEASES, file_name(owner))
    }

    /// Drops the leases of every owner that is not in `known`.
    pub(crate) fn drop_unknown_leases(&self, known: &HashSet<String>) -> Result<(), StoreError> {
        for name in self.list(LEASES)? {
            if let Some(record) = self.read_record::<LeaseRecord>(LEASES, &name)?
                && !known.contains(&record.owner)
            {
                self.forget(LEASES, name)?;
            }
        }
        Ok(())
    }

    /// Every leased image with its owners.
    pub(crate) fn leases(&self) -> Result<BTreeMap<ImageId, Vec<String>>, StoreError> {
        let mut leases: BTreeMap<ImageId, Vec<String>> = BTreeMap::new();
        for name in self.list(LEASES)? {
            if let Some(record) = self.read_record::<LeaseRecord>(LEASES, name)? {
                for id in record.images {
                    leases.entry(id).or_default().push(record.owner.clone());
                }
            }
        }
        leases.values_mut().for_each(|owners| owners.sort());
        Ok(leases)
    }
}
