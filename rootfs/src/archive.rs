//! Images from a tar as `docker save` writes it, in its old form (a directory per layer) and its new one (an OCI layout
//! with docker's `manifest.json` in it), whole or compressed with gzip or zstd: what `docker load` takes. Nothing is
//! extracted. A plain tar is read where its members lie; a compressed one is read anew, up to the member, for each
//! layer. The file is the operator's, its content a stranger's.
//!
//! Such a tar has no manifest with digests. One is made here from the configuration, which names its layers by the
//! digests of their tars and so vouches for them all; it is the same for the same image.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use nix::fcntl::OFlag;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::digest::Digest;
use crate::excerpt;
use crate::images::Limits;
use crate::manifest::{self, Blob, MAX_DOCUMENT_BYTES, ManifestError};
use crate::reference::Reference;
use crate::registry::{Fetched, Sink};
use crate::unpack::{Kind, LimitError, Tar, TarError, compression, inflate};

const MANIFEST: &[u8] = b"manifest.json";
const CHUNK: usize = 128 << 10;
/// Bytes that are inflated and left out between two looks at whether the layer is still waited for.
const STEP: u64 = 8 << 20;
/// Chunks that were read and not taken yet.
const CHANNEL_DEPTH: usize = 4;
/// Members of the whole tar; docker writes four for each layer.
const MAX_MEMBERS: usize = 65_536;
/// Names and link targets of all members, in bytes: as many members with long digests in their names have less.
const MAX_NAME_BYTES: usize = 16 << 20;
/// Links from one member to the next: docker writes one for a layer that several images share.
const MAX_LINKS: usize = 8;

/// Why an archive does not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// There is no such file.
    #[error("{} does not exist", .0.display())]
    NotFound(PathBuf),
    /// It cannot be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// A directory, a pipe or a device where a file should be.
    #[error("{} is no regular file", .0.display())]
    NotAFile(PathBuf),
    /// It is no tar, or a damaged one.
    #[error("{} is not a tar, plain or compressed with gzip or zstd", .0.display())]
    Tar(PathBuf, #[source] TarError),
    /// It has more members than any image.
    #[error("{} has more than {MAX_MEMBERS} members", .0.display())]
    TooManyMembers(PathBuf),
    /// Its members have longer names than those of any image.
    #[error("{} has members with more than {MAX_NAME_BYTES} bytes of names", .0.display())]
    Names(PathBuf),
    /// It inflates to more than an image may.
    #[error("{} is refused", .0.display())]
    Limit(PathBuf, #[source] LimitError),
    /// A member is missing, or is no file.
    #[error("{} has no file {member:?}; was it written by docker save?", file.display())]
    Member {
        /// The archive.
        file: PathBuf,
        /// The member.
        member: String,
    },
    /// A document in it is too large.
    #[error("{member:?} in {} is larger than {MAX_DOCUMENT_BYTES} bytes", file.display())]
    TooLarge {
        /// The archive.
        file: PathBuf,
        /// The document.
        member: String,
    },
    /// Its manifest or a configuration is unusable.
    #[error("{} is unusable", file.display())]
    Document {
        /// The archive.
        file: PathBuf,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// It has no image of that name, or several and none was named.
    #[error("{} has no image {name:?}, only {}", file.display(), offered.join(", "))]
    NoSuchName {
        /// The archive.
        file: PathBuf,
        /// The name asked for.
        name: String,
        /// The names there are.
        offered: Vec<String>,
    },
    /// A configuration does not have the digest that it is named by.
    #[error("{member:?} in {} should be {expected} but is {found}", file.display())]
    DigestMismatch {
        /// The archive.
        file: PathBuf,
        /// The configuration.
        member: String,
        /// The digest named.
        expected: Digest,
        /// The digest found.
        found: Digest,
    },
    /// The reader panicked, or the runtime shut down.
    #[error("reading {} was interrupted", .0.display())]
    Interrupted(PathBuf, #[source] tokio::task::JoinError),
}

/// An entry of docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// A member that is a file: where it lies in the uncompressed tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    offset: u64,
    bytes: u64,
}

#[derive(Debug)]
enum Member {
    File(Extent),
    /// To another member, by its plain name.
    Link(Vec<u8>),
    Other,
}

/// What is known of one image in it.
#[derive(Debug)]
struct Found {
    config: Bytes,
    /// By diff id.
    layers: HashMap<Digest, Extent>,
}

/// An archive.
#[derive(Debug)]
pub(crate) struct Archive {
    file: PathBuf,
    max_bytes: u64,
    found: tokio::sync::OnceCell<Found>,
}

impl Archive {
    pub(crate) fn open(file: &Path, limits: &Limits) -> Self {
        Self { file: file.to_owned(), max_bytes: limits.max_image_bytes, found: tokio::sync::OnceCell::new() }
    }

    /// The manifest of the image with that name; without a name the only one there is, or `latest` among several.
    pub(crate) async fn resolve(&self, name: Option<&str>) -> Result<Fetched, ArchiveError> {
        let name = name.map(str::to_owned);
        let (manifest, found) = self.blocking(move |reader| reader.image(name.as_deref())).await??;
        // One archive is asked for one image.
        let _already = self.found.set(found);
        let digest = Digest::of(&manifest);
        Ok(Fetched { bytes: manifest, digest, content_type: None })
    }

    /// The configuration of the image that was resolved.
    pub(crate) fn config(&self) -> Bytes {
        self.found.get().map(|found| found.config.clone()).unwrap_or_default()
    }

    /// Sends the layer into the sink; its blob is named by its diff id here.
    pub(crate) async fn layer(&self, layer: &Blob, sink: &mut Sink<'_>) -> Result<(), ArchiveError> {
        let extent = self.found.get().and_then(|found| found.layers.get(&layer.digest).copied());
        let extent = extent.ok_or_else(|| missing(&self.file, layer.digest.to_string().as_bytes()))?;
        let (send, mut receive) = mpsc::channel(CHANNEL_DEPTH);
        let reading = self.blocking(move |reader| reader.send(extent, &send));
        let passing = async {
            while let Some(chunk) = receive.recv().await {
                if sink.send(chunk).await.is_err() {
                    break;
                }
            }
            // The reader sees that nobody takes any more.
            receive.close();
        };
        tokio::join!(reading, passing).0?
    }

    /// Gives the work a reader that ends when whoever waits for it has gone.
    async fn blocking<T, W>(&self, work: W) -> Result<T, ArchiveError>
    where
        T: Send + 'static,
        W: FnOnce(Reader) -> T + Send + 'static,
    {
        let asking = Arc::new(());
        let reader = Reader { file: self.file.clone(), max_bytes: self.max_bytes, asked: Arc::downgrade(&asking) };
        let interrupted = |source| ArchiveError::Interrupted(self.file.clone(), source);
        tokio::task::spawn_blocking(move || work(reader)).await.map_err(interrupted)
    }
}

/// The blocking side.
struct Reader {
    file: PathBuf,
    max_bytes: u64,
    asked: Weak<()>,
}

impl Reader {
    /// Finds an image: its manifest, made here, and what lies where.
    fn image(&self, name: Option<&str>) -> Result<(Bytes, Found), ArchiveError> {
        let members = self.members()?;
        let document = |source| ArchiveError::Document { file: self.file.clone(), source };
        let bytes = self.document(&members, MANIFEST)?;
        let entries: Vec<Entry> = serde_json::from_slice(&bytes)
            .map_err(|source| document(ManifestError::malformed("manifest.json", source)))?;
        let entry = self.choose(entries, name)?;
        let config = self.document(&members, entry.config.as_bytes())?;
        self.check_name(&entry.config, &config)?;
        let parsed = manifest::parse_config(&config).map_err(document)?;
        let diff_ids = parsed.rootfs().diff_ids();
        if entry.layers.len() != diff_ids.len() {
            let (layers, diff_ids) = (entry.layers.len(), diff_ids.len());
            return Err(document(ManifestError::LayerCount { layers, diff_ids }));
        }
        let mut layers = HashMap::new();
        let mut descriptors = Vec::new();
        for (member, diff_id) in entry.layers.iter().zip(diff_ids) {
            let diff_id: Digest = diff_id.to_string().parse().map_err(|e| document(ManifestError::Digest(e)))?;
            let extent = self.extent(&members, member.as_bytes())?;
            descriptors.push(serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": diff_id, "size": extent.bytes,
            }));
            layers.insert(diff_id, extent);
        }
        let made = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(&config), "size": config.len(),
            },
            "layers": descriptors,
        });
        Ok((made.to_string().into(), Found { config, layers }))
    }

    fn choose(&self, mut entries: Vec<Entry>, name: Option<&str>) -> Result<Entry, ArchiveError> {
        if name.is_none() && entries.len() == 1 {
            return Ok(entries.remove(0));
        }
        let wanted = name.unwrap_or("latest");
        let tags = |entry: &Entry| entry.repo_tags.clone().unwrap_or_default();
        // By the whole name, which docker writes short and skopeo in full, then by the tag alone.
        let full = wanted.parse::<Reference>().ok();
        let whole = |tag: &str| full.is_some() && tag.parse().ok() == full;
        let tag_alone = |tag: &str| tag.rsplit_once(':').is_some_and(|(_, tag)| tag == wanted);
        let position = |fits: &dyn Fn(&str) -> bool| entries.iter().position(|e| tags(e).iter().any(|tag| fits(tag)));
        match position(&whole).or_else(|| position(&tag_alone)) {
            Some(index) => Ok(entries.swap_remove(index)),
            None => {
                let offered = excerpt::list(entries.iter().flat_map(tags));
                Err(ArchiveError::NoSuchName { file: self.file.clone(), name: excerpt::text(wanted), offered })
            }
        }
    }

    /// `<hex>.json` or `blobs/sha256/<hex>`: a name that is a digest has to be the right one.
    fn check_name(&self, member: &str, config: &[u8]) -> Result<(), ArchiveError> {
        let base = member.rsplit('/').next().unwrap_or_default();
        let hex = base.strip_suffix(".json").unwrap_or(base);
        let found = Digest::of(config);
        match format!("sha256:{hex}").parse::<Digest>() {
            Ok(expected) if expected != found => Err(ArchiveError::DigestMismatch {
                file: self.file.clone(),
                member: excerpt::text(member),
                expected,
                found,
            }),
            _ => Ok(()),
        }
    }

    /// All members by their plain names; of several with one name the last counts, as where they are extracted.
    fn members(&self) -> Result<HashMap<Vec<u8>, Member>, ArchiveError> {
        let mut tar = Tar::new(self.uncompressed()?);
        let (mut members, mut name_bytes) = (HashMap::new(), 0);
        while let Some(member) = tar.next().map_err(|e| self.damaged(e))? {
            if members.len() == MAX_MEMBERS {
                return Err(ArchiveError::TooManyMembers(self.file.clone()));
            }
            let what = match member.kind {
                Kind::File(bytes) => Member::File(Extent { offset: tar.position(), bytes }),
                Kind::Symlink(target) => Member::Link(beside(&member.path, &target)),
                Kind::Hardlink(target) => Member::Link(plain(&target)),
                _ => Member::Other,
            };
            let name = plain(&member.path);
            name_bytes += name.len() + if let Member::Link(target) = &what { target.len() } else { 0 };
            if name_bytes > MAX_NAME_BYTES {
                return Err(ArchiveError::Names(self.file.clone()));
            }
            members.insert(name, what);
            tar.skip_data(Uncompressed::skip).map_err(|e| self.damaged(e))?;
        }
        Ok(members)
    }

    fn extent(&self, members: &HashMap<Vec<u8>, Member>, name: &[u8]) -> Result<Extent, ArchiveError> {
        let mut at = plain(name);
        for _ in 0..=MAX_LINKS {
            match members.get(&at) {
                Some(Member::File(extent)) => return Ok(*extent),
                Some(Member::Link(target)) => at.clone_from(target),
                Some(Member::Other) | None => break,
            }
        }
        Err(missing(&self.file, name))
    }

    fn document(&self, members: &HashMap<Vec<u8>, Member>, name: &[u8]) -> Result<Bytes, ArchiveError> {
        let extent = self.extent(members, name)?;
        if extent.bytes > MAX_DOCUMENT_BYTES {
            return Err(ArchiveError::TooLarge { file: self.file.clone(), member: excerpt::text(name) });
        }
        let mut bytes = Vec::new();
        let mut reader = self.uncompressed()?;
        reader.skip(extent.offset).map_err(|e| self.unreadable(e))?;
        reader.take(extent.bytes).read_to_end(&mut bytes).map_err(|e| self.unreadable(e))?;
        if bytes.len() as u64 == extent.bytes { Ok(bytes.into()) } else { Err(self.damaged(TarError::Truncated)) }
    }

    /// Sends a member in chunks, for as long as they are taken.
    fn send(&self, extent: Extent, chunks: &mpsc::Sender<Bytes>) -> Result<(), ArchiveError> {
        let mut reader = self.uncompressed()?;
        // In steps: whoever waits for the layer may go while a large archive is read up to it.
        let mut left = extent.offset;
        while left > 0 && !chunks.is_closed() {
            let step = if reader.is_seekable() { left } else { left.min(STEP) };
            reader.skip(step).map_err(|e| self.unreadable(e))?;
            left -= step;
        }
        let mut left = extent.bytes;
        while left > 0 {
            let mut chunk = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
            match reader.read(&mut chunk) {
                Ok(0) => return Err(self.damaged(TarError::Truncated)),
                Ok(amount) => {
                    chunk.truncate(amount);
                    left -= amount as u64;
                    if chunks.blocking_send(chunk.into()).is_err() {
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.unreadable(e)),
            }
        }
        Ok(())
    }

    fn uncompressed(&self) -> Result<Uncompressed, ArchiveError> {
        // A pipe that nobody writes to would be waited for.
        let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&self.file);
        let mut file = opened.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => ArchiveError::NotFound(self.file.clone()),
            _ => self.unreadable(e),
        })?;
        if !file.metadata().map_err(|e| self.unreadable(e))?.is_file() {
            return Err(ArchiveError::NotAFile(self.file.clone()));
        }
        let mut head = Vec::new();
        let compressed = (&mut file)
            .take(4)
            .read_to_end(&mut head)
            .and_then(|_| file.seek(SeekFrom::Start(0)))
            .map(|_| compression(&head).is_some())
            .map_err(|e| self.unreadable(e))?;
        let buffered = BufReader::with_capacity(CHUNK, file);
        let source = if compressed {
            inflate(buffered).map(Origin::Inflated).map_err(|e| self.unreadable(e))?
        } else {
            Origin::File(buffered)
        };
        Ok(Uncompressed { source, inflated: 0, max_bytes: self.max_bytes, asked: self.asked.clone() })
    }

    /// A limit that was hit inside the stream comes out of it wrapped.
    fn unreadable(&self, error: io::Error) -> ArchiveError {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<LimitError>()) {
            Some(limit) => ArchiveError::Limit(self.file.clone(), *limit),
            None => ArchiveError::Read(self.file.clone(), error),
        }
    }

    fn damaged(&self, error: TarError) -> ArchiveError {
        match error {
            TarError::Read(error) if error.get_ref().is_some_and(|inner| inner.is::<LimitError>()) => {
                self.unreadable(error)
            }
            error => ArchiveError::Tar(self.file.clone(), error),
        }
    }
}

fn missing(file: &Path, member: &[u8]) -> ArchiveError {
    ArchiveError::Member { file: file.to_owned(), member: excerpt::text(member) }
}

/// The tar itself, from its beginning. Reading it costs time even where nothing is kept of it: it ends with the interest
/// in it, and one that is inflated at a limit, which each pass over it has for itself.
struct Uncompressed {
    source: Origin,
    inflated: u64,
    max_bytes: u64,
    asked: Weak<()>,
}

enum Origin {
    File(BufReader<File>),
    Inflated(Box<dyn Read>),
}

impl Uncompressed {
    fn is_seekable(&self) -> bool {
        matches!(self.source, Origin::File(_))
    }

    /// Goes on behind the next `bytes`. Answers how many there were; behind the end of a file there may be any number.
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        match &mut self.source {
            Origin::File(file) => {
                let step = i64::try_from(bytes).map_err(|_| io::ErrorKind::UnexpectedEof)?;
                file.seek_relative(step).map(|()| bytes)
            }
            Origin::Inflated(_) => io::copy(&mut self.take(bytes), &mut io::sink()),
        }
    }
}

impl Read for Uncompressed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.asked.strong_count() == 0 {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        match &mut self.source {
            Origin::File(file) => file.read(out),
            Origin::Inflated(stream) => {
                let amount = stream.read(out)?;
                self.inflated += amount as u64;
                if self.inflated > self.max_bytes {
                    return Err(io::Error::other(LimitError::Bytes(self.max_bytes)));
                }
                Ok(amount)
            }
        }
    }
}

/// A name without leading `./` and `/`, doubled slashes and what `..` takes back.
fn plain(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// The plain name that a link at `path` leads to.
fn beside(path: &[u8], target: &[u8]) -> Vec<u8> {
    let directory = path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |slash| &path[..slash]);
    if target.starts_with(b"/") { plain(target) } else { plain(&[directory, b"/", target].concat()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_members_and_nowhere_else() {
        assert_eq!(beside(b"b/layer.tar", b"../a/layer.tar"), b"a/layer.tar");
        assert_eq!(beside(b"layer.tar", b"../../../etc/passwd"), b"etc/passwd");
        assert_eq!(beside(b"x/y", b"/z//./w"), b"z/w");
        assert_eq!(plain(b"./blobs/sha256/x"), b"blobs/sha256/x");
    }
}
