//! A blob as a stream of chunks, taken up where it broke: by Range where the registry can, from the start otherwise.

use bytes::Bytes;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use tokio::sync::mpsc::Sender;

use crate::manifest::Blob;
use crate::registry::{Endpoint, RegistryError, Repository, from_offset};

/// Where a blob goes, chunk by chunk, and how much of it went.
pub(crate) struct Sink<'a> {
    chunks: Sender<Bytes>,
    received: u64,
    /// Told after each chunk how many bytes have come in all.
    told: &'a (dyn Fn(u64) + Send + Sync),
}

/// The receiver has gone: it has its reasons, and the transfer ends quietly.
pub(crate) struct Closed;

impl<'a> Sink<'a> {
    pub(crate) fn new(chunks: Sender<Bytes>, told: &'a (dyn Fn(u64) + Send + Sync)) -> Self {
        Self { chunks, received: 0, told }
    }

    /// Bytes passed on so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Passes a chunk on, waiting for room.
    pub(crate) async fn send(&mut self, chunk: Bytes) -> Result<(), Closed> {
        self.received += chunk.len() as u64;
        self.chunks.send(chunk).await.map_err(|_| Closed)?;
        (self.told)(self.received);
        Ok(())
    }
}

/// How one attempt ended.
enum Attempt {
    Done,
    Closed,
}

impl Repository {
    /// Sends the blob into the sink. A break is taken up again, at the next endpoint when one has failed for good; the
    /// count of retries starts anew whenever bytes arrived.
    pub(crate) async fn blob(&self, blob: &Blob, sink: &mut Sink<'_>) -> Result<(), RegistryError> {
        let mut failure = RegistryError::Address(String::new());
        for endpoint in &self.endpoints {
            let url = format!("{}/blobs/{}", endpoint.base, blob.digest);
            let mut retries = 0;
            loop {
                let before = sink.received();
                match self.attempt(endpoint, &url, blob, sink).await {
                    Ok(Attempt::Done | Attempt::Closed) => return Ok(()),
                    Err(error) if error.is_transient() => {
                        retries = if sink.received() > before { 0 } else { retries + 1 };
                        failure = error;
                        if retries > self.limits.retries {
                            break;
                        }
                        tracing::debug!(url, received = sink.received(), error = ?failure, "taking the transfer up again");
                        self.pause(retries, &failure).await;
                    }
                    Err(error) => {
                        failure = error;
                        break;
                    }
                }
            }
        }
        Err(failure)
    }

    async fn attempt(
        &self,
        endpoint: &Endpoint,
        url: &str,
        blob: &Blob,
        sink: &mut Sink<'_>,
    ) -> Result<Attempt, RegistryError> {
        let offset = sink.received();
        let mut response = self.get(endpoint, url, |request| from_offset(request, offset)).await?;
        let mut skip = match response.status() {
            StatusCode::OK => offset,
            StatusCode::PARTIAL_CONTENT if starts_at(&response, offset) => 0,
            _ => return Err(RegistryError::status(url, &response)),
        };
        while let Some(mut chunk) = response.chunk().await.map_err(RegistryError::Network)? {
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            drop(chunk.split_to(usize::try_from(skipped).unwrap_or(chunk.len())));
            if sink.received() + chunk.len() as u64 > blob.size {
                return Err(wrong_size(url, blob, format!("more than {} bytes", blob.size)));
            }
            if !chunk.is_empty() && sink.send(chunk).await.is_err() {
                return Ok(Attempt::Closed);
            }
        }
        if sink.received() < blob.size {
            // A body that ended by its own word: asking again would bring the same.
            return Err(wrong_size(url, blob, format!("{} bytes", sink.received())));
        }
        Ok(Attempt::Done)
    }
}

fn wrong_size(url: &str, blob: &Blob, found: String) -> RegistryError {
    RegistryError::DigestMismatch { what: url.to_owned(), expected: format!("{} bytes", blob.size), found }
}

/// `Content-Range: bytes FIRST-LAST/SIZE`: RFC 9110, 14.4.
fn starts_at(response: &Response, offset: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")).and_then(|range| range.split('-').next());
    first.and_then(|first| first.parse().ok()) == Some(offset)
}
