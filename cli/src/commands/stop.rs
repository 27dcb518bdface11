//! `neargate stop`.

use proto::v1::StopTaskRequest;

use super::DONE;
use crate::{
    args::{Globals, Stop},
    client::Client,
    error::{self, Error, FAILED},
    output, task_name, text,
};

/// Asks every task to stop and returns; one that cannot be stopped does not keep the others.
pub(super) async fn stop(globals: &Globals, args: &Stop) -> Result<u8, Error> {
    let client = Client::connect(&globals.socket).await?;
    let mut code = DONE;
    for name in &args.tasks {
        match stop_one(globals, &client, name, args.reason.as_ref()).await {
            Err(error) if !matches!(error, Error::Output(_)) => {
                output::note(&format!("neargate: {}", error::chain(&error)));
                code = FAILED;
            }
            outcome => outcome?,
        }
    }
    Ok(code)
}

async fn stop_one(globals: &Globals, client: &Client, name: &str, reason: Option<&String>) -> Result<(), Error> {
    let task = task_name::resolve(client, name).await?;
    let doing = Error::refused(format!("cannot stop task {}", text::short_id(&task)));
    let request = StopTaskRequest { task: Some(task.clone()), reason: reason.cloned(), ..Default::default() };
    let answer = client.tasks().stop_task(request).await.map_err(doing)?.into_inner();
    if globals.json {
        return output::json(&answer).map_err(Error::Output);
    }
    let status = answer.task.and_then(|task| task.last_status).unwrap_or_default();
    let told = if status == "STOPPED" {
        "has stopped".to_owned()
    } else {
        format!("is stopping, now {}", text::plain(&status))
    };
    output::line(&format!("{} {told}", text::short_id(&task))).map_err(Error::Output)
}
