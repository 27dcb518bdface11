//! A task's log lines, each exactly once, over restarts of the agent: after one the stream is asked for again from the
//! last line's time on, and what was seen already is skipped.

use std::collections::HashMap;

use proto::v1::{GetLogsRequest, GetLogsResponse};
use tonic::Streaming;

use crate::{
    client::{Client, Patience, went_away},
    error::Error,
    text,
};

/// Seconds before the last line from which to ask again: a double does not tell nanoseconds apart, and the line of
/// another container may have been written a moment before it and read a moment later.
const OVERLAP: f64 = 1.0;

/// Reads the lines that a GetLogs request is answered with.
#[derive(Debug)]
pub(crate) struct LogStream {
    client: Client,
    request: GetLogsRequest,
    stream: Option<Streaming<GetLogsResponse>>,
    cursor: Cursor,
    patience: Patience,
}

impl LogStream {
    /// Nothing is asked for before the first [`LogStream::next`].
    pub(crate) fn new(client: Client, request: GetLogsRequest) -> LogStream {
        LogStream { client, request, stream: None, cursor: Cursor::default(), patience: Patience::default() }
    }

    /// The next line; none after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<GetLogsResponse>, Error> {
        loop {
            match self.step().await {
                Ok(Some(line)) => {
                    self.patience.answered();
                    if self.cursor.is_new(&line) {
                        return Ok(Some(line));
                    }
                }
                Ok(None) => return Ok(None),
                Err(status) => {
                    let again = self.request.follow == Some(true) && went_away(&status);
                    if !again || !self.patience.wait().await {
                        let task = self.request.task.as_deref().unwrap_or_default();
                        return Err(Error::refused(format!("cannot read the logs of task {}", text::short_id(task)))(
                            status,
                        ));
                    }
                    self.stream = None;
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Option<GetLogsResponse>, tonic::Status> {
        if self.stream.is_none() {
            let mut request = self.request.clone();
            if let Some(since) = self.cursor.resume() {
                // Of a container that has not been heard of, what is older was never asked for.
                request.since = Some(self.request.since.map_or(since, |asked| asked.max(since)));
                request.tail = None;
            }
            self.stream = Some(self.client.tasks().get_logs(request).await?.into_inner());
        }
        match &mut self.stream {
            Some(stream) => stream.message().await,
            None => Ok(None),
        }
    }
}

/// How far each container's log was read.
#[derive(Debug, Default)]
struct Cursor {
    containers: HashMap<String, Place>,
}

#[derive(Debug, Default)]
struct Place {
    /// Of the last line that was handed on.
    timestamp: f64,
    /// Lines with this time that were handed on.
    taken: usize,
    /// Of these, lines still to come again after a resumption.
    to_skip: usize,
}

impl Cursor {
    /// From when on to read again, if anything was read; from now on the lines seen already are skipped.
    fn resume(&mut self) -> Option<f64> {
        for place in self.containers.values_mut() {
            place.to_skip = place.taken;
        }
        self.containers.values().map(|place| (place.timestamp - OVERLAP).max(0.0)).min_by(f64::total_cmp)
    }

    /// Whether this line was not handed on before; counts it as handed on.
    fn is_new(&mut self, line: &GetLogsResponse) -> bool {
        let timestamp = line.timestamp.unwrap_or(0.0);
        let name = line.container.clone().unwrap_or_default();
        let place = self.containers.entry(name).or_insert(Place { timestamp, taken: 0, to_skip: 0 });
        if timestamp < place.timestamp {
            return false;
        }
        if timestamp > place.timestamp {
            *place = Place { timestamp, taken: 1, to_skip: 0 };
            return true;
        }
        if place.to_skip > 0 {
            place.to_skip -= 1;
            return false;
        }
        place.taken += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(container: &str, timestamp: f64) -> GetLogsResponse {
        GetLogsResponse { container: Some(container.into()), timestamp: Some(timestamp), ..Default::default() }
    }

    #[test]
    fn after_a_resumption_every_line_comes_once() {
        let all = [line("a", 1.0), line("b", 2.0), line("a", 3.0), line("a", 3.0), line("a", 3.0), line("b", 4.0)];
        for seen in 0..all.len() {
            let mut cursor = Cursor::default();
            assert!(all[..seen].iter().all(|line| cursor.is_new(line)));
            let since = cursor.resume().unwrap_or(0.0);
            let again = all.iter().filter(|line| line.timestamp.unwrap() >= since);
            let new: Vec<_> = again.filter(|line| cursor.is_new(line)).cloned().collect();
            assert_eq!(new, all[seen..], "after {seen} lines");
        }
    }
}
