//! The agent's own words on stderr: for people with times, on a terminal with colours; for journald with priorities
//! instead, as that has its own clock. What is told is `RUST_LOG`'s to say, `info` and above without it.

use std::fmt;
use std::io::{self, IsTerminal as _};

use nix::sys::stat::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Set by systemd where stderr is the journal: its device and inode (systemd.exec(5)).
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// Begins to tell. Once per process.
pub fn begin() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let lines = tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(filter);
    if is_journal() {
        let plain = tracing_subscriber::fmt::format().with_ansi(false).with_level(false).without_time();
        lines.with_ansi(false).event_format(Journal(plain)).init();
    } else {
        lines.with_ansi(io::stderr().is_terminal()).init();
    }
}

fn is_journal() -> bool {
    let named = std::env::var(JOURNAL_STREAM).unwrap_or_default();
    let is = fstat(io::stderr()).map(|file| format!("{}:{}", file.st_dev, file.st_ino));
    is.is_ok_and(|is| is == named)
}

/// Lines that begin with a syslog priority, which journald takes off (sd-daemon(3)).
struct Journal(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}
