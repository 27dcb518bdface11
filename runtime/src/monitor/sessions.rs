//! Clients of the monitor's socket and their sessions. A connection makes one request: it opens a session, or goes on
//! with one whose connection was lost because the agent died, or ends one whose client has gone for good.
//!
//! A session is a command executed in the container, or a client attached to the container's own streams. It is kept
//! for [`RESUME_WINDOW`] when its connection is lost; what its client has not acknowledged is sent again. Commands whose
//! clients have gone get SIGHUP and then SIGKILL. All of it happens in the monitor's one loop; nothing waits.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use oci_spec::runtime::Process;

use super::log::Stream;
use super::not_executed;
use super::protocol::{INVALID_REQUEST, Kind, Request, SESSION_LIMIT, SessionKey, UNKNOWN_SESSION};
use crate::cli::report::chain;
use crate::container::exec::{ExecError, ExecTarget};
use command::{Command, Ending};
use connection::{Connection, State};
use session::{Body, Session};

mod command;
mod connection;
mod replay;
mod session;

pub(super) use session::Container;

/// Sessions of a container at a time; health checks are not counted.
const MAX_SESSIONS: usize = 64;
/// Connections at a time; more wait, unseen, until one goes.
const MAX_CONNECTIONS: usize = MAX_SESSIONS + 32;
/// How long a session is kept without a connection. Clients try for a minute to come back.
const RESUME_WINDOW: Duration = Duration::from_secs(120);

/// What of which session is ready.
#[derive(Debug, Clone, Copy)]
pub(super) enum Interest {
    Newcomer(usize),
    Socket(usize),
    Output(usize, usize),
    Stdin(usize),
    Exit(usize),
    Ending,
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the container has {MAX_SESSIONS} sessions of exec and attach, which is the most: end one first")]
    TooMany,
    #[error("the session is not there, or no longer: it is kept for {} s without a client", RESUME_WINDOW.as_secs())]
    Unknown,
}

/// All of them.
pub(super) struct Sessions<'a> {
    target: &'a ExecTarget,
    container: Container<'a>,
    /// Connections that have made no request yet, or that end once their answer is sent. None for one that became a
    /// session's.
    newcomers: Vec<Option<Connection>>,
    sessions: Vec<Session>,
    endings: Vec<Ending>,
}

impl<'a> Sessions<'a> {
    pub(super) fn new(target: &'a ExecTarget, container: Container<'a>) -> Sessions<'a> {
        Sessions { target, container, newcomers: Vec::new(), sessions: Vec::new(), endings: Vec::new() }
    }

    /// Whether there is room for one more connection.
    pub(super) fn has_room(&self) -> bool {
        let connected = self.sessions.iter().filter(|session| session.connection.is_some()).count();
        self.newcomers.len() + connected < MAX_CONNECTIONS
    }

    /// Takes a new connection.
    pub(super) fn accept(&mut self, listener: &UnixListener) {
        self.newcomers.extend(Connection::accept(listener).map(Some));
    }

    /// What to wait for.
    pub(super) fn interests(&self) -> Vec<(Interest, BorrowedFd<'_>, PollFlags)> {
        let socket = |connection: &Connection, has_room: bool| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, has_room);
            flags.set(PollFlags::POLLOUT, connection.waiting() > 0);
            flags
        };
        let mut interests = Vec::new();
        for (index, connection) in self.newcomers.iter().enumerate() {
            if let Some(connection) = connection {
                interests.push((Interest::Newcomer(index), connection.descriptor(), socket(connection, true)));
            }
        }
        for (index, session) in self.sessions.iter().enumerate() {
            if let Some(connection) = &session.connection {
                let flags = socket(connection, session.has_room());
                interests.push((Interest::Socket(index), connection.descriptor(), flags));
            }
            if let Some(stdin) = session.pending_stdin(&self.container) {
                interests.push((Interest::Stdin(index), stdin, PollFlags::POLLOUT));
            }
            let Body::Command(command) = &session.body else { continue };
            if !session.output.is_full() {
                for (number, output) in command.open_outputs() {
                    interests.push((Interest::Output(index, number), output, PollFlags::POLLIN));
                }
            }
            interests.extend(command.end().map(|end| (Interest::Exit(index), end, PollFlags::POLLIN)));
        }
        for ending in &self.endings {
            interests.push((Interest::Ending, ending.descriptor(), PollFlags::POLLIN));
        }
        interests
    }

    /// When [`Sessions::tidy`] has something to do though nothing is ready.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let resumptions = self.sessions.iter().filter_map(|session| session.deadline);
        resumptions.chain(self.endings.iter().filter_map(Ending::deadline)).min()
    }

    /// Does what is possible now.
    pub(super) fn handle(&mut self, interest: Interest) {
        match interest {
            Interest::Newcomer(index) => self.hear(index),
            Interest::Socket(index) => {
                let session = &mut self.sessions[index];
                if let Some(connection) = &mut session.connection {
                    connection.send();
                    connection.receive();
                }
                session.receive(&mut self.container);
            }
            Interest::Output(index, number) => {
                let session = &mut self.sessions[index];
                if let Body::Command(command) = &mut session.body {
                    command.read_output(number, &mut session.output);
                }
            }
            Interest::Stdin(index) => self.sessions[index].feed(&mut self.container),
            Interest::Exit(index) => {
                if let Body::Command(command) = &mut self.sessions[index].body {
                    command.reap();
                }
            }
            // Waited for by `tidy`.
            Interest::Ending => {}
        }
    }

    /// What the container itself has written, for those who are attached. A slow one misses it.
    pub(super) fn container_wrote(&mut self, stream: Stream, bytes: &[u8]) {
        let kind = match stream {
            Stream::Stdout => Kind::Stdout,
            Stream::Stderr => Kind::Stderr,
        };
        for session in self.sessions.iter_mut().filter(|session| matches!(session.body, Body::Container { .. })) {
            if session.output.is_full() {
                session.output.miss(bytes.len());
            } else {
                session.output.push(kind, bytes);
            }
        }
    }

    /// The container has ended, and all that it wrote was passed on.
    pub(super) fn container_ended(&mut self, exit_code: i32) {
        for session in &mut self.sessions {
            match &mut session.body {
                Body::Container { .. } => session.exit_code = Some(exit_code),
                Body::Command(command) => command.reap(),
                Body::Nothing => {}
            }
        }
    }

    /// Whether everybody who listens has been told all there is.
    pub(super) fn are_told(&self) -> bool {
        self.sessions.iter().all(Session::is_told)
    }

    /// Passes on what goes on, and ends what is over.
    pub(super) fn tidy(&mut self) {
        let now = Instant::now();
        for connection in self.newcomers.iter_mut().flatten() {
            connection.send();
        }
        self.newcomers.retain(|connection| connection.as_ref().is_some_and(|connection| !connection.is_over()));
        let mut index = 0;
        while index < self.sessions.len() {
            let session = &mut self.sessions[index];
            session.progress();
            if goes_on(session, now) {
                index += 1;
                continue;
            }
            let session = self.sessions.swap_remove(index);
            // A client that detaches is answered first.
            let answered = |known: &Connection| known.state == State::Finished && !known.is_over();
            self.newcomers.extend(session.connection.filter(answered).map(Some));
            if let Body::Command(command) = session.body {
                self.endings.extend(command.hang_up(now));
            }
        }
        self.endings.retain_mut(|ending| !ending.is_over(now));
    }

    /// A connection without a session: its request, or its end.
    fn hear(&mut self, index: usize) {
        let Some(connection) = self.newcomers[index].as_mut() else { return };
        connection.send();
        connection.receive();
        if connection.state != State::Open {
            return;
        }
        match connection.frame() {
            Some((Kind::Request, payload)) => match serde_json::from_slice(&payload) {
                Ok(request) => {
                    if let Some(connection) = self.newcomers[index].take() {
                        self.newcomers[index] = self.answer(connection, request);
                    }
                }
                Err(error) => connection.refuse(INVALID_REQUEST, &error),
            },
            Some(_) => connection.state = State::Broken,
            None => {}
        }
    }

    /// Gives the connection to its session, or back with an answer.
    fn answer(&mut self, mut connection: Connection, request: Request) -> Option<Connection> {
        match request {
            Request::Exec { process, stdin, session } => {
                self.open(connection, session, |target| start(target, &process, stdin))
            }
            Request::Attach { stdin, session } => {
                self.open(connection, Some(session), |_| Ok((Body::Container { stdin }, None)))
            }
            Request::Resume { session, received } => self.resume(connection, &session, received),
            Request::Hangup { session } => {
                if let Some(session) = self.find(&session) {
                    session.is_over = true;
                }
                connection.done();
                Some(connection)
            }
        }
    }

    fn find(&mut self, id: &str) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.key.as_ref().is_some_and(|key| key.id == id))
    }

    fn open(
        &mut self,
        mut connection: Connection,
        key: Option<SessionKey>,
        make: impl FnOnce(&ExecTarget) -> Result<(Body, Option<Failed>), ExecError>,
    ) -> Option<Connection> {
        if let Some(key) = &key {
            if self.find(&key.id).is_some() {
                return self.resume(connection, &key.id, 0);
            }
            if self.sessions.iter().filter(|session| session.key.is_some()).count() >= MAX_SESSIONS {
                connection.refuse(SESSION_LIMIT, &Refusal::TooMany);
                return Some(connection);
            }
        }
        match make(self.target) {
            Ok((body, failed)) => {
                let mut session = Session::new(key, body);
                if let Some((words, exit_code)) = failed {
                    session.output.push(Kind::Stderr, words.as_bytes());
                    session.exit_code = Some(exit_code);
                }
                session.connect(connection, &self.container);
                // What was sent right behind the request.
                session.receive(&mut self.container);
                self.sessions.push(session);
                None
            }
            Err(error) => {
                connection.refuse("CannotStartContainerError", &error);
                Some(connection)
            }
        }
    }

    /// What the lost connection has not delivered yet goes with it: the client sends it again.
    fn resume(&mut self, mut connection: Connection, id: &str, received: u64) -> Option<Connection> {
        let found = self.sessions.iter_mut().find(|session| session.key.as_ref().is_some_and(|key| key.id == id));
        if let Some(session) = found
            && session.is_resumable()
            && !session.is_over
            && session.output.rewind(received)
        {
            session.connect(connection, &self.container);
            session.receive(&mut self.container);
            return None;
        }
        connection.refuse(UNKNOWN_SESSION, &Refusal::Unknown);
        Some(connection)
    }
}

/// Words and exit code of a program that could not be executed.
type Failed = (String, i32);

/// A program that is not there ends like one that a shell looked for; everything else is a failure.
fn start(target: &ExecTarget, process: &Process, stdin: bool) -> Result<(Body, Option<Failed>), ExecError> {
    match Command::start(target, process, stdin) {
        Ok(command) => Ok((Body::Command(Box::new(command)), None)),
        Err(error) => match error.execute_errno() {
            Some(errno) => Ok((Body::Nothing, Some((format!("{}\n", chain(&error)), not_executed(errno))))),
            None => Err(error),
        },
    }
}

/// Whether a session is kept; notices that its connection is lost.
fn goes_on(session: &mut Session, now: Instant) -> bool {
    if session.is_over {
        return false;
    }
    match session.connection.as_ref().filter(|connection| connection.is_over()).map(|connection| connection.state) {
        Some(State::Closed) if session.is_resumable() => {
            session.connection = None;
            session.deadline = Some(now + RESUME_WINDOW);
        }
        Some(_) => return false,
        None => {}
    }
    session.deadline.is_none_or(|deadline| deadline > now)
}
