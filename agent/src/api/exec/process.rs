//! The process that a command runs as: the container's own, changed as the request says. Pure.

use oci_spec::runtime::{BoxBuilder, LinuxCapabilities, Process};
use proto::v1::ExecuteCommandStart;
use runtime::capabilities;
use tonic::Status;

use crate::api::status;

/// `process` with the request's command, user, directory, environment and terminal.
pub(super) fn changed(mut process: Process, start: &ExecuteCommandStart) -> Result<Process, Status> {
    if start.command.is_empty() {
        return Err(status::invalid_parameter("command", "must not be empty"));
    }
    process.set_args(Some(start.command.clone()));

    let terminal = start.pseudo_terminal.unwrap_or_default();
    process.set_terminal(Some(terminal));
    process.set_console_size(None);
    if let (true, Some(size)) = (terminal, &start.size) {
        let side = |value: Option<i32>| value.and_then(|value| u64::try_from(value).ok()).unwrap_or_default();
        let size = BoxBuilder::default().height(side(size.rows)).width(side(size.columns)).build();
        process.set_console_size(size.ok());
    }

    if let Some(user) = given(start.user.as_deref()) {
        // Names are the container's, so the runtime resolves them inside; ids of the definition's user would mix in.
        process.user_mut().set_additional_gids(None).set_username(Some(user.to_owned()));
    }
    if start.privileged.unwrap_or_default() {
        process.set_capabilities(Some(all_capabilities()?));
    }
    if let Some(directory) = given(start.working_directory.as_deref()) {
        if !directory.starts_with('/') {
            return Err(status::invalid_parameter("working_directory", "must be an absolute path"));
        }
        process.set_cwd(directory.into());
    }

    let mut environment = process.env().clone().unwrap_or_default();
    for variable in &start.environment {
        let name = variable.name.as_deref().unwrap_or_default();
        let value = variable.value.as_deref().unwrap_or_default();
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(status::invalid_parameter("environment", "needs names without = and no NUL"));
        }
        set(&mut environment, name, value);
    }
    if terminal && !environment.iter().any(|variable| variable.starts_with("TERM=")) {
        // As docker does; programs without it take the terminal for a dumb one.
        environment.push("TERM=xterm".to_owned());
    }
    process.set_env(Some(environment));
    Ok(process)
}

/// As docker: those that the host has, within the container's namespaces. Its seccomp profile and its paths stay.
fn all_capabilities() -> Result<LinuxCapabilities, Status> {
    let names = capabilities::available().map_err(|error| status::internal(&error))?;
    let sets = serde_json::json!({ "bounding": names, "effective": names, "permitted": names });
    serde_json::from_value(sets).map_err(|error| status::internal(&error))
}

fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn set(environment: &mut Vec<String>, name: &str, value: &str) {
    environment.retain(|variable| variable.split_once('=').is_none_or(|(known, _)| known != name));
    environment.push(format!("{name}={value}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{KeyValuePair, TerminalSize};

    fn start(command: &[&str]) -> ExecuteCommandStart {
        let command = command.iter().map(ToString::to_string).collect();
        ExecuteCommandStart { command, ..Default::default() }
    }

    fn container() -> Process {
        let mut process = Process::default();
        process.set_args(Some(vec!["server".into()])).set_cwd("/srv".into()).set_terminal(Some(true));
        process.set_env(Some(vec!["PATH=/bin".into(), "A=1".into()]));
        process.user_mut().set_uid(7).set_additional_gids(Some(vec![8]));
        process
    }

    #[test]
    fn what_is_not_asked_for_stays() {
        let process = changed(container(), &start(&["id", "-u"])).unwrap();
        assert_eq!(process.args().as_deref(), Some(&["id".to_owned(), "-u".to_owned()][..]));
        assert_eq!(process.terminal(), Some(false));
        assert_eq!(process.cwd().to_str(), Some("/srv"));
        assert_eq!(process.user().uid(), 7);
        assert_eq!(process.env().as_deref(), container().env().as_deref());
        assert_eq!(process.capabilities(), container().capabilities());
    }

    #[test]
    fn what_is_asked_for_changes() {
        let mut start = start(&["sh"]);
        start.pseudo_terminal = Some(true);
        start.size = Some(TerminalSize { rows: Some(24), columns: Some(80) });
        start.user = Some("nobody:nogroup".into());
        start.working_directory = Some("/tmp".into());
        start.environment = vec![KeyValuePair { name: Some("A".into()), value: Some("x=y".into()) }];
        let process = changed(container(), &start).unwrap();
        assert_eq!(process.console_size().map(|size| (size.height(), size.width())), Some((24, 80)));
        assert_eq!(process.user().username().as_deref(), Some("nobody:nogroup"));
        assert_eq!(process.user().additional_gids(), &None);
        assert_eq!(process.cwd().to_str(), Some("/tmp"));
        let environment: Vec<_> = process.env().as_ref().unwrap().iter().map(String::as_str).collect();
        assert_eq!(environment, ["PATH=/bin", "A=x=y", "TERM=xterm"]);
    }

    #[test]
    fn privileged_has_all_capabilities_of_the_host() {
        let process = changed(container(), &ExecuteCommandStart { privileged: Some(true), ..start(&["sh"]) }).unwrap();
        let capabilities = process.capabilities().as_ref().unwrap();
        let available = capabilities::available().unwrap().len();
        assert_eq!(capabilities.effective().as_ref().map(|set| set.len()), Some(available));
        assert_eq!(capabilities.bounding(), capabilities.permitted());
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let refused = |start: ExecuteCommandStart| changed(container(), &start).unwrap_err().message().to_owned();
        assert_eq!(refused(start(&[])), "command must not be empty");
        let relative = ExecuteCommandStart { working_directory: Some("tmp".into()), ..start(&["sh"]) };
        assert_eq!(refused(relative), "working_directory must be an absolute path");
        let variable = KeyValuePair { name: Some("A=B".into()), value: None };
        let environment = ExecuteCommandStart { environment: vec![variable], ..start(&["sh"]) };
        assert_eq!(refused(environment), "environment needs names without = and no NUL");
    }
}
