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

/// The monitor's end of one session.
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

const OPENED: &[u8] = br#"{"stdin":true,"terminal":false,"stdinOffset":0,"outputOffset":0}"#;

type Input = mpsc::Sender<Result<Step, Status>>;

struct Exec {
    _directory: tempfile::TempDir,
    listener: UnixListener,
    socket: PathBuf,
    stop: CancellationToken,
}

impl Exec {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("monitor.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        Exec { _directory: directory, listener, socket, stop: CancellationToken::new() }
    }

    async fn monitor(&self) -> Monitor {
        Monitor(self.listener.accept().await.unwrap().0)
    }

    async fn bridge(
        &self,
        session: Option<ResumableSession>,
    ) -> (Result<impl Stream<Item = Result<Told, Status>> + use<>, Status>, Input) {
        let (client, input) = mpsc::channel(8);
        let asked = Asked::new(session.as_ref()).unwrap();
        let mut process = Process::default();
        process.set_args(Some(vec!["cat".into()]));
        let request =
            asked.request(|key| Request::Exec { process: Box::new(process), stdin: true, session: Some(key) });
        let session = Session { socket: self.socket.clone(), asked, request, size: None, stdin_ends: true };
        (bridge(session, ReceiverStream::new(input), self.stop.clone()).await, client)
    }
}

fn resumable(output_offset: Option<i64>) -> Option<ResumableSession> {
    Some(ResumableSession { id: Some("mine".into()), output_offset })
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
        monitor.send('K', OPENED).await;
        assert_eq!(monitor.receive().await.unwrap(), ('I', "hello".to_owned()));
        assert_eq!(monitor.receive().await.unwrap(), ('W', r#"{"rows":24,"columns":80}"#.to_owned()));
        assert_eq!(monitor.receive().await.unwrap(), ('S', r#"{"signal":2}"#.to_owned()));
        assert_eq!(monitor.receive().await.unwrap(), ('A', r#"{"bytes":7}"#.to_owned()));
        assert_eq!(monitor.receive().await.unwrap(), ('C', String::new()));
        monitor.send('O', b"out").await;
        monitor.send('E', b"err").await;
        monitor.send('X', br#"{"exitCode":130}"#).await;
        assert_eq!(monitor.receive().await, None);
    };
    let call = async {
        let (output, client) = exec.bridge(None).await;
        for message in [
            Step { stdin: Some(b"hello"[..].into()), ..Default::default() },
            Step { resize: Some(TerminalSize { rows: Some(24), columns: Some(80) }), ..Default::default() },
            Step { signal: Some("SIGINT".into()), ..Default::default() },
            Step { output_acknowledged: Some(7), ..Default::default() },
        ] {
            client.send(Ok(message)).await.unwrap();
        }
        drop(client);
        output.unwrap().try_collect::<Vec<_>>().await.unwrap()
    };
    let ((), output) = tokio::join!(serve, call);
    assert!(matches!(&output[1], Told::Stdout(bytes, 3) if bytes == b"out"), "{output:?}");
    assert!(matches!(&output[2], Told::Stderr(bytes, 6) if bytes == b"err"), "{output:?}");
    assert!(matches!(output[3], Told::Exited(130)), "{output:?}");
    assert_eq!(output.len(), 4);
}

#[tokio::test]
async fn a_session_that_may_be_resumed_is_hung_up_only_by_its_client() {
    let exec = Exec::new();
    let serve = async {
        let mut monitor = exec.monitor().await;
        monitor.receive().await.unwrap();
        monitor.send('K', OPENED).await;
        let mut other = exec.monitor().await;
        assert_eq!(other.receive().await.unwrap(), ('R', r#"{"type":"hangup","session":"mine"}"#.to_owned()));
        other.send('K', b"").await;
    };
    let call = async {
        let (output, _client) = exec.bridge(resumable(None)).await;
        drop(output.unwrap());
    };
    tokio::join!(serve, call);

    // Of an agent that stops the monitor hears nothing but the end of the connection.
    let serve = async {
        let mut monitor = exec.monitor().await;
        let (_, request) = monitor.receive().await.unwrap();
        assert_eq!(request, r#"{"type":"resume","session":"mine","received":5}"#);
        monitor.send('K', br#"{"stdin":true,"terminal":false,"stdinOffset":3,"outputOffset":5}"#).await;
        monitor.send('O', b"more").await;
        assert_eq!(monitor.receive().await, None);
    };
    let call = async {
        let (output, _client) = exec.bridge(resumable(Some(5))).await;
        let mut output = std::pin::pin!(output.unwrap());
        let told = [output.next().await.unwrap().unwrap(), output.next().await.unwrap().unwrap()];
        assert!(matches!(&told[0], Told::Opened(opened) if opened.stdin_offset == Some(3)), "{told:?}");
        assert!(matches!(&told[1], Told::Stdout(bytes, 9) if bytes == b"more"), "{told:?}");
        exec.stop.cancel();
    };
    tokio::join!(serve, call);
    let more = tokio::time::timeout(Duration::from_millis(100), exec.listener.accept()).await;
    assert!(more.is_err(), "the session was hung up");
}

#[test]
fn ids_and_offsets_of_sessions_are_checked() {
    for id in ["", "a b", "ä", &"a".repeat(65)] {
        let session = ResumableSession { id: Some(id.to_owned()), output_offset: None };
        assert_eq!(Asked::new(Some(&session)).unwrap_err().code(), tonic::Code::InvalidArgument, "{id:?}");
    }
    assert!(Asked::new(resumable(Some(-1)).as_ref()).is_err());
}

#[tokio::test]
async fn a_client_that_goes_closes_the_connection() {
    let exec = Exec::new();
    let serve = async {
        let mut monitor = exec.monitor().await;
        monitor.receive().await.unwrap();
        monitor.send('K', OPENED).await;
        assert_eq!(monitor.receive().await, None);
    };
    let call = async {
        let (output, client) = exec.bridge(None).await;
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
    let ((), (refused, _client)) = tokio::join!(serve, exec.bridge(None));
    let refused = refused.err().unwrap();
    assert_eq!((refused.code(), refused.message()), (tonic::Code::InvalidArgument, "cat: no such file"));
}

#[tokio::test]
async fn wrong_input_and_a_lost_monitor_end_the_call() {
    let exec = Exec::new();
    let call = async {
        let (output, client) = exec.bridge(None).await;
        let message = Step { signal: Some("SIGNOTHING".into()), ..Default::default() };
        client.send(Ok(message)).await.unwrap();
        output.unwrap().try_collect::<Vec<_>>().await.unwrap_err()
    };
    let serve = async {
        let mut monitor = exec.monitor().await;
        monitor.receive().await.unwrap();
        monitor.send('K', OPENED).await;
        monitor.receive().await
    };
    let (error, end) = tokio::join!(call, serve);
    assert_eq!((error.message(), end), ("signal is unknown", None));

    let call = async {
        let (output, _client) = exec.bridge(None).await;
        output.unwrap().try_collect::<Vec<_>>().await.unwrap_err()
    };
    let serve = async {
        let mut monitor = exec.monitor().await;
        monitor.receive().await.unwrap();
        monitor.send('K', OPENED).await;
    };
    let (error, ()) = tokio::join!(call, serve);
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);

    std::fs::remove_file(&exec.socket).unwrap();
    let (gone, _client) = exec.bridge(None).await;
    assert_eq!(gone.err().unwrap().code(), tonic::Code::FailedPrecondition);
}

#[tokio::test]
async fn refusals_of_the_monitor_have_codes() {
    for (kind, code) in [("SessionLimit", tonic::Code::ResourceExhausted), ("UnknownSession", tonic::Code::NotFound)] {
        let exec = Exec::new();
        let serve = async {
            let mut monitor = exec.monitor().await;
            monitor.receive().await.unwrap();
            monitor.send('!', format!(r#"{{"kind":"{kind}","message":"no"}}"#).as_bytes()).await;
        };
        let ((), (refused, _client)) = tokio::join!(serve, exec.bridge(resumable(None)));
        assert_eq!(refused.err().unwrap().code(), code);
    }
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
