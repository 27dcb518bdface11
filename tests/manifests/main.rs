//! Rules of the source tree, held by reading `cargo metadata` and the files: who may depend on whom, where `unsafe`
//! may be, how files begin and how long they may get.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use system_tests::binaries::{tool, workspace};

const CRATES: [&str; 7] = ["proto", "definition", "runtime", "rootfs", "agent", "cli", "tests"];
/// Async and HTTP have no place in a single-threaded program that clones.
const KEPT_FROM_RUNTIME: [&str; 6] = ["tokio", "tonic", "hyper", "reqwest", "h2", "axum"];
const MAX_LINES: usize = 800;

struct Tree {
    /// Package id to the ids of what it is built with, development dependencies left out.
    edges: BTreeMap<String, Vec<String>>,
    names: BTreeMap<String, String>,
}

impl Tree {
    fn read() -> Tree {
        let platform = "x86_64-unknown-linux-gnu";
        let arguments = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", platform];
        let text = tool("cargo", Command::new(env!("CARGO")).args(arguments).current_dir(workspace()));
        let metadata: Value = serde_json::from_str(&text).unwrap();
        let text_of = |value: &Value| value.as_str().unwrap().to_owned();
        let packages = metadata["packages"].as_array().unwrap();
        let names = packages.iter().map(|package| (text_of(&package["id"]), text_of(&package["name"]))).collect();
        let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
        let built = |dependency: &&Value| {
            dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].as_str() != Some("dev"))
        };
        let edges = nodes
            .iter()
            .map(|node| {
                let dependencies = node["deps"].as_array().unwrap().iter().filter(built);
                (text_of(&node["id"]), dependencies.map(|dependency| text_of(&dependency["pkg"])).collect())
            })
            .collect();
        Tree { edges, names }
    }

    /// Names of all that a workspace member is built with.
    fn reach(&self, member: &str) -> BTreeSet<&str> {
        let inside = |id: &&String| id.starts_with("path+") && self.names[*id] == member;
        let mut todo: Vec<&String> = self.names.keys().filter(inside).collect();
        assert_eq!(todo.len(), 1, "the workspace has one package {member}");
        let mut seen = BTreeSet::new();
        while let Some(id) = todo.pop() {
            if seen.insert(id) {
                todo.extend(&self.edges[id]);
            }
        }
        seen.into_iter().map(|id| self.names[id].as_str()).filter(|name| *name != member).collect()
    }
}

/// Every .rs file of the workspace's crates.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for name in CRATES {
        for entry in walkdir(&workspace().join(name)) {
            let text = fs::read_to_string(&entry).unwrap();
            found.push((entry.strip_prefix(workspace()).unwrap().to_owned(), text));
        }
    }
    assert!(found.len() > 50, "the sources were not found");
    found
}

fn walkdir(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(walkdir(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Whether a line of code, not of comment or text, has the keyword.
fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait"]
        .iter()
        .any(|word| code.find(word).is_some_and(|at| code[..at].matches('"').count().is_multiple_of(2)))
}

#[test]
fn the_runtime_reaches_no_async_and_no_http() {
    let tree = Tree::read();
    let reached = tree.reach("runtime");
    let wrong: Vec<_> = KEPT_FROM_RUNTIME.iter().filter(|name| reached.contains(**name)).collect();
    assert!(wrong.is_empty(), "runtime must not reach {wrong:?}");
    assert!(reached.contains("nix"), "the tree was read");
}

#[test]
fn rootfs_and_runtime_do_not_know_each_other() {
    let tree = Tree::read();
    assert!(!tree.reach("rootfs").contains("runtime"));
    assert!(!tree.reach("runtime").contains("rootfs"));
}

#[test]
fn definition_does_no_io_through_others() {
    let reached = Tree::read();
    let reached = reached.reach("definition");
    let wrong: Vec<_> =
        ["runtime", "rootfs", "agent", "cli"].into_iter().filter(|name| reached.contains(name)).collect();
    assert!(wrong.is_empty(), "definition must not reach {wrong:?}");
}

#[test]
fn proto_is_generated_only_and_stands_alone() {
    let files = walkdir(&workspace().join("proto/src"));
    assert_eq!(files, [workspace().join("proto/src/lib.rs")], "proto has no code of its own");
    let text = fs::read_to_string(&files[0]).unwrap();
    let by_hand =
        text.lines().find(|line| ["fn ", "impl ", "struct ", "enum ", "trait "].iter().any(|w| line.contains(w)));
    assert_eq!(by_hand, None, "proto is generated only");
    let tree = Tree::read();
    let reached = tree.reach("proto");
    let wrong: Vec<_> = CRATES.into_iter().filter(|name| reached.contains(name)).collect();
    assert!(wrong.is_empty(), "proto must not reach {wrong:?}");
}

#[test]
fn the_command_line_talks_grpc_only() {
    let tree = Tree::read();
    let reached = tree.reach("cli");
    let wrong: Vec<_> = ["runtime", "rootfs", "agent"].into_iter().filter(|name| reached.contains(name)).collect();
    assert!(wrong.is_empty(), "cli must not reach {wrong:?}");
}

#[test]
fn unsafe_code_is_in_the_runtimes_sys_only() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if path.starts_with("runtime/src/sys") || path == Path::new("runtime/src/sys.rs") {
            continue;
        }
        let lines = text.lines().enumerate().filter(|(_, line)| has_unsafe(line));
        wrong.extend(lines.map(|(number, line)| format!("{}:{}: {}", path.display(), number + 1, line.trim())));
    }
    assert!(wrong.is_empty(), "unsafe outside runtime/src/sys:\n{}", wrong.join("\n"));
}

#[test]
fn every_crate_but_the_runtime_forbids_unsafe_code() {
    let mut wrong = Vec::new();
    for name in CRATES.into_iter().filter(|name| !["runtime", "proto"].contains(name)) {
        for root in ["src/lib.rs", "src/main.rs"] {
            let path = workspace().join(name).join(root);
            if let Ok(text) = fs::read_to_string(&path)
                && !text.contains("#![forbid(unsafe_code)]")
            {
                wrong.push(path);
            }
        }
    }
    assert!(wrong.is_empty(), "without #![forbid(unsafe_code)]: {wrong:?}");
}

#[test]
fn every_file_opens_with_what_it_owns() {
    let sources = sources();
    let opens = |text: &str| text.starts_with("//!") || text.starts_with("#![");
    let wrong: Vec<_> =
        sources.iter().filter(|(_, text)| !opens(text) || !text.contains("//!")).map(|(path, _)| path).collect();
    assert!(wrong.is_empty(), "files that do not open with //!: {wrong:?}");
}

#[test]
fn no_file_is_longer_than_one_can_read() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "files over {MAX_LINES} lines: {long:?}");
}

#[test]
fn nobody_writes_unfinished_markers() {
    let marks = ["TODO", "FIXME", "unimplemented!", "todo!"];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if path.starts_with("tests/manifests") {
            continue;
        }
        let lines = text.lines().enumerate().filter(|(_, line)| marks.iter().any(|mark| line.contains(mark)));
        wrong.extend(lines.map(|(number, line)| format!("{}:{}: {}", path.display(), number + 1, line.trim())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
