//! The figures for Prometheus, scraped from a real agent: they parse, grow and go with what they are of; and the door
//! that serves them bears strangers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use system_tests::TestHost;
use system_tests::binaries::workspace;
use system_tests::definition::{shell, task};
use system_tests::eventually;
use system_tests::host::id;

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn host() -> TestHost {
    TestHost::with("[metrics]\nlisten = \"127.0.0.1:0\"\n")
}

/// Where the agent serves, from its log.
fn address(host: &TestHost) -> String {
    let words = host.last_words();
    let line = words.lines().rfind(|line| line.contains("serving metrics")).expect("a line that tells where");
    line.rsplit_once("address=").expect("an address").1.to_owned()
}

/// Sends bytes, answers all that comes back; empty where the other side closed without a word.
fn exchange(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The door may have closed before it has read all of it.
    let _refused = stream.write_all(request);
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(address: &str, path: &str) -> (String, String) {
    let answer = exchange(address, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {answer:?}"));
    (head.to_owned(), body.to_owned())
}

/// The samples by name and labels. Checks the text as promtool does: each sample belongs to a family that was announced
/// once, with a help and a type; names end in their unit; counters in _total; no sample comes twice.
fn scrape(host: &TestHost) -> BTreeMap<String, f64> {
    let (head, text) = get(&address(host), "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    let documented = std::fs::read_to_string(workspace().join("docs/metrics.md")).unwrap();
    let (mut kinds, mut helps, mut samples) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help");
            assert!(helps.insert(name.to_owned()) && help.ends_with('.'), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(documented.contains(&format!("`{name}`")), "not in docs/metrics.md: {line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            let name = series.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let histogram = family.filter(|family| kinds.get(*family).is_some_and(|kind| kind == "histogram"));
            let family = histogram.unwrap_or(name);
            let kind = kinds.get(family).unwrap_or_else(|| panic!("{family} was not announced: {line}"));
            assert!(helps.contains(family), "no help: {line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
            assert!(name.starts_with("neargate_") || name.starts_with("process_"), "{line}");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    samples
}

#[test]
fn figures_grow_with_what_happens_and_go_with_what_has_ended() {
    let host = host();
    let image = host.image("base");
    let before = scrape(&host);
    assert_eq!(before["neargate_task_starts_total"], 0.0);
    assert!(before["process_resident_memory_bytes"] > 1e6);
    host.run_to_end(&task("ended", &[shell("c", &image, "true")]));
    let arn = host.run(&task("runs", &[shell("web", &image, "while :; do :; done")]));
    host.running(&arn);
    let labels = format!("{{task=\"{}\",container=\"web\"}}", id(&arn));
    let cpu = format!("neargate_container_cpu_seconds_total{labels}");
    let first = scrape(&host);
    for (name, value) in [
        ("neargate_task_starts_total", 2.0),
        ("neargate_task_stops_total{stop_code=\"EssentialContainerExited\"}", 1.0),
        ("neargate_tasks{status=\"RUNNING\"}", 1.0),
        ("neargate_tasks{status=\"STOPPED\"}", 1.0),
        ("neargate_task_start_seconds_count", 2.0),
        ("neargate_task_start_phase_seconds_count{phase=\"clone\"}", 2.0),
        ("neargate_image_pulls_total{outcome=\"success\"}", 2.0),
    ] {
        assert_eq!(first.get(name), Some(&value), "{name}");
    }
    assert!(first["neargate_image_pulled_bytes_total"] > 1e5, "the image is larger");
    assert!(first["neargate_store_transaction_seconds_count"] >= 10.0);
    assert_eq!(first[&format!("neargate_container_memory_limit_bytes{labels}")], f64::from(64 << 20));
    assert_eq!(first[&format!("neargate_container_pids{labels}")], 1.0);
    assert_eq!(first[&format!("neargate_container_oom_kills_total{labels}")], 0.0);
    let grown = || scrape(&host).get(&cpu).is_some_and(|now| *now > first[&cpu]).then_some(());
    eventually("it uses the processor", PATIENCE, grown);
    host.stop(&arn, None).unwrap();
    host.stopped(&arn);
    let after = scrape(&host);
    assert!(!after.keys().any(|series| series.contains(id(&arn))), "series of what has ended");
    assert_eq!(after["neargate_task_stops_total{stop_code=\"UserInitiated\"}"], 1.0);
}

#[test]
fn the_door_answers_two_questions_and_bears_garbage() {
    let host = host();
    let address = address(&host);
    let (head, body) = get(&address, "/healthz");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body == "ok\n", "{head} {body}");
    for path in ["/", "/metrics/", "/../metrics", "/debug", "/metricsx"] {
        assert!(get(&address, path).0.starts_with("HTTP/1.1 404 "), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"] {
        let answer = exchange(&address, format!("{method} /metrics HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.to_lowercase().contains("allow: get"), "{answer}");
    }
    let with_body = exchange(&address, b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert!(with_body.starts_with("HTTP/1.1 413 "), "{with_body}");
    let many: String = (0..100).map(|number| format!("X-{number}: y\r\n")).collect();
    let large = format!("X: {}\r\n", "y".repeat(64 * 1024));
    for headers in [many, large] {
        let answer = exchange(&address, format!("GET /metrics HTTP/1.1\r\n{headers}\r\n").as_bytes());
        assert!(!answer.contains(" 200 "), "too much was taken: {answer}");
    }
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        assert!(!exchange(&address, &[garbage, b"\r\n\r\n"].concat()).contains(" 200 "));
    }
    // Whoever connects and says nothing takes a place for some seconds at most, and never the agent's.
    let idle: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(&address).unwrap()).collect();
    host.container_instance();
    eventually("there is room again", PATIENCE, || {
        exchange(&address, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 200 ").then_some(())
    });
    drop(idle);
    scrape(&host);
}

#[test]
fn an_address_that_is_taken_is_told_and_none_is_the_default() {
    let host = TestHost::start();
    assert!(!host.last_words().contains("serving metrics"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = host.scratch().join("taken.toml");
    let text = format!("[metrics]\nlisten = \"{address}\"\n");
    std::fs::File::create(&config).and_then(|mut file| file.write_all(text.as_bytes())).unwrap();
    let root = host.scratch().join("other");
    let mut command = std::process::Command::new(system_tests::binaries::built("neargated"));
    let ended = command.arg("--root").arg(&root).arg("--config").arg(&config).output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let words = String::from_utf8_lossy(&ended.stderr);
    assert!(words.contains(&format!("cannot listen for metrics on {address}: Address already in use")), "{words}");
}
