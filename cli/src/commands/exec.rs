//! `neargate exec`: a command in a running container, with its terminal, signals and exit code.

use proto::v1::{ExecuteCommandStart, KeyValuePair};

use crate::{
    args::{Exec, Globals},
    client::Client,
    error::Error,
    output,
    session::{self, Ended, Manner, Start},
    task_name,
    terminal::{self, TerminalError},
    text,
};

/// Runs the command; its exit code.
pub(super) async fn exec(globals: &Globals, args: Exec) -> Result<u8, Error> {
    if globals.json {
        return Err(Error::Usage("--json does not go with exec: what is printed is the command's own"));
    }
    if args.interactive && args.tty && !terminal::is_interactive() {
        return Err(TerminalError::NoTerminal.into());
    }
    let client = Client::connect(&globals.socket).await?;
    let task = task_name::resolve(&client, &args.task).await?;
    let doing = format!("cannot run {} in task {}", text::plain(&args.command[0]), text::short_id(&task));
    let named = args.container.is_some();
    let manner = Manner {
        doing,
        stdin: args.interactive,
        pass_signals: !args.tty,
        detach_keys: None,
        redraw: false,
        interrupts_detach: false,
    };
    let ended = session::run(&client, Start::Exec(start(args, task)), manner).await;
    match ended.inspect_err(|error| say_how_to_name_a_container(error, named))? {
        Ended::Exited(code) => Ok(code),
        // There are no keys for it.
        Ended::Detached => Ok(super::DONE),
    }
}

/// Where a task has several containers and none was named.
pub(super) fn say_how_to_name_a_container(error: &Error, named: bool) {
    if !named && matches!(error, Error::Refused { refusal, .. } if refusal.blames("container")) {
        output::note("neargate: --container NAME (-c) says which container is meant");
    }
}

fn start(args: Exec, task: String) -> ExecuteCommandStart {
    let variable = |(name, value)| KeyValuePair { name: Some(name), value: Some(value) };
    ExecuteCommandStart {
        cluster: None,
        task: Some(task),
        container: args.container,
        command: args.command,
        interactive: Some(args.interactive),
        pseudo_terminal: Some(args.tty),
        user: args.user,
        working_directory: args.workdir,
        environment: args.env.into_iter().map(variable).collect(),
        size: if args.tty { terminal::size() } else { None },
        privileged: Some(args.privileged),
        session: None,
    }
}
