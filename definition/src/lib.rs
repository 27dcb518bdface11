//! Task definitions as people write them, checked: which ECS fields run here and which are refused, and the domain
//! types that stand behind the wire types. Both `neargated` and `neargate validate` use it, so that they agree.
//! Owns no state and does no I/O.

#![forbid(unsafe_code)]

pub mod task;
