//! What can go wrong with a command, and which exit code says so.

use std::io;

use crate::{
    client::ConnectError, definition_file::FileError, json_argument::JsonError, refusal::Refusal, task_name::NameError,
    terminal::TerminalError,
};

/// Exit code: failed.
pub(crate) const FAILED: u8 = 1;
/// Exit code: wrong usage.
const USAGE: u8 = 2;
/// Exit code of a program that SIGPIPE ends: who read the output had enough.
const BROKEN_PIPE: u8 = 141;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    #[error("{doing}: {refusal}")]
    Refused { doing: String, refusal: Box<Refusal> },
    #[error("cannot write the answer")]
    Output(#[source] io::Error),
    #[error("{doing}: the agent's answer ended early; see `neargate ps` for what became of it")]
    EndedEarly { doing: String },
    #[error("{0}")]
    Usage(&'static str),
    #[error("cannot make a random id")]
    Random(#[source] io::Error),
    #[error("cannot listen for signals")]
    Signals(#[source] io::Error),
}

impl Error {
    /// Makes the error of a call that the agent refused; `doing` says what was tried ("cannot stop task 12ab").
    pub(crate) fn refused(doing: impl Into<String>) -> impl FnOnce(tonic::Status) -> Error {
        let doing = doing.into();
        move |status| Error::Refused { doing, refusal: Box::new(Refusal::from(status)) }
    }

    /// The code that the process ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::Json(_) => USAGE,
            Error::Output(_) if self.is_broken_pipe() => BROKEN_PIPE,
            _ => FAILED,
        }
    }

    /// Whether the reader of the output closed it, which nobody needs to be told.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// The error and its sources on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
