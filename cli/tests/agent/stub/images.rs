//! Images of the scripted agent: a pull of two layers, and one that breaks.

use proto::v1::{image_service_server::ImageService, *};
use tonic::{Request, Status};

use super::{Answer, Flow, ok};

pub(super) struct Images;

fn layer(digest: char, status: &str, current: f64) -> PullImageResponse {
    let layer = LayerProgress {
        digest: Some(format!("sha256:{}", digest.to_string().repeat(64))),
        status: Some(status.into()),
        current_bytes: Some(current),
        total_bytes: Some(2e6),
    };
    PullImageResponse { layer: Some(layer), image: None }
}

fn image(name: &str) -> Image {
    Image {
        image: Some(name.into()),
        image_digest: Some("sha256:0123".into()),
        size_in_bytes: Some(4e6),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl ImageService for Images {
    type PullImageStream = Flow<PullImageResponse>;

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<Self::PullImageStream> {
        let name = request.into_inner().image.unwrap();
        let mut steps =
            vec![Ok(layer('a', "DOWNLOADING", 1e6)), Ok(layer('b', "EXISTS", 2e6)), Ok(layer('a', "COMPLETE", 2e6))];
        steps.push(match name.as_str() {
            "broken" => Err(Status::not_found("docker.io/library/broken:latest: no such manifest")),
            name => Ok(PullImageResponse { layer: None, image: Some(image(name)) }),
        });
        ok(Box::pin(tokio_stream::iter(steps)))
    }

    async fn list_images(&self, _: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        ok(ListImagesResponse { images: vec![image("busybox")] })
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        match request.get_ref().image.as_deref() {
            Some("busy") => Err(Status::failed_precondition("image busy is in use by task 12")),
            _ => ok(RemoveImageResponse { freed_bytes: Some(4e6) }),
        }
    }
}
