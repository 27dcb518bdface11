//! What a container sees and may do, looked at from inside, and its limits, exceeded on purpose.

#![forbid(unsafe_code)]
