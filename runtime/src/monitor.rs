//! The monitor: parent of a container's pid 1, which outlives the agent.

pub mod protocol;
