//! Reads what containers wrote: docker's json-file lines across rotated files, several containers merged by time,
//! following while they run. Does not write logs (that is the monitor's work) and does not know tasks.
//!
//! ```text
//! Source ──► reader.rs: files oldest first, rotation followed by inode ──┐
//! Source ──► reader.rs ──────────────────────────────────────────────────┼─► merged by time ──► stream
//! ```
//! The stream reads on only when it is polled, so a slow client slows nothing but itself.

mod entry;
mod reader;

use std::{collections::VecDeque, io, path::PathBuf, sync::Arc, time::Duration};

use futures_util::{Stream, future};
use tokio::{sync::watch, task, time};

pub use entry::{LogStream, Timestamp};

use entry::Entry;
use reader::{Progress, Reader};

use crate::trace::now;

/// Pause before a log that had something is looked at again: a person takes it for immediate.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// Pause once a log has been quiet for a while, each pause twice the one before: a thousand followers of quiet
/// containers must cost nothing.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// One container's log.
#[derive(Debug, Clone)]
pub struct Source {
    /// The container's name.
    pub container: String,
    /// The file being written; older ones are `PATH.1`, `PATH.2`, ….
    pub path: PathBuf,
    /// True once nothing more will be written.
    pub ended: watch::Receiver<bool>,
}

/// Which lines are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Go on until every source has ended and everything was sent.
    pub follow: bool,
    /// Only the last lines of each container.
    pub tail: Option<usize>,
    /// Only lines written at this time or later.
    pub since: Option<Timestamp>,
    /// Only lines written before; following ends then.
    pub until: Option<Timestamp>,
}

/// One line, or a part of a line longer than 16 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The container that wrote it.
    pub container: Arc<str>,
    /// Where to.
    pub stream: LogStream,
    /// When.
    pub time: Timestamp,
    /// What, newline included where there was one.
    pub data: Vec<u8>,
}

/// A log file that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read log file {}", path.display())]
pub struct LogError {
    /// The file.
    pub path: PathBuf,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// The lines of all sources, oldest first; by time between sources as far as they are already written.
pub fn read(sources: Vec<Source>, options: Options) -> impl Stream<Item = Result<Line, LogError>> + Send + 'static {
    async_stream::try_stream! {
        let mut tails: Vec<Tail> = sources.into_iter().map(|source| Tail::new(source, options)).collect();
        let mut pause = SHORTEST_PAUSE;
        loop {
            // Asked before reading: what is written before that time must still be read.
            let is_over = options.until.is_some_and(|until| Timestamp::from_epoch_seconds(now()) >= Some(until));
            for tail in &mut tails {
                tail.fill().await?;
            }
            while let Some(index) = oldest(&tails) {
                pause = SHORTEST_PAUSE;
                let tail = &mut tails[index];
                // What comes behind it is later still, but another container may have written earlier ones meanwhile.
                if options.until.is_some_and(|until| tail.entries.front().is_some_and(|entry| entry.time >= until)) {
                    tail.end();
                    continue;
                }
                if let Some(entry) = tail.entries.pop_front()
                    && options.since.is_none_or(|since| entry.time >= since)
                {
                    yield tail.line(entry);
                }
                // While another container has lines, one that ran out may hold older ones in its file.
                if tail.entries.is_empty() && tail.state == State::More {
                    tail.fill().await?;
                }
            }
            if is_over || tails.iter().all(|tail| tail.state == State::Ended) {
                break;
            }
            wait(&mut tails, pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Index of the source with the oldest line that was read.
fn oldest(tails: &[Tail]) -> Option<usize> {
    let heads = tails.iter().enumerate().filter_map(|(index, tail)| Some((tail.entries.front()?.time, index)));
    heads.min().map(|(_, index)| index)
}

/// Until it is worth to look again: after a pause, or at once when a container ends.
async fn wait(tails: &mut [Tail], pause: Duration) {
    let ends = tails.iter_mut().filter(|tail| tail.state != State::Ended && !tail.ended_seen);
    let ends: Vec<_> = ends.map(|tail| Box::pin(tail.source.ended.changed())).collect();
    if ends.is_empty() {
        // All are over: the next look is the last, no reason to wait for it.
        return;
    }
    // Timing out is the usual case: it is what makes us look at the files.
    let _ = time::timeout(pause, future::select_all(ends)).await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There may be more to read now.
    More,
    /// Read to the end of what is written.
    CaughtUp,
    /// Nothing more will come.
    Ended,
}

/// One source and what was read ahead of it.
struct Tail {
    source: Source,
    container: Arc<str>,
    follow: bool,
    reader: Option<Reader>,
    entries: VecDeque<Entry>,
    state: State,
    /// The end was known before the last read, so that read was the last one.
    ended_seen: bool,
}

impl Tail {
    fn new(source: Source, options: Options) -> Self {
        Self {
            container: source.container.as_str().into(),
            reader: Some(Reader::new(source.path.clone(), options.tail, options.follow)),
            source,
            follow: options.follow,
            entries: VecDeque::new(),
            state: State::More,
            ended_seen: false,
        }
    }

    /// Reads until there is an entry or the file has no more.
    async fn fill(&mut self) -> Result<(), LogError> {
        while self.entries.is_empty() && self.state != State::Ended {
            // Asked before reading: what is written before the end must still be read.
            self.ended_seen = self.has_ended();
            let Some(mut reader) = self.reader.take() else { return Ok(()) };
            let read = task::spawn_blocking(move || {
                let mut entries = VecDeque::new();
                let progress = reader.read(&mut entries);
                (reader, entries, progress)
            });
            // It fails only where the runtime shuts down.
            let Ok((reader, entries, progress)) = read.await else { return Ok(()) };
            self.reader = Some(reader);
            self.entries = entries;
            match progress.map_err(|source| LogError { path: self.source.path.clone(), source })? {
                Progress::More => self.state = State::More,
                Progress::CaughtUp if self.ended_seen || !self.follow => {
                    self.take_rest();
                    self.state = State::Ended;
                }
                Progress::CaughtUp => {
                    self.state = State::CaughtUp;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Nothing more of it is wanted.
    fn end(&mut self) {
        self.entries.clear();
        self.state = State::Ended;
    }

    /// A last line that lacks its newline: kept where it is whole, as the writer may have been killed behind it.
    fn take_rest(&mut self) {
        let rest = if self.ended_seen { self.reader.as_mut().and_then(Reader::take_rest) } else { None };
        self.entries.extend(rest);
    }

    fn has_ended(&self) -> bool {
        // A sender that is gone can announce no end any more, so it counts as one.
        *self.source.ended.borrow() || self.source.ended.has_changed().is_err()
    }

    fn line(&self, entry: Entry) -> Line {
        Line { container: self.container.clone(), stream: entry.stream, time: entry.time, data: entry.data }
    }
}

#[cfg(test)]
mod tests;
