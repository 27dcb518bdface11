//! The terminal that neargate itself runs on: its size, and raw mode with the way back on every exit path.

use std::{
    io::{self, IsTerminal as _},
    sync::{Mutex, Once, PoisonError},
};

use proto::v1::TerminalSize;
use rustix::termios::{self, OptionalActions, Termios};

/// Why the terminal cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TerminalError {
    #[error("stdin is not a terminal, so --interactive --tty has none to give: leave out --tty")]
    NoTerminal,
    #[error("cannot switch the terminal to raw mode")]
    Raw(#[source] rustix::io::Errno),
}

/// The settings to go back to while raw mode lasts.
static COOKED: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode of stdin's terminal; dropping it goes back.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Switches to raw mode: every key, Ctrl-C too, is passed on.
    pub(crate) fn enter() -> Result<RawMode, TerminalError> {
        // A release build aborts on panic, where drop does not run.
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                previous(info);
            }));
        });
        let cooked = termios::tcgetattr(io::stdin()).map_err(TerminalError::Raw)?;
        let mut raw = cooked.clone();
        raw.make_raw();
        *COOKED.lock().unwrap_or_else(PoisonError::into_inner) = Some(cooked);
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(TerminalError::Raw)?;
        Ok(RawMode(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let cooked = COOKED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(cooked) = cooked {
        // A terminal that has gone needs no settings.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &cooked);
    }
}

/// The size of stdin's terminal, or stdout's.
pub(crate) fn size() -> Option<TerminalSize> {
    let size = termios::tcgetwinsize(io::stdin()).or_else(|_| termios::tcgetwinsize(io::stdout())).ok()?;
    Some(TerminalSize { rows: Some(i32::from(size.ws_row)), columns: Some(i32::from(size.ws_col)) })
}

/// Whether stdout is a terminal.
pub(crate) fn is_watched() -> bool {
    io::stdout().is_terminal()
}

/// Whether stderr is a terminal.
pub(crate) fn is_told() -> bool {
    io::stderr().is_terminal()
}

/// Columns of stdout's terminal.
pub(crate) fn columns() -> Option<usize> {
    let size = termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Whether stdin is a terminal.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal()
}
