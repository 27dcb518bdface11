//! Single flight: those who want the same image at once share one pull, and those who want the same layer for different
//! images fetch it one after the other, so that the second finds it here.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::future::{BoxFuture, FutureExt, Shared, WeakShared};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::images::pull::PullError;
use crate::images::pull::meter::{Report, Reports};
use crate::images::record::Image;

/// How a pull ends for all who wait for it.
pub(crate) type Pulled = Result<Image, Arc<PullError>>;
type Work = BoxFuture<'static, Pulled>;

/// A pull, and who is told how far it is.
struct UnderWay {
    pull: WeakShared<Work>,
    reports: Arc<Reports>,
}

/// What is under way. Nothing here keeps it alive: a pull lives while somebody waits for it.
#[derive(Default)]
pub(crate) struct Flights {
    pulls: Mutex<HashMap<String, UnderWay>>,
    layers: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

impl Flights {
    /// Joins the pull of `key` that is under way, or starts one. Whoever waits moves it on; one who drops what this
    /// answers leaves it to the others, and the last one to do so ends it. A pull that has ended is nobody's: who comes
    /// then asks the source anew.
    pub(crate) fn pull(&self, key: String, report: &Report, start: impl FnOnce(Arc<Reports>) -> Work) -> Shared<Work> {
        let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.retain(|_, known| known.pull.upgrade().is_some_and(|pull| pull.peek().is_none()));
        if let Some(known) = pulls.get(&key)
            && let Some(pull) = known.pull.upgrade()
        {
            known.reports.add(report);
            return pull;
        }
        let reports = Arc::<Reports>::default();
        reports.add(report);
        let pull = start(reports.clone()).shared();
        pulls.extend(pull.downgrade().map(|pull| (key, UnderWay { pull, reports })));
        pull
    }

    /// Waits for whoever works on the layer `key` and takes over.
    pub(crate) async fn layer(&self, key: String) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
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
