//! Reads task definitions from files and checks them as the agent will, with line and column. Offline.

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use definition::file::Located;
use proto::v1::RegisterTaskDefinitionRequest;

use crate::{refusal::located, text};

/// More than any definition: ECS takes 64 KiB. A device or a disk image given by mistake ends here.
const LARGEST: u64 = 1 << 20;

/// Why a file is no task definition that runs here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read {}", name(path))]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is larger than 1 MiB, which no task definition is", name(.0))]
    TooLarge(PathBuf),
    #[error("{} is not UTF-8 text from byte {position} on", name(path))]
    NotText { path: PathBuf, position: usize },
    #[error("{} does not run here, so nothing was done: {}\n{problems}", name(path), text::count(problems.problems.len(), "problem"))]
    Problems { path: PathBuf, problems: Problems },
}

/// A definition that runs here.
#[derive(Debug)]
pub(crate) struct Definition {
    /// As it is registered.
    pub(crate) request: RegisterTaskDefinitionRequest,
    /// What was ignored, and what may not mean what was meant.
    pub(crate) warnings: Vec<String>,
    /// Why it can be registered, but not run on a host like this.
    pub(crate) refused_here: Vec<String>,
}

/// What is wrong with one file, in the file's order.
#[derive(Debug)]
pub(crate) struct Problems {
    pub(crate) problems: Vec<Problem>,
    /// Whether the members that are no definition's kept the definition from being checked.
    pub(crate) unread: bool,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) file: String,
    /// Line and column, from 1.
    pub(crate) at: (usize, usize),
    /// Of the member, such as `containerDefinitions[1].image`.
    pub(crate) path: String,
    pub(crate) message: String,
}

impl Problem {
    fn new(file: &str, located: Located) -> Problem {
        let Located { line, column, path, message } = located;
        Problem { file: file.to_owned(), at: (line, column), path, message }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.problems.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))?;
        if self.unread {
            f.write_str("\nThe rest is checked once this can be read.")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.at;
        write!(f, "{}:{line}:{column}: {}", self.file, located(&self.path, &self.message))
    }
}

/// What messages call `path`.
pub(crate) fn name(path: &Path) -> String {
    if is_stdin(path) { "<stdin>".to_owned() } else { text::plain(&path.to_string_lossy()) }
}

/// Reads and checks the definition in `path`; `-` is stdin.
pub(crate) fn read(path: &Path) -> Result<Definition, FileError> {
    let text = read_text(path)?;
    parse(&name(path), &text).map_err(|problems| FileError::Problems { path: path.to_owned(), problems })
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn read_text(path: &Path) -> Result<String, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let source: Box<dyn io::Read> =
        if is_stdin(path) { Box::new(io::stdin().lock()) } else { Box::new(fs::File::open(path).map_err(failed)?) };
    let mut bytes = Vec::new();
    source.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(FileError::TooLarge(path.to_owned()));
    }
    String::from_utf8(bytes)
        .map_err(|error| FileError::NotText { path: path.to_owned(), position: error.utf8_error().valid_up_to() })
}

fn parse(file: &str, text: &str) -> Result<Definition, Problems> {
    let read = definition::file::read(text).map_err(|located| Problems {
        problems: located.into_iter().map(|located| Problem::new(file, located)).collect(),
        unread: true,
    })?;
    let spec = definition::check(&read.request).map_err(|problems| {
        let mut problems: Vec<_> =
            problems.iter().map(|p| Problem::new(file, definition::file::place(text, p))).collect();
        problems.sort_by_key(|problem| problem.at);
        Problems { problems, unread: false }
    })?;
    let refused_here = definition::refused_here(&spec);
    Ok(Definition { request: read.request, warnings: read.warnings, refused_here })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_read_as_compilers_tell_them() {
        let problem = |path: &str, message: &str| Problem {
            file: "t.json".into(),
            at: (3, 7),
            path: path.into(),
            message: message.into(),
        };
        assert_eq!(problem("memory", "must be a number").to_string(), "t.json:3:7: memory: must be a number");
        assert_eq!(problem("", "empty").to_string(), "t.json:3:7: empty");
        assert_eq!(problem("a", "a is not supported").to_string(), "t.json:3:7: a is not supported");
    }
}
