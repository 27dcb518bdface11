//! Pulls as they are counted and told: every pull of the agent, a task's or a client's, goes through here. How an image
//! gets here is `rootfs`'.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use proto::v1::Event;
use rootfs::{Image, Images, Progress, ProgressStatus, PullError, Reference};

use crate::events::Events;
use crate::metrics::Metrics;

/// Who is told of pulls.
#[derive(Debug, Clone)]
pub(crate) struct Pulls {
    pub(crate) images: Images,
    pub(crate) events: Arc<Events>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Pulls {
    /// [`Images::pull`], counted; told as an event where something was transferred.
    pub(crate) async fn pull(
        &self,
        reference: &Reference,
        owner: Option<&str>,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Image, Arc<PullError>> {
        let transferred = Arc::new(AtomicU64::new(0));
        let counting = transferred.clone();
        let began = Instant::now();
        let counted = move |step: Progress| {
            // Of those who share a pull one counts it.
            if step.status == ProgressStatus::Complete && step.is_first {
                counting.fetch_add(step.total_bytes, Ordering::Relaxed);
            }
            progress(step);
        };
        let pulled = self.images.pull(reference, owner, counted).await;
        let bytes = transferred.load(Ordering::Relaxed);
        self.metrics.pulled(began.elapsed(), bytes, pulled.is_ok());
        if pulled.is_ok() && bytes > 0 {
            self.events.tell(event("IMAGE_PULLED", &reference.to_string()));
        }
        pulled
    }

    /// An image was removed by this name or id.
    pub(crate) fn removed(&self, image: &str) {
        self.events.tell(event("IMAGE_REMOVED", image));
    }
}

fn event(kind: &str, image: &str) -> Event {
    Event { r#type: Some(kind.to_owned()), image: Some(image.to_owned()), ..Event::default() }
}
