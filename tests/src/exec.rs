//! ExecuteCommand as a test uses it: all input at once, all output and the exit code back.

use proto::v1::{ExecuteCommandRequest, ExecuteCommandStart};
use tokio_stream::StreamExt as _;
use tonic::Status;

use crate::client::Client;

/// What a command did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Executed {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Its exit code.
    pub exit_code: Option<i32>,
}

impl Client {
    /// Runs a command in a running container with `stdin`, which then is closed.
    pub fn exec(&self, start: ExecuteCommandStart, stdin: Option<&str>) -> Result<Executed, Status> {
        let start = ExecuteCommandStart { interactive: Some(stdin.is_some()), ..start };
        let mut requests = vec![ExecuteCommandRequest { start: Some(start), ..ExecuteCommandRequest::default() }];
        if let Some(text) = stdin {
            let bytes = Some(text.as_bytes().to_vec());
            requests.push(ExecuteCommandRequest { stdin: bytes, ..ExecuteCommandRequest::default() });
            requests.push(ExecuteCommandRequest { stdin_closed: Some(true), ..ExecuteCommandRequest::default() });
        }
        self.wait(async {
            let requests = tokio_stream::iter(requests);
            let mut stream = self.tasks().await?.execute_command(requests).await?.into_inner();
            let (mut stdout, mut stderr, mut exit_code) = (Vec::new(), Vec::new(), None);
            while let Some(answer) = stream.next().await {
                let answer = answer?;
                stdout.extend(answer.stdout.unwrap_or_default());
                stderr.extend(answer.stderr.unwrap_or_default());
                exit_code = answer.exit_code.or(exit_code);
            }
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            Ok(Executed { stdout: text(stdout), stderr: text(stderr), exit_code })
        })
    }

    /// Runs a shell script in a task's container; panics unless it ends with 0. Answers its standard output.
    #[track_caller]
    pub fn inside(&self, task: &str, container: &str, script: &str) -> String {
        let start = ExecuteCommandStart {
            task: Some(task.to_owned()),
            container: Some(container.to_owned()),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            ..ExecuteCommandStart::default()
        };
        let done = self.exec(start, None).expect("ExecuteCommand answers");
        assert_eq!(done.exit_code, Some(0), "{script}: {done:?}");
        done.stdout
    }
}
