//! `neargate events`: what happens to tasks, containers and images, a line each. Goes on over restarts of the agent.

use proto::v1::{Event, EventPosition, WatchEventsRequest, WatchEventsResponse};
use tonic::Streaming;

use super::DONE;
use crate::{
    args::{Events, FilterKey, Globals},
    client::{Client, Patience, went_away},
    error::Error,
    output, task_name, text, time,
};

/// Tells events until `--until`, or until somebody has heard enough.
pub(super) async fn events(globals: &Globals, args: Events) -> Result<u8, Error> {
    let client = Client::connect(&globals.socket).await?;
    let mut request = WatchEventsRequest { since: args.since, until: args.until, ..Default::default() };
    for (key, value) in args.filter {
        match key {
            FilterKey::Task => request.tasks.push(task_name::resolve(&client, &value).await?),
            FilterKey::Container => request.containers.push(value),
            FilterKey::Family => request.families.push(value),
            FilterKey::Type => request.types.push(value.to_ascii_uppercase()),
            FilterKey::Image => request.images.push(value),
        }
    }
    let mut watch = Watch { client, request, stream: None, patience: Patience::default() };
    while let Some(event) = watch.next().await? {
        if globals.json {
            output::json_line(&event).map_err(Error::Output)?;
        } else if let Some(note) = note(&event) {
            output::note(&note);
        } else {
            output::line(&line(&event)).map_err(Error::Output)?;
        }
    }
    Ok(DONE)
}

/// The stream, taken up again where it was when the agent comes back.
struct Watch {
    client: Client,
    request: WatchEventsRequest,
    stream: Option<Streaming<WatchEventsResponse>>,
    patience: Patience,
}

impl Watch {
    async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            match self.step().await {
                Ok(Some(event)) => {
                    self.patience.answered();
                    self.request.after = event.position.clone().or(self.request.after.take());
                    self.request.since = event.timestamp.or(self.request.since);
                    return Ok(Some(event));
                }
                // At `until`. An agent that ends says so by a status.
                Ok(None) => return Ok(None),
                Err(status) if went_away(&status) && self.has_begun() && self.patience.wait().await => {
                    self.stream = None;
                }
                Err(status) => return Err(Error::refused("cannot watch events")(status)),
            }
        }
    }

    /// Whether there was an answer: what was refused at first is refused for good.
    fn has_begun(&self) -> bool {
        self.stream.is_some() || self.request.after.is_some()
    }

    async fn step(&mut self) -> Result<Option<Event>, tonic::Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = self.client.observation().watch_events(self.request.clone()).await?.into_inner();
                // Where nothing has happened yet, whatever comes after now is what was asked for.
                self.request.after.get_or_insert_with(EventPosition::default);
                self.stream.insert(stream)
            }
        };
        Ok(stream.message().await?.and_then(|answer| answer.event))
    }
}

/// What is told beside the events.
fn note(event: &Event) -> Option<String> {
    match event.r#type() {
        "MISSED" => Some(match event.missed {
            Some(missed) => format!("neargate: {missed} events came faster than they were read and are forgotten"),
            None => "neargate: not all since then is remembered: the agent started later, or forgot the oldest events"
                .to_owned(),
        }),
        "RESYNC" => Some(
            "neargate: the agent was started anew; what happened meanwhile is not known, these are the tasks as they are"
                .to_owned(),
        ),
        _ => None,
    }
}

fn line(event: &Event) -> String {
    let mut line = format!("{} {}", time::rfc3339(event.timestamp()), text::plain(event.r#type()));
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let told = match value.contains([' ', '"']) {
                // Words of a container must not read as another member.
                true => format!("\"{}\"", text::plain(&value.replace('\\', "\\\\").replace('"', "\\\""))),
                false => text::plain(&value),
            };
            line.push_str(&format!(" {name}={told}"));
        }
    };
    add("task", event.task_arn.as_deref().map(text::short_id));
    add("definition", event.task_definition_arn.as_deref().map(text::definition));
    add("container", event.container.clone());
    add("status", event.status.clone());
    add("exit", event.exit_code.map(|code| code.to_string()));
    add("restarts", event.restarts.map(|restarts| restarts.to_string()));
    add("stopCode", event.stop_code.clone());
    add("reason", event.reason.clone());
    add("image", event.image.clone());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_is_known_and_nothing_that_acts_on_the_terminal() {
        let event = Event {
            timestamp: Some(0.5),
            r#type: Some("CONTAINER_EXITED".into()),
            task_arn: Some("arn:x/0123456789abcdef".into()),
            task_definition_arn: Some("arn:x/web:3".into()),
            container: Some("a".into()),
            exit_code: Some(137),
            reason: Some("Out\x1b of memory".into()),
            ..Default::default()
        };
        assert_eq!(
            line(&event),
            "1970-01-01T00:00:00.500000Z CONTAINER_EXITED task=0123456789ab definition=web:3 container=a exit=137 \
             reason=\"Out\\x1b of memory\""
        );
        let forged = Event { reason: Some(r#"x" status=HEALTHY image="y\"#.into()), ..event.clone() };
        assert!(line(&forged).ends_with(r#" reason="x\" status=HEALTHY image=\"y\\""#), "{}", line(&forged));
        assert_eq!(note(&event), None);
        let missed = |missed| note(&Event { r#type: Some("MISSED".into()), missed, ..Default::default() }).unwrap();
        assert!(missed(None).contains("not all since then is remembered"));
        assert!(missed(Some(7)).contains("7 events"));
    }
}
