//! A registry that breaks connections, stalls and lies.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rootfs::{Config, PullError, Reference, RegistryConfig};
use serde_json::json;

use crate::harness::{Layer, Made, digest, files, layers_on_disk, noise, put, store};
use crate::server::{Reply, Request, Server, honest, quick};

/// An image of one layer that takes several chunks, and that layer's digest.
pub(crate) fn big() -> (Made, String) {
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
    assert!(matches!(*error, PullError::Network { .. }), "{error:?}");
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
    assert!(matches!(*error, PullError::Unauthorized { .. }), "{error:?}");
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
