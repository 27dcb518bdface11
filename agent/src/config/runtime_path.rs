//! Finds `neargate-runtime`. Does not run it.

use std::{
    env,
    ffi::OsStr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

const NAME: &str = "neargate-runtime";

/// Why no runtime can be used.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeNotFound {
    /// The one asked for is no executable file.
    #[error("{} is not an executable file", .0.display())]
    NotExecutable(PathBuf),
    /// Neither beside the agent nor in PATH.
    #[error("{NAME} is neither beside this program nor in PATH; name it with --runtime")]
    Nowhere,
}

/// The runtime asked for, else the one beside the agent's executable, else the first in `search_path` (PATH).
pub fn find(
    asked_for: Option<&Path>,
    agent: Option<&Path>,
    search_path: Option<&OsStr>,
) -> Result<PathBuf, RuntimeNotFound> {
    if let Some(path) = asked_for {
        let found = is_executable(path).then(|| std::path::absolute(path).ok()).flatten();
        return found.ok_or_else(|| RuntimeNotFound::NotExecutable(path.to_owned()));
    }
    let beside = agent.and_then(Path::parent).map(|directory| directory.join(NAME));
    let in_path = search_path.into_iter().flat_map(env::split_paths).map(|directory| directory.join(NAME));
    // A relative directory in PATH would change its meaning with the working directory.
    let mut candidates = beside.into_iter().chain(in_path).filter(|path| path.is_absolute());
    candidates.find(|path| is_executable(path)).ok_or(RuntimeNotFound::Nowhere)
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn beside_the_agent_comes_before_path() {
        let directory = tempfile::tempdir().unwrap();
        let (beside, listed) = (directory.path().join("a"), directory.path().join("b"));
        for parent in [&beside, &listed] {
            fs::create_dir(parent).unwrap();
            File::create(parent.join(NAME)).unwrap();
        }
        let agent = beside.join("neargated");
        let found = || find(None, Some(&agent), Some(listed.as_os_str()));
        assert!(matches!(found(), Err(RuntimeNotFound::Nowhere)));
        fs::set_permissions(listed.join(NAME), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(found().unwrap(), listed.join(NAME));
        fs::set_permissions(beside.join(NAME), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(found().unwrap(), beside.join(NAME));
        let missing = directory.path().join("none");
        assert!(matches!(find(Some(&missing), Some(&agent), None), Err(RuntimeNotFound::NotExecutable(_))));
    }
}
