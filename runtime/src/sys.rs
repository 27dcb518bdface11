//! Thin safe wrappers over system calls that `nix` does not offer: one small file per family, named after the call.
//! The only place of the workspace with `unsafe`. Policy (what to call, in which order) belongs to the callers.
#![allow(unsafe_code)]

pub mod bpf;
pub mod clone3;
pub mod close_range;
pub mod credentials;
pub mod fork;
pub mod keyctl;
pub mod loop_device;
pub mod loopback;
pub mod memory;
pub mod mount_api;
pub mod pidfd;
pub mod prlimit;
pub mod scheduler;
pub mod seccomp;
pub mod signals;
pub mod terminal;
pub mod title;
pub mod unix_socket;
pub mod uts;
