//! The commands, one file per noun, and what they share: the way to the agent and the choice between JSON and text.

mod attach;
mod definitions;
mod describe;
mod events;
mod exec;
mod host;
mod images;
mod logs;
mod ps;
mod pull;
mod register;
mod run;
mod stats;
mod stop;
mod validate;

use proto::v1::{DescribeTasksRequest, DescribeTasksResponse};

use crate::{
    args::{Cli, Command},
    client::Client,
    error::Error,
};

/// Exit code: done.
const DONE: u8 = 0;
/// Most tasks that one DescribeTasks may name.
const DESCRIBED_AT_ONCE: usize = 100;

/// Runs the command; the exit code where it did not fail.
pub(crate) async fn dispatch(cli: Cli) -> Result<u8, Error> {
    let globals = cli.globals;
    match cli.command {
        Command::Run(args) => run::run(&globals, args).await,
        Command::Validate(args) => validate::validate(&globals, &args),
        Command::Register(args) => register::register(&globals, &args).await,
        Command::Definitions(args) => definitions::list(&globals, args).await,
        Command::Deregister(args) => definitions::deregister(&globals, args).await,
        Command::Ps(args) => ps::ps(&globals, &args).await,
        Command::Describe(args) => describe::describe(&globals, &args).await,
        Command::Logs(args) => logs::logs(&globals, args).await,
        Command::Events(args) => events::events(&globals, args).await,
        Command::Stats(args) => stats::stats(&globals, args).await,
        Command::Stop(args) => stop::stop(&globals, &args).await,
        Command::Exec(args) => exec::exec(&globals, args).await,
        Command::Attach(args) => attach::attach(&globals, args).await,
        Command::Pull(args) => pull::pull(&globals, args).await,
        Command::Images => images::list(&globals).await,
        Command::Rmi(args) => images::remove(&globals, &args).await,
        Command::Host(args) => host::host(&globals, &args).await,
    }
}

/// Describes `tasks` (ARNs or ids), as many as there are.
async fn describe_tasks(client: &Client, tasks: &[String]) -> Result<DescribeTasksResponse, Error> {
    let mut all = DescribeTasksResponse::default();
    for some in tasks.chunks(DESCRIBED_AT_ONCE) {
        let request =
            DescribeTasksRequest { tasks: some.to_vec(), include: vec!["TAGS".to_owned()], ..Default::default() };
        let answer =
            client.tasks().describe_tasks(request).await.map_err(Error::refused("cannot describe tasks"))?.into_inner();
        all.tasks.extend(answer.tasks);
        all.failures.extend(answer.failures);
    }
    Ok(all)
}
