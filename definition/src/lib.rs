//! Task definitions as people write them, checked: which ECS fields run here and which are refused, and the domain
//! types that stand behind the wire types. Both `neargated` and `neargate validate` use it, so that they agree.
//! Owns no state and does no I/O.

#![forbid(unsafe_code)]

mod check;
pub mod file;
mod length;
mod overrides;
mod problem;
mod registered;
mod run_task;
pub mod support;
mod tags;
pub mod task;

pub use check::check;
pub use overrides::{accepted, with_overrides};
pub use problem::{Code, Problem};
pub use registered::{content_equal, registered, request};
pub use run_task::{check_run_task, refused_here};
