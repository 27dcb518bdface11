//! The monitor's loop: the container's output into its log, signals to its pid 1, clients on the socket, until pid 1
//! has ended. Nothing here waits for a client or for the disk longer than one write.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::unistd::read;

use super::log::{Log, Stream};
use super::sessions::{Interest, Sessions};
use super::{MonitorError, Started, kernel};
use crate::sys::{memory, pidfd};

/// Bytes read at once.
pub(super) const CHUNK: usize = 16 * 1024;
/// How long the output may stay open once all its writers were killed: only a descriptor that left the container can
/// hold it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may take to read the last of a container that has ended.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// After so long without any event the loop takes its container for a quiet one, and keeps no memory for the next.
const REST: Duration = Duration::from_secs(5);

/// What a ready descriptor is.
enum Source {
    Exit,
    Signals,
    Listener,
    Output(usize),
    Session(Interest),
}

/// Serves until pid 1 has ended and can be waited for.
pub(super) fn until_exit(
    started: &Started,
    listener: &UnixListener,
    signals: &SignalFd,
    log: &mut Log,
    sessions: &mut Sessions<'_>,
) -> Result<(), MonitorError> {
    let init = started.running.pidfd.as_fd();
    let mut open: Vec<bool> = vec![true; started.outputs.len()];
    let mut buffer = [0; CHUNK];
    let mut rests_at = Some(Instant::now() + REST);
    loop {
        let mut sources = vec![Source::Exit, Source::Signals];
        let mut watched = vec![PollFd::new(init, PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if sessions.has_room() {
            sources.push(Source::Listener);
            watched.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        }
        for (index, (_, output)) in started.outputs.iter().enumerate().filter(|(index, _)| open[*index]) {
            sources.push(Source::Output(index));
            watched.push(PollFd::new(output.as_fd(), PollFlags::POLLIN));
        }
        for (interest, descriptor, flags) in sessions.interests() {
            sources.push(Source::Session(interest));
            watched.push(PollFd::new(descriptor, flags));
        }
        let deadline = sessions.deadline();
        let mut events = poll(&mut watched, until(deadline.into_iter().chain(rests_at).min()));
        if events == Ok(0) && rests_at.take_if(|at| *at <= Instant::now()).is_some() {
            events = memory::rest(&mut watched, until(deadline));
        }
        match events {
            Err(Errno::EINTR) => continue,
            other => other.map_err(kernel("wait for events"))?,
        };
        if watched.iter().any(|watched| watched.any().unwrap_or(true)) {
            rests_at = Some(Instant::now() + REST);
        }
        let ready: Vec<bool> = watched.iter().map(|watched| watched.any().unwrap_or(true)).collect();
        drop(watched);
        let mut exited = false;
        for source in sources.into_iter().zip(ready).filter_map(|(source, ready)| ready.then_some(source)) {
            match source {
                Source::Exit => exited = true,
                Source::Signals => pass_on(signals, init)?,
                Source::Listener => sessions.accept(listener),
                Source::Output(index) => {
                    let (stream, output) = &started.outputs[index];
                    open[index] = copy(output.as_fd(), *stream, log, sessions, &mut buffer);
                }
                Source::Session(interest) => sessions.handle(interest),
            }
        }
        log.flush();
        sessions.tidy();
        if exited {
            return Ok(());
        }
    }
}

/// Reads what is left of the output, now that nobody writes any more.
pub(super) fn drain(
    outputs: Vec<(Stream, OwnedFd)>,
    log: &mut Log,
    sessions: &mut Sessions<'_>,
) -> Result<(), MonitorError> {
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    let mut buffer = [0; CHUNK];
    for (stream, output) in outputs {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // A writer that never stops is outside of the container, so it is not the container's output.
            if left.is_zero() {
                break;
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(output.as_fd(), PollFlags::POLLIN)], timeout) {
                Err(Errno::EINTR) => continue,
                Ok(0) => break,
                other => other.map_err(kernel("wait for the last output"))?,
            };
            if !copy(output.as_fd(), stream, log, sessions, &mut buffer) {
                break;
            }
            log.flush();
            sessions.tidy();
        }
    }
    Ok(())
}

/// Passes on to the sessions' clients what the end of the container has left.
pub(super) fn farewell(sessions: &mut Sessions<'_>) -> Result<(), MonitorError> {
    let deadline = Instant::now() + FAREWELL_TIMEOUT;
    sessions.tidy();
    while !sessions.are_told() && Instant::now() < deadline {
        let interests = sessions.interests();
        let mut watched: Vec<PollFd<'_>> =
            interests.iter().map(|(_, descriptor, flags)| PollFd::new(*descriptor, *flags)).collect();
        match poll(&mut watched, until(Some(deadline))) {
            Err(Errno::EINTR) => continue,
            other => other.map_err(kernel("wait for clients"))?,
        };
        let ready: Vec<bool> = watched.iter().map(|watched| watched.any().unwrap_or(true)).collect();
        let interests: Vec<Interest> = interests.into_iter().map(|(interest, ..)| interest).collect();
        for interest in interests.into_iter().zip(ready).filter_map(|(interest, ready)| ready.then_some(interest)) {
            sessions.handle(interest);
        }
        sessions.tidy();
    }
    Ok(())
}

/// Time left, rounded up: what is due is due when poll(2) returns.
fn until(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}

/// For descriptors that a container can read from too: what poll(2) has seen may be gone before we read, and nothing
/// may make us wait.
pub(super) fn nonblocking(descriptor: &OwnedFd) -> Result<(), Errno> {
    fcntl(descriptor, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}

/// One read; false once there is no more. A terminal whose last process is gone answers EIO.
fn copy(output: BorrowedFd<'_>, stream: Stream, log: &mut Log, sessions: &mut Sessions<'_>, buffer: &mut [u8]) -> bool {
    match read(output, buffer) {
        Ok(0) | Err(Errno::EIO) => false,
        Ok(length) => {
            log.take(stream, &buffer[..length]);
            sessions.container_wrote(stream, &buffer[..length]);
            true
        }
        Err(errno) => matches!(errno, Errno::EAGAIN | Errno::EINTR),
    }
}

fn pass_on(signals: &SignalFd, init: BorrowedFd<'_>) -> Result<(), MonitorError> {
    while let Some(signal) = signals.read_signal().map_err(kernel("read a signal"))? {
        let number = i32::try_from(signal.ssi_signo).unwrap_or(libc::SIGTERM);
        match pidfd::send_signal(init, number) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(MonitorError::Kernel { what: "pass a signal on", source: errno }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::unistd::pipe2;

    use super::*;
    use crate::container::exec::ExecTarget;
    use crate::monitor::pipes;
    use crate::monitor::sessions::Container;
    use crate::process::ProcessRef;
    use crate::seccomp::Cache;

    fn target() -> ExecTarget {
        let this = ProcessRef::of(std::process::id().cast_signed()).unwrap();
        ExecTarget::new(this, "test", "/".as_ref(), &oci_spec::runtime::Spec::default(), Cache::default()).unwrap()
    }

    fn nobody<'a>(target: &'a ExecTarget, init: &'a std::fs::File) -> Sessions<'a> {
        Sessions::new(target, Container { init: init.as_fd(), stdin: None, console: None })
    }

    #[test]
    fn nothing_that_a_container_can_read_makes_us_wait() {
        let pipes = pipes(true).unwrap();
        let (target, init) = (target(), std::fs::File::open("/dev/null").unwrap());
        for (_, output) in &pipes.outputs {
            let mut buffer = [0; CHUNK];
            let directory = tempfile::tempdir().unwrap();
            let mut log = Log::open(&directory.path().join("log"), 1 << 20, 2).unwrap();
            // Its writers are there, and there is nothing to read.
            let mut sessions = nobody(&target, &init);
            assert!(copy(output.as_fd(), Stream::Stdout, &mut log, &mut sessions, &mut buffer), "it goes on");
        }
        let stdin = pipes.stdin.unwrap();
        while nix::unistd::write(&stdin, &[0; CHUNK]).is_ok() {}
    }

    #[test]
    fn a_writer_outside_does_not_keep_the_exit_from_being_told() {
        let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let writer = std::thread::spawn(move || {
            let mut file = std::fs::File::from(write_end);
            while !stopped.load(Ordering::Relaxed) && file.write_all(b"flood\n").is_ok() {}
        });
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(&directory.path().join("log"), 1 << 20, 2).unwrap();
        let (target, init) = (target(), std::fs::File::open("/dev/null").unwrap());
        drain(vec![(Stream::Stdout, read_end)], &mut log, &mut nobody(&target, &init)).unwrap();
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    }
}
