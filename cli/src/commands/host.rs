//! `neargate host`: what the host has, what is left, and whether it takes tasks.

use proto::v1::{ContainerInstance, DescribeHostRequest, DescribeHostResponse, Resource, SetStateRequest};

use super::DONE;
use crate::{
    args::{Globals, Host},
    client::Client,
    error::Error,
    output,
    table::table,
    text, time,
};

/// Describes the host, after changing its state where asked to.
pub(super) async fn host(globals: &Globals, args: &Host) -> Result<u8, Error> {
    let client = Client::connect(&globals.socket).await?;
    let wanted = match (args.drain, args.activate) {
        (true, _) => Some("DRAINING"),
        (_, true) => Some("ACTIVE"),
        _ => None,
    };
    let instance = if let Some(status) = wanted {
        let request = SetStateRequest { status: Some(status.to_owned()) };
        let doing = Error::refused(format!("cannot make the host {status}"));
        client.host().set_state(request).await.map_err(doing)?.into_inner().container_instance
    } else {
        let doing = Error::refused("cannot describe the host");
        client.host().describe_host(DescribeHostRequest {}).await.map_err(doing)?.into_inner().container_instance
    };
    if globals.json {
        output::json(&DescribeHostResponse { container_instance: instance }).map_err(Error::Output)?;
    } else {
        output::line(&description(&instance.unwrap_or_default(), time::now())).map_err(Error::Output)?;
    }
    Ok(DONE)
}

fn description(host: &ContainerInstance, now: f64) -> String {
    let word = |value: &Option<String>| text::plain(value.as_deref().unwrap_or("-"));
    let mut lines = vec![
        format!("Host        {}", word(&host.container_instance_arn)),
        format!("Status      {}", word(&host.status)),
        format!(
            "Tasks       {} running, {} pending",
            host.running_tasks_count.unwrap_or(0),
            host.pending_tasks_count.unwrap_or(0)
        ),
    ];
    if let Some(version) = host.version_info.as_ref().and_then(|info| info.agent_version.as_deref()) {
        lines.push(format!("Agent       {}", text::plain(version)));
    }
    if let Some(registered) = host.registered_at {
        lines.push(format!("Registered  {}", time::ago(now, registered)));
    }
    let rows: Vec<_> = host
        .registered_resources
        .iter()
        .map(|all| {
            let left = host.remaining_resources.iter().find(|left| left.name == all.name);
            // ECS lists the ports that are taken: what is left of them are all others.
            let of = if all.string_set_value.is_empty() { amount(all) } else { String::new() };
            [word(&all.name), left.map(amount).unwrap_or_default(), of]
        })
        .collect();
    if !rows.is_empty() {
        lines.push(String::new());
        lines.push(table(["RESOURCE", "LEFT", "OF"], &rows));
    }
    let attributes: Vec<_> = host
        .attributes
        .iter()
        .map(|attribute| [word(&attribute.name), text::plain(attribute.value.as_deref().unwrap_or(""))])
        .collect();
    if !attributes.is_empty() {
        lines.push(String::new());
        lines.push(table(["ATTRIBUTE", "VALUE"], &attributes));
    }
    lines.join("\n")
}

fn amount(resource: &Resource) -> String {
    let unit = match resource.name.as_deref() {
        Some("CPU") => " units",
        Some("MEMORY") => " MiB",
        _ => "",
    };
    if let Some(number) = resource.integer_value.or(resource.long_value) {
        format!("{number}{unit}")
    } else if let Some(number) = resource.double_value {
        format!("{number}{unit}")
    } else if resource.string_set_value.is_empty() {
        "none".to_owned()
    } else {
        format!("all but {}", text::plain(&resource.string_set_value.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_told_with_what_is_left() {
        let resource = |name: &str, number| Resource {
            name: Some(name.into()),
            integer_value: Some(number),
            ..Default::default()
        };
        let host = ContainerInstance {
            container_instance_arn: Some("arn:x".into()),
            status: Some("ACTIVE".into()),
            running_tasks_count: Some(2),
            registered_resources: vec![resource("CPU", 2048)],
            remaining_resources: vec![resource("CPU", 1024)],
            ..Default::default()
        };
        assert_eq!(
            description(&host, 0.0),
            "Host        arn:x\nStatus      ACTIVE\nTasks       2 running, 0 pending\n\n\
             RESOURCE   LEFT         OF\nCPU        1024 units   2048 units"
        );
    }
}
