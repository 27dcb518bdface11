//! The `neargate-runtime` binary.

fn main() {}
