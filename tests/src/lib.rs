//! The harness of the system tests: agents below temporary roots, a real registry, images made from Debian's busybox,
//! and a comparison of what the kernel holds before and after. Tests are in the rooms `agent`, `runtime`, `leaks` and
//! `manifests`; nothing here is linked into Neargate itself.
//!
//! What is missing (root, a binary, a Debian package) fails a test with the words that say what to install or build.

#![forbid(unsafe_code)]

pub mod binaries;
pub mod cli;
pub mod client;
pub mod definition;
pub mod eventually;
pub mod exec;
pub mod host;
pub mod images;
pub mod leaks;
pub mod random;
pub mod registry;
pub mod wire;

pub use eventually::eventually;
pub use host::TestHost;
pub use leaks::Snapshot;
pub use registry::TestRegistry;
