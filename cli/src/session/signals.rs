//! The signals that are passed on, or end neargate.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Error;

/// Those that are listened for.
pub(super) struct Signals {
    resized: Signal,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
}

/// One that came.
pub(super) enum Caught {
    Resized,
    Signal { name: &'static str, number: u8 },
}

impl Signals {
    pub(super) fn new() -> Result<Signals, Error> {
        let listen = |kind| signal(kind).map_err(Error::Signals);
        Ok(Signals {
            resized: listen(SignalKind::window_change())?,
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
            user1: listen(SignalKind::user_defined1())?,
            user2: listen(SignalKind::user_defined2())?,
        })
    }

    /// The next one. May be given up and called again.
    pub(super) async fn next(&mut self) -> Caught {
        let (name, number) = tokio::select! {
            _ = self.resized.recv() => return Caught::Resized,
            _ = self.interrupt.recv() => ("SIGINT", 2),
            _ = self.terminate.recv() => ("SIGTERM", 15),
            _ = self.hangup.recv() => ("SIGHUP", 1),
            _ = self.quit.recv() => ("SIGQUIT", 3),
            _ = self.user1.recv() => ("SIGUSR1", 10),
            _ = self.user2.recv() => ("SIGUSR2", 12),
        };
        Caught::Signal { name, number }
    }
}
