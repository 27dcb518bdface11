//! neargate-runtime as it is executed: from a detached read-only mount of its file, which no container can write through
//! (`runtime::own_binary`). Made once, so that no start has to make one and execute the program a second time for it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use runtime::own_binary;
use tokio::process::Command;

/// The executable. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Executable {
    path: PathBuf,
    mounted: Arc<Mutex<Option<Mounted>>>,
}

#[derive(Debug, Clone)]
struct Mounted {
    mount: Arc<OwnedFd>,
    of: Version,
}

/// Tells one file from another that takes its place, as an upgrade does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

/// A command to be spawned; what it executes stays there until then.
#[derive(Debug)]
pub struct Prepared {
    /// With the program and no arguments.
    pub command: Command,
    _mount: Option<Arc<OwnedFd>>,
}

impl Executable {
    /// The file at an absolute path.
    pub fn new(path: PathBuf) -> Executable {
        Executable { path, mounted: Arc::default() }
    }

    /// Where it is, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that executes it.
    pub fn command(&self) -> io::Result<Prepared> {
        let Some(mount) = self.mount()? else {
            return Ok(Prepared { command: Command::new(&self.path), _mount: None });
        };
        // The descriptor is closed by exec, and only after the kernel has found the file by it.
        let mut command = Command::new(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        command.arg0(&self.path);
        Ok(Prepared { command, _mount: Some(mount) })
    }

    /// None where the file has to be executed by its path, and protects itself.
    fn mount(&self) -> io::Result<Option<Arc<OwnedFd>>> {
        let metadata = fs::metadata(&self.path)?;
        let version = Version {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        let mut mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = mounted.as_ref().filter(|known| known.of == version) {
            return Ok(Some(known.mount.clone()));
        }
        *mounted = None;
        // An interpreter opens its script anew, by a name that is gone by then.
        if is_script(&self.path)? {
            return Ok(None);
        }
        let Ok(mount) = own_binary::read_only_mount(&self.path) else { return Ok(None) };
        let mount = Arc::new(mount);
        *mounted = Some(Mounted { mount: mount.clone(), of: version });
        Ok(Some(mount))
    }
}

fn is_script(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(2).read_to_end(&mut start)?;
    Ok(start == b"#!")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn output(executable: &Executable) -> String {
        let mut prepared = executable.command().unwrap();
        let output = prepared.command.arg("-c").arg("echo $0 $(readlink /proc/$$/exe)").output().await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[tokio::test]
    async fn an_upgraded_file_is_what_is_executed_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        fs::copy("/bin/sh", &path).unwrap();
        let executable = Executable::new(path.clone());
        assert!(output(&executable).await.starts_with(path.to_str().unwrap()));
        let first = executable.mount().unwrap().expect("root may mount");
        assert_eq!(first.as_raw_fd(), executable.mount().unwrap().unwrap().as_raw_fd(), "made once");
        let new = directory.path().join("new");
        io::Write::write_all(&mut File::create(&new).unwrap(), b"#!/bin/sh\necho new\n").unwrap();
        fs::set_permissions(&new, fs::metadata(&path).unwrap().permissions()).unwrap();
        fs::rename(&new, &path).unwrap();
        assert_eq!(output(&executable).await, "new\n");
        fs::remove_file(&path).unwrap();
        assert_eq!(executable.command().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
