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

use bytes::Bytes;
use nix::fcntl::OFlag;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::digest::Digest;
use crate::manifest::{self, Blob, MAX_DOCUMENT_BYTES, ManifestError};
use crate::reference::Reference;
use crate::registry::{Fetched, Sink};
use crate::unpack::{Kind, Tar, TarError, compression, inflate};

const MANIFEST: &[u8] = b"manifest.json";
const CHUNK: usize = 128 << 10;
/// Chunks that were read and not taken yet.
const CHANNEL_DEPTH: usize = 4;
/// Members of the whole tar; docker writes four for each layer.
const MAX_MEMBERS: usize = 65_536;
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
    found: tokio::sync::OnceCell<Found>,
}

impl Archive {
    pub(crate) fn open(file: &Path) -> Self {
        Self { file: file.to_owned(), found: tokio::sync::OnceCell::new() }
    }

    /// The manifest of the image with that name; without a name the only one there is, or `latest` among several.
    pub(crate) async fn resolve(&self, name: Option<&str>) -> Result<Fetched, ArchiveError> {
        let (reader, name) = (Reader(self.file.clone()), name.map(str::to_owned));
        let (manifest, found) = self.blocking(move || reader.image(name.as_deref())).await??;
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
        let extent = extent.ok_or_else(|| Reader(self.file.clone()).missing(layer.digest.to_string().as_bytes()))?;
        let (send, mut receive) = mpsc::channel(CHANNEL_DEPTH);
        let reader = Reader(self.file.clone());
        let reading = self.blocking(move || reader.send(extent, &send));
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

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ArchiveError> {
        let interrupted = |source| ArchiveError::Interrupted(self.file.clone(), source);
        tokio::task::spawn_blocking(work).await.map_err(interrupted)
    }
}

/// The blocking side.
struct Reader(PathBuf);

impl Reader {
    /// Finds an image: its manifest, made here, and what lies where.
    fn image(&self, name: Option<&str>) -> Result<(Bytes, Found), ArchiveError> {
        let members = self.members()?;
        let document = |source| ArchiveError::Document { file: self.0.clone(), source };
        let bytes = self.document(&members, MANIFEST)?;
        let entries: Vec<Entry> = serde_json::from_slice(&bytes)
            .map_err(|source| document(ManifestError::Malformed { what: "manifest.json", source }))?;
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
                let offered = entries.iter().flat_map(tags).collect();
                Err(ArchiveError::NoSuchName { file: self.0.clone(), name: wanted.to_owned(), offered })
            }
        }
    }

    /// `<hex>.json` or `blobs/sha256/<hex>`: a name that is a digest has to be the right one.
    fn check_name(&self, member: &str, config: &[u8]) -> Result<(), ArchiveError> {
        let base = member.rsplit('/').next().unwrap_or_default();
        let hex = base.strip_suffix(".json").unwrap_or(base);
        let found = Digest::of(config);
        match format!("sha256:{hex}").parse::<Digest>() {
            Ok(expected) if expected != found => {
                Err(ArchiveError::DigestMismatch { file: self.0.clone(), member: member.to_owned(), expected, found })
            }
            _ => Ok(()),
        }
    }

    /// All members by their plain names; of several with one name the last counts, as where they are extracted.
    fn members(&self) -> Result<HashMap<Vec<u8>, Member>, ArchiveError> {
        let mut tar = Tar::new(self.uncompressed()?);
        let mut members = HashMap::new();
        while let Some(member) = tar.next().map_err(|e| self.damaged(e))? {
            if members.len() == MAX_MEMBERS {
                return Err(ArchiveError::TooManyMembers(self.0.clone()));
            }
            let what = match member.kind {
                Kind::File(bytes) => Member::File(Extent { offset: tar.position(), bytes }),
                Kind::Symlink(target) => Member::Link(beside(&member.path, &target)),
                Kind::Hardlink(target) => Member::Link(plain(&target)),
                _ => Member::Other,
            };
            members.insert(plain(&member.path), what);
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
        Err(self.missing(name))
    }

    fn document(&self, members: &HashMap<Vec<u8>, Member>, name: &[u8]) -> Result<Bytes, ArchiveError> {
        let extent = self.extent(members, name)?;
        if extent.bytes > MAX_DOCUMENT_BYTES {
            let member = String::from_utf8_lossy(name).into_owned();
            return Err(ArchiveError::TooLarge { file: self.0.clone(), member });
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
            let step = if reader.is_seekable() { left } else { left.min(8 << 20) };
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
        let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&self.0);
        let mut file = opened.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => ArchiveError::NotFound(self.0.clone()),
            _ => self.unreadable(e),
        })?;
        if !file.metadata().map_err(|e| self.unreadable(e))?.is_file() {
            return Err(ArchiveError::NotAFile(self.0.clone()));
        }
        let mut head = Vec::new();
        let compressed = (&mut file)
            .take(4)
            .read_to_end(&mut head)
            .and_then(|_| file.seek(SeekFrom::Start(0)))
            .map(|_| compression(&head).is_some())
            .map_err(|e| self.unreadable(e))?;
        let buffered = BufReader::with_capacity(CHUNK, file);
        if compressed {
            return inflate(buffered).map(Uncompressed::Stream).map_err(|e| self.unreadable(e));
        }
        Ok(Uncompressed::File(buffered))
    }

    fn unreadable(&self, error: io::Error) -> ArchiveError {
        ArchiveError::Read(self.0.clone(), error)
    }

    fn damaged(&self, error: TarError) -> ArchiveError {
        ArchiveError::Tar(self.0.clone(), error)
    }

    fn missing(&self, member: &[u8]) -> ArchiveError {
        ArchiveError::Member { file: self.0.clone(), member: String::from_utf8_lossy(member).into_owned() }
    }
}

/// The tar itself.
enum Uncompressed {
    File(BufReader<File>),
    Stream(Box<dyn Read>),
}

impl Uncompressed {
    fn is_seekable(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Goes on behind the next `bytes`. Answers how many there were; behind the end of a file there may be any number.
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        match self {
            Self::File(file) => {
                let step = i64::try_from(bytes).map_err(|_| io::ErrorKind::UnexpectedEof)?;
                file.seek_relative(step).map(|()| bytes)
            }
            Self::Stream(stream) => io::copy(&mut stream.take(bytes), &mut io::sink()),
        }
    }
}

impl Read for Uncompressed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(out),
            Self::Stream(stream) => stream.read(out),
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
