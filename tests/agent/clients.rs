//! Clients that go in the middle, ask without end or talk nonsense: the agent does what it has accepted, and goes on.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proto::v1::{ListTasksRequest, RunTaskRequest};
use system_tests::definition::{shell, task};
use system_tests::{TestHost, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

/// Open descriptors of the agent.
fn descriptors(host: &TestHost) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", host.agent_pid())).unwrap().count()
}

#[test]
fn a_client_gone_in_the_middle_of_run_task_leaves_one_task_or_none() {
    let host = TestHost::start();
    host.register(&task("gone", &[shell("c", &host.image("base"), "exit 3")])).unwrap();
    let (mut answered, mut arns) = (0, Vec::new());
    for nth in 0..20 {
        let request = RunTaskRequest {
            task_definition: Some("gone".to_owned()),
            client_token: Some(format!("gone-{nth}")),
            ..RunTaskRequest::default()
        };
        // From before it is sent to after it is answered.
        let patience = Duration::from_micros(500 * nth);
        answered += host.wait(async {
            let mut tasks = host.tasks().await.unwrap();
            let asked = tokio::time::timeout(patience, tasks.run_task(request.clone())).await;
            u32::from(asked.is_ok())
        });
        let again = host.run_task(request).unwrap();
        assert_eq!(again.tasks.len(), 1);
        arns.push(again.tasks[0].task_arn().to_owned());
    }
    assert!(answered < 20, "no client went in the middle");
    for arn in &arns {
        assert_eq!(host.stopped(arn).containers[0].exit_code, Some(3));
    }
    let mut known = host.list("STOPPED");
    known.sort();
    arns.sort();
    assert_eq!(known, arns, "a token made more than one task");
}

#[test]
fn a_thousand_questions_while_tasks_start_are_answered() {
    let host = TestHost::start();
    let image = host.image("base");
    let definition = host.register(&task("asked", &[shell("c", &image, "exit 5")])).unwrap();
    let count = Some(10);
    let request =
        RunTaskRequest { task_definition: definition.task_definition_arn, count, ..RunTaskRequest::default() };
    let answer = host.run_task(request).unwrap();
    let arns: Vec<String> = answer.tasks.iter().map(|task| task.task_arn().to_owned()).collect();
    let names: Vec<&str> = arns.iter().map(String::as_str).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for nth in 0..250 {
                    if nth % 2 == 0 {
                        let described = host.describe_tasks(&names).unwrap();
                        assert_eq!((described.tasks.len(), described.failures.len()), (10, 0));
                    } else {
                        let all =
                            host.wait(async { host.tasks().await?.list_tasks(ListTasksRequest::default()).await });
                        assert!(all.unwrap().into_inner().task_arns.len() <= 10);
                    }
                }
            });
        }
    });
    for arn in &arns {
        assert_eq!(host.stopped(arn).containers[0].exit_code, Some(5));
    }
}

#[test]
fn nonsense_on_the_socket_ends_that_connection_only() {
    let host = TestHost::start();
    assert!(host.is_serving());
    let socket = host.root().join("run/neargated.sock");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let noise: Vec<u8> = (0..100_000_u32).map(|n| n.wrapping_mul(0x9E37_79B9).to_le_bytes()[3]).collect();
    let frame = |header: &[u8]| [preface.as_slice(), header].concat();
    let said = [
        noise.clone(),
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        preface[..10].to_vec(),
        frame(&noise),
        // SETTINGS of an odd length; a DATA frame of no stream; HEADERS that are no HPACK; a frame too large.
        frame(&[0, 0, 1, 4, 0, 0, 0, 0, 0, 7]),
        frame(&[0, 0, 1, 0, 0, 0, 0, 0, 9, 7]),
        frame(&[0, 0, 4, 1, 5, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
        frame(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        // PING by the hundred.
        [frame(&[]), [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8].repeat(500)].concat(),
    ];
    // What it opens once it has opened by then.
    host.run_to_end(&task("before", &[shell("c", &host.image("base"), "true")]));
    let before = descriptors(&host);
    let mut idle = Vec::new();
    for bytes in &said {
        let mut stream = UnixStream::connect(&socket).unwrap();
        // Closed by the agent while we talk is an answer, too.
        let _either = stream.write_all(bytes);
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let _either = stream.read(&mut [0; 4096]);
        idle.push(stream);
        assert!(host.is_serving(), "it no longer serves after {:?}", &bytes[..bytes.len().min(40)]);
    }
    // And those who say nothing at all.
    idle.extend((0..200).map(|_| UnixStream::connect(&socket).unwrap()));
    let ended = host.run_to_end(&task("after", &[shell("c", &host.image("base"), "exit 2")]));
    assert_eq!(ended.containers[0].exit_code, Some(2));
    drop(idle);
    eventually("their descriptors are closed", PATIENCE, || (descriptors(&host) <= before + 5).then_some(()));
}
