//! Owned by the other half of this crate.
