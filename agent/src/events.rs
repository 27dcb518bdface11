//! What happens on this host, in order: a ring of the last events with sequence numbers, and the streams that read it.
//! Owns no decision about what an event is: `task` makes those of tasks and containers, `states` streams whole tasks.
//!
//! Whoever tells an event never waits: a reader keeps only its place in the ring, and one that is slower than the ring
//! is told how many events it missed. Nothing of this survives the agent; its tasks' records do (RESYNC).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use prost::Message as _;
use proto::v1::{Event, EventPosition};
use tokio::sync::watch;

use crate::trace::now;

pub(crate) mod states;
pub(crate) mod task;

/// Events remembered: some hundred tasks' lives, 1.5 MiB.
pub(crate) const REMEMBERED: usize = 4_096;
/// Events that a reader takes at once.
const BATCH: usize = 128;

/// The events of one agent's life.
#[derive(Debug)]
pub(crate) struct Events {
    epoch: String,
    /// When it began, seconds since the epoch.
    began: f64,
    capacity: usize,
    ring: Mutex<Ring>,
    /// The last sequence number.
    told: watch::Sender<i64>,
}

#[derive(Debug, Default)]
struct Ring {
    last: i64,
    events: VecDeque<Told>,
}

/// An event as it is remembered: as bytes it takes a third of what it takes unpacked.
#[derive(Debug)]
struct Told {
    timestamp: f64,
    event: Arc<[u8]>,
}

/// Where a reader begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Begin {
    /// With what comes.
    Now,
    /// With what is remembered from this time on, seconds since the epoch.
    Since(f64),
    /// After this event of this or another life; `since` is when it was, for what another life has to tell.
    After { position: EventPosition, since: Option<f64> },
}

/// Which events are wanted; an empty list is every one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// ARNs.
    pub(crate) tasks: Vec<String>,
    pub(crate) containers: Vec<String>,
    pub(crate) families: Vec<String>,
    pub(crate) types: Vec<String>,
    pub(crate) images: Vec<String>,
}

impl Filter {
    fn passes(&self, event: &Event) -> bool {
        let among = |wanted: &[String], is: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == is);
        among(&self.tasks, event.task_arn())
            && among(&self.containers, event.container())
            && among(&self.families, family(event.task_definition_arn()))
            && among(&self.types, event.r#type())
            && among(&self.images, event.image())
    }
}

/// Of a definition's ARN.
fn family(arn: &str) -> &str {
    let name = arn.rsplit('/').next().unwrap_or_default();
    name.rsplit_once(':').map_or(name, |(family, _)| family)
}

impl Events {
    /// None yet; the last `capacity` will be remembered.
    pub(crate) fn new(capacity: usize) -> Events {
        let epoch = uuid::Uuid::new_v4().simple().to_string();
        Events { epoch, began: now(), capacity, ring: Mutex::default(), told: watch::Sender::new(0) }
    }

    /// Adds an event of now.
    pub(crate) fn tell(&self, event: Event) {
        let mut ring = self.ring();
        ring.last += 1;
        let last = ring.last;
        let timestamp = now();
        let event = Event { position: Some(self.position(last)), timestamp: Some(timestamp), ..event };
        ring.events.push_back(Told { timestamp, event: event.encode_to_vec().into() });
        if ring.events.len() > self.capacity {
            ring.events.pop_front();
        }
        // Under the lock: nobody is told of a later one first.
        self.told.send_replace(last);
    }

    fn position(&self, sequence: i64) -> EventPosition {
        EventPosition { epoch: Some(self.epoch.clone()), sequence: Some(sequence) }
    }

    /// Those after `sequence`, at most [`BATCH`], and how many between are forgotten.
    fn after(&self, sequence: i64) -> (i64, Vec<Arc<[u8]>>) {
        let ring = self.ring();
        let first = ring.first();
        let missed = (first - 1).saturating_sub(sequence).max(0);
        let skip = usize::try_from(sequence.saturating_add(1).saturating_sub(first)).unwrap_or(0);
        (missed, ring.events.iter().skip(skip).take(BATCH).map(|told| told.event.clone()).collect())
    }

    /// The event before the first one of that time, and whether some of that time may be forgotten or of another life.
    fn before(&self, since: f64) -> (i64, bool) {
        let ring = self.ring();
        let earlier = ring.events.iter().take_while(|told| told.timestamp < since).count();
        let sequence = ring.first() - 1 + i64::try_from(earlier).unwrap_or(i64::MAX);
        (sequence, since < self.began || (earlier == 0 && ring.first() > 1))
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// Sequence number of the oldest that is remembered, or of the next one.
    fn first(&self) -> i64 {
        self.last + 1 - i64::try_from(self.events.len()).unwrap_or(i64::MAX)
    }
}

/// Reads events in order until `until` (seconds since the epoch). `states` makes TASK_STATUS events of the tasks as they
/// are, of those that have stopped only what did so at or after the time it is given.
pub(crate) fn read(
    events: Arc<Events>,
    filter: Filter,
    from: Begin,
    until: Option<f64>,
    states: impl Fn(Option<f64>) -> Vec<Event> + Send + 'static,
) -> impl Stream<Item = Event> + Send + 'static {
    async_stream::stream! {
        let mut told = events.told.subscribe();
        let mut at = *told.borrow_and_update();
        match from {
            Begin::Now => {}
            Begin::Since(since) => {
                let (before, forgotten) = events.before(since);
                at = before;
                if forgotten {
                    yield note(events.position(at), "MISSED");
                }
            }
            Begin::After { position, .. } if position.epoch() == events.epoch => at = position.sequence().min(at),
            Begin::After { since, .. } => {
                yield note(events.position(at), "RESYNC");
                // After `at` was taken: what changes meanwhile is told twice rather than never.
                for state in states(since) {
                    if filter.passes(&state) {
                        yield Event { position: Some(events.position(at)), timestamp: Some(now()), ..state };
                    }
                }
            }
        }
        loop {
            let last = *told.borrow_and_update();
            let (missed, batch) = events.after(at);
            if missed > 0 {
                at += missed;
                yield Event { missed: Some(missed), ..note(events.position(at), "MISSED") };
            }
            for event in batch {
                let event = Event::decode(&*event).expect("what was encoded here");
                at = event.position.as_ref().map_or(at, EventPosition::sequence);
                if until.is_some_and(|until| event.timestamp() >= until) {
                    return;
                }
                if filter.passes(&event) {
                    yield event;
                }
            }
            if at < last {
                continue;
            }
            let left = until.map(|until| Duration::try_from_secs_f64(until - now()).unwrap_or_default());
            if left.is_some_and(|left| left.is_zero()) {
                return;
            }
            tokio::select! {
                changed = told.changed() => if changed.is_err() { return },
                // Once more round: what was told before `until` is read before the end.
                () = tokio::time::sleep(left.unwrap_or(Duration::MAX)), if left.is_some() => {}
            }
        }
    }
}

fn note(position: EventPosition, kind: &str) -> Event {
    let (position, r#type) = (Some(position), Some(kind.to_owned()));
    Event { position, timestamp: Some(now()), r#type, ..Event::default() }
}

#[cfg(test)]
mod tests;
