//! Images: from a registry, an OCI layout or a docker archive to layer directories that an overlay can mount.
//!
//! The crate pulls, verifies, unpacks, leases and collects. It mounts nothing and knows nothing of containers: what it
//! hands out ([`Images::layers`]) is a list of directories. [`Images`] is the door; start reading there.
//!
//! # On disk
//! ```text
//! DIR/
//!   lock                   flock of the one process that owns the directory
//!   layers/<diff hex>/     an unpacked layer, named by the SHA-256 of its uncompressed tar; whiteouts are character
//!                          devices 0/0, opaque directories carry {trusted,user}.overlay.opaque=y
//!   layer-records/<hex>    size and number of entries of that layer (written before the layer becomes visible)
//!   content/<hex>          manifests and image configurations, verbatim, named by their SHA-256
//!   images/<id hex>        one record per image: which manifest, which layers (made after all of them); its
//!                          modification time says when the image was last used
//!   names/<hex of name>    reference -> image id; moving a tag replaces this file; its modification time says when the
//!                          reference was last pulled
//!   leases/<owner>.<id>    a link whose target is the owner; with the names these are the only roots (lease.rs)
//!   ingest/                half-made layers and files, and what is being deleted; emptied at every start
//! ```
//!
//! # What a crash leaves
//! Everything is made below `ingest/`, verified, synced and renamed into place; the directory that received it is synced
//! too. A layer is visible only when both its digests held and its data is on disk, an image only after all its layers.
//! Removal goes the other way round (name, record, layers), so a kill leaves the old or the new state and at worst
//! layers that nobody names, which [`Images::collect_garbage`] finds.
#![forbid(unsafe_code)]

mod archive;
mod content;
mod digest;
mod excerpt;
mod gc;
mod images;
mod layout;
mod lease;
mod manifest;
mod platform;
mod reference;
mod registry;
mod snapshot;
mod unpack;

pub use archive::ArchiveError;
pub use content::StoreError;
pub use digest::{Digest, DigestError};
pub use gc::Collected;
pub use images::{
    Cleanup, Config, Image, ImageId, ImageSummary, Images, Limits, OpenError, Progress, ProgressStatus, PullError,
    RegistryConfig, RemoveError, Removed, SourceError,
};
pub use layout::LayoutError;
pub use manifest::ManifestError;
pub use platform::Platform;
pub use reference::{Reference, ReferenceError};
pub use registry::RegistryError;
pub use unpack::{EntryError, LimitError, TarError, UnpackError};
