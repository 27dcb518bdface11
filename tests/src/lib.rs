//! The harness of the system tests: agents below temporary roots, a real registry, images made from Debian's busybox,
//! and a comparison of what the kernel holds before and after. Tests are in the rooms `agent`, `runtime`, `leaks` and
//! `manifests`; nothing here is linked into Neargate itself.
//!
//! What is missing (root, a binary, a Debian package) fails a test with the words that say what to install or build.

#![forbid(unsafe_code)]

pub mod binaries;
pub mod eventually;
pub mod leaks;

pub use eventually::eventually;
pub use leaks::Snapshot;
