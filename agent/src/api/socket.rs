//! The agent's Unix socket: made below the root with the right owner and mode, removed at the end. Who may call is
//! `api/peer.rs`'s.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    errno::Errno,
    unistd::{Group, chown},
};
use tokio::net::UnixListener;

/// Its members may use the socket.
pub const GROUP: &str = "neargate";

/// Longest path of a socket: `sun_path` of unix(7) less its final NUL.
const LONGEST_PATH: usize = 107;

/// Others may pass to the socket, but not list what is beside it.
const DIRECTORY_MODE: u32 = 0o711;
const SOCKET_MODE: u32 = 0o660;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// unix(7) has no room for the path.
    #[error("socket path {} has {} bytes, {LONGEST_PATH} are possible; choose a shorter --socket or --root", path.display(), path.as_os_str().len())]
    TooLong {
        /// The socket.
        path: PathBuf,
    },
    /// Somebody answers there.
    #[error("another process listens on {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket is in the way.
    #[error("{} exists and is not a socket; move it away", path.display())]
    NotASocket {
        /// What is in the way.
        path: PathBuf,
    },
    /// A step failed.
    #[error("cannot {step} {}", path.display())]
    Step {
        /// What was done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// The listening socket; its file is removed on drop.
#[derive(Debug)]
pub struct Socket {
    listener: Arc<UnixListener>,
    path: PathBuf,
}

/// Where the agent below `root` listens unless it is told otherwise.
pub fn default_path(root: &Path) -> PathBuf {
    root.join("run/neargated.sock")
}

/// An error where the kernel could not take the path.
pub fn check(path: &Path) -> Result<(), SocketError> {
    if path.as_os_str().len() > LONGEST_PATH { Err(SocketError::TooLong { path: path.to_owned() }) } else { Ok(()) }
}

impl Socket {
    /// Listens at `path`, whose directory is made where it is missing. Must be called inside a tokio runtime, by the
    /// holder of the root's lock.
    pub fn bind(path: &Path) -> Result<Socket, SocketError> {
        check(path)?;
        let step = |step: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| SocketError::Step { step, path, source }
        };
        let directory = path.parent().unwrap_or(Path::new("/"));
        if !directory.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(DIRECTORY_MODE)
                .create(directory)
                .and_then(|()| fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE)))
                .map_err(step("prepare directory", directory))?;
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(step("listen on", path))?;
        let socket = Socket { listener: Arc::new(listener), path: path.to_owned() };

        // The group first: while the mode is the umask's, nobody but the owner may connect.
        let group = Group::from_name(GROUP).map_err(errno).map_err(step("look up the group of", &socket.path))?;
        if let Some(group) = group {
            chown(&socket.path, None, Some(group.gid))
                .map_err(errno)
                .map_err(step("change the group of", &socket.path))?;
        }
        fs::set_permissions(&socket.path, Permissions::from_mode(SOCKET_MODE))
            .map_err(step("change the mode of", &socket.path))?;
        Ok(socket)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn listener(&self) -> Arc<UnixListener> {
        self.listener.clone()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The next agent removes what is left.
        let _ = fs::remove_file(&self.path);
    }
}

fn errno(errno: Errno) -> io::Error {
    errno.into()
}

/// Removes a socket that nobody listens on any more, as a killed agent leaves it.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let step = |step, source| SocketError::Step { step, path: path.to_owned(), source };
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(step("look at", error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| step("remove stale socket", error))
        }
        Err(error) => Err(step("try to connect to", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        let path = default_path(root.path());
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(socket.path(), path);
        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.mode() & 0o777, SOCKET_MODE);
        assert_eq!(root.path().join("run").metadata().unwrap().mode() & 0o777, DIRECTORY_MODE);
        assert!(matches!(Socket::bind(&path), Err(SocketError::InUse { .. })));
        drop(socket);
        assert!(!path.exists());

        // Dropping a std listener leaves its file, as a killed agent does.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Socket::bind(&path).unwrap());

        fs::create_dir(&path).unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::NotASocket { .. })));
    }

    #[test]
    fn a_long_path_is_refused_with_the_reason() {
        let below = |length| default_path(&PathBuf::from(format!("/{}", "r".repeat(length))));
        assert_eq!(below(87).as_os_str().len(), LONGEST_PATH);
        check(&below(87)).unwrap();
        let error = check(&below(88)).unwrap_err();
        let told = "has 108 bytes, 107 are possible; choose a shorter --socket or --root";
        assert!(error.to_string().ends_with(told), "{error}");
    }
}
