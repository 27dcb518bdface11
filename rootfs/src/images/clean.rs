//! Clean-up: images that nobody holds go when they have not been used for long, and whatever their age while the disk is
//! too full; the longest unused first, a leased one never.

use std::time::{Duration, SystemTime};

use nix::sys::statvfs::statvfs;

use crate::content::{IMAGES, StoreError};
use crate::gc::Trash;
use crate::images::Images;
use crate::images::record::{ImageId, ImageSummary};
use crate::reference::Reference;

/// When images go.
#[derive(Debug, Clone)]
pub struct Cleanup {
    /// Time since its last use after which an image may go.
    pub min_age: Duration,
    /// Most images that go at a time for their age.
    pub per_cycle: usize,
    /// Per cent of the store's file system in use beyond which images go whatever their age and number.
    pub high_water_percent: u8,
    /// Images with one of these names stay.
    pub keep: Vec<Reference>,
}

/// An image that went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// What it was.
    pub id: ImageId,
    /// All its names.
    pub references: Vec<Reference>,
    /// Bytes of file content in its layers, some of which others may have kept.
    pub size_bytes: u64,
}

impl Images {
    /// Removes what `policy` says, and what has neither name nor lease; `gone` hears of each image as it goes, so that
    /// an error later on hides none. Blocks.
    pub fn clean_up(&self, policy: &Cleanup, gone: impl FnMut(Removed)) -> Result<(), StoreError> {
        self.clean_up_while(policy, || Ok(self.disk_percent()? > u64::from(policy.high_water_percent)), gone)
    }

    fn clean_up_while(
        &self,
        policy: &Cleanup,
        is_full: impl Fn() -> Result<bool, StoreError>,
        mut gone: impl FnMut(Removed),
    ) -> Result<(), StoreError> {
        self.collect_garbage()?;
        let now = SystemTime::now();
        let mut of_age = 0;
        for candidate in self.candidates(policy)? {
            // A time to come is that of a clock that was set back.
            let age = now.duration_since(candidate.used_at).unwrap_or_default();
            let is_old = age >= policy.min_age && of_age < policy.per_cycle;
            if !is_old && !is_full()? {
                continue;
            }
            let ImageSummary { id, references, size_bytes, .. } = candidate;
            if let Some(trash) = self.evict(&id)? {
                of_age += usize::from(is_old);
                gone(Removed { id, references, size_bytes });
                trash.empty(&self.0.store)?;
            }
        }
        Ok(())
    }

    /// Images that may go, the longest unused first.
    fn candidates(&self, policy: &Cleanup) -> Result<Vec<ImageSummary>, StoreError> {
        let mut found = self.list()?;
        found
            .retain(|image| image.owners.is_empty() && !image.references.iter().any(|name| policy.keep.contains(name)));
        found.sort_by_key(|image| image.used_at);
        Ok(found)
    }

    /// Removes an image with all its names, unless somebody has leased it by now. Answers what only has to be deleted.
    fn evict(&self, id: &ImageId) -> Result<Option<Trash>, StoreError> {
        let store = &self.0.store;
        let changes = self.changes();
        if store.leases()?.contains_key(id) {
            return Ok(None);
        }
        for name in store.names()?.iter().filter(|name| name.id == *id) {
            store.forget_name(&name.reference)?;
        }
        store.drop_unrooted_images()?;
        store.retire_unused(&changes).map(Some)
    }

    /// How full the store's file system is, as df(1) tells it.
    fn disk_percent(&self) -> Result<u64, StoreError> {
        let path = self.0.store.path(IMAGES, "");
        let disk = statvfs(&path).map_err(|errno| StoreError::Read(path, errno.into()))?;
        let used = disk.blocks().saturating_sub(disk.blocks_free());
        Ok(used.saturating_mul(100).checked_div(used.saturating_add(disk.blocks_available())).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::images::record::ImageRecord;

    /// Images without layers, the first the longest unused, by hours.
    fn store(ages: &[u64]) -> (tempfile::TempDir, Images, Vec<ImageId>) {
        let directory = tempfile::tempdir().unwrap();
        let images = Images::open(&directory.path().join("images"), crate::Config::default()).unwrap();
        let ids: Vec<ImageId> = ages.iter().map(|age| ImageId::new(Digest::of(&age.to_le_bytes()))).collect();
        for (id, hours) in ids.iter().zip(ages) {
            let (store, digest) = (&images.0.store, id.digest());
            store.save_record(IMAGES, digest.hex(), &ImageRecord::new(id.clone(), digest.clone(), vec![], 0)).unwrap();
            store.save_name(&format!("host/app:{hours}"), id).unwrap();
            let used = SystemTime::now() - Duration::from_secs(hours * 3600);
            let file = std::fs::File::open(store.path(IMAGES, digest.hex())).unwrap();
            file.set_times(std::fs::FileTimes::new().set_modified(used)).unwrap();
        }
        (directory, images, ids)
    }

    fn policy(hours: u64, per_cycle: usize) -> Cleanup {
        let min_age = Duration::from_secs(hours * 3600);
        Cleanup { min_age, per_cycle, high_water_percent: 100, keep: Vec::new() }
    }

    /// Cleans up; answers what went, in this order.
    fn clean(images: &Images, policy: &Cleanup, is_full: impl Fn() -> Result<bool, StoreError>) -> Vec<Removed> {
        let mut removed = Vec::new();
        images.clean_up_while(policy, is_full, |gone| removed.push(gone)).unwrap();
        removed
    }

    fn ids_of(removed: &[Removed]) -> Vec<ImageId> {
        removed.iter().map(|removed| removed.id.clone()).collect()
    }

    #[test]
    fn the_longest_unused_go_first_and_leased_and_kept_ones_never() {
        let (_directory, images, ids) = store(&[9, 8, 7, 6, 5, 1]);
        images.lease("task", &ids[1]).unwrap();
        let keep = vec!["host/app:7".parse().unwrap()];
        let removed = clean(&images, &Cleanup { keep, ..policy(2, 2) }, || Ok(false));
        assert_eq!(ids_of(&removed), [ids[0].clone(), ids[3].clone()]);
        assert_eq!(removed[0].references, ["host/app:9".parse().unwrap()]);
        let removed = clean(&images, &policy(2, 9), || Ok(false));
        assert_eq!(ids_of(&removed), [ids[2].clone(), ids[4].clone()]);
        // What was released just now was used just now.
        images.release("task").unwrap();
        assert_eq!(clean(&images, &policy(2, 9), || Ok(false)), []);
        assert_eq!(clean(&images, &policy(0, 9), || Ok(false)).len(), 2);
    }

    #[test]
    fn a_full_disk_takes_the_longest_unused_until_it_is_not() {
        let (_directory, images, ids) = store(&[3, 2, 1]);
        let left = std::cell::Cell::new(2);
        let removed = clean(&images, &policy(99, 1), || Ok(left.replace(left.get() - 1) > 0));
        assert_eq!(ids_of(&removed), ids[..2]);
        images.lease("task", &ids[2]).unwrap();
        assert_eq!(clean(&images, &policy(0, 9), || Ok(true)), []);
        assert_eq!(images.list().unwrap().len(), 1);
    }

    #[test]
    fn what_went_before_an_error_is_told() {
        let (_directory, images, ids) = store(&[3, 2]);
        let looks = std::cell::Cell::new(0);
        let fails = || match looks.replace(looks.get() + 1) {
            0 => Ok(true),
            _ => Err(StoreError::Read("x".into(), std::io::ErrorKind::Other.into())),
        };
        let mut removed = Vec::new();
        images.clean_up_while(&policy(99, 1), fails, |gone| removed.push(gone)).unwrap_err();
        assert_eq!(ids_of(&removed), ids[..1]);
    }
}
