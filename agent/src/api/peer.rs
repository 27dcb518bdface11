//! Who may call: root, the agent's own user, members of the group `neargate`. The kernel says who connected
//! (SO_PEERCRED of unix(7)), so nothing can be claimed. Everybody else gets PERMISSION_DENIED from every call.

use std::{
    ffi::CString,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    task, time,
};
use tonic::{Request, Status, transport::server::Connected};

use super::{socket::GROUP, status};

/// User lookups at a time: one may take long where users come from the network.
const CONCURRENT_LOOKUPS: usize = 16;

/// Pause after a failed accept, which is mostly a lack of descriptors and would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the kernel says of a connection's other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Peer {
    uid: Uid,
    gid: Gid,
}

/// Whether a connection's calls are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Granted,
    Denied,
}

/// A connection and what its peer may do.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    access: Access,
}

/// Accepts connections and judges their peers. Never ends.
pub(super) fn accept(listener: Arc<UnixListener>) -> impl Stream<Item = io::Result<Connection>> + Send + 'static {
    let streams = stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((stream, listener)),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    streams.map(judge).buffer_unordered(CONCURRENT_LOOKUPS).map(Ok)
}

async fn judge(stream: UnixStream) -> Connection {
    let access = match stream.peer_cred() {
        Ok(credentials) => {
            let peer = Peer { uid: Uid::from_raw(credentials.uid()), gid: Gid::from_raw(credentials.gid()) };
            let access = task::spawn_blocking(move || access(peer, Uid::effective(), group(), groups_of));
            // It fails only where the runtime shuts down.
            let access = access.await.unwrap_or(Access::Denied);
            if access == Access::Denied {
                tracing::warn!(uid = %peer.uid, pid = credentials.pid(), "refused a connection");
            }
            access
        }
        Err(error) => {
            tracing::warn!(%error, "cannot tell who connected");
            Access::Denied
        }
    };
    Connection { stream, access }
}

/// Refuses the calls of a connection that was denied.
pub(super) fn check(request: Request<()>) -> Result<Request<()>, Status> {
    match request.extensions().get::<Access>() {
        Some(Access::Granted) => Ok(request),
        Some(Access::Denied) | None => Err(status::access_denied(&format!(
            "only root, the agent's own user and members of the group {GROUP} may call the agent"
        ))),
    }
}

fn access(peer: Peer, own: Uid, group: Option<Gid>, groups_of: impl Fn(Peer) -> Vec<Gid>) -> Access {
    let granted = peer.uid.is_root()
        || peer.uid == own
        || group.is_some_and(|group| peer.gid == group || groups_of(peer).contains(&group));
    if granted { Access::Granted } else { Access::Denied }
}

fn group() -> Option<Gid> {
    // Asked anew each time: the group may be made, and its members change, while the agent runs.
    match Group::from_name(GROUP) {
        Ok(group) => group.map(|group| group.gid),
        Err(error) => {
            tracing::warn!(%error, group = GROUP, "cannot look up the group");
            None
        }
    }
}

/// The groups that the user database gives to the peer's user, getgrouplist(3).
fn groups_of(peer: Peer) -> Vec<Gid> {
    let user = match User::from_uid(peer.uid) {
        Ok(user) => user,
        Err(error) => {
            tracing::warn!(%error, uid = %peer.uid, "cannot look up the user");
            None
        }
    };
    let Some(name) = user.and_then(|user| CString::new(user.name).ok()) else { return Vec::new() };
    getgrouplist(&name, peer.gid).unwrap_or_else(|error| {
        tracing::warn!(%error, uid = %peer.uid, "cannot look up the user's groups");
        Vec::new()
    })
}

impl Connected for Connection {
    type ConnectInfo = Access;

    fn connect_info(&self) -> Access {
        self.access
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32) -> Peer {
        Peer { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid) }
    }

    #[test]
    fn root_the_agents_user_and_the_group_may_call() {
        let own = Uid::from_raw(200);
        let group = Some(Gid::from_raw(300));
        let nobody = |_: Peer| Vec::new();
        let member = |_: Peer| vec![Gid::from_raw(5), Gid::from_raw(300)];
        assert_eq!(access(peer(0, 0), own, None, nobody), Access::Granted);
        assert_eq!(access(peer(200, 9), own, None, nobody), Access::Granted);
        assert_eq!(access(peer(1000, 300), own, group, nobody), Access::Granted);
        assert_eq!(access(peer(1000, 1000), own, group, member), Access::Granted);
        assert_eq!(access(peer(1000, 1000), own, group, nobody), Access::Denied);
        assert_eq!(access(peer(1000, 1000), own, None, member), Access::Denied);
        // Without the group there is no id that a peer could match by chance.
        assert_eq!(access(peer(1000, 0), own, None, nobody), Access::Denied);
    }

    #[test]
    fn groups_come_from_the_user_database() {
        assert!(groups_of(peer(0, 0)).contains(&Gid::from_raw(0)));
        assert_eq!(groups_of(peer(4_000_000_000, 1)), []);
    }

    #[test]
    fn a_denied_connection_gets_permission_denied() {
        let mut request = Request::new(());
        request.extensions_mut().insert(Access::Granted);
        assert!(check(request).is_ok());
        let mut request = Request::new(());
        request.extensions_mut().insert(Access::Denied);
        assert_eq!(check(request).unwrap_err().code(), tonic::Code::PermissionDenied);
        assert_eq!(check(Request::new(())).unwrap_err().code(), tonic::Code::PermissionDenied);
    }
}
