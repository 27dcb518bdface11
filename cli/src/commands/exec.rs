//! `neargate exec`: a command in a running container, with its terminal, signals and exit code.

use std::io::Read as _;

use proto::v1::{ExecuteCommandRequest, ExecuteCommandResponse, ExecuteCommandStart, KeyValuePair};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    args::{Exec, Globals},
    client::Client,
    error::Error,
    output, task_name,
    terminal::{self, RawMode, TerminalError},
    text,
};

/// Bytes of stdin passed on at once; a message may have 64 KiB further on.
const CHUNK: usize = 16 * 1024;
/// After as many Ctrl-C that the command ignores, neargate ends by itself, as docker does.
const GIVE_UP: u32 = 3;
/// Added to a signal's number by shells.
const SIGNALLED: u8 = 128;

/// Runs the command; its exit code.
pub(super) async fn exec(globals: &Globals, args: Exec) -> Result<u8, Error> {
    if globals.json {
        return Err(Error::Usage("--json does not go with exec: what is printed is the command's own"));
    }
    if args.interactive && args.tty && !terminal::is_interactive() {
        return Err(TerminalError::NoTerminal.into());
    }
    let client = Client::connect(&globals.socket).await?;
    let task = task_name::resolve(&client, &args.task).await?;
    let doing = format!("cannot run {} in task {}", text::plain(&args.command[0]), text::short_id(&task));
    let (tty, interactive, named) = (args.tty, args.interactive, args.container.is_some());
    let (requests, outgoing) = mpsc::channel(4);
    send(&requests, ExecuteCommandRequest { start: Some(start(args, task)), ..Default::default() }).await;
    let answers = client
        .tasks()
        .execute_command(ReceiverStream::new(outgoing))
        .await
        .map_err(Error::refused(doing.clone()))
        .inspect_err(|error| {
            if !named && matches!(error, Error::Refused { refusal, .. } if refusal.blames("container")) {
                output::note("neargate: --container NAME (-c) says which container is meant");
            }
        })?
        .into_inner();
    let _raw = if tty && terminal::is_interactive() { Some(RawMode::enter()?) } else { None };
    if interactive {
        pass_on_stdin(requests.clone());
    } else {
        send(&requests, ExecuteCommandRequest { stdin_closed: Some(true), ..Default::default() }).await;
    }
    converse(answers, requests, tty, doing).await
}

fn start(args: Exec, task: String) -> ExecuteCommandStart {
    let variable = |(name, value)| KeyValuePair { name: Some(name), value: Some(value) };
    ExecuteCommandStart {
        cluster: None,
        task: Some(task),
        container: args.container,
        command: args.command,
        interactive: Some(args.interactive),
        pseudo_terminal: Some(args.tty),
        user: args.user,
        working_directory: args.workdir,
        environment: args.env.into_iter().map(variable).collect(),
        size: if args.tty { terminal::size() } else { None },
    }
}

/// A command that has ended takes no more input; its answers say so.
async fn send(requests: &mpsc::Sender<ExecuteCommandRequest>, request: ExecuteCommandRequest) {
    let _ = requests.send(request).await;
}

/// Copies the command's output until it ends, and signals to it meanwhile.
async fn converse(
    mut answers: Streaming<ExecuteCommandResponse>,
    requests: mpsc::Sender<ExecuteCommandRequest>,
    tty: bool,
    doing: String,
) -> Result<u8, Error> {
    let mut signals = Signals::new(tty)?;
    let mut interrupted = 0;
    loop {
        tokio::select! {
            answer = answers.message() => {
                let Some(answer) = answer.map_err(Error::refused(doing.clone()))? else {
                    return Err(Error::EndedEarly { doing });
                };
                if let Some(code) = show(&answer)? {
                    return Ok(code);
                }
            }
            caught = signals.next() => match caught {
                Caught::Resized => {
                    let request = ExecuteCommandRequest { resize: terminal::size(), ..Default::default() };
                    send(&requests, request).await;
                }
                // The terminal sends keys, so a signal was meant for neargate itself.
                Caught::Signal { number, .. } if tty => return Ok(SIGNALLED + number),
                Caught::Signal { name, number } => {
                    interrupted += u32::from(name == "SIGINT");
                    if interrupted >= GIVE_UP {
                        return Ok(SIGNALLED + number);
                    }
                    let request = ExecuteCommandRequest { signal: Some(name.to_owned()), ..Default::default() };
                    send(&requests, request).await;
                }
            },
        }
    }
}

/// Writes a step's output; the exit code in the last one.
fn show(answer: &ExecuteCommandResponse) -> Result<Option<u8>, Error> {
    if let Some(data) = &answer.stdout {
        output::bytes(data).map_err(Error::Output)?;
    }
    if let Some(data) = &answer.stderr {
        output::error_bytes(data).map_err(Error::Output)?;
    }
    Ok(answer.exit_code.map(|code| u8::try_from(code & 0xff).unwrap_or(u8::MAX)))
}

/// Reads stdin on a thread of its own, which cannot be interrupted and ends with the process.
fn pass_on_stdin(requests: mpsc::Sender<ExecuteCommandRequest>) {
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; CHUNK];
        loop {
            let request = match stdin.read(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => ExecuteCommandRequest { stdin_closed: Some(true), ..Default::default() },
                Ok(count) => ExecuteCommandRequest { stdin: Some(buffer[..count].to_vec()), ..Default::default() },
            };
            let last = request.stdin_closed.is_some();
            if requests.blocking_send(request).is_err() || last {
                return;
            }
        }
    });
}

/// The signals that are passed on.
struct Signals {
    resized: Option<Signal>,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
}

enum Caught {
    Resized,
    Signal { name: &'static str, number: u8 },
}

impl Signals {
    fn new(tty: bool) -> Result<Signals, Error> {
        let listen = |kind| signal(kind).map_err(Error::Signals);
        Ok(Signals {
            resized: if tty { Some(listen(SignalKind::window_change())?) } else { None },
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
            user1: listen(SignalKind::user_defined1())?,
            user2: listen(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Caught {
        let resized = async {
            match &mut self.resized {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        let (name, number) = tokio::select! {
            _ = resized => return Caught::Resized,
            _ = self.interrupt.recv() => ("SIGINT", 2),
            _ = self.terminate.recv() => ("SIGTERM", 15),
            _ = self.hangup.recv() => ("SIGHUP", 1),
            _ = self.quit.recv() => ("SIGQUIT", 3),
            _ = self.user1.recv() => ("SIGUSR1", 10),
            _ = self.user2.recv() => ("SIGUSR2", 12),
        };
        Caught::Signal { name, number }
    }
}
