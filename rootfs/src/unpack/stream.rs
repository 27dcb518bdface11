//! What flows into the unpacker: compressed chunks from a channel, digested, inflated, digested again. Memory is bounded
//! by the channel's depth and the decoder's window; nothing is written to a file.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::Receiver;

use crate::digest::Digest;
use crate::unpack::budget::Budget;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A skippable zstd frame, as seekable variants begin with (RFC 8878, 3.1.2): 0x184D2A5? little endian.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
/// Largest window of a zstd frame: 128 MiB, what the zstd tool takes without being asked for more.
const ZSTD_WINDOW_LOG: u32 = 27;
const BUFFER: usize = 128 << 10;

/// The compressed blob as it arrives, counted and digested.
pub(crate) struct Compressed {
    chunks: Receiver<Bytes>,
    chunk: Bytes,
    hasher: Sha256,
    received: u64,
}

impl Compressed {
    pub(crate) fn new(chunks: Receiver<Bytes>) -> Self {
        Self { chunks, chunk: Bytes::new(), hasher: Sha256::new(), received: 0 }
    }

    /// Digest and size of what came so far; the sender sees the channel close.
    pub(crate) fn so_far(self) -> (Digest, u64) {
        (Digest::from_hasher(self.hasher), self.received)
    }

    /// Takes whatever is left, so that the digest covers the whole blob, and answers digest and size.
    pub(crate) fn finish(mut self) -> (Digest, u64) {
        while let Some(chunk) = self.chunks.blocking_recv() {
            self.hasher.update(&chunk);
            self.received += chunk.len() as u64;
        }
        (Digest::from_hasher(self.hasher), self.received)
    }
}

impl BufRead for Compressed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty() {
            let Some(chunk) = self.chunks.blocking_recv() else { break };
            // Hashed on arrival: what the decoder leaves unread is part of the blob as well.
            self.hasher.update(&chunk);
            self.received += chunk.len() as u64;
            self.chunk = chunk;
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, amount: usize) {
        drop(self.chunk.split_to(amount));
    }
}

impl Read for Compressed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let amount = self.fill_buf()?.read(out)?;
        self.consume(amount);
        Ok(amount)
    }
}

/// The first bytes of a blob, given back before the rest of it.
struct Rewound<R> {
    head: io::Cursor<Vec<u8>>,
    rest: R,
}

impl<R: BufRead> BufRead for Rewound<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let position = usize::try_from(self.head.position()).unwrap_or(usize::MAX);
        if position < self.head.get_ref().len() { self.head.fill_buf() } else { self.rest.fill_buf() }
    }

    fn consume(&mut self, amount: usize) {
        let position = usize::try_from(self.head.position()).unwrap_or(usize::MAX);
        if position < self.head.get_ref().len() { self.head.consume(amount) } else { self.rest.consume(amount) }
    }
}

impl<R: BufRead> Read for Rewound<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let amount = self.fill_buf()?.read(out)?;
        self.consume(amount);
        Ok(amount)
    }
}

/// A compression that layers and archives have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Zstd,
}

/// How what begins with these four bytes is compressed: media types are often wrong about it, the magic numbers never.
pub(crate) fn compression(head: &[u8]) -> Option<Compression> {
    if head.starts_with(&GZIP_MAGIC) {
        Some(Compression::Gzip)
    } else {
        (head == ZSTD_MAGIC || head.ends_with(&ZSTD_SKIPPABLE)).then_some(Compression::Zstd)
    }
}

/// Inflates by the first bytes.
pub(crate) fn inflate<'a>(mut blob: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = Vec::with_capacity(ZSTD_MAGIC.len());
    blob.by_ref().take(ZSTD_MAGIC.len() as u64).read_to_end(&mut head)?;
    let compression = compression(&head);
    let whole = Rewound { head: io::Cursor::new(head), rest: blob };
    match compression {
        Some(Compression::Gzip) => Ok(Box::new(MultiGzDecoder::new(whole))),
        Some(Compression::Zstd) => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Ok(Box::new(decoder))
        }
        None => Ok(Box::new(whole)),
    }
}

/// The uncompressed tar stream, digested for the diff id and paid for.
pub(crate) struct Plain<'a, R> {
    inner: BufReader<R>,
    hasher: Sha256,
    read: u64,
    budget: &'a Budget,
    /// A directory of the file system that what is read goes to.
    directory: Rc<OwnedFd>,
}

impl<'a, R: Read> Plain<'a, R> {
    pub(crate) fn new(inner: R, budget: &'a Budget, directory: Rc<OwnedFd>) -> Self {
        let inner = BufReader::with_capacity(BUFFER, inner);
        Self { inner, hasher: Sha256::new(), read: 0, budget, directory }
    }

    /// Reads what follows the tar's end (padding, as a rule) into the digest and answers it.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        let mut rest = vec![0; BUFFER];
        while self.read(&mut rest)? > 0 {}
        Ok(Digest::from_hasher(self.hasher))
    }
}

impl<R: Read> Read for Plain<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let amount = self.inner.read(out)?;
        let before = self.read;
        self.read += amount as u64;
        self.budget.bytes(amount as u64).map_err(io::Error::other)?;
        self.budget.disk(&*self.directory, before, self.read).map_err(io::Error::other)?;
        self.hasher.update(&out[..amount]);
        Ok(amount)
    }
}
