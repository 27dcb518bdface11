//! Leases: who needs which images. With the names they are the roots of collection.
//!
//! A lease is a symbolic link in `leases/`: its name tells owner (by digest) and image, its target the owner's own
//! words. It is made and removed in one step, has no content that a crash could tear, and is not synced: it has to
//! survive the death of the process that took it, which page cache does, and not that of the machine, which ends every
//! container that an image was leased for. An owner who outlives that takes its leases again.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;

use crate::content::{LEASES, Store, StoreError};
use crate::digest::Digest;
use crate::images::ImageId;

struct Lease {
    file: String,
    owner: String,
    image: ImageId,
}

fn file_name(owner: &str, id: &ImageId) -> String {
    format!("{}.{}", Digest::of(owner.as_bytes()).hex(), id.digest().hex())
}

impl Store {
    /// Adds `id` to what `owner` holds. The caller holds the change lock.
    pub(crate) fn add_lease(&self, owner: &str, id: &ImageId) -> Result<(), StoreError> {
        let path = self.path(LEASES, file_name(owner, id));
        match symlink(owner, &path) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(StoreError::Write(path, e)),
            _ => self.image_used(id),
        }
    }

    /// Drops all that `owner` holds.
    pub(crate) fn drop_leases(&self, owner: &str) -> Result<(), StoreError> {
        self.drop_leases_of(|other| other == owner)
    }

    /// Drops the leases of every owner that is not in `known`.
    pub(crate) fn drop_unknown_leases(&self, known: &HashSet<String>) -> Result<(), StoreError> {
        self.drop_leases_of(|owner| !known.contains(owner))
    }

    fn drop_leases_of(&self, goes: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        for lease in self.read_leases()?.into_iter().filter(|lease| goes(&lease.owner)) {
            let path = self.path(LEASES, &lease.file);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(StoreError::Remove(path, e)),
                _ => self.image_used(&lease.image)?,
            }
        }
        Ok(())
    }

    /// Every leased image with its owners.
    pub(crate) fn leases(&self) -> Result<BTreeMap<ImageId, Vec<String>>, StoreError> {
        let mut leases: BTreeMap<ImageId, Vec<String>> = BTreeMap::new();
        for lease in self.read_leases()? {
            leases.entry(lease.image).or_default().push(lease.owner);
        }
        leases.values_mut().for_each(|owners| owners.sort());
        Ok(leases)
    }

    /// What is no lease was not put there by us and counts for nothing.
    fn read_leases(&self) -> Result<Vec<Lease>, StoreError> {
        let mut leases = Vec::new();
        for file in self.list(LEASES)?.into_iter().filter_map(|file| file.into_string().ok()) {
            let image = file.split_once('.').and_then(|(_, image)| format!("sha256:{image}").parse().ok());
            let owner = fs::read_link(self.path(LEASES, &file))
                .ok()
                .and_then(|owner| owner.into_os_string().into_string().ok());
            if let (Some(image), Some(owner)) = (image, owner) {
                leases.push(Lease { file, owner, image });
            }
        }
        Ok(leases)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Images;
    use crate::content::IMAGES;
    use crate::images::record::ImageRecord;

    #[test]
    fn who_has_gone_takes_no_lease_and_what_is_no_lease_counts_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("images");
        let images = Images::open(&root, crate::Config::default()).unwrap();
        let id = ImageId::new(Digest::of(b"configuration"));
        let (waits, gone) = (Arc::new(()), Arc::new(()));
        assert!(!images.lease_while(&Arc::downgrade(&waits), "waits", &id).unwrap(), "there is no such image");
        let store = images.store();
        let record = ImageRecord::new(id.clone(), id.digest().clone(), Vec::new(), 0);
        store.save_record(IMAGES, id.digest().hex(), &record).unwrap();
        assert!(images.lease_while(&Arc::downgrade(&waits), "waits", &id).unwrap());
        let asked = Arc::downgrade(&gone);
        drop(gone);
        assert!(images.lease_while(&asked, "gone", &id).unwrap());
        fs::File::create(root.join("leases").join(Digest::of(b"old").hex())).unwrap();
        symlink("nobody", root.join("leases/x.y")).unwrap();
        assert_eq!(store.leases().unwrap(), BTreeMap::from([(id.clone(), vec!["waits".to_owned()])]));
        // Once more is once.
        images.lease("waits", &id).unwrap();
        images.lease("other", &id).unwrap();
        images.retain_owners(&HashSet::from(["other".to_owned()])).unwrap();
        assert_eq!(store.leases().unwrap()[&id], ["other"]);
        images.release("other").unwrap();
        assert!(store.leases().unwrap().is_empty());
    }
}
