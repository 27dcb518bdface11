//! `neargate stop`.

use proto::v1::{StopTaskRequest, StopTaskResponse, Task, WatchTasksRequest};

use super::DONE;
use crate::{
    args::{Globals, Stop},
    client::Client,
    error::{self, Error, FAILED},
    output, task_name, terminal, text,
    watch::{Watch, has_stopped},
};

/// Asks every task to stop, then waits until they have; one that cannot be stopped does not keep the others.
pub(super) async fn stop(globals: &Globals, args: &Stop) -> Result<u8, Error> {
    let client = Client::connect(&globals.socket).await?;
    let (mut code, mut stopping) = (DONE, Vec::<Task>::new());
    for name in &args.tasks {
        match ask(&client, name, args.reason.as_ref()).await {
            Ok(task) if args.no_wait || has_stopped(&task) => tell(globals, task)?,
            Ok(task) => stopping.push(task),
            Err(error) => {
                output::note(&format!("neargate: {}", error::chain(&error)));
                code = FAILED;
            }
        }
    }
    // Whoever names a task twice waits for it once.
    stopping.sort_by(|a, b| a.task_arn.cmp(&b.task_arn));
    stopping.dedup_by(|a, b| a.task_arn == b.task_arn);
    wait(globals, &client, stopping).await?;
    Ok(code)
}

async fn ask(client: &Client, name: &str, reason: Option<&String>) -> Result<Task, Error> {
    let task = task_name::resolve(client, name).await?;
    let doing = Error::refused(format!("cannot stop task {}", text::short_id(&task)));
    let request = StopTaskRequest { task: Some(task), reason: reason.cloned(), ..Default::default() };
    Ok(client.tasks().stop_task(request).await.map_err(doing)?.into_inner().task.unwrap_or_default())
}

/// Tells each task once it has stopped.
async fn wait(globals: &Globals, client: &Client, stopping: Vec<Task>) -> Result<(), Error> {
    let mut left: Vec<String> = stopping.into_iter().filter_map(|task| task.task_arn).collect();
    if left.is_empty() {
        return Ok(());
    }
    if terminal::is_told() {
        let ids: Vec<String> = left.iter().map(|arn| text::short_id(arn)).collect();
        output::note(&format!("neargate: waiting until stopped: {} (Ctrl-C ends the waiting only)", ids.join(" ")));
    }
    let mut watch = Watch::new(client.clone(), WatchTasksRequest { tasks: left.clone(), ..Default::default() });
    while !left.is_empty() {
        let task = watch.next().await?;
        let place = left.iter().position(|arn| task.task_arn.as_ref() == Some(arn));
        if let Some(place) = place.filter(|_| has_stopped(&task)) {
            left.remove(place);
            tell(globals, task)?;
        }
    }
    Ok(())
}

fn tell(globals: &Globals, task: Task) -> Result<(), Error> {
    let told = if globals.json {
        output::json(&StopTaskResponse { task: Some(task) })
    } else {
        let id = text::short_id(task.task_arn.as_deref().unwrap_or_default());
        let status = text::plain(task.last_status.as_deref().unwrap_or_default());
        output::line(&if has_stopped(&task) {
            format!("{id} has stopped")
        } else {
            format!("{id} is stopping, now {status}")
        })
    };
    told.map_err(Error::Output)
}
