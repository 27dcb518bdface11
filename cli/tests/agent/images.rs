//! `neargate pull`, `images` and `rmi`.

use std::{io::Read as _, process::Stdio};

use nix::pty::{OpenptyResult, openpty};

use crate::{
    neargate, output, stderr, stdout,
    stub::{Script, Stub},
};

#[test]
fn a_pull_tells_finished_layers_line_by_line_without_a_terminal() {
    let stub = Stub::start(Script::default());
    let output = output(&stub, &["pull", "busybox"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "bbbbbbbbbbbb: already here\naaaaaaaaaaaa: complete, 2.00 MB\n");
    assert_eq!(stdout(&output), "busybox pulled: sha256:0123, 4.00 MB\n");
}

#[test]
fn with_json_the_image_is_all_there_is() {
    let stub = Stub::start(Script::default());
    let output = output(&stub, &["pull", "busybox", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["image"]["imageDigest"], "sha256:0123");
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_pull_that_breaks_says_why() {
    let stub = Stub::start(Script::default());
    let output = output(&stub, &["pull", "broken"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).ends_with("neargate: cannot pull broken: docker.io/library/broken:latest: no such manifest\n")
    );
}

#[test]
fn a_terminal_shows_bars_without_colours() {
    let stub = Stub::start(Script::default());
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    let mut command = neargate(&stub, &["pull", "busybox"]);
    command.stdout(Stdio::from(slave.try_clone().unwrap())).stderr(Stdio::from(slave));
    let mut child = command.spawn().unwrap();
    // The command holds the terminal's other side, which is to be its last.
    drop(command);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut shown = Vec::new();
    // A terminal that nobody holds ends with an error instead of an end.
    let _ = std::fs::File::from(master).read_to_end(&mut shown);
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("aaaaaaaaaaaa complete") && shown.contains("bbbbbbbbbbbb already here"), "{shown:?}");
    assert!(shown.ends_with("\r\nbusybox pulled: sha256:0123, 4.00 MB\r\n"), "{shown:?}");
    assert!(!shown.contains("\x1b[3"), "colours in {shown:?}");
}

#[test]
fn an_image_that_stays_does_not_keep_the_others() {
    let stub = Stub::start(Script::default());
    assert!(stdout(&output(&stub, &["images"])).contains("busybox"));
    let output = output(&stub, &["rmi", "busy", "free"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "neargate: cannot remove image busy: image busy is in use by task 12\n");
    assert_eq!(stdout(&output), "free removed, 4.00 MB freed\n");
}
