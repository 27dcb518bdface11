//! Real agents, real images, real containers: what Neargate promises of tasks, seen through gRPC and from inside.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a panic is the report")]

mod api;
mod attach;
mod cli;
mod clients;
mod disk_full;
mod echo;
mod endings;
mod events;
mod exec;
mod faults;
mod fields;
mod floods;
mod health;
mod kill9;
mod leftovers;
mod logs;
mod metrics;
mod modes;
mod overrides;
mod processes;
mod pulls;
mod pulls_shared;
mod requests;
mod run;
mod sessions;
mod soak;
mod starting;
mod stats;
mod stop;
mod storage;
mod store;
mod tags;
mod texts;
mod timing;
