//! Real agents, real images, real containers: what Neargate promises of tasks, seen through gRPC and from inside.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a panic is the report")]

mod api;
mod attach;
mod cli;
mod echo;
mod endings;
mod events;
mod exec;
mod faults;
mod fields;
mod health;
mod kill9;
mod leftovers;
mod logs;
mod metrics;
mod modes;
mod overrides;
mod pulls;
mod pulls_shared;
mod requests;
mod run;
mod sessions;
mod stats;
mod stop;
mod storage;
mod tags;
mod texts;
mod timing;
