//! A raw-wire HTTP server whose every reply the test decides.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rootfs::{Config, Limits, Reference};

use crate::harness::Made;

/// What came in: path with query, and headers in lower case.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What goes out; `sent` bytes of the body only, then the connection ends or, when `stalls`, nothing more happens.
#[derive(Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) sent: Option<usize>,
    pub(crate) stalls: bool,
    /// Not a byte, not even a status.
    pub(crate) hangs_up: bool,
    /// After `sent` bytes it waits for this gate and sends the rest.
    pub(crate) gate: Option<Arc<Gate>>,
}

impl Reply {
    pub(crate) fn ok(body: &[u8]) -> Self {
        Self { status: 200, body: body.to_vec(), ..Self::default() }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }
}

/// Holds a reply back until the test lets it go.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<bool>, Condvar);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn wait(&self) {
        // Not for ever: a test that fails opens nothing.
        let limit = Duration::from_secs(60);
        drop(self.1.wait_timeout_while(self.0.lock().unwrap(), limit, |open| !*open).unwrap());
    }
}

/// A server for one test; its threads end with the test's process.
pub(crate) struct Server {
    pub(crate) host: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// The handler gets each request and how many came before it for the same path.
    pub(crate) fn start(handler: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
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

    pub(crate) fn reference(&self) -> Reference {
        format!("{}/app:v1", self.host).parse().unwrap()
    }

    pub(crate) fn asked_for(&self, part: &str) -> Vec<Request> {
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
    if reply.hangs_up {
        return;
    }
    let mut head =
        format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n", reply.status, reply.body.len());
    reply.headers.iter().for_each(|(key, value)| head += &format!("{key}: {value}\r\n"));
    let (body, rest) = reply.body.split_at(reply.sent.unwrap_or(reply.body.len()));
    // The client may hang up early; that is its right.
    let sent = stream.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| stream.write_all(body));
    if let Some(gate) = reply.gate {
        gate.wait();
        stream.write_all(rest).ok();
    } else if sent.is_ok() && reply.stalls {
        // Until the client gives up and closes.
        std::io::copy(&mut stream, &mut std::io::sink()).ok();
    }
}

/// The honest answer.
pub(crate) fn honest(made: &Made, request: &Request) -> Reply {
    let name = request.path.rsplit('/').next().unwrap_or_default();
    match made.blobs.get(name) {
        _ if name == "v1" => Reply::ok(&made.manifest),
        Some(bytes) => Reply::ok(bytes),
        None => Reply::status(404),
    }
}

pub(crate) fn quick() -> Config {
    let limits = Limits {
        stall_timeout: Duration::from_millis(500),
        retries: 2,
        backoff: Duration::from_millis(1),
        ..Limits::default()
    };
    Config { limits, ..Config::default() }
}
