//! ImageService: decode → images → encode. Pulling is `rootfs`'.

use std::{
    collections::BTreeMap,
    str::FromStr as _,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use futures_util::Stream;
use proto::v1::{
    Image, LayerProgress, ListImagesRequest, ListImagesResponse, PullImageRequest, PullImageResponse,
    RemoveImageRequest, RemoveImageResponse, image_service_server::ImageService,
};
use rootfs::{Progress, ProgressStatus, Reference, StoreError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status};

use super::{Answers, blocking, status, until_stopped};
use crate::pulls::Pulls;

/// The service.
pub(super) struct Images {
    images: rootfs::Images,
    pulls: Pulls,
    stop: CancellationToken,
}

impl Images {
    pub(super) fn new(pulls: Pulls, stop: CancellationToken) -> Self {
        Self { images: pulls.images.clone(), pulls, stop }
    }
}

#[tonic::async_trait]
impl ImageService for Images {
    type PullImageStream = Answers<PullImageResponse>;

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Result<Response<Self::PullImageStream>, Status> {
        let name = request.into_inner().image.unwrap_or_default();
        let reference = Reference::from_str(&name).map_err(|error| status::reference(&error))?;
        Ok(Response::new(until_stopped(pull(self.pulls.clone(), reference), self.stop.clone())))
    }

    async fn list_images(&self, _: Request<ListImagesRequest>) -> Result<Response<ListImagesResponse>, Status> {
        let images = self.images.clone();
        let listed = blocking(move || listed(&images)).await?.map_err(|error| status::store(&error))?;
        Ok(Response::new(ListImagesResponse { images: listed }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let name = request.into_inner().image.unwrap_or_default();
        let images = self.images.clone();
        let removing = name.clone();
        let freed = blocking(move || images.remove(&removing)).await?.map_err(|error| status::remove(&error))?;
        self.pulls.removed(&name);
        Ok(Response::new(RemoveImageResponse { freed_bytes: Some(bytes(freed)) }))
    }
}

/// The newest progress of every layer that the client was not told yet: a slow client misses steps, never the end.
#[derive(Default)]
struct News {
    layers: Mutex<BTreeMap<String, LayerProgress>>,
    arrived: Notify,
}

impl News {
    fn tell(&self, progress: &Progress) {
        let layer = layer(progress);
        let digest = layer.digest.clone().unwrap_or_default();
        // A map of whole messages is never half changed.
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, layer);
        self.arrived.notify_one();
    }

    fn take(&self) -> BTreeMap<String, LayerProgress> {
        std::mem::take(&mut *self.layers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Pulls and tells how far it is; the image ends the stream. A client that goes abandons the pull, which leaves whole
/// layers for the next one and nothing half-made.
fn pull(pulls: Pulls, reference: Reference) -> impl Stream<Item = Result<PullImageResponse, Status>> + Send + 'static {
    async_stream::try_stream! {
        let news = Arc::new(News::default());
        let (teller, puller) = (news.clone(), pulls.clone());
        // A task of its own: others may share the pull, and a client that does not read must not hold it up.
        let mut pulling = AbortOnDropHandle::new(tokio::spawn(async move {
            puller.pull(&reference, None, move |progress| teller.tell(&progress)).await
        }));
        let pulled = loop {
            let pulled = tokio::select! {
                pulled = &mut pulling => Some(pulled),
                () = news.arrived.notified() => None,
            };
            for layer in news.take().into_values() {
                yield PullImageResponse { layer: Some(layer), image: None };
            }
            if let Some(pulled) = pulled {
                break pulled;
            }
        };
        let pulled = pulled.map_err(|error| status::internal(&error))?.map_err(|error| status::pull(&error))?;
        let listing = pulls.images.clone();
        let listed = blocking(move || listing.list()).await?.map_err(|error| status::store(&error))?;
        let leases = listed.iter().find(|summary| summary.id == pulled.id).map_or(0, |summary| summary.owners.len());
        yield PullImageResponse { layer: None, image: Some(described(&pulled, leases)) };
    }
}

/// Every name of every image; an image without a name, which only tasks hold, once.
fn listed(images: &rootfs::Images) -> Result<Vec<Image>, StoreError> {
    let mut listed = Vec::new();
    for summary in images.list()? {
        let leases = summary.owners.len();
        for reference in &summary.references {
            // Gone since the list was made, then; it is not listed.
            listed.extend(images.get(reference)?.map(|image| described(&image, leases)));
        }
        if summary.references.is_empty() {
            listed.push(Image {
                image: None,
                image_digest: Some(summary.manifest_digest.to_string()),
                image_id: Some(summary.id.to_string()),
                size_in_bytes: Some(bytes(summary.size_bytes)),
                pulled_at: Some(epoch_seconds(summary.pulled_at)),
                leases: Some(count(leases)),
                architecture: None,
            });
        }
    }
    Ok(listed)
}

fn described(image: &rootfs::Image, leases: usize) -> Image {
    Image {
        image: Some(image.reference.to_string()),
        image_digest: Some(image.manifest_digest.to_string()),
        image_id: Some(image.id.to_string()),
        size_in_bytes: Some(bytes(image.size_bytes)),
        pulled_at: Some(epoch_seconds(image.pulled_at)),
        leases: Some(count(leases)),
        architecture: Some(image.config.architecture().to_string()),
    }
}

fn layer(progress: &Progress) -> LayerProgress {
    let status = match progress.status {
        ProgressStatus::Downloading => "DOWNLOADING",
        ProgressStatus::Complete => "COMPLETE",
        ProgressStatus::Exists => "EXISTS",
    };
    LayerProgress {
        digest: Some(progress.digest.to_string()),
        status: Some(status.to_owned()),
        current_bytes: Some(bytes(progress.current_bytes)),
        total_bytes: Some(bytes(progress.total_bytes)),
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
fn bytes(bytes: u64) -> f64 {
    bytes as f64
}

fn count(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn epoch_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_client_misses_steps_but_not_the_end() {
        let news = News::default();
        let digest: rootfs::Digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        for (status, current_bytes) in
            [(ProgressStatus::Downloading, 1), (ProgressStatus::Downloading, 2), (ProgressStatus::Complete, 3)]
        {
            news.tell(&Progress { digest: digest.clone(), status, current_bytes, total_bytes: 3, is_first: true });
        }
        news.arrived.notified().await;
        let told: Vec<_> = news.take().into_values().collect();
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].status.as_deref(), told[0].current_bytes), (Some("COMPLETE"), Some(3.0)));
        assert!(news.take().is_empty());
    }
}
