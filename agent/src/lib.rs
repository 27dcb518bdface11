//! The host agent: runs ECS tasks on this host and serves gRPC on a Unix socket. The binary `neargated` only
//! wires these parts together.
//!
//! | file | owns |
//! |---|---|
//! | `config` | the typed configuration: TOML file and `ECS_*` environment |
//! | `logs` | reading what containers wrote |
#![forbid(unsafe_code)]

pub mod config;
pub mod logs;
