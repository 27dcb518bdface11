//! Images from an OCI image layout on this host: OCI image-spec, image-layout.md. Read only; the directory is the
//! operator's, its content a stranger's.

use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use nix::fcntl::OFlag;
use oci_spec::image::{Descriptor, ImageIndex};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, BufReader};

use crate::digest::Digest;
use crate::manifest::{Blob, MAX_DOCUMENT_BYTES, ManifestError};
use crate::platform::Platform;
use crate::registry::{Fetched, Sink};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CHUNK: usize = 128 << 10;

/// Why a layout does not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file of it is missing.
    #[error("{} does not exist", .0.display())]
    NotFound(PathBuf),
    /// It has no image of that name.
    #[error("{} has no image {tag:?}", directory.display())]
    NoSuchTag {
        /// The layout.
        directory: PathBuf,
        /// The name asked for.
        tag: String,
    },
    /// A file of it cannot be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// A directory, a pipe or a device where a file should be.
    #[error("{} is no regular file", .0.display())]
    NotAFile(PathBuf),
    /// A document of it is too large.
    #[error("{} is larger than {MAX_DOCUMENT_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    /// Its index is unusable.
    #[error("{} is unusable", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// A blob does not have the digest or the size it is named by.
    #[error("{} should be {expected} but is {found}", path.display())]
    DigestMismatch {
        /// The blob.
        path: PathBuf,
        /// The digest or size named.
        expected: String,
        /// The digest or size found.
        found: String,
    },
    /// The only image in it is for another platform.
    #[error("{} has no image for {wanted}, only for {}", directory.display(), offered.join(", "))]
    Platform {
        /// The layout.
        directory: PathBuf,
        /// This host.
        wanted: String,
        /// What there is.
        offered: Vec<String>,
    },
}

/// A layout directory.
pub(crate) struct Layout {
    directory: PathBuf,
}

impl Layout {
    pub(crate) fn open(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.hex())
    }

    /// The manifest or index that the tag names; without a tag the only one there is, or `latest` among several.
    pub(crate) async fn resolve(&self, tag: Option<&str>, platform: &Platform) -> Result<Fetched, LayoutError> {
        let path = self.directory.join("index.json");
        let bytes = read_document(&path).await?;
        let index_error = |source| LayoutError::Index { path: path.clone(), source };
        let index: ImageIndex = serde_json::from_slice(&bytes)
            .map_err(|source| index_error(ManifestError::malformed("layout index", source)))?;
        let named = |tag: &str| -> Vec<Descriptor> {
            let name = |d: &Descriptor| d.annotations().as_ref().and_then(|a| a.get(REF_NAME).cloned());
            index.manifests().iter().filter(|d| name(d).as_deref() == Some(tag)).cloned().collect()
        };
        let candidates = match tag {
            Some(tag) => named(tag),
            None if index.manifests().len() > 1 && !named("latest").is_empty() => named("latest"),
            None => index.manifests().clone(),
        };
        let mut narrowed = index.clone();
        narrowed.set_manifests(candidates);
        if narrowed.manifests().is_empty() {
            let tag = tag.unwrap_or("latest").to_owned();
            return Err(LayoutError::NoSuchTag { directory: self.directory.clone(), tag });
        }
        let chosen = platform.choose(&narrowed).ok_or_else(|| LayoutError::Platform {
            directory: self.directory.clone(),
            wanted: platform.to_string(),
            offered: Platform::offered(&narrowed),
        })?;
        let blob = Blob::document(chosen).map_err(index_error)?;
        let mut fetched = self.manifest(&blob.digest).await?;
        fetched.content_type = Some(chosen.media_type().to_string());
        Ok(fetched)
    }

    /// The manifest or index with that digest.
    pub(crate) async fn manifest(&self, digest: &Digest) -> Result<Fetched, LayoutError> {
        let path = self.blob_path(digest);
        let bytes = read_document(&path).await?;
        let found = Digest::of(&bytes);
        if found != *digest {
            let (expected, found) = (digest.to_string(), found.to_string());
            return Err(LayoutError::DigestMismatch { path, expected, found });
        }
        Ok(Fetched { bytes, digest: found, content_type: None })
    }

    /// A blob small enough for memory: the image configuration.
    pub(crate) async fn small_blob(&self, blob: &Blob) -> Result<Bytes, LayoutError> {
        self.manifest(&blob.digest).await.map(|fetched| fetched.bytes)
    }

    /// Sends the blob into the sink.
    pub(crate) async fn blob(&self, blob: &Blob, sink: &mut Sink<'_>) -> Result<(), LayoutError> {
        let path = self.blob_path(&blob.digest);
        let file = open(&path).await?;
        // One byte beyond the size tells that there is more.
        let mut file = BufReader::with_capacity(CHUNK, file.take(blob.size.saturating_add(1)));
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK);
            let amount = file.read_buf(&mut chunk).await.map_err(|e| LayoutError::Read(path.clone(), e))?;
            if amount == 0 {
                break;
            }
            if sink.send(chunk.freeze()).await.is_err() {
                return Ok(());
            }
        }
        if sink.received() == blob.size {
            return Ok(());
        }
        let found =
            if sink.received() > blob.size { "larger".to_owned() } else { format!("{} bytes", sink.received()) };
        Err(LayoutError::DigestMismatch { path, expected: format!("{} bytes", blob.size), found })
    }
}

async fn open(path: &Path) -> Result<File, LayoutError> {
    let (opened, failed) = (path.to_owned(), |e| LayoutError::Read(path.to_owned(), e));
    let opening = tokio::task::spawn_blocking(move || open_blocking(&opened));
    opening.await.unwrap_or_else(|interrupted| Err(failed(io::Error::other(interrupted)))).map(File::from_std)
}

fn open_blocking(path: &Path) -> Result<std::fs::File, LayoutError> {
    let failed = |e| LayoutError::Read(path.to_owned(), e);
    // A pipe that nobody writes to would be waited for.
    let nonblocking = OFlag::O_NONBLOCK.bits();
    match std::fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path) {
        Ok(file) if file.metadata().map_err(failed)?.is_file() => Ok(file),
        Ok(_) => Err(LayoutError::NotAFile(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(LayoutError::NotFound(path.to_owned())),
        Err(e) => Err(failed(e)),
    }
}

/// In one step on a blocking thread: each of them costs a start of a task more than the reading itself.
async fn read_document(path: &Path) -> Result<Bytes, LayoutError> {
    let (read, failed) = (path.to_owned(), |e| LayoutError::Read(path.to_owned(), e));
    let reading = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        let mut file = open_blocking(&read)?.take(MAX_DOCUMENT_BYTES + 1);
        file.read_to_end(&mut bytes).map_err(|e| LayoutError::Read(read.clone(), e))?;
        if bytes.len() as u64 > MAX_DOCUMENT_BYTES { Err(LayoutError::TooLarge(read)) } else { Ok(bytes.into()) }
    });
    reading.await.unwrap_or_else(|interrupted| Err(failed(io::Error::other(interrupted))))
}
