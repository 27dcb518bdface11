//! Single flight: of those who want the same thing at once, one works and the others wait, then find it done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Locks by key; a key that nobody uses takes no memory for long.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<String, Weak<AsyncMutex<()>>>>);

impl Flights {
    /// Waits for whoever works on `key` and takes over.
    pub(crate) async fn enter(&self, key: String) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            let existing = locks.get(&key).and_then(Weak::upgrade);
            existing.unwrap_or_else(|| {
                let lock = Arc::new(AsyncMutex::new(()));
                locks.insert(key, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}
