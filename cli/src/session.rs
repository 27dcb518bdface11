//! A session with a command or with a container's own streams: stdin, output, signals, sizes, and the way back to it
//! when neargated was restarted meanwhile. Owns no command line.

mod detach;
mod input;
mod signals;
mod wire;

use std::{
    fs::File,
    io::Read as _,
    time::{Duration, Instant},
};

use proto::v1::{ResumableSession, SessionOpened};
use tonic::Status;

pub(crate) use self::{
    detach::{Keys, parse as parse_keys},
    wire::Start,
};
use self::{
    input::{Event, Input},
    signals::{Caught, Signals},
    wire::{Answer, Step, Stream},
};
use crate::{
    client::{Client, Patience, went_away},
    error::Error,
    output,
    terminal::{self, RawMode},
};

/// After as many Ctrl-C that are ignored, neargate ends by itself, as docker does.
const GIVE_UP: u32 = 3;
/// Within this time a second Ctrl-C leaves a container that goes on: it may ignore the first.
const ONCE_MORE: Duration = Duration::from_secs(5);
/// Added to a signal's number by shells.
const SIGNALLED: u8 = 128;
/// Output after which it is acknowledged, bytes. The agent's side keeps eight times as much.
const ACKNOWLEDGED: i64 = 32 * 1024;
/// How long the agent may be away before that is told.
const SILENCE: Duration = Duration::from_secs(3);
/// How long one that is back may take to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How long it may take to let a client go.
const FAREWELL: Duration = Duration::from_secs(2);

/// How to behave in it.
#[derive(Debug)]
pub(crate) struct Manner {
    /// What is being done, for errors: "cannot run sh in task 12ab".
    pub(crate) doing: String,
    /// Pass stdin on.
    pub(crate) stdin: bool,
    /// Pass signals on where there is no terminal; else they end neargate.
    pub(crate) pass_signals: bool,
    /// Keys that end it where there is a terminal.
    pub(crate) detach_keys: Option<Keys>,
    /// Have a terminal drawn anew, by a change of its size.
    pub(crate) redraw: bool,
    /// A second Ctrl-C that is passed on detaches; else the third one ends neargate.
    pub(crate) interrupts_detach: bool,
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Exit code of the command or container, or that of neargate for a signal.
    Exited(u8),
    /// By the keys for it, or by a second Ctrl-C.
    Detached,
}

/// A session that is under way.
struct Session<'a> {
    client: &'a Client,
    start: Start,
    id: String,
    manner: Manner,
    signals: Signals,
    input: Input,
    /// Offset behind the output that was written; None until the first answer.
    seen: Option<i64>,
    acknowledged: i64,
    /// Whether this connection has said how much of stdin arrived: what was sent before would be sent twice.
    is_open: bool,
    terminal: bool,
    raw: Option<RawMode>,
    interrupted: u32,
    /// When the last Ctrl-C was passed on.
    interrupted_at: Option<Instant>,
    /// Signals that came while nobody could take them.
    kept: Vec<&'static str>,
}

/// Opens the session and stays in it until it ends.
pub(crate) async fn run(client: &Client, start: Start, manner: Manner) -> Result<Ended, Error> {
    let session = Session {
        client,
        start,
        id: random_id().map_err(Error::Random)?,
        manner,
        signals: Signals::new()?,
        input: Input::default(),
        seen: None,
        acknowledged: 0,
        is_open: false,
        terminal: false,
        raw: None,
        interrupted: 0,
        interrupted_at: None,
        kept: Vec::new(),
    };
    session.run().await
}

/// What an answer or an event leads to.
enum Next {
    Go,
    Ended(Ended),
}

impl Session<'_> {
    async fn run(mut self) -> Result<Ended, Error> {
        let mut stream = self.open().await.map_err(Error::refused(self.manner.doing.clone()))?;
        loop {
            match self.converse(&mut stream).await? {
                Some(ended) => return Ok(ended),
                None => match self.reopen().await? {
                    Ok(opened) => stream = opened,
                    Err(ended) => return Ok(ended),
                },
            }
        }
    }

    async fn open(&self) -> Result<Stream, Status> {
        let session = ResumableSession { id: Some(self.id.clone()), output_offset: self.seen };
        wire::open(self.client, &self.start, session).await
    }

    /// Tries until the agent is back. Err where a signal ends it meanwhile.
    async fn reopen(&mut self) -> Result<Result<Stream, Ended>, Error> {
        let mut patience = Patience::default();
        let mut told = false;
        loop {
            let failed = match tokio::time::timeout(ANSWER, self.open()).await {
                Ok(Ok(stream)) => return Ok(Ok(stream)),
                Ok(Err(status)) if !went_away(&status) => return Err(self.refused(status)),
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable("neargated does not answer"),
            };
            if !told && patience.waited() > SILENCE {
                self.note("neargated is away; the session goes on when it is back within a minute");
                told = true;
            }
            tokio::select! {
                goes_on = patience.wait() => if !goes_on {
                    return Err(self.refused(failed));
                },
                caught = self.signals.next() => if let Caught::Signal { name, number } = caught {
                    if let Some(ended) = self.ends(name, number) {
                        return Ok(Err(ended));
                    }
                    self.kept.push(name);
                },
            }
        }
    }

    /// One connection: None when it broke.
    async fn converse(&mut self, stream: &mut Stream) -> Result<Option<Ended>, Error> {
        self.is_open = false;
        loop {
            let next = tokio::select! {
                answer = stream.next() => match answer {
                    Ok(Some(answer)) => self.take(answer, stream).await?,
                    Ok(None) if self.seen.is_none() => return Err(self.ended_early()),
                    Ok(None) => return Ok(None),
                    Err(status) if went_away(&status) && self.seen.is_some() => return Ok(None),
                    Err(status) => return Err(self.refused(status)),
                },
                event = self.input.next(), if self.is_open => self.pass_on(event, stream).await,
                caught = self.signals.next() => self.signal(caught, stream).await,
            };
            if let Next::Ended(Ended::Detached) = next {
                self.leave(stream).await;
            }
            if let Next::Ended(ended) = next {
                return Ok(Some(ended));
            }
        }
    }

    async fn take(&mut self, answer: Answer, stream: &Stream) -> Result<Next, Error> {
        if let Some(opened) = answer.opened {
            self.opened(&opened, stream).await?;
        }
        if let Some(data) = &answer.stdout {
            output::bytes(data).map_err(Error::Output)?;
        }
        if let Some(data) = &answer.stderr {
            output::error_bytes(data).map_err(Error::Output)?;
        }
        if let Some(bytes) = answer.missed {
            self.note(&format!("{bytes} bytes of output came too fast to be shown; `neargate logs` has them"));
        }
        if let Some(offset) = answer.output_offset {
            self.seen = Some(offset);
            if offset - self.acknowledged >= ACKNOWLEDGED {
                self.acknowledged = offset;
                stream.send(Step::Acknowledge(offset)).await;
            }
        }
        if let Some(offset) = answer.stdin_offset {
            self.input.written(offset);
        }
        Ok(match answer.exit_code {
            Some(code) => Next::Ended(Ended::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX))),
            None => Next::Go,
        })
    }

    /// The first time: sets up stdin and the terminal. Later: sends what was lost on the way.
    async fn opened(&mut self, opened: &SessionOpened, stream: &Stream) -> Result<(), Error> {
        let is_first = self.seen.is_none();
        self.is_open = true;
        self.seen = opened.output_offset;
        self.terminal = opened.pseudo_terminal == Some(true);
        if is_first && self.manner.stdin && opened.stdin == Some(true) {
            if self.terminal && terminal::is_interactive() {
                self.raw = Some(RawMode::enter()?);
            }
            self.input.read_stdin(self.manner.detach_keys.take().filter(|_| self.terminal));
        }
        if let Some(size) = terminal::size().filter(|_| self.terminal) {
            if is_first && self.manner.redraw {
                let other = size.rows.map(|rows| rows.saturating_add(1));
                stream.send(Step::Resize(proto::v1::TerminalSize { rows: other, ..size })).await;
            }
            stream.send(Step::Resize(size)).await;
        }
        for step in self.input.resend(opened.stdin_offset.unwrap_or_default()) {
            stream.send(step).await;
        }
        for name in self.kept.drain(..) {
            stream.send(Step::Signal(name)).await;
        }
        Ok(())
    }

    async fn pass_on(&mut self, event: Event, stream: &mut Stream) -> Next {
        match event {
            Event::Stdin(bytes) => stream.send(Step::Stdin(bytes)).await,
            Event::Closed => stream.send(Step::StdinClosed).await,
            Event::Detach => return Next::Ended(Ended::Detached),
        }
        Next::Go
    }

    async fn leave(&self, stream: &mut Stream) {
        stream.send(Step::Detach).await;
        // It has taken all stdin before it lets us go; what it still says is not wanted.
        let gone = async { while let Ok(Some(_)) = stream.next().await {} };
        let _either = tokio::time::timeout(FAREWELL, gone).await;
    }

    async fn signal(&mut self, caught: Caught, stream: &Stream) -> Next {
        match caught {
            Caught::Resized if self.terminal => {
                if let Some(size) = terminal::size() {
                    stream.send(Step::Resize(size)).await;
                }
            }
            Caught::Resized if self.manner.pass_signals => stream.send(Step::Signal("SIGWINCH")).await,
            Caught::Resized => {}
            Caught::Signal { name, number } => {
                if let Some(ended) = self.ends(name, number) {
                    return Next::Ended(ended);
                }
                stream.send(Step::Signal(name)).await;
            }
        }
        Next::Go
    }

    /// A terminal sends keys, so a signal was meant for neargate itself.
    fn passes_signals(&self) -> bool {
        self.manner.pass_signals && !self.terminal
    }

    /// What a signal ends here; None where it is to be passed on.
    fn ends(&mut self, name: &str, number: u8) -> Option<Ended> {
        if !self.passes_signals() {
            return Some(Ended::Exited(SIGNALLED + number));
        }
        if name != "SIGINT" {
            return None;
        }
        if !self.manner.interrupts_detach {
            self.interrupted += 1;
            return (self.interrupted >= GIVE_UP).then_some(Ended::Exited(SIGNALLED + number));
        }
        let before = self.interrupted_at.replace(Instant::now());
        if before.is_some_and(|before| before.elapsed() <= ONCE_MORE) {
            return Some(Ended::Detached);
        }
        let seconds = ONCE_MORE.as_secs();
        self.note(&format!("Ctrl-C is passed on to the container; once more within {seconds} seconds detaches"));
        None
    }

    fn note(&self, text: &str) {
        // On a raw terminal a newline does not return.
        output::note(&format!("neargate: {text}{}", if self.raw.is_some() { "\r" } else { "" }));
    }

    fn refused(&self, status: Status) -> Error {
        Error::refused(self.manner.doing.clone())(status)
    }

    fn ended_early(&self) -> Error {
        Error::EndedEarly { doing: self.manner.doing.clone() }
    }
}

/// 128 random bits: no two sessions of a container have the same.
fn random_id() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
