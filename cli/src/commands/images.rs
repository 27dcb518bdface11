//! `neargate images` and `neargate rmi`.

use proto::v1::{Image, ListImagesRequest, RemoveImageRequest};

use super::DONE;
use crate::{
    args::{Globals, Rmi},
    client::Client,
    error::{self, Error, FAILED},
    output,
    table::table,
    text, time,
};

/// Lists images.
pub(super) async fn list(globals: &Globals) -> Result<u8, Error> {
    let client = Client::connect(&globals.socket).await?;
    let doing = Error::refused("cannot list images");
    let answer = client.images().list_images(ListImagesRequest {}).await.map_err(doing)?.into_inner();
    if globals.json {
        output::json(&answer).map_err(Error::Output)?;
    } else {
        output::line(&listing(&answer.images, time::now())).map_err(Error::Output)?;
    }
    Ok(DONE)
}

/// Removes images; one that cannot be removed does not keep the others.
pub(super) async fn remove(globals: &Globals, args: &Rmi) -> Result<u8, Error> {
    let client = Client::connect(&globals.socket).await?;
    let mut code = DONE;
    for image in &args.images {
        let shown = text::plain(image);
        let doing = Error::refused(format!("cannot remove image {shown}"));
        match client.images().remove_image(RemoveImageRequest { image: Some(image.clone()) }).await.map_err(doing) {
            Ok(answer) if globals.json => output::json(answer.get_ref()).map_err(Error::Output)?,
            Ok(answer) => {
                let freed = text::bytes(answer.get_ref().freed_bytes.unwrap_or(0.0));
                output::line(&format!("{shown} removed, {freed} freed")).map_err(Error::Output)?;
            }
            Err(error) => {
                output::note(&format!("neargate: {}", error::chain(&error)));
                code = FAILED;
            }
        }
    }
    Ok(code)
}

fn listing(images: &[Image], now: f64) -> String {
    let rows: Vec<_> = images
        .iter()
        .map(|image| {
            [
                text::plain(image.image.as_deref().unwrap_or_default()),
                text::short_digest(image.image_id.as_deref().unwrap_or_default()),
                text::bytes(image.size_in_bytes.unwrap_or(0.0)),
                image.pulled_at.map(|at| time::ago(now, at)).unwrap_or_default(),
                match image.leases.unwrap_or(0) {
                    0 => "-".to_owned(),
                    tasks => text::count(usize::try_from(tasks).unwrap_or(0), "task"),
                },
            ]
        })
        .collect();
    table(["IMAGE", "ID", "SIZE", "PULLED", "IN USE BY"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_listed_with_size_and_users() {
        let image = Image {
            image: Some("docker.io/library/busybox:latest".into()),
            image_id: Some("sha256:0123456789abcdef".into()),
            size_in_bytes: Some(1_234_567.0),
            pulled_at: Some(0.0),
            leases: Some(1),
            ..Default::default()
        };
        assert_eq!(
            listing(&[image], 90.0),
            "IMAGE                              ID             SIZE      PULLED         IN USE BY\n\
             docker.io/library/busybox:latest   0123456789ab   1.23 MB   1 minute ago   1 task"
        );
    }
}
