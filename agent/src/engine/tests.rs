//! What the engine promises to clients that go away.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::Poll;

use proto::v1::{RegisterTaskDefinitionRequest, RunTaskRequest};

use super::*;

/// RunTask, given up after so many polls; whether it had an answer by then.
async fn abandoned(engine: &Engine, polls: usize) -> bool {
    let request = RunTaskRequest { task_definition: Some("f".into()), count: Some(2), ..Default::default() };
    let mut seen = 0;
    let mut run = pin!(engine.run_task(request));
    poll_fn(|context| {
        seen += 1;
        match run.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(answer.map(|_| true).unwrap()),
            Poll::Pending if seen == polls => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[test]
fn definitions_take_the_images_that_can_be_pulled() {
    for image in [
        "busybox",
        "a/b:c",
        "Busybox",
        "a//b",
        "host:5000/a",
        "host:99999/a",
        "host:/a",
        "[::1]:5000/a",
        "[::g]/a",
        "a:",
        "a:.b",
        "oci:/l",
        "oci:l/m",
        "oci:/l:t",
        "oci:/l:t t",
        "oci:latest",
        "a@sha256:12",
        "a b",
        "docker-archive:/a.tar",
        "docker-archive:a/b.tar",
        "docker-archive:/a.tar:V1",
        "docker-archive:/a.tar:b c",
        "docker-archive:/a.tar:b/c:d",
        "a_b.c/d",
        "a.b.c/d",
    ] {
        let definition = serde_json::json!({
            "family": "f", "containerDefinitions": [{ "name": "c", "image": image, "memory": 6 }],
        });
        let taken = definition::check(&serde_json::from_value(definition).unwrap()).is_ok();
        assert_eq!(taken, image.parse::<rootfs::Reference>().is_ok(), "{image}");
    }
}

#[tokio::test]
async fn a_task_that_is_stored_is_driven_though_its_client_has_gone() {
    let root = tempfile::tempdir().unwrap();
    let config = Config { root: root.path().to_owned(), runtime: PathBuf::from("/bin/false"), ..Config::default() };
    let engine = Engine::open(Arc::new(config)).await.unwrap();
    let definition = serde_json::json!({
        "family": "f", "containerDefinitions": [{ "name": "c", "image": "oci:/nowhere", "memory": 6 }],
    });
    let request: RegisterTaskDefinitionRequest = serde_json::from_value(definition).unwrap();
    engine.register_task_definition(request).await.unwrap();
    let mut polls = 1;
    while !abandoned(&engine, polls).await {
        polls += 1;
    }
    assert!(polls > 1, "it was given up once at least");
    // Whoever is decided next comes after all that was begun.
    let _all_decided = engine.deciding.lock().await;
    let stored = engine.shared.store.tasks(engine.shared.names.cluster()).unwrap();
    // One that was given up before its definition was read has made nothing; none has made half.
    assert!(stored.len() > 2 && stored.len().is_multiple_of(2), "{} of {polls} requests", stored.len());
    for record in stored {
        let id = record.id().unwrap();
        if let Some(mut driver) = engine.shared.handle(&id) {
            driver.view.wait_for(|record| record.is_stopped()).await.unwrap();
        }
        assert!(engine.shared.record(&id).expect("a task that nobody drives").is_stopped());
    }
    engine.shutdown().await;
}
