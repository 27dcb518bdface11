//! The OCI distribution client: which endpoints serve a reference, manifests, and blobs as a stream that survives broken
//! connections. It verifies what it can name (sizes, manifest digests); layers are verified where they are unpacked.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RANGE, RETRY_AFTER};
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode};

use crate::digest::Digest;
use crate::images::{Config, Limits, RegistryConfig};
use crate::manifest::{self, Blob, MAX_DOCUMENT_BYTES};
use crate::reference::Reference;
use crate::registry::auth::{Auth, Credentials};

mod auth;
mod blob;

pub(crate) use blob::Sink;

/// Where `docker.io` really serves.
const DOCKER_HUB: &str = "registry-1.docker.io";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const USER_AGENT: &str = concat!("neargate/", env!("CARGO_PKG_VERSION"));
const CONTENT_DIGEST: &str = "docker-content-digest";

/// Why a registry did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It has no such manifest or blob.
    #[error("{0} does not exist")]
    NotFound(String),
    /// It does not let us in.
    #[error("access to {0} is denied")]
    Unauthorized(String),
    /// It cannot be reached, or the connection broke too often.
    #[error("the connection failed")]
    Network(#[source] reqwest::Error),
    /// It answered something unexpected.
    #[error("{url} answered with status {status}")]
    Status {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// How long it asks to be left alone: RFC 9110, 10.2.3.
        retry_after: Option<Duration>,
    },
    /// What came is not what was named.
    #[error("{what} should be {expected} but is {found}")]
    DigestMismatch {
        /// What was asked.
        what: String,
        /// The digest (or size) it was named by.
        expected: String,
        /// The digest (or size) it has.
        found: String,
    },
    /// An answer that is held in memory is too large.
    #[error("{url} answered with more than {limit} bytes")]
    TooLarge {
        /// What was asked.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// The token service's address is unusable.
    #[error("the registry names an unusable token service {0:?}")]
    Realm(String),
    /// The token service's answer is unusable.
    #[error("the token service's answer is malformed")]
    Token(#[source] serde_json::Error),
    /// The configured password cannot be read.
    #[error("cannot read the password file {}", path.display())]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The configured certificate authority cannot be read.
    #[error("cannot read the certificate authority {}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The configured certificate authority is no certificate, or TLS cannot be set up.
    #[error("cannot set up TLS for registry {registry:?}")]
    Tls {
        /// The registry, empty for the settings of all others.
        registry: String,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// Neither the host of the reference nor that of a mirror makes an address.
    #[error("{0:?} is not a registry address")]
    Address(String),
}

impl RegistryError {
    /// Whether the same request may succeed a moment later.
    fn is_transient(&self) -> bool {
        match self {
            Self::Network(error) => !error.is_builder() && !error.is_redirect(),
            Self::Status { status, .. } => *status >= 500 || matches!(status, 408 | 425 | 429),
            _ => false,
        }
    }

    /// An answer of no use.
    fn status(url: &str, response: &Response) -> Self {
        let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        // The other form, a date, is served as well by our own pauses.
        let retry_after = header.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        Self::Status { url: url.to_owned(), status: response.status().as_u16(), retry_after }
    }
}

/// HTTP clients, one per set of trusted authorities; made once, they keep their connections between pulls.
#[derive(Debug)]
pub(crate) struct Clients {
    default: Client,
    /// For registries on this host: no proxy stands between.
    loopback: Client,
    by_registry: HashMap<String, Client>,
}

impl Clients {
    pub(crate) fn new(config: &Config) -> Result<Self, RegistryError> {
        let mut by_registry = HashMap::new();
        for (name, registry) in &config.registries {
            if let Some(path) = &registry.ca_file {
                let ca_error = |source| RegistryError::CaFile { path: path.clone(), source };
                let pem = std::fs::read(path).map_err(ca_error)?;
                by_registry.insert(name.clone(), client(&config.limits, name, Some(&pem))?);
            }
        }
        let (default, loopback) = (client(&config.limits, "", None)?, client(&config.limits, "localhost", None)?);
        Ok(Self { default, loopback, by_registry })
    }

    fn of(&self, host: &str) -> Client {
        let shared = if is_loopback(host) { &self.loopback } else { &self.default };
        self.by_registry.get(host).unwrap_or(shared).clone()
    }
}

fn client(limits: &Limits, registry: &str, ca: Option<&[u8]>) -> Result<Client, RegistryError> {
    let tls = |source| RegistryError::Tls { registry: registry.to_owned(), source };
    let downgrade = reqwest::redirect::Policy::custom(|attempt| {
        let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if attempt.previous().len() > 10 {
            attempt.error("too many redirects")
        } else if was_secure && attempt.url().scheme() != "https" {
            attempt.error("redirect from https to an unprotected address")
        } else {
            attempt.follow()
        }
    });
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT.min(limits.stall_timeout))
        .read_timeout(limits.stall_timeout)
        .redirect(downgrade);
    if is_loopback(registry) {
        builder = builder.no_proxy();
    }
    if let Some(pem) = ca {
        for certificate in Certificate::from_pem_bundle(pem).map_err(tls)? {
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder.build().map_err(tls)
}

/// Docker's rule for registries that may be spoken to without TLS unasked.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// One place that serves the repository.
struct Endpoint {
    /// `https://host/v2/repository`.
    base: String,
    secure: bool,
    client: Client,
    auth: Auth,
}

/// A repository in a registry, its mirrors first.
pub(crate) struct Repository {
    endpoints: Vec<Endpoint>,
    scope: String,
    limits: Limits,
}

/// A document with its digest, verified.
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
    pub(crate) content_type: Option<String>,
}

impl Repository {
    /// The repository of a reference. Reads passwords; asks nobody yet.
    pub(crate) async fn open(
        clients: &Clients,
        config: &Config,
        host: &str,
        repository: &str,
    ) -> Result<Self, RegistryError> {
        let anonymous = RegistryConfig::default();
        let settings = |host: &str| config.registries.get(host).unwrap_or(&anonymous);
        let mut endpoints = Vec::new();
        for name in settings(host).mirrors.iter().map(String::as_str).chain([host]) {
            let settings = settings(name);
            let secure = !settings.plain_http && (settings.ca_file.is_some() || !is_loopback(name));
            let address = if name == "docker.io" { DOCKER_HUB } else { name };
            let base = format!("{}://{address}/v2/{repository}", if secure { "https" } else { "http" });
            reqwest::Url::parse(&base).map_err(|_| RegistryError::Address(name.to_owned()))?;
            let auth = Auth::new(Credentials::read(settings).await?);
            endpoints.push(Endpoint { base, secure, client: clients.of(name), auth });
        }
        let scope = format!("repository:{repository}:pull");
        Ok(Self { endpoints, scope, limits: config.limits.clone() })
    }

    /// The manifest or index that the reference names now.
    pub(crate) async fn resolve(&self, reference: &Reference) -> Result<Fetched, RegistryError> {
        match (reference.digest(), reference.tag()) {
            (Some(digest), _) => self.manifest(digest).await,
            (None, tag) => self.document("manifests", tag.unwrap_or_default(), None).await,
        }
    }

    /// The manifest or index with that digest.
    pub(crate) async fn manifest(&self, digest: &Digest) -> Result<Fetched, RegistryError> {
        self.document("manifests", &digest.to_string(), Some(digest)).await
    }

    /// A blob small enough for memory: the image configuration.
    pub(crate) async fn small_blob(&self, blob: &Blob) -> Result<Bytes, RegistryError> {
        self.document("blobs", &blob.digest.to_string(), Some(&blob.digest)).await.map(|fetched| fetched.bytes)
    }

    /// Mirrors are a convenience: whatever one of them answers but the document itself, the next is asked. The error
    /// told is that of the last, the registry itself.
    async fn document(&self, kind: &str, name: &str, digest: Option<&Digest>) -> Result<Fetched, RegistryError> {
        let mut failure = RegistryError::Address(String::new());
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            match self.document_from(endpoint, kind, name, digest).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => failure = error,
            }
            if index + 1 < self.endpoints.len() {
                tracing::warn!(mirror = endpoint.base, name, error = %failure, "a mirror failed; asking the next");
            }
        }
        Err(failure)
    }

    async fn document_from(
        &self,
        endpoint: &Endpoint,
        kind: &str,
        name: &str,
        digest: Option<&Digest>,
    ) -> Result<Fetched, RegistryError> {
        let mut retries = 0;
        loop {
            match self.document_once(endpoint, kind, name, digest).await {
                Err(error) if error.is_transient() && retries < self.limits.retries => {
                    tracing::debug!(url = endpoint.base, ?error, "asking again");
                    self.pause(retries, &error).await;
                    retries += 1;
                }
                result => return result,
            }
        }
    }

    async fn document_once(
        &self,
        endpoint: &Endpoint,
        kind: &str,
        name: &str,
        digest: Option<&Digest>,
    ) -> Result<Fetched, RegistryError> {
        let url = format!("{}/{kind}/{name}", endpoint.base);
        let response = self.get(endpoint, &url, |request| request.header(ACCEPT, manifest::ACCEPT)).await?;
        if response.status() != StatusCode::OK {
            return Err(RegistryError::status(&url, &response));
        }
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (content_type, told) = (header(CONTENT_TYPE.as_str()), header(CONTENT_DIGEST));
        let bytes = limited_body(response, MAX_DOCUMENT_BYTES).await?;
        let found = Digest::of(&bytes);
        // What the registry says itself holds for a tag, which nothing else vouches for; another algorithm cannot be
        // compared.
        let told = told.and_then(|text| text.parse::<Digest>().ok());
        for expected in digest.into_iter().chain(&told) {
            if *expected != found {
                return Err(RegistryError::DigestMismatch {
                    what: url,
                    expected: expected.to_string(),
                    found: found.to_string(),
                });
            }
        }
        Ok(Fetched { bytes, digest: found, content_type })
    }

    /// GET with authorization; a 401 is answered once, a fresh token being all that can be offered.
    async fn get(
        &self,
        endpoint: &Endpoint,
        url: &str,
        prepare: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let mut challenged = false;
        loop {
            let (header, generation) = endpoint.auth.header().await;
            let mut request = prepare(endpoint.client.get(url));
            if let Some(header) = header {
                request = request.header(AUTHORIZATION, header);
            }
            let response = request.send().await.map_err(RegistryError::Network)?;
            match response.status() {
                StatusCode::UNAUTHORIZED if !challenged => {
                    challenged = true;
                    let challenges = auth::challenges(&response);
                    let key = (endpoint.secure, generation);
                    if !endpoint.auth.renew(&endpoint.client, &challenges, &self.scope, key).await? {
                        return Err(RegistryError::Unauthorized(url.to_owned()));
                    }
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(RegistryError::Unauthorized(url.to_owned()));
                }
                StatusCode::NOT_FOUND | StatusCode::GONE => return Err(RegistryError::NotFound(url.to_owned())),
                _ => return Ok(response),
            }
        }
    }

    /// Waits before the next try, as long as the registry asks for where that is not too long.
    async fn pause(&self, retries: u32, error: &RegistryError) {
        let backoff = self.limits.backoff * 2_u32.saturating_pow(retries.min(6));
        let asked = match error {
            RegistryError::Status { retry_after, .. } => retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        tokio::time::sleep(backoff.max(asked.min(self.limits.longest_wait))).await;
    }
}

/// A GET that continues a blob from `offset`.
fn from_offset(request: RequestBuilder, offset: u64) -> RequestBuilder {
    if offset == 0 { request } else { request.header(RANGE, format!("bytes={offset}-")) }
}

/// The body of an answer, if it is no larger than `limit`.
async fn limited_body(mut response: Response, limit: u64) -> Result<Bytes, RegistryError> {
    let url = response.url().to_string();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(RegistryError::Network)? {
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(RegistryError::TooLarge { url, limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_loopback() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "128.0.0.1", "[fe80::1]:5000", "docker.io", "", "127.0.0.1.example:80"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
