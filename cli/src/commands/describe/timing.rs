//! `neargate describe --timing`: what the starts of tasks took, phase by phase.

use proto::v1::{GetTimingRequest, GetTimingResponse, TaskPhase};
use serde::Serialize;

use super::DONE;
use crate::{
    args::Globals,
    client::Client,
    error::{Error, FAILED},
    output,
    refusal::Refusal,
    table::table,
    text,
};

/// What --json prints.
#[derive(Serialize)]
struct Timings {
    timings: Vec<GetTimingResponse>,
}

/// Tells the timing of `tasks`; exits with 1 where one has none.
pub(super) async fn show(globals: &Globals, client: &Client, tasks: &[String]) -> Result<u8, Error> {
    let (mut timings, mut code) = (Vec::new(), DONE);
    for task in tasks {
        let request = GetTimingRequest { task: Some(task.clone()), ..Default::default() };
        match client.observation().get_timing(request).await {
            Ok(answer) => timings.push(answer.into_inner()),
            // One without does not keep the others.
            Err(status) if status.code() == tonic::Code::NotFound || status.code() == tonic::Code::InvalidArgument => {
                let refusal = Refusal::from(status);
                let id = text::short_id(task);
                output::note(&format!("neargate: cannot tell the timing of task {id}: {refusal}"));
                code = FAILED;
            }
            Err(status) => return Err(Error::refused("cannot tell the timing of tasks")(status)),
        }
    }
    if globals.json {
        output::json(&Timings { timings }).map_err(Error::Output)?;
    } else if !timings.is_empty() {
        let tables: Vec<String> = timings.iter().map(described).collect();
        output::line(&tables.join("\n\n")).map_err(Error::Output)?;
    }
    Ok(code)
}

fn described(timing: &GetTimingResponse) -> String {
    let id = text::short_id(timing.task_arn());
    let headline = match timing.milliseconds {
        Some(milliseconds) => format!("Task {id}: {milliseconds:.1} ms from RunTask to exec"),
        None => format!("Task {id}: nothing was executed yet"),
    };
    let rows: Vec<_> = timing.phases.iter().map(row).collect();
    format!("{headline}\n{}", table(["AT MS", "TOOK MS", "PHASE", "CONTAINER"], &rows))
}

fn row(phase: &TaskPhase) -> [String; 4] {
    let indent = if phase.part_of.is_some() { "  " } else { "" };
    [
        format!("{:.3}", phase.begins_at()),
        format!("{:.3}", phase.milliseconds()),
        format!("{indent}{}", text::plain(phase.phase())),
        text::plain(phase.container()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_below_their_phase() {
        let phase = |name: &str, part_of: Option<&str>, begins_at: f64, milliseconds: f64| TaskPhase {
            phase: Some(name.into()),
            part_of: part_of.map(str::to_owned),
            container: part_of.map(|_| "c".to_owned()),
            begins_at: Some(begins_at),
            milliseconds: Some(milliseconds),
        };
        let timing = GetTimingResponse {
            task_arn: Some("arn:x/0123456789abcdef".into()),
            arrived_at: Some(5.0),
            milliseconds: Some(12.34),
            phases: vec![phase("admission", None, 0.0, 0.25), phase("clone", Some("execute"), 10.0, 2.3406)],
        };
        assert_eq!(
            described(&timing),
            "Task 0123456789ab: 12.3 ms from RunTask to exec\n\
             AT MS    TOOK MS   PHASE       CONTAINER\n\
             0.000    0.250     admission\n\
             10.000   2.341       clone     c"
        );
    }
}
