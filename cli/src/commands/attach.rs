//! `neargate attach`: the streams of a container's own program.

use proto::v1::AttachTaskStart;

use super::{DONE, exec::say_how_to_name_a_container};
use crate::{
    args::{Attach, Globals},
    client::Client,
    error::Error,
    output,
    session::{self, Ended, Manner, Start},
    task_name, terminal, text,
};

/// Stays attached until the container ends or the keys for it or Ctrl-C twice are typed; the container's exit code.
pub(super) async fn attach(globals: &Globals, args: Attach) -> Result<u8, Error> {
    if globals.json {
        return Err(Error::Usage("--json does not go with attach: what is printed is the container's own"));
    }
    let client = Client::connect(&globals.socket).await?;
    let task = task_name::resolve(&client, &args.task).await?;
    let named = args.container.is_some();
    let manner = Manner {
        doing: format!("cannot attach to task {}", text::short_id(&task)),
        stdin: !args.no_stdin,
        pass_signals: args.sig_proxy,
        detach_keys: Some(args.detach_keys),
        redraw: true,
        interrupts_detach: true,
    };
    let start = AttachTaskStart {
        cluster: None,
        task: Some(task),
        container: args.container,
        interactive: Some(!args.no_stdin),
        size: terminal::size(),
        session: None,
    };
    let ended = session::run(&client, Start::Attach(start), manner).await;
    match ended.inspect_err(|error| say_how_to_name_a_container(error, named))? {
        Ended::Exited(code) => Ok(code),
        Ended::Detached => {
            output::note("neargate: detached; the container goes on");
            Ok(DONE)
        }
    }
}
