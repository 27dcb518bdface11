//! `neargate stats`: what running tasks and their containers use. On a terminal one table that is drawn again in place,
//! in a pipe one table after the other.

use proto::v1::{GetStatsRequest, GetStatsResponse, TaskStats, Usage};

use super::DONE;
use crate::{
    args::{Globals, Stats},
    client::Client,
    error::Error,
    output,
    table::table_within,
    task_name, terminal, text,
};

/// Cursor to the top left.
const HOME: &str = "\x1b[H";
/// Clears from the cursor to the end of its line, and to the end of the screen.
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
/// Columns that a narrow terminal can do without, the least important one first.
const LEAST: [&str; 3] = ["BLOCK I/O", "MEM %", "PIDS"];

/// Shows measurements until the tasks have stopped, or until somebody has seen enough.
pub(super) async fn stats(globals: &Globals, args: Stats) -> Result<u8, Error> {
    let client = Client::connect(&globals.socket).await?;
    let mut tasks = Vec::new();
    for name in &args.tasks {
        tasks.push(task_name::resolve(&client, name).await?);
    }
    let request = GetStatsRequest { tasks, interval: Some(args.interval), ..Default::default() };
    let refused = || Error::refused("cannot measure");
    let mut stream = client.observation().get_stats(request).await.map_err(refused())?.into_inner();
    let mut first = true;
    while let Some(measured) = stream.message().await.map_err(refused())? {
        // How busy something is only the second one can tell.
        if std::mem::take(&mut first) && (args.no_stream || globals.json || !terminal::is_watched()) {
            if measured.tasks.is_empty() && args.no_stream {
                show(globals, &args, &measured)?;
                return Ok(DONE);
            }
            continue;
        }
        show(globals, &args, &measured)?;
        if args.no_stream {
            return Ok(DONE);
        }
    }
    Ok(DONE)
}

fn show(globals: &Globals, args: &Stats, measured: &GetStatsResponse) -> Result<(), Error> {
    let shown = if globals.json {
        output::json_line(measured)
    } else if terminal::is_watched() && !args.no_stream {
        let width = terminal::columns().unwrap_or(usize::MAX);
        output::bytes(in_place(&drawn(&measured.tasks, width), width).as_bytes())
    } else {
        output::line(&drawn(&measured.tasks, terminal::columns().unwrap_or(usize::MAX)))
    };
    shown.map_err(Error::Output)
}

/// Over what was drawn before, line by line, so that nothing flickers. A line that wraps would be drawn over the next.
fn in_place(table: &str, width: usize) -> String {
    let fits = |line: &str| line.chars().take(width).collect::<String>();
    let lines: String = table.lines().map(|line| format!("{}{CLEAR_LINE}\r\n", fits(line))).collect();
    format!("{HOME}{lines}{CLEAR_BELOW}")
}

/// The columns that a line of `width` characters has room for.
fn drawn(tasks: &[TaskStats], width: usize) -> String {
    let mut rows = Vec::new();
    for task in tasks {
        let id = text::short_id(task.task_arn());
        // A task of one container is that container.
        if let Some(usage) = task.usage.as_ref().filter(|_| task.containers.len() != 1) {
            rows.push(row(id.clone(), "(all)".to_owned(), usage));
        }
        for container in &task.containers {
            rows.push(row(id.clone(), text::plain(container.name()), &container.usage.unwrap_or_default()));
        }
    }
    let header = ["TASK", "CONTAINER", "CPU % / LIMIT", "MEM USAGE / LIMIT", "MEM %", "BLOCK I/O", "PIDS"];
    table_within(header, &rows, width, &LEAST)
}

fn row(task: String, container: String, usage: &Usage) -> [String; 7] {
    let percent = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}%"));
    let limit = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value}%"));
    let bytes = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), text::binary_bytes);
    let of_limit = usage.memory_bytes.zip(usage.memory_limit_bytes.filter(|limit| *limit > 0.0));
    let moved = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), text::bytes);
    [
        task,
        container,
        format!("{} / {}", percent(usage.cpu_percent), limit(usage.cpu_limit_percent)),
        format!("{} / {}", bytes(usage.memory_bytes), bytes(usage.memory_limit_bytes)),
        percent(of_limit.map(|(used, limit)| used / limit * 100.0)),
        format!("{} / {}", moved(usage.block_read_bytes), moved(usage.block_written_bytes)),
        usage.pids.map_or_else(|| "-".to_owned(), |pids| pids.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use proto::v1::ContainerStats;

    use super::*;

    fn usage() -> Usage {
        Usage {
            cpu_percent: Some(24.932),
            cpu_limit_percent: Some(25.0),
            memory_bytes: Some(52_428_800.0),
            memory_limit_bytes: Some(67_108_864.0),
            block_read_bytes: Some(1e6),
            block_written_bytes: Some(0.0),
            pids: Some(3),
            ..Default::default()
        }
    }

    fn task(containers: &[&str]) -> TaskStats {
        let containers =
            containers.iter().map(|name| ContainerStats { name: Some((*name).to_owned()), usage: Some(usage()) });
        TaskStats {
            task_arn: Some("arn:x/0123456789abcdef".into()),
            usage: Some(Usage { cpu_percent: None, memory_limit_bytes: None, block_read_bytes: None, ..usage() }),
            containers: containers.collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_table_tells_use_against_limits_and_no_made_up_zeros() {
        assert_eq!(
            drawn(&[task(&["a", "b\x1b"])], usize::MAX),
            "TASK           CONTAINER   CPU % / LIMIT   MEM USAGE / LIMIT     MEM %    BLOCK I/O       PIDS\n\
             0123456789ab   (all)       - / 25%         50.0 MiB / -          -        - / 0 B         3\n\
             0123456789ab   a           24.93% / 25%    50.0 MiB / 64.0 MiB   78.12%   1.00 MB / 0 B   3\n\
             0123456789ab   b\\x1b       24.93% / 25%    50.0 MiB / 64.0 MiB   78.12%   1.00 MB / 0 B   3"
        );
        assert_eq!(
            drawn(&[task(&["a"])], usize::MAX).lines().count(),
            2,
            "no row for the task where it has one container"
        );
    }

    #[test]
    fn drawing_in_place_clears_what_is_left_of_longer_lines() {
        assert_eq!(in_place("a\nb", usize::MAX), "\x1b[Ha\x1b[K\r\nb\x1b[K\r\n\x1b[J");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let tasks = [task(&["a", "b"])];
        for (width, left_out) in [(94, 0), (93, 1), (78, 1), (77, 2), (69, 2), (68, 3), (20, 3)] {
            let table = drawn(&tasks, width);
            let header = table.lines().next().unwrap();
            assert!(
                LEAST.iter().enumerate().all(|(rank, name)| header.contains(name) == (rank >= left_out)),
                "{table}"
            );
        }
        let cut = in_place(&drawn(&tasks, 20), 20);
        assert!(cut.starts_with("\x1b[HTASK           CONTA\x1b[K\r\n"), "{cut:?}");
    }
}
