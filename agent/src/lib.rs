//! The host agent: runs ECS tasks on this host and serves gRPC on a Unix socket. The binary `neargated` only
//! wires these parts together.
//!
//! | file | owns |
//! |---|---|
//! | `api` | the gRPC front door: socket, callers, services |
//! | `config` | the typed configuration: TOML file and `ECS_*` environment |
//! | `identity` | instance id, task ids, ARNs |
//! | `engine` | accepts, finds and stops tasks; restores them after a restart |
//! | `capacity` | who holds what of the host, who waits for it |
//! | `store` | what survives the agent |
//! | `task` | one task: its record, its states, its driver, its bundles |
//! | `sandbox` | the isolation around a task's containers |
//! | `events` | what happened, in order, for whoever watches |
//! | `pulls` | pulls, counted and told |
//! | `metrics` | figures for Prometheus |
//! | `timing` | what a task's start takes, phase by phase |
//! | `diagnostics` | the agent's own log lines |
//! | `trace` | the engine's steps, for tests |
//! | `logs` | reading what containers wrote |
#![forbid(unsafe_code)]

pub mod api;
pub mod capacity;
pub mod config;
pub mod diagnostics;
pub mod engine;
mod events;
pub mod identity;
pub mod logs;
pub mod metrics;
mod pulls;
pub mod sandbox;
pub mod store;
pub mod task;
pub mod timing;
pub mod trace;
