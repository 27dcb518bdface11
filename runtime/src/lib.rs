//! The OCI runtime of Neargate: from a bundle on disk to a limited, isolated process, and to the record of its exit.
//!
//! Read `container` first, then `container::create` (parent side) and `init` (child side): together they are the whole
//! way from a bundle to execve. Synchronous; whoever clones here is single-threaded. All `unsafe` is in [`sys`].
//! Owns no images, no networks and no ECS words: those belong to `rootfs` and `agent`, which meet it in the bundle.
#![deny(unsafe_code)]

pub mod bundle;
pub mod capabilities;
pub mod cgroup;
pub mod cli;
pub mod container;
pub mod devices;
pub mod hooks;
pub mod init;
pub mod monitor;
pub mod mounts;
pub mod namespaces;
pub mod own_binary;
pub mod process;
pub mod seccomp;
pub mod sys;
