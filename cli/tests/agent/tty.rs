//! `neargate exec -it` on a pseudo terminal of its own: keys, sizes, and the terminal as it was on every way out.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Lines, Write as _},
    os::fd::OwnedFd,
    process::{Child, ChildStdout, Stdio},
};

use nix::{
    pty::{OpenptyResult, Winsize, openpty},
    sys::termios::{self, LocalFlags, Termios},
};
use rustix::termios::tcsetwinsize;

use crate::{
    A, kill, neargate,
    stub::{Script, Stub},
    task,
};

struct Session {
    _stub: Stub,
    keyboard: File,
    terminal: OwnedFd,
    before: Termios,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Session {
    /// Has `trap` running on a terminal of 80 by 24 when it returns.
    fn start() -> Session {
        let stub = Stub::start(Script { tasks: vec![task(A, "RUNNING", None)], ..Default::default() });
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave: terminal } = openpty(Some(&size), None).unwrap();
        let before = termios::tcgetattr(&terminal).unwrap();
        let mut command = neargate(&stub, &["exec", "-it", "abcd", "trap"]);
        command.stdin(Stdio::from(terminal.try_clone().unwrap())).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut session = Session { _stub: stub, keyboard: master.into(), terminal, before, child, lines };
        assert_eq!(session.line(), "ready");
        session
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    fn is_raw(&self) -> bool {
        let flags = termios::tcgetattr(&self.terminal).unwrap().local_flags;
        !flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    fn ends_with(mut self, code: i32) {
        assert_eq!(self.child.wait().unwrap().code(), Some(code));
        assert_eq!(termios::tcgetattr(&self.terminal).unwrap(), self.before, "the terminal is not as it was");
    }
}

#[test]
fn keys_and_sizes_reach_the_command() {
    let mut session = Session::start();
    session.keyboard.write_all(b"\x03").unwrap();
    assert_eq!(session.line(), "keys [3]", "Ctrl-C is a key for the command");
    assert!(session.is_raw());
    tcsetwinsize(&session.terminal, rustix::termios::Winsize { ws_row: 50, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 })
        .unwrap();
    kill("WINCH", &session.child);
    assert_eq!(session.line(), "100x50");
    session.keyboard.write_all(b"q").unwrap();
    assert_eq!(session.line(), "keys [113]");
    session.ends_with(3);
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    for (signal, code) in [("TERM", 143), ("HUP", 129), ("QUIT", 131)] {
        let mut session = Session::start();
        session.keyboard.write_all(b"x").unwrap();
        session.line();
        assert!(session.is_raw());
        kill(signal, &session.child);
        session.ends_with(code);
    }
}
