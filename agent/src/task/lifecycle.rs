//! A task's states, in ECS's words, and the only ways between them. Pure.
//!
//! ```text
//! PROVISIONING ─Begin→ PENDING ─Provisioned→ ACTIVATING ─Up→ RUNNING
//!       │                 │                      │              │
//!       │                 │                      └────Stop──────┴→ DEACTIVATING ─Deregistered→ STOPPING
//!       └──────Stop───────┴──────────────────────────────────────→ DEPROVISIONING ←─Down──────────┘
//!                                                                        └─TornDown→ STOPPED
//! ```
//! Stopping what stops already changes nothing. Whatever is not drawn cannot happen.

/// ECS `lastStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Accepted and durable.
    Provisioning,
    /// Waiting for capacity, then for images, namespaces and volumes.
    Pending,
    /// Its containers are being started.
    Activating,
    /// Every container runs or has run.
    Running,
    /// It is to stop.
    Deactivating,
    /// Its containers are being stopped.
    Stopping,
    /// What was provided is taken back.
    Deprovisioning,
    /// Over.
    Stopped,
}

/// What happens to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its driver begins.
    Begin,
    /// All that its containers need is there.
    Provisioned,
    /// Every container runs or has run.
    Up,
    /// Somebody or something wants it to stop.
    Stop,
    /// Nobody sends it work any more.
    Deregistered,
    /// No container runs.
    Down,
    /// Nothing of it is left but its record, logs and disks.
    TornDown,
}

/// What an event does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The state changes.
    To(Status),
    /// It was so already.
    Same,
    /// It cannot happen in this state.
    Denied,
}

impl Status {
    /// ECS's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Provisioning => "PROVISIONING",
            Status::Pending => "PENDING",
            Status::Activating => "ACTIVATING",
            Status::Running => "RUNNING",
            Status::Deactivating => "DEACTIVATING",
            Status::Stopping => "STOPPING",
            Status::Deprovisioning => "DEPROVISIONING",
            Status::Stopped => "STOPPED",
        }
    }

    /// Reads ECS's word; None for another.
    pub fn parse(word: &str) -> Option<Status> {
        ALL.into_iter().find(|status| status.as_str() == word)
    }
}

/// In the order of a whole life.
pub(crate) const ALL: [Status; 8] = [
    Status::Provisioning,
    Status::Pending,
    Status::Activating,
    Status::Running,
    Status::Deactivating,
    Status::Stopping,
    Status::Deprovisioning,
    Status::Stopped,
];

/// The table.
pub fn next(status: Status, event: Event) -> Next {
    use Next::{Denied, Same, To};
    use Status::{Activating, Deactivating, Deprovisioning, Pending, Provisioning, Running, Stopped, Stopping};
    match (status, event) {
        (Provisioning, Event::Begin) => To(Pending),
        (Pending, Event::Provisioned) => To(Activating),
        (Activating, Event::Up) => To(Running),
        (Provisioning | Pending, Event::Stop) => To(Deprovisioning),
        (Activating | Running, Event::Stop) => To(Deactivating),
        (Deactivating, Event::Deregistered) => To(Stopping),
        (Stopping, Event::Down) => To(Deprovisioning),
        (Deprovisioning, Event::TornDown) => To(Stopped),
        // A restarted agent begins again where the last one was.
        (Pending | Activating | Running | Deactivating | Stopping | Deprovisioning | Stopped, Event::Begin)
        | (Activating | Running, Event::Provisioned)
        | (Running, Event::Up)
        | (Deactivating | Stopping | Deprovisioning | Stopped, Event::Stop)
        | (Stopping | Deprovisioning | Stopped, Event::Deregistered)
        | (Deprovisioning | Stopped, Event::Down)
        | (Stopped, Event::TornDown) => Same,
        (Provisioning | Deactivating | Stopping | Deprovisioning | Stopped, Event::Provisioned)
        | (Provisioning | Pending | Deactivating | Stopping | Deprovisioning | Stopped, Event::Up)
        | (Provisioning | Pending | Activating | Running, Event::Deregistered | Event::Down)
        | (Deactivating, Event::Down)
        | (Provisioning | Pending | Activating | Running | Deactivating | Stopping, Event::TornDown) => Denied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_ecs_own() {
        for status in ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
        assert_eq!(Status::parse("DELETED"), None);
    }

    fn walk(from: Status, events: &[Event]) -> Status {
        events.iter().fold(from, |status, event| match next(status, *event) {
            Next::To(to) => to,
            Next::Same => status,
            Next::Denied => panic!("{event:?} in {status:?}"),
        })
    }

    #[test]
    fn a_whole_life() {
        use Event::{Begin, Deregistered, Down, Provisioned, Stop, TornDown, Up};
        let life = [Begin, Provisioned, Up, Stop, Deregistered, Down, TornDown];
        assert_eq!(walk(Status::Provisioning, &life), Status::Stopped);
        assert_eq!(walk(Status::Provisioning, &[Begin, Stop, TornDown]), Status::Stopped);
    }

    #[test]
    fn stopping_twice_changes_nothing_and_nothing_comes_back() {
        for status in ALL {
            assert_ne!(next(status, Event::Stop), Next::Denied, "{status:?} can be stopped");
        }
        for event in [Event::Begin, Event::Stop, Event::Deregistered, Event::Down, Event::TornDown] {
            assert_eq!(next(Status::Stopped, event), Next::Same);
        }
        for event in [Event::Provisioned, Event::Up] {
            assert_eq!(next(Status::Stopped, event), Next::Denied);
        }
    }
}
