//! Wire types of Neargate's gRPC services, generated from `neargate/v1/*.proto`. Owns nothing by hand: checked
//! types live in `definition`, conversions at the edges.
//!
//! Every message also derives serde with ECS's member names, so that a message's JSON is ECS JSON.

/// Version 1 of the host agent's services.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("neargate.v1");
}

/// The compiled `.proto` files, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
