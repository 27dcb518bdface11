//! Stdin on its way to the session: read no faster than it is taken there, and kept until it is.

use std::{collections::VecDeque, future, io::Read as _};

use tokio::sync::mpsc;

use super::{detach::Keys, wire::Step};

/// Bytes passed on at once.
const CHUNK: usize = 16 * 1024;
/// Bytes on their way at most; the agent's side takes a megabyte.
const WINDOW: usize = 128 * 1024;

/// What is to be passed on.
pub(super) enum Event {
    Stdin(Vec<u8>),
    /// There will be no more.
    Closed,
    /// The keys for it were typed.
    Detach,
}

/// Stdin, once it is read.
#[derive(Default)]
pub(super) struct Input {
    read: Option<mpsc::Receiver<Vec<u8>>>,
    keys: Option<Keys>,
    /// Sent, and not known to be written.
    kept: VecDeque<u8>,
    /// Offset of the first kept byte.
    offset: i64,
    closed: bool,
    detaches: bool,
}

impl Input {
    /// Reads stdin on a thread of its own, which cannot be interrupted and ends with the process.
    pub(super) fn read_stdin(&mut self, keys: Option<Keys>) {
        let (chunks, read) = mpsc::channel(1);
        (self.read, self.keys) = (Some(read), keys);
        std::thread::spawn(move || {
            let mut stdin = std::io::stdin().lock();
            let mut buffer = vec![0; CHUNK];
            loop {
                match stdin.read(&mut buffer) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => return,
                    Ok(count) => {
                        if chunks.blocking_send(buffer[..count].to_vec()).is_err() {
                            return;
                        }
                    }
                }
            }
        });
    }

    /// What is to be passed on next; waits while enough is on its way. May be given up and called again.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            if self.detaches {
                return Event::Detach;
            }
            let Some(read) = self.read.as_mut().filter(|_| !self.closed && self.kept.len() < WINDOW) else {
                return future::pending().await;
            };
            let Some(chunk) = read.recv().await else {
                self.closed = true;
                return Event::Closed;
            };
            let bytes = match &mut self.keys {
                Some(keys) => {
                    let (bytes, typed) = keys.filter(&chunk);
                    self.detaches = typed;
                    bytes
                }
                None => chunk,
            };
            if !bytes.is_empty() {
                self.kept.extend(&bytes);
                return Event::Stdin(bytes);
            }
        }
    }

    /// Stdin up to `offset` has reached its reader.
    pub(super) fn written(&mut self, offset: i64) {
        let count = usize::try_from(offset - self.offset).unwrap_or_default().min(self.kept.len());
        self.kept.drain(..count);
        self.offset += i64::try_from(count).unwrap_or_default();
    }

    /// What was lost on its way: all that was sent beyond `offset`.
    pub(super) fn resend(&mut self, offset: i64) -> Vec<Step> {
        let skip = usize::try_from(offset - self.offset).unwrap_or_default().min(self.kept.len());
        let lost: Vec<u8> = self.kept.iter().skip(skip).copied().collect();
        let steps = lost.chunks(CHUNK).map(|bytes| Step::Stdin(bytes.to_vec()));
        steps.chain(self.closed.then_some(Step::StdinClosed)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_taken_is_sent_again() {
        let mut input = Input { closed: true, ..Input::default() };
        input.kept.extend(b"0123456789");
        let sent = |steps: Vec<Step>| match &steps[..] {
            [Step::Stdin(bytes), Step::StdinClosed] => bytes.clone(),
            [Step::StdinClosed] => Vec::new(),
            _ => panic!("not closed"),
        };
        assert_eq!(sent(input.resend(0)), b"0123456789");
        input.written(4);
        assert_eq!((sent(input.resend(4)), sent(input.resend(7))), (b"456789".to_vec(), b"789".to_vec()));
        // Taken by the monitor though not written yet, when the agent died.
        input.written(2);
        assert_eq!(sent(input.resend(10)), b"");
        input.written(10);
        assert!(input.kept.is_empty() && input.offset == 10);
    }
}
