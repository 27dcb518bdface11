//! A registry that breaks connections, stalls and lies.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rootfs::{Config, Limits, PullError, Reference, RegistryConfig};
use serde_json::json;

use crate::harness::{Layer, Made, digest, files, layers_on_disk, noise, put, store};

/// What came in: path with query, and headers in lower case.
#[derive(Debug, Clone)]
struct Request {
    path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What goes out; `sent` bytes of the body only, then the connection ends or, when `stalls`, nothing more happens.
#[derive(Default)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    sent: Option<usize>,
    stalls: bool,
}

impl Reply {
    fn ok(body: &[u8]) -> Self {
        Self { status: 200, body: body.to_vec(), ..Self::default() }
    }

    fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }
}

/// A server for one test; its threads end with the test's process.
struct Server {
    host: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// The handler gets each request and how many came before it for the same path.
    fn start(handler: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::<Request>::new()));
        let (seen, handler) = (requests.clone(), Arc::new(handler));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, handler) = (seen.clone(), handler.clone());
                std::thread::spawn(move || serve(stream, &seen, &*handler));
            }
        });
        Self { host, requests }
    }

    fn reference(&self) -> Reference {
        format!("{}/app:v1", self.host).parse().unwrap()
    }

    fn asked_for(&self, part: &str) -> Vec<Request> {
        self.requests.lock().unwrap().iter().filter(|request| request.path.contains(part)).cloned().collect()
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Request>>, handler: &dyn Fn(&Request, usize) -> Reply) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned())));
    let request = Request { path, headers: headers.collect() };
    let earlier = {
        let mut seen = seen.lock().unwrap();
        let earlier = seen.iter().filter(|other| other.path == request.path).count();
        seen.push(request.clone());
        earlier
    };
    let reply = handler(&request, earlier);
    let mut head =
        format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n", reply.status, reply.body.len());
    reply.headers.iter().for_each(|(key, value)| head += &format!("{key}: {value}\r\n"));
    let body = &reply.body[..reply.sent.unwrap_or(reply.body.len())];
    // The client may hang up early; that is its right.
    let sent = stream.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| stream.write_all(body));
    if sent.is_ok() && reply.stalls {
        // Until the client gives up and closes.
        std::io::copy(&mut stream, &mut std::io::sink()).ok();
    }
}

/// The honest answer.
fn honest(made: &Made, request: &Request) -> Reply {
    let name = request.path.rsplit('/').next().unwrap_or_default();
    match made.blobs.get(name) {
        _ if name == "v1" => Reply::ok(&made.manifest),
        Some(bytes) => Reply::ok(bytes),
        None => Reply::status(404),
    }
}

fn quick() -> Config {
    let limits = Limits {
        stall_timeout: Duration::from_millis(500),
        retries: 2,
        backoff: Duration::from_millis(1),
        ..Limits::default()
    };
    Config { limits, ..Config::default() }
}

fn big() -> (Made, String) {
    let made = Made::new(vec![Layer::gzip(files(&[("big", &noise(600_000))]))]);
    let layer = digest(&made.layers[0].blob);
    (made, layer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_or_stalled_transfer_goes_on_where_it_stopped() {
    for ranges in [true, false] {
        let (made, layer) = big();
        let wanted = layer.clone();
        let server = Server::start(move |request, earlier| {
            let mut reply = honest(&made, request);
            if request.path.ends_with(&wanted) {
                let total = reply.body.len();
                let range =
                    request.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
                if let Some(first) = range.filter(|_| ranges) {
                    let first: usize = first;
                    reply.body.drain(..first);
                    reply.status = 206;
                    reply.headers.push(("Content-Range", format!("bytes {first}-{}/{total}", total - 1)));
                }
                // Each attempt gets a little further; the second stalls instead of breaking.
                if earlier < 4 {
                    let step = 100_000 + if ranges { 0 } else { earlier * 100_000 };
                    reply.sent = Some(step);
                    reply.stalls = earlier == 1;
                }
            }
            reply
        });
        let (_dir, images) = store(quick());
        let image = images.pull(&server.reference(), None, |_| {}).await.unwrap();
        assert_eq!(std::fs::read(images.layers(&image)[0].join("big")).unwrap(), noise(600_000));
        let asked: Vec<_> = server.asked_for(&layer).iter().map(|r| r.header("range").map(str::to_owned)).collect();
        assert_eq!(asked.len(), 5);
        assert_eq!(
            (&asked[0], asked[1].as_deref(), asked[4].as_deref()),
            (&None, Some("bytes=100000-"), Some("bytes=400000-"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_never_gets_anywhere_is_given_up() {
    let (made, layer) = big();
    let wanted = layer.clone();
    let server = Server::start(move |request, _| match honest(&made, request) {
        reply if request.path.ends_with(&wanted) => Reply { sent: Some(0), ..reply },
        reply => reply,
    });
    let (dir, images) = store(quick());
    let error = images.pull(&server.reference(), None, |_| {}).await.unwrap_err();
    assert!(matches!(error, PullError::Network { .. }), "{error:?}");
    assert_eq!(server.asked_for(&layer).len(), 3);
    assert_eq!(layers_on_disk(&dir), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_are_found_out() {
    type Lie = fn(&Made, &Request) -> Reply;
    type Told = fn(&PullError) -> bool;
    let lies: [(Lie, Told); 6] = [
        // Another document than the registry itself says.
        (
            |made, request| Reply { headers: vec![("Docker-Content-Digest", digest(b"x"))], ..honest(made, request) },
            |e| matches!(e, PullError::DigestMismatch { .. }),
        ),
        // A layer of the same size with other content, and a longer one.
        (
            |made, request| match honest(made, request) {
                mut reply if reply.body.len() > 100_000 => {
                    reply.body[50_000] ^= 1;
                    reply
                }
                reply => reply,
            },
            |e| matches!(e, PullError::LayerMismatch { .. }),
        ),
        (
            |made, request| match honest(made, request) {
                mut reply if reply.body.len() > 100_000 => {
                    reply.body.push(0);
                    reply
                }
                reply => reply,
            },
            |e| matches!(e, PullError::DigestMismatch { .. }),
        ),
        // A manifest without end, an old one, and one that is none.
        (|_, _| Reply::ok(&vec![b' '; 5 << 20]), |e| matches!(e, PullError::Source { .. })),
        (|_, _| Reply::ok(br#"{"schemaVersion":1,"fsLayers":[]}"#), |e| matches!(e, PullError::Manifest { .. })),
        (|_, _| Reply::status(500), |e| matches!(e, PullError::Source { .. })),
    ];
    for (number, (lie, told)) in lies.into_iter().enumerate() {
        let (made, _) = big();
        let server = Server::start(move |request, _| lie(&made, request));
        let (dir, images) = store(quick());
        let error = images.pull(&server.reference(), None, |_| {}).await.unwrap_err();
        assert!(told(&error), "lie {number}: {error:?}");
        assert_eq!(layers_on_disk(&dir), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_with_the_password_and_used() {
    let (made, _) = big();
    let host = Arc::new(Mutex::new(String::new()));
    let realm_host = host.clone();
    let server = Server::start(move |request, _| {
        if request.path.starts_with("/token?") {
            return match request.header("authorization") {
                Some("Basic dXNlcjpwYXNz") => Reply::ok(json!({"access_token": "t0k"}).to_string().as_bytes()),
                _ => Reply::status(401),
            };
        }
        match request.header("authorization") {
            Some("Bearer t0k") => honest(&made, request),
            _ => {
                let realm = format!("Bearer realm=\"http://{}/token\",service=\"reg\"", realm_host.lock().unwrap());
                Reply { headers: vec![("WWW-Authenticate", realm)], ..Reply::status(401) }
            }
        }
    });
    host.lock().unwrap().clone_from(&server.host);
    let secrets = tempfile::tempdir().unwrap();
    let password_file = secrets.path().join("password");
    put(&password_file, b"pass\n");
    let settings = RegistryConfig {
        username: Some("user".to_owned()),
        password_file: Some(password_file),
        ..RegistryConfig::default()
    };
    let (_dir, images) = store(Config { registries: [(server.host.clone(), settings)].into(), ..quick() });
    images.pull(&server.reference(), None, |_| {}).await.unwrap();
    let tokens = server.asked_for("/token?");
    assert_eq!(tokens.len(), 1);
    assert!(tokens[0].path.contains("service=reg") && tokens[0].path.contains("repository%3Aapp%3Apull"), "{tokens:?}");
    let (_dir, anonymous) = store(quick());
    let error = anonymous.pull(&server.reference(), None, |_| {}).await.unwrap_err();
    assert!(matches!(error, PullError::Unauthorized { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_come_first_and_one_layer_is_fetched_once() {
    let shared = Layer::gzip(files(&[("shared", &noise(200_000))]));
    let layer = digest(&shared.blob);
    let one = Made::new(vec![shared.clone(), Layer::gzip(files(&[("a", b"1")]))]);
    let two = Made::new(vec![shared, Layer::gzip(files(&[("b", b"2")]))]);
    let mirror = Server::start(|_, _| Reply::status(404));
    let server = Server::start(move |request, _| {
        let made = if request.path.contains("/two/manifests/v1") { &two } else { &one };
        match honest(made, request) {
            reply if reply.status == 404 => honest(&two, request),
            reply => reply,
        }
    });
    let settings = RegistryConfig { mirrors: vec![mirror.host.clone()], ..RegistryConfig::default() };
    let (dir, images) = store(Config { registries: [(server.host.clone(), settings)].into(), ..quick() });
    let reference = |name: &str| format!("{}/{name}:v1", server.host).parse::<Reference>().unwrap();
    let (a, b) = (reference("one"), reference("two"));
    let (a, b) = tokio::join!(images.pull(&a, None, |_| {}), images.pull(&b, None, |_| {}));
    assert_ne!(a.unwrap().id, b.unwrap().id);
    assert_eq!((server.asked_for(&layer).len(), layers_on_disk(&dir)), (1, 3));
    assert!(!mirror.asked_for("/v2/one/manifests/v1").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_dropped_leaves_nothing_half_made() {
    let (made, layer) = big();
    let server = Server::start(move |request, _| match honest(&made, request) {
        reply if reply.body.len() > 100_000 => Reply { sent: Some(50_000), stalls: true, ..reply },
        reply => reply,
    });
    let (dir, images) = store(Config::default());
    let ingest = dir.path().join("images/ingest");
    let entries = || std::fs::read_dir(&ingest).unwrap().count();
    let reference = server.reference();
    let pulling = tokio::spawn({
        let images = images.clone();
        async move { images.pull(&reference, None, |_| {}).await.map(drop) }
    });
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let until = async |done: &dyn Fn() -> bool| {
        while !done() {
            assert!(std::time::Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
    };
    until(&|| !server.asked_for(&layer).is_empty() && entries() > 0).await;
    pulling.abort();
    until(&|| entries() == 0).await;
    assert_eq!((layers_on_disk(&dir), images.list().unwrap().len()), (0, 0));
}
