//! Waiting: on a predicate, with a deadline. The only place of the tests that sleeps.

use std::time::{Duration, Instant};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// Looks until `look` finds something; panics with `what` once `limit` is over.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(INTERVAL);
    }
}

/// Whether `look` holds for all of `span`: for what must not happen.
pub fn stays(span: Duration, mut look: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + span;
    while Instant::now() < deadline {
        if !look() {
            return false;
        }
        std::thread::sleep(INTERVAL);
    }
    true
}
