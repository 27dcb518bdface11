//! `neargate logs`: which lines it asks the agent for.

use tonic::Status;

use crate::{
    A, line, output, stderr, stdout,
    stub::{Script, Stub},
    task,
};

#[test]
fn logs_of_a_time_are_asked_for_as_docker_writes_it() {
    let stub = Stub::start(Script {
        tasks: vec![task(A, "RUNNING", None)],
        logs: [vec![line("stdout", 1.0, "1\n")], vec![], vec![]].into(),
        ..Default::default()
    });
    let done = output(&stub, &["logs", "--since", "1970-01-01T01:00:00+01:00", "--until", "2.5", "abcd"]);
    assert_eq!((stdout(&done).as_str(), done.status.code()), ("1\n", Some(0)), "{}", stderr(&done));
    assert!(output(&stub, &["logs", "--since", "1h30m", "abcd"]).status.success());
    assert!(output(&stub, &["logs", "abcd"]).status.success());
    assert_eq!(output(&stub, &["logs", "--since", "yesterday", "abcd"]).status.code(), Some(2));
    let script = stub.script.lock().unwrap();
    assert_eq!((script.since[0], script.until[0]), (Some(0.0), Some(2.5)));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let ago = now - script.since[1].unwrap();
    assert!((5_400.0..5_460.0).contains(&ago), "{ago}");
    assert_eq!((script.since[2], script.until[2]), (None, None));
}

#[test]
fn lines_before_since_do_not_come_with_a_restart_of_the_agent() {
    let stub = Stub::start(Script {
        tasks: vec![task(A, "RUNNING", None)],
        logs: [vec![line("stdout", 1.5, "1\n"), Err(Status::unavailable("restarting"))], vec![]].into(),
        ..Default::default()
    });
    assert!(output(&stub, &["logs", "-f", "--since", "1.25", "abcd"]).status.success());
    assert_eq!(stub.script.lock().unwrap().since, [Some(1.25), Some(1.25)]);
}
