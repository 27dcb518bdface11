//! The door for Prometheus: HTTP/1.1 on an address of the configuration, `GET /metrics` and `GET /healthz`, nothing
//! else. Whoever can connect may ask, so nobody can make it hold much: connections, headers, bodies and time are bounded,
//! and one scrape at a time is measured.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::prometheus_text;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;

use super::process;
use crate::engine::Engine;

/// Connections at a time; further ones are closed at once.
const MOST_CONNECTIONS: usize = 16;
/// Bytes and number of a request's headers.
const MOST_HEADER_BYTES: usize = 8 * 1024;
const MOST_HEADERS: usize = 32;
/// How long a request's headers may take, and a whole connection.
const HEADERS: Duration = Duration::from_secs(5);
const CONNECTION: Duration = Duration::from_secs(30);
/// After an accept that failed, such as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A listening door.
#[derive(Debug)]
pub struct Door(TcpListener);

impl Door {
    /// Listens on `address`.
    pub async fn open(address: SocketAddr) -> io::Result<Door> {
        process::begin();
        TcpListener::bind(address).await.map(Door)
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until `stop` is cancelled.
    pub async fn serve(self, engine: Engine, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let scraping = Arc::new(Mutex::new(()));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.0.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            // Without a free slot the stream is dropped, and so closed.
            if let Ok(slot) = slots.clone().try_acquire_owned() {
                let (engine, scraping, stop) = (engine.clone(), scraping.clone(), stop.clone());
                tokio::spawn(async move {
                    let _slot = slot;
                    tokio::select! {
                        () = stop.cancelled() => {}
                        _ = tokio::time::timeout(CONNECTION, connection(stream, engine, scraping)) => {}
                    }
                });
            }
        }
    }
}

/// One request and its answer: a scrape needs no more, and a connection that stays open would take a slot.
async fn connection(stream: TcpStream, engine: Engine, scraping: Arc<Mutex<()>>) {
    let answering = service_fn(move |request| {
        let (engine, scraping) = (engine.clone(), scraping.clone());
        async move { Ok::<_, Infallible>(answer(&request, &engine, &scraping).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(MOST_HEADER_BYTES)
        .max_headers(MOST_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answering)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection for metrics ended early");
    }
}

async fn answer(request: &Request<Incoming>, engine: &Engine, scraping: &Mutex<()>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !["/metrics", "/healthz"].contains(&path) {
        return said(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n");
    }
    if request.method() != Method::GET {
        let mut refused = said(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return refused;
    }
    if !request.body().is_end_stream() {
        return said(StatusCode::PAYLOAD_TOO_LARGE, "a GET has no body here\n");
    }
    if path == "/healthz" {
        return said(StatusCode::OK, "ok\n");
    }
    let _one_at_a_time = scraping.lock().await;
    let mut metrics = said(StatusCode::OK, engine.metrics().await);
    metrics.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(prometheus_text::CONTENT_TYPE));
    metrics
}

fn said(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
