//! Removes what a container has written. It may be as deep as the container pleased, so nothing here recurses or holds a
//! descriptor per level: what is deeper than two levels is moved up first.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Removes a directory with all that is in it; one that is not there is success. Blocks.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let top = match open(AT_FDCWD, path) {
        Ok(top) => top,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let mut moved = 0;
    // What is moved up may come after the place that a listing has reached.
    while !empty(&top, &top, &mut moved)? {}
    std::fs::remove_dir(path)
}

/// One pass over a directory; true if nothing was in it. Directories below its own go to `top`, or are emptied where this
/// is that one.
fn empty(directory: &OwnedFd, top: &OwnedFd, moved: &mut u64) -> Result<bool, Errno> {
    let is_top = std::ptr::eq(directory, top);
    let mut was_empty = true;
    for name in names(directory)? {
        let name = name?;
        was_empty = false;
        match unlinkat(directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => {}
            Ok(()) | Err(Errno::ENOENT) => continue,
            Err(errno) => return Err(errno),
        }
        if is_top {
            let inner = open(top.as_fd(), name.as_c_str())?;
            while !empty(&inner, top, moved)? {}
        }
        match unlinkat(directory, name.as_c_str(), UnlinkatFlags::RemoveDir) {
            Err(Errno::ENOTEMPTY) => move_up(directory, &name, top, moved)?,
            removed => removed?,
        }
    }
    Ok(was_empty)
}

fn move_up(directory: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> Result<(), Errno> {
    loop {
        let new = format!(".removed-{moved}");
        *moved += 1;
        match renameat2(directory, name, top, new.as_str(), RenameFlags::RENAME_NOREPLACE) {
            // The container has one of that name.
            Err(Errno::EEXIST) => {}
            moved => return moved,
        }
    }
}

fn names(directory: &OwnedFd) -> Result<impl Iterator<Item = Result<CString, Errno>>, Errno> {
    let listed = Dir::from_fd(open(directory.as_fd(), c".")?)?;
    let names = listed.into_iter().map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    Ok(names.filter(|name| !matches!(name, Ok(name) if [c".", c".."].contains(&name.as_c_str()))))
}

fn open<P: ?Sized + nix::NixPath>(parent: BorrowedFd<'_>, path: &P) -> Result<OwnedFd, Errno> {
    openat(parent, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::mkdirat;

    use super::*;

    #[test]
    fn a_tree_of_any_depth_goes_and_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let (tree, beside) = (directory.path().join("tree"), directory.path().join("beside"));
        fs::create_dir_all(tree.join("wide/empty")).unwrap();
        fs::create_dir(&beside).unwrap();
        fs::File::create(beside.join("kept")).unwrap();
        symlink(&beside, tree.join("link")).unwrap();
        symlink(&beside, tree.join("wide/link")).unwrap();
        // As if it knew how it is removed.
        fs::create_dir_all(tree.join(".removed-0/.removed-1/.removed-2")).unwrap();
        let mut deepest = open(AT_FDCWD, &tree).unwrap();
        for _ in 0..3_000 {
            mkdirat(&deepest, "d", Mode::S_IRWXU).unwrap();
            deepest = open(deepest.as_fd(), "d").unwrap();
        }
        // Where a recursion would need more: a thread of tokio's has 2 MiB.
        let path = tree.clone();
        std::thread::Builder::new().stack_size(64 << 10).spawn(move || remove(&path)).unwrap().join().unwrap().unwrap();
        assert!(!tree.exists());
        assert!(beside.join("kept").exists());
        remove(&tree).unwrap();
    }
}
