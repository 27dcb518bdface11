//! How far a pull has come, told to all who wait for it.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::digest::Digest;
use crate::manifest::Blob;

/// Shortest time between two reports on one layer.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

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
    /// Of all who share the pull, exactly one is told so: the one who has waited longest.
    pub is_first: bool,
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

type Listener = dyn Fn(Progress) + Send + Sync;
/// Someone who wants to know.
pub(crate) type Report = Arc<Listener>;

/// All who want to know of one pull and have not gone.
#[derive(Default)]
pub(crate) struct Reports(Mutex<Vec<Weak<Listener>>>);

impl Reports {
    pub(crate) fn add(&self, report: &Report) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(report));
    }

    fn tell(&self, progress: &Progress) {
        let listening: Vec<Report> = {
            let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            reports.retain(|report| report.strong_count() > 0);
            reports.iter().filter_map(Weak::upgrade).collect()
        };
        for (index, report) in listening.iter().enumerate() {
            report(Progress { is_first: index == 0, ..progress.clone() });
        }
    }
}

/// Reports on one layer, not more often than anyone can see.
pub(crate) struct Meter {
    digest: Digest,
    total_bytes: u64,
    last: Mutex<Instant>,
    reports: Arc<Reports>,
}

impl Meter {
    pub(crate) fn new(blob: &Blob, reports: &Arc<Reports>) -> Self {
        let last = Mutex::new(Instant::now());
        Self { digest: blob.digest.clone(), total_bytes: blob.size, last, reports: reports.clone() }
    }

    pub(crate) fn advance(&self, current_bytes: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= PROGRESS_INTERVAL {
            *last = Instant::now();
            self.report(ProgressStatus::Downloading, current_bytes);
        }
    }

    pub(crate) fn report(&self, status: ProgressStatus, current_bytes: u64) {
        let (digest, total_bytes) = (self.digest.clone(), self.total_bytes);
        self.reports.tell(&Progress { digest, status, current_bytes, total_bytes, is_first: true });
    }
}
