//! `leaks snapshot FILE` notes what is Neargate's on this machine, `leaks compare FILE` fails with what has come since.
//! `--root DIR` looks for one agent's things only.

#![forbid(unsafe_code)]

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use system_tests::leaks::{Scope, Snapshot};

const USAGE: &str = "usage: leaks snapshot|compare FILE [--root DIR]";

fn main() -> anyhow::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (verb, path, scope) = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [verb, path] => (verb, path, Scope::Everything),
        [verb, path, "--root", root] => (verb, path, Scope::Root(PathBuf::from(root))),
        _ => bail!(USAGE),
    };
    match verb {
        "snapshot" => {
            let file = File::create(path).with_context(|| format!("cannot make {path}"))?;
            serde_json::to_writer_pretty(file, &Snapshot::take(&scope))?;
            Ok(ExitCode::SUCCESS)
        }
        "compare" => {
            let file = File::open(path).with_context(|| format!("cannot open {path}"))?;
            let before: Snapshot = serde_json::from_reader(file).with_context(|| format!("cannot read {path}"))?;
            match Snapshot::settle(&scope, &before) {
                Ok(()) => Ok(ExitCode::SUCCESS),
                Err(left) => bail!("left behind:\n{left}"),
            }
        }
        _ => bail!(USAGE),
    }
}
