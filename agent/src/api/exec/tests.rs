//! The bridge against a monitor of the test's own on a real socket.

use futures_util::TryStreamExt as _;
use oci_spec::runtime::Process;
use tokio::net::UnixStream;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

use super::*;

/// The monitor's end of one exec.
struct Monitor(UnixStream);

impl Monitor {
    async fn receive(&mut self) -> Option<(char, String)> {
        let kind = self.0.read_u8().await.ok()?;
        let mut payload = vec![0; self.0.read_u32().await.unwrap() as usize];
        self.0.read_exact(&mut payload).await.unwrap();
        Some((char::from(kind), String::from_utf8(payload).unwrap()))
    }

    async fn send(&mut self, kind: char, payload: &[u8]) {
        self.0.write_u8(u8::try_from(kind).unwrap()).await.unwrap();
        self.0.write_u32(u32::try_from(payload.len()).unwrap()).await.unwrap();
        self.0.write_all(payload).await.unwrap();
    }
}

type Client = mpsc::Sender<Result<ExecuteCommandRequest, Status>>;

struct Exec {
    _directory: tempfile::TempDir,
    listener: UnixListener,
    target: ExecTarget,
}

impl Exec {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("monitor.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        Exec { _directory: directory, listener, target: ExecTarget { socket, process: Process::default() } }
    }

    async fn monitor(&self) -> Monitor {
        Monitor(self.listener.accept().await.unwrap().0)
    }

    async fn bridge(
        &self,
        start: ExecuteCommandStart,
    ) -> (Result<impl Stream<Item = Result<ExecuteCommandResponse, Status>> + use<>, Status>, Client) {
        let (client, input) = mpsc::channel(8);
        (bridge(self.target.clone(), start, ReceiverStream::new(input)).await, client)
    }
}

fn command() -> ExecuteCommandStart {
    ExecuteCommandStart { command: vec!["cat".into()], interactive: Some(true), ..Default::default() }
}

#[tokio::test]
async fn input_goes_to_the_command_and_output_comes_back() {
    let exec = Exec::new();
    let serve = async {
        let mut monitor = exec.monitor().await;
        let (kind, request) = monitor.receive().await.unwrap();
        let request: serde_json::Value = serde_json::from_str(&request).unwrap();
        assert_eq!((kind, &request["type"], &request["stdin"]), ('R', &"exec".into(), &true.into()));
        assert_eq!(request["process"]["args"], serde_json::json!(["cat"]));
        monitor.send('K', b"").await;
        assert_eq!(monitor.receive().await.unwrap(), ('I', "hello".to_owned()));
        assert_eq!(monitor.receive().await.unwrap(), ('W', r#"{"rows":24,"columns":80}"#.to_owned()));
        assert_eq!(monitor.receive().await.unwrap(), ('S', r#"{"signal":2}"#.to_owned()));
        assert_eq!(monitor.receive().await.unwrap(), ('C', String::new()));
        monitor.send('O', b"out").await;
        monitor.send('E', b"err").await;
        monitor.send('X', br#"{"exitCode":130}"#).await;
        assert_eq!(monitor.receive().await, None);
    };
    let call = async {
        let (output, client) = exec.bridge(command()).await;
        for message in [
            ExecuteCommandRequest { stdin: Some(b"hello"[..].into()), ..Default::default() },
            ExecuteCommandRequest {
                resize: Some(TerminalSize { rows: Some(24), columns: Some(80) }),
                ..Default::default()
            },
            ExecuteCommandRequest { signal: Some("SIGINT".into()), ..Default::default() },
        ] {
            client.send(Ok(message)).await.unwrap();
        }
        drop(client);
        output.unwrap().try_collect::<Vec<_>>().await.unwrap()
    };
    let ((), output) = tokio::join!(serve, call);
    assert_eq!(output[0].stdout.as_deref(), Some(&b"out"[..]));
    assert_eq!(output[1].stderr.as_deref(), Some(&b"err"[..]));
    assert_eq!(output[2].exit_code, Some(130));
    assert_eq!(output.len(), 3);
}

#[tokio::test]
async fn a_client_that_goes_closes_the_connection() {
    let exec = Exec::new();
    let serve = async {
        let mut monitor = exec.monitor().await;
        monitor.receive().await.unwrap();
        monitor.send('K', b"").await;
        assert_eq!(monitor.receive().await, None);
    };
    let call = async {
        let (output, client) = exec.bridge(command()).await;
        drop(output.unwrap());
        client
    };
    tokio::join!(serve, call);
}

#[tokio::test]
async fn what_the_monitor_refuses_is_told() {
    let exec = Exec::new();
    let serve = async {
        let mut monitor = exec.monitor().await;
        monitor.receive().await.unwrap();
        monitor.send('!', br#"{"kind":"CannotStartContainerError","message":"cat: no such file"}"#).await;
    };
    let ((), (refused, _client)) = tokio::join!(serve, exec.bridge(command()));
    let refused = refused.err().unwrap();
    assert_eq!((refused.code(), refused.message()), (tonic::Code::InvalidArgument, "cat: no such file"));
}

#[tokio::test]
async fn wrong_input_and_a_lost_monitor_end_the_call() {
    let exec = Exec::new();
    let call = async {
        let (output, client) = exec.bridge(command()).await;
        let message = ExecuteCommandRequest { signal: Some("SIGNOTHING".into()), ..Default::default() };
        client.send(Ok(message)).await.unwrap();
        output.unwrap().try_collect::<Vec<_>>().await.unwrap_err()
    };
    let serve = async {
        let mut monitor = exec.monitor().await;
        monitor.receive().await.unwrap();
        monitor.send('K', b"").await;
        monitor.receive().await
    };
    let (error, end) = tokio::join!(call, serve);
    assert_eq!((error.message(), end), ("signal is unknown", None));

    let call = async {
        let (output, _client) = exec.bridge(command()).await;
        output.unwrap().try_collect::<Vec<_>>().await.unwrap_err()
    };
    let serve = async {
        let mut monitor = exec.monitor().await;
        monitor.receive().await.unwrap();
        monitor.send('K', b"").await;
    };
    let (error, ()) = tokio::join!(call, serve);
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);

    drop(exec.listener);
    let (input, _client) = {
        let (client, input) = mpsc::channel(1);
        (ReceiverStream::new(input), client)
    };
    let gone = bridge(exec.target, command(), input).await.err().unwrap();
    assert_eq!(gone.code(), tonic::Code::FailedPrecondition);
}

#[test]
fn signals_have_three_spellings() {
    assert_eq!([number("SIGTERM").unwrap(), number("TERM").unwrap(), number("15").unwrap()], [15, 15, 15]);
    assert!(number("99").is_err() && number("").is_err());
}

#[test]
fn a_terminal_without_a_size_is_left_as_it_is() {
    let size = |rows, columns| window(&TerminalSize { rows, columns });
    assert_eq!(size(Some(0), Some(0)).unwrap(), None);
    assert_eq!(size(None, Some(80)).unwrap(), None);
    assert!(size(Some(-1), Some(80)).is_err() && size(Some(24), Some(70_000)).is_err());
}
