//! Pulling for real: from Debian's registry, from OCI layouts, and from a server that misbehaves on purpose. Needs root
//! and Debian's packages docker-registry, skopeo and umoci.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic there is the report")]

mod archive;
mod faults;
mod flight;
mod harness;
mod limits;
mod registry;
mod server;
mod store;
mod wire;
