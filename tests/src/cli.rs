//! `neargate` while it runs: on pipes or on a terminal of its own, typed into, listened to, killed. Nothing here waits
//! without a deadline.

use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::binaries::{built, tool};
use crate::{TestHost, eventually};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `neargate`; killed when it is dropped.
#[derive(Debug)]
pub struct Cli {
    child: Child,
    input: Option<File>,
    output: Option<Arc<Mutex<Vec<u8>>>>,
    errors: Arc<Mutex<Vec<u8>>>,
    unread: Option<File>,
}

impl Cli {
    /// On pipes; its output is read as it comes.
    #[track_caller]
    pub fn piped(host: &TestHost, arguments: &[&str]) -> Cli {
        let mut cli = Cli::unread(host, arguments);
        cli.read();
        cli
    }

    /// On pipes, of which stdout is not read before [`Cli::read`].
    #[track_caller]
    pub fn unread(host: &TestHost, arguments: &[&str]) -> Cli {
        let mut command = command(host, arguments);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("neargate starts");
        let input = child.stdin.take().map(|stdin| File::from(OwnedFd::from(stdin)));
        let unread = child.stdout.take().map(|stdout| File::from(OwnedFd::from(stdout)));
        let errors = child.stderr.take().map(collect).unwrap_or_default();
        Cli { child, input, output: None, errors, unread }
    }

    /// On a terminal of this many rows and columns.
    #[track_caller]
    pub fn terminal(host: &TestHost, arguments: &[&str], rows: u16, columns: u16) -> Cli {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).expect("a terminal");
        let ours = || Stdio::from(slave.try_clone().expect("a descriptor"));
        let mut command = command(host, arguments);
        let child = command.stdin(ours()).stdout(ours()).stderr(ours()).spawn().expect("neargate starts");
        let master = File::from(master);
        let output = Some(collect(master.try_clone().expect("a descriptor")));
        Cli { child, input: Some(master), output, errors: Arc::default(), unread: None }
    }

    /// Begins to read what was left unread.
    pub fn read(&mut self) {
        self.output = self.unread.take().map(collect).or(self.output.take());
    }

    /// Changes the size of its terminal.
    #[track_caller]
    pub fn resize(&self, rows: u16, columns: u16) {
        let terminal = self.input.as_ref().and_then(|input| input.try_clone().ok()).expect("a terminal");
        let mut stty = Command::new("stty");
        stty.args(["rows", &rows.to_string(), "cols", &columns.to_string()]).stdin(terminal);
        tool("coreutils", &mut stty);
        // Of a terminal that is not its controlling one the kernel does not tell it.
        self.signal(Signal::SIGWINCH);
    }

    /// Types, or writes to its stdin, a little.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        self.input.as_mut().expect("stdin is open").write_all(bytes).expect("stdin is read");
    }

    /// Writes to its stdin, as fast as it reads, beside what else happens; closes it at the end if asked to.
    pub fn feed(&mut self, bytes: Vec<u8>, close: bool) {
        let mut input =
            if close { self.input.take() } else { self.input.as_ref().and_then(|own| own.try_clone().ok()) };
        std::thread::spawn(move || input.as_mut().map(|input| input.write_all(&bytes)));
    }

    /// Ends its stdin.
    pub fn close(&mut self) {
        self.input = None;
    }

    /// What it has written so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.output
            .as_ref()
            .map(|output| output.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .unwrap_or_default()
    }

    /// The same as text.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// What it has written to its stderr so far.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.errors.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until its output contains `text`.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        let begun = Instant::now();
        let is_shown = eventually("neargate shows it", PATIENCE * 2, || {
            let is_shown = self.output().contains(text);
            (is_shown || begun.elapsed() > PATIENCE).then_some(is_shown)
        });
        assert!(is_shown, "neargate does not show {text:?} but {:?} and {:?}", self.output(), self.errors());
    }

    /// Waits until it has written this many bytes.
    #[track_caller]
    pub fn has_written(&self, bytes: usize) {
        eventually("neargate writes as much", PATIENCE, || (self.bytes().len() >= bytes).then_some(()));
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("a signal");
    }

    /// Waits for its end; 128 + n where signal n ended it.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt as _;
        let status = eventually("neargate ends", PATIENCE, || self.child.try_wait().ok().flatten());
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
    }

    /// Waits for its end and for the end of its output.
    #[track_caller]
    pub fn finish(&mut self) -> (i32, Vec<u8>) {
        let code = self.exit_code();
        for output in self.output.iter().chain([&self.errors]) {
            // The thread that reads gives its share back at the end.
            eventually("its output ends", PATIENCE, || (Arc::strong_count(output) == 1).then_some(()));
        }
        (code, self.bytes())
    }
}

impl Drop for Cli {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(host: &TestHost, arguments: &[&str]) -> Command {
    let mut command = Command::new(built("neargate"));
    command.env("NEARGATE_SOCKET", host.root().join("run/neargated.sock")).args(arguments);
    command
}

fn collect(mut from: impl Read + Send + 'static) -> Arc<Mutex<Vec<u8>>> {
    let collected = Arc::new(Mutex::new(Vec::new()));
    let shared = collected.clone();
    std::thread::spawn(move || {
        let mut chunk = vec![0; 64 * 1024];
        // A terminal that nobody has open any more fails.
        while let Ok(length @ 1..) = from.read(&mut chunk) {
            shared.lock().unwrap_or_else(PoisonError::into_inner).extend(&chunk[..length]);
        }
    });
    collected
}
