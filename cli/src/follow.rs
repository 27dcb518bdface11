//! Follows a task from RunTask to STOPPED: its states on stderr, its logs on the streams they were written to, its
//! essential container's exit code at the end. Survives restarts of the agent.

mod outcome;

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use proto::v1::{GetLogsRequest, GetLogsResponse, Task, TaskDefinition, WatchTasksRequest};
use tokio::sync::mpsc;

use self::outcome::Outcome;
use crate::{
    client::Client,
    error::Error,
    log_printer::LogPrinter,
    log_stream::LogStream,
    output, text,
    watch::{Watch, has_stopped},
};

/// Exit code of a shell's command that Ctrl-C ended, which docker's attach has too.
const INTERRUPTED: u8 = 130;
/// How long after a task stopped its logs may be silent before following ends without their end.
const LOGS_END: Duration = Duration::from_secs(10);
/// Lines read ahead of a slow terminal.
const READ_AHEAD: usize = 64;

/// What happens to a followed task.
enum Event {
    Log(Box<GetLogsResponse>),
    LogsEnded(Result<(), Error>),
    Changed(Box<Task>),
    WatchFailed(Error),
    Interrupted,
}

/// What following leads to.
pub(crate) struct Followed {
    /// The code that `neargate run --follow` exits with.
    pub(crate) exit_code: u8,
    /// The task as last seen.
    pub(crate) task: Task,
}

/// Follows `task` of `definition` until it has stopped, or Ctrl-C. `quiet` keeps everything but the outcome back.
pub(crate) async fn follow(
    client: &Client,
    task: Task,
    definition: &TaskDefinition,
    quiet: bool,
) -> Result<Followed, Error> {
    let (events, mut inbox) = mpsc::channel(READ_AHEAD);
    let arn = task.task_arn.clone().unwrap_or_default();
    interrupts(events.clone())?;
    watch(client.clone(), &task, events.clone());
    if !quiet {
        read_logs(client.clone(), &task, events);
    }
    let names = definition.container_definitions.iter().filter_map(|container| container.name.as_deref());
    let mut screen = Screen { logs: LogPrinter::new(names, false), quiet };
    let mut outcome = Outcome::new(definition, task);
    if let Some(line) = outcome.first_line() {
        screen.note(&line);
    }
    let mut logs_ended = quiet;
    while !(outcome.has_stopped() && logs_ended) {
        let event = if outcome.has_stopped() {
            tokio::time::timeout(LOGS_END, inbox.recv()).await.unwrap_or_else(|_| {
                screen.note("neargate: the end of the logs does not come; `neargate logs` may show more");
                None
            })
        } else {
            inbox.recv().await
        };
        match event {
            Some(Event::Log(line)) => screen.log(&line)?,
            Some(Event::LogsEnded(ending)) => {
                logs_ended = true;
                if let Err(error) = ending {
                    screen.note(&format!("neargate: {}", crate::error::chain(&error)));
                }
            }
            Some(Event::Changed(task)) => {
                if let Some(line) = outcome.update(*task) {
                    screen.note(&line);
                }
            }
            Some(Event::WatchFailed(error)) => return Err(error),
            Some(Event::Interrupted) => {
                let id = text::short_id(&arn);
                screen.note(&format!(
                    "neargate: detached; task {id} goes on: `neargate logs -f {id}` shows its logs, `neargate stop {id}` stops it"
                ));
                return Ok(Followed { exit_code: INTERRUPTED, task: outcome.into_task() });
            }
            None => break,
        }
    }
    for line in outcome.summary() {
        screen.note(&line);
    }
    Ok(Followed { exit_code: outcome.exit_code(), task: outcome.into_task() })
}

/// The terminal, on which log lines and notes share lines.
struct Screen {
    logs: LogPrinter,
    quiet: bool,
}

impl Screen {
    fn log(&mut self, line: &GetLogsResponse) -> Result<(), Error> {
        self.logs.print(line, &mut io::stdout().lock(), &mut io::stderr().lock()).map_err(Error::Output)
    }

    fn note(&mut self, line: &str) {
        if self.quiet {
            return;
        }
        // An output that ended without a newline shares its line with what is told next.
        if self.logs.in_line(io::stderr().is_terminal() && io::stdout().is_terminal()) {
            output::note("");
            self.logs.line_was_ended();
        }
        output::note(line);
    }
}

fn interrupts(events: mpsc::Sender<Event>) -> Result<(), Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    tokio::spawn(async move {
        interrupt.recv().await;
        // Nobody receives any more once following has ended.
        let _ = events.send(Event::Interrupted).await;
    });
    Ok(())
}

fn read_logs(client: Client, task: &Task, events: mpsc::Sender<Event>) {
    let request = GetLogsRequest {
        cluster: task.cluster_arn.clone(),
        task: task.task_arn.clone(),
        follow: Some(true),
        ..Default::default()
    };
    tokio::spawn(async move {
        let mut lines = LogStream::new(client, request);
        let ending = loop {
            match lines.next().await {
                Ok(Some(line)) => {
                    if events.send(Event::Log(Box::new(line))).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let _ = events.send(Event::LogsEnded(ending)).await;
    });
}

fn watch(client: Client, task: &Task, events: mpsc::Sender<Event>) {
    let request =
        WatchTasksRequest { cluster: task.cluster_arn.clone(), tasks: task.task_arn.clone().into_iter().collect() };
    tokio::spawn(async move {
        let mut watch = Watch::new(client, request);
        loop {
            let (event, is_last) = match watch.next().await {
                Ok(task) => {
                    let stopped = has_stopped(&task);
                    (Event::Changed(Box::new(task)), stopped)
                }
                Err(error) => (Event::WatchFailed(error), true),
            };
            if events.send(event).await.is_err() || is_last {
                return;
            }
        }
    });
}
