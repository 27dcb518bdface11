//! Registries that refuse, fail, wait, vanish and lie: a clear error in bounded time, and nothing left.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rootfs::{Config, Limits, PullError, Reference};

use crate::harness::{Layer, Made, digest, files, layers_on_disk, store};
use crate::server::{Reply, Request, Server, honest, quick};
use crate::wire::big;

/// Longer than any of these takes even on a busy machine; who waits this long hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pulls into a store of its own, of which nothing may be left; answers the error and all of its words.
async fn refused(reference: &Reference, config: Config) -> (Arc<PullError>, String) {
    let (dir, images) = store(config);
    let pulled = tokio::time::timeout(PATIENCE, images.pull(reference, Some("task"), |_| {})).await;
    let error = pulled.expect("it ends").unwrap_err();
    let ingest = std::fs::read_dir(dir.path().join("images/ingest")).unwrap().count();
    assert_eq!((layers_on_disk(&dir), images.list().unwrap().len(), ingest), (0, 0, 0));
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(&*error);
    while let Some(next) = cause {
        words += &format!(": {next}");
        cause = next.source();
    }
    (error, words)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_busy_is_asked_again_when_it_says_so() {
    let (made, layer) = big();
    let busy = layer.clone();
    let server = Server::start(move |request, earlier| {
        let manifest_first = request.path.ends_with("v1") && earlier == 0;
        let blob_first = request.path.ends_with(&busy) && earlier == 0;
        if manifest_first || blob_first {
            return Reply { headers: vec![("Retry-After", "1".to_owned())], ..Reply::status(429) };
        }
        honest(&made, request)
    });
    let (_dir, images) = store(quick());
    let begun = Instant::now();
    images.pull(&server.reference(), None, |_| {}).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!((server.asked_for("v1").len(), server.asked_for(&layer).len()), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_busy_registry_may_ask_for_is_bounded() {
    for status in [429, 500, 503] {
        let ages = ("Retry-After", "86400".to_owned());
        let server = Server::start(move |_, _| Reply { headers: vec![ages.clone()], ..Reply::status(status) });
        let limits = Limits { longest_wait: Duration::from_millis(1), ..quick().limits };
        let (error, words) = refused(&server.reference(), Config { limits, ..Config::default() }).await;
        assert!(matches!(*error, PullError::Source { .. }), "{error:?}");
        assert!(words.ends_with(&format!("answered with status {status}")), "{words}");
        assert_eq!(server.asked_for("v1").len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_fails_once_is_asked_again() {
    let (made, layer) = big();
    let fails = layer.clone();
    let server = Server::start(move |request, earlier| match honest(&made, request) {
        _ if earlier == 0 && request.path.ends_with(&fails) => Reply::status(500),
        _ if earlier == 0 && request.path.ends_with("v1") => Reply { hangs_up: true, ..Reply::default() },
        reply => reply,
    });
    let (_dir, images) = store(quick());
    images.pull(&server.reference(), None, |_| {}).await.unwrap();
    assert_eq!((server.asked_for("v1").len(), server.asked_for(&layer).len()), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_told_so() {
    for status in [401, 403] {
        let server = Server::start(move |_, _| Reply::status(status));
        let (error, words) = refused(&server.reference(), quick()).await;
        assert!(matches!(*error, PullError::Unauthorized { .. }), "{error:?}");
        assert!(words.starts_with("pull access to image ") && words.contains("is denied"), "{words}");
        assert_eq!(server.asked_for("v1").len(), 1);
    }
    // The manifest is open, the layers are not.
    let (made, layer) = big();
    let closed = layer.clone();
    let server = Server::start(move |request, _| match honest(&made, request) {
        _ if request.path.ends_with(&closed) => Reply::status(403),
        reply => reply,
    });
    let (error, _) = refused(&server.reference(), quick()).await;
    assert!(matches!(*error, PullError::Unauthorized { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_service_may_fail_and_lie() {
    type Told = fn(&PullError, &str) -> bool;
    let service: [(Reply, Told); 5] = [
        (Reply::status(403), |e, _| matches!(e, PullError::Unauthorized { .. })),
        (Reply::status(500), |e, words| {
            matches!(e, PullError::Source { .. }) && words.ends_with("answered with status 500")
        }),
        (Reply::ok(b"<html>welcome</html>"), |_, words| words.contains("the token service's answer is malformed")),
        (Reply::ok(b"{}"), |e, _| matches!(e, PullError::Unauthorized { .. })),
        // A token that nobody takes.
        (Reply::ok(br#"{"token":"counterfeit"}"#), |e, _| matches!(e, PullError::Unauthorized { .. })),
    ];
    for (number, (answer, told)) in service.into_iter().enumerate() {
        let host = Arc::new(Mutex::new(String::new()));
        let realm_host = host.clone();
        let (status, body) = (answer.status, answer.body);
        let server = Server::start(move |request, _| {
            if request.path.starts_with("/token?") {
                return Reply { status, body: body.clone(), ..Reply::default() };
            }
            let realm = format!("Bearer realm=\"http://{}/token\"", realm_host.lock().unwrap());
            Reply { headers: vec![("WWW-Authenticate", realm)], ..Reply::status(401) }
        });
        host.lock().unwrap().clone_from(&server.host);
        let (error, words) = refused(&server.reference(), quick()).await;
        assert!(told(&error, &words), "service {number}: {words}: {error:?}");
    }
    let nowhere = ("WWW-Authenticate", "Bearer realm=\"file:///etc/passwd\"".to_owned());
    let server = Server::start(move |_, _| Reply { headers: vec![nowhere.clone()], ..Reply::status(401) });
    let (_, words) = refused(&server.reference(), quick()).await;
    assert!(words.contains("unusable token service"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_vanishes_or_falls_silent_is_given_up() {
    for stalls in [false, true] {
        let (made, layer) = big();
        let (wanted, gone) = (layer.clone(), AtomicBool::new(false));
        let server = Server::start(move |request, _| {
            if gone.load(Ordering::SeqCst) {
                return Reply { hangs_up: !stalls, stalls, sent: Some(0), ..Reply::ok(b"x") };
            }
            let reply = honest(&made, request);
            if request.path.ends_with(&wanted) {
                gone.store(true, Ordering::SeqCst);
                return Reply { sent: Some(100_000), stalls, ..reply };
            }
            reply
        });
        let (error, words) = refused(&server.reference(), quick()).await;
        assert!(matches!(*error, PullError::Network { .. }), "{error:?}");
        assert!(words.starts_with("cannot reach the source of image "), "{words}");
        // One that got somewhere and three that did not; on a busy machine the first may get nowhere either.
        let asked = server.asked_for(&layer).len();
        assert!((3..=4).contains(&asked), "{asked} requests");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_does_not_take_longer_than_it_may() {
    let (made, layer) = big();
    let server = Server::start(move |request, _| match honest(&made, request) {
        reply if request.path.ends_with(&layer) => Reply { sent: Some(1), stalls: true, ..reply },
        reply => reply,
    });
    let limits = Limits { pull_timeout: Duration::from_secs(1), ..Limits::default() };
    let (error, words) = refused(&server.reference(), Config { limits, ..Config::default() }).await;
    assert!(matches!(*error, PullError::TimedOut { .. }), "{error:?}");
    assert!(words.ends_with("took longer than 1 s"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_it_is_named_by_is_refused() {
    type Lie = fn(&Made, &Request, &str) -> Reply;
    type Told = fn(&PullError) -> bool;
    let mismatch: Told = |e| matches!(e, PullError::DigestMismatch { .. } | PullError::LayerMismatch { .. });
    let lies: [(Lie, Told); 4] = [
        // The manifest that the digest names.
        (
            |made, request, _| match honest(made, request) {
                reply if request.path.contains("/manifests/") => Reply::ok(&[&reply.body[..], b" "].concat()),
                reply => reply,
            },
            mismatch,
        ),
        // The configuration.
        (
            |made, request, layer| match honest(made, request) {
                reply if request.path.contains("/blobs/") && !request.path.ends_with(layer) => {
                    Reply::ok(&[&reply.body[..], b" "].concat())
                }
                reply => reply,
            },
            mismatch,
        ),
        // A layer that ends early, by its own word.
        (
            |made, request, layer| match honest(made, request) {
                mut reply if request.path.ends_with(layer) => {
                    reply.body.truncate(300_000);
                    reply
                }
                reply => reply,
            },
            mismatch,
        ),
        // A layer that is not there.
        (
            |made, request, layer| {
                if request.path.ends_with(layer) { Reply::status(404) } else { honest(made, request) }
            },
            |e| matches!(e, PullError::NotFound { .. }),
        ),
    ];
    for (number, (lie, told)) in lies.into_iter().enumerate() {
        let (made, layer) = big();
        let manifest = digest(&made.manifest);
        let server = Server::start(move |request, _| lie(&made, request, &layer));
        let reference = format!("{}/app@{manifest}", server.host).parse().unwrap();
        let (error, words) = refused(&reference, quick()).await;
        assert!(told(&error), "lie {number}: {words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_for_another_platform_is_refused_whatever_wraps_it() {
    let made = Made::for_platform("s390x", vec![Layer::gzip(files(&[("a", b"1")]))]);
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(&made.manifest), "size": made.manifest.len(),
        "platform": {"os": "linux", "architecture": "s390x", "os.version": "1"},
    }]});
    let index = index.to_string().into_bytes();
    let server = Server::start(move |request, _| match honest(&made, request) {
        _ if request.path.ends_with("/indexed/manifests/v1") => Reply::ok(&index),
        reply => reply,
    });
    for name in ["app", "indexed"] {
        let reference = format!("{}/{name}:v1", server.host).parse().unwrap();
        let (error, words) = refused(&reference, quick()).await;
        assert!(matches!(*error, PullError::PlatformMismatch { .. }), "{error:?}");
        let told = format!("no matching manifest for linux/amd64 in image {reference}, which has linux/s390x only");
        assert_eq!(words, told);
    }
}
