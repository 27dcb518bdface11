//! `neargate logs`.

use std::io;

use proto::v1::{DescribeTasksRequest, GetLogsRequest, GetLogsResponse};
use serde::Serialize;

use super::DONE;
use crate::{
    args::{Globals, Logs},
    client::Client,
    error::Error,
    log_printer::LogPrinter,
    log_stream::LogStream,
    output, task_name,
};

/// A line as `--json` prints it, one a line. Text, as ECS's own logs are: what is no UTF-8 is replaced.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LogLine {
    container: Option<String>,
    stream: Option<String>,
    timestamp: Option<f64>,
    message: String,
}

impl From<GetLogsResponse> for LogLine {
    fn from(line: GetLogsResponse) -> LogLine {
        LogLine {
            container: line.container,
            stream: line.stream,
            timestamp: line.timestamp,
            message: String::from_utf8_lossy(&line.data.unwrap_or_default()).into_owned(),
        }
    }
}

/// Prints what the task's containers wrote, to stdout and stderr as they did.
pub(super) async fn logs(globals: &Globals, args: Logs) -> Result<u8, Error> {
    let client = Client::connect(&globals.socket).await?;
    let task = task_name::resolve(&client, &args.task).await?;
    let mut printer = match &args.container {
        Some(name) => LogPrinter::new([name.as_str()], args.timestamps),
        None => LogPrinter::new(containers(&client, &task).await?.iter().map(String::as_str), args.timestamps),
    };
    let request = GetLogsRequest {
        task: Some(task),
        container: args.container,
        follow: Some(args.follow),
        tail: args.tail,
        since: args.since,
        until: args.until,
        ..Default::default()
    };
    let mut lines = LogStream::new(client, request);
    while let Some(line) = lines.next().await? {
        let written = if globals.json {
            output::json_line(&LogLine::from(line))
        } else {
            printer.print(&line, &mut io::stdout().lock(), &mut io::stderr().lock())
        };
        written.map_err(Error::Output)?;
    }
    Ok(DONE)
}

/// The names of the task's containers; none where the task is not there, which GetLogs says better.
async fn containers(client: &Client, task: &str) -> Result<Vec<String>, Error> {
    let request = DescribeTasksRequest { tasks: vec![task.to_owned()], ..Default::default() };
    let doing = Error::refused("cannot describe the task");
    let answer = client.tasks().describe_tasks(request).await.map_err(doing)?.into_inner();
    let containers = answer.tasks.into_iter().flat_map(|task| task.containers);
    Ok(containers.filter_map(|container| container.name).collect())
}
