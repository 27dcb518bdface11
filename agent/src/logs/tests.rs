//! Reading while a writer thread appends and rotates as the monitor does.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    thread,
};

use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::sync::watch;

use super::*;

/// Writes json-file lines and rotates by rename, keeping `keep` files.
struct Writer {
    path: PathBuf,
    file: Option<File>,
    keep: u32,
}

impl Writer {
    fn new(path: &Path, keep: u32) -> Self {
        Self { path: path.to_owned(), file: None, keep }
    }

    fn raw(&mut self, bytes: &[u8]) {
        let open = || OpenOptions::new().create(true).append(true).open(&self.path).unwrap();
        self.file.get_or_insert_with(open).write_all(bytes).unwrap();
    }

    fn line(&mut self, second: u32, text: &str) {
        let log = serde_json::to_string(text).unwrap();
        self.raw(format!("{{\"log\":{log},\"stream\":\"stdout\",\"time\":\"{}\"}}\n", stamp(second)).as_bytes());
    }

    fn rotate(&mut self) {
        let name = |number: u32| PathBuf::from(format!("{}.{number}", self.path.display()));
        for number in (1..self.keep - 1).rev() {
            if name(number).exists() {
                fs::rename(name(number), name(number + 1)).unwrap();
            }
        }
        fs::rename(&self.path, name(1)).unwrap();
        self.file = None;
    }
}

fn stamp(second: u32) -> String {
    format!("1970-01-01T{:02}:{:02}:{:02}.5Z", second / 3600, second / 60 % 60, second % 60)
}

fn source(container: &str, path: &Path) -> (Source, watch::Sender<bool>) {
    let (end, ended) = watch::channel(false);
    (Source { container: container.into(), path: path.to_owned(), ended }, end)
}

async fn texts(sources: Vec<Source>, options: Options) -> Vec<String> {
    let lines: Vec<Line> = read(sources, options).try_collect().await.unwrap();
    lines.into_iter().map(|line| String::from_utf8(line.data).unwrap()).collect()
}

#[tokio::test]
async fn rotated_files_are_read_oldest_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.log");
    let mut writer = Writer::new(&path, 3);
    for number in 0..9 {
        writer.line(number, &format!("{number}\n"));
        if number % 2 == 1 {
            writer.rotate();
        }
    }
    let (source, _end) = source("web", &path);
    let between = |tail, since: Option<f64>, until: Option<f64>| {
        let time = |seconds: Option<f64>| seconds.and_then(Timestamp::from_epoch_seconds);
        let options = Options { follow: false, tail, since: time(since), until: time(until) };
        texts(vec![source.clone()], options)
    };
    let all = |tail, since| between(tail, since, None);
    assert_eq!(all(None, None).await, ["4\n", "5\n", "6\n", "7\n", "8\n"]);
    assert_eq!(all(Some(2), None).await, ["7\n", "8\n"]);
    assert_eq!(all(Some(0), None).await, [""; 0]);
    assert_eq!(all(Some(99), None).await.len(), 5);
    assert_eq!(all(None, Some(6.5)).await, ["6\n", "7\n", "8\n"]);
    assert_eq!(all(Some(2), Some(8.0)).await, ["8\n"]);
    assert_eq!(between(None, Some(5.0), Some(7.0)).await, ["5\n", "6\n"]);
    assert_eq!(between(None, None, Some(1.0)).await, [""; 0]);
}

#[tokio::test]
async fn parts_of_a_long_line_are_one_line_of_the_tail() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.log");
    let mut writer = Writer::new(&path, 3);
    for (second, text) in (0..).zip(["one\n", "long ", "longer ", "end\n", "prompt> "]) {
        writer.line(second, text);
    }
    let (source, _end) = source("web", &path);
    let options = Options { tail: Some(2), ..Options::default() };
    assert_eq!(texts(vec![source], options).await, ["long ", "longer ", "end\n", "prompt> "]);
}

#[tokio::test]
async fn containers_are_merged_by_time() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("a.log"), directory.path().join("b.log"));
    let (mut a, mut b) = (Writer::new(&first, 3), Writer::new(&second, 3));
    for number in 0..2_000 {
        // Runs of different length, so that one source's chunk ends within the other's run.
        let writer = if number % 7 < 2 { &mut a } else { &mut b };
        writer.line(number, &format!("{number}\n"));
    }
    let sources = vec![source("a", &first).0, source("b", &second).0];
    let expected: Vec<String> = (0..2_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(texts(sources.clone(), Options::default()).await, expected);
    // The senders are gone, so following ends too.
    assert_eq!(texts(sources, Options { follow: true, ..Options::default() }).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_loses_and_doubles_nothing_while_files_rotate() {
    const LINES: u32 = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.log");
    let (source, end) = source("web", &path);
    // Nothing is removed here: what a reader that was held up for long misses is the rotation's doing.
    let mut writer = Writer::new(&path, 10_000);
    let writing = thread::spawn(move || {
        for number in 0..LINES {
            writer.line(number, &format!("{number}\n"));
            if number % 397 == 396 {
                writer.rotate();
            }
            if number % 100 == 99 {
                thread::yield_now();
            }
        }
        end.send(true).unwrap();
    });
    let options = Options { follow: true, ..Options::default() };
    let lines = time::timeout(Duration::from_secs(50), texts(vec![source], options)).await.unwrap();
    writing.join().unwrap();
    let expected: Vec<String> = (0..LINES).map(|number| format!("{number}\n")).collect();
    assert_eq!(lines.len(), expected.len());
    assert!(lines == expected);
}

#[tokio::test]
async fn following_begins_before_the_file_and_ends_after_the_last_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.log");
    let (source, end) = source("web", &path);
    let options = Options { follow: true, tail: Some(1), ..Options::default() };
    let mut lines = Box::pin(read(vec![source], options));
    let mut writer = Writer::new(&path, 3);
    assert!(time::timeout(LONGEST_PAUSE, lines.next()).await.is_err(), "there is no log yet");

    writer.raw(b"{\"log\":\"torn\\n\",\"stream\":\"std");
    assert!(time::timeout(LONGEST_PAUSE, lines.next()).await.is_err(), "half a line is none");
    writer.raw(b"err\",\"time\":\"1970-01-01T00:00:01Z\"}\n");
    let line = lines.next().await.unwrap().unwrap();
    assert_eq!((line.data.as_slice(), line.stream, &*line.container), (&b"torn\n"[..], LogStream::Stderr, "web"));

    writer.raw(b"{\"log\":\"last\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:02Z\"}");
    end.send(true).unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap().data, b"last");
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn following_ends_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.log");
    Writer::new(&path, 3).line(1, "early\n");
    let (source, _end) = source("web", &path);
    let until = Timestamp::from_epoch_seconds(crate::trace::now() + 0.3);
    let options = Options { follow: true, until, ..Options::default() };
    let lines = time::timeout(Duration::from_secs(10), texts(vec![source], options)).await;
    assert_eq!(lines.unwrap(), ["early\n"]);
}

#[tokio::test]
async fn a_line_cut_short_by_a_crash_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.log");
    let mut writer = Writer::new(&path, 3);
    writer.line(1, "whole\n");
    writer.raw(b"{\"log\":\"tor");
    let (source, end) = source("web", &path);
    end.send(true).unwrap();
    let options = Options { follow: true, ..Options::default() };
    assert_eq!(texts(vec![source], options).await, ["whole\n"]);
}

#[tokio::test]
async fn a_task_that_never_wrote_has_no_lines() {
    let (source, end) = source("web", Path::new("/nonexistent/web.log"));
    assert_eq!(texts(vec![source.clone()], Options::default()).await, [""; 0]);
    end.send(true).unwrap();
    let options = Options { follow: true, ..Options::default() };
    assert_eq!(texts(vec![source], options).await, [""; 0]);
}
