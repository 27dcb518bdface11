//! The disk of a task with `ephemeralStorage`: an ext4 file system in a sparse file, mounted where tasks without one have
//! a plain directory. What is written beyond its size is ENOSPC, and the host's disk loses only what is written.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use runtime::sys::loop_device;
use tokio::process::Command;

use super::{blocking, file};
use crate::sandbox::SandboxError;

const BLOCK_BYTES: u32 = 4096;
/// Space that is freed inside is given back to the host; the file is all zeroes, so that nothing is written to say so.
const OPTIONS: &str = "discard,noinit_itable";
/// The journal is small: no disk of a task lives through a crash of the host for long.
const FORMAT: [&str; 10] =
    ["-q", "-F", "-b", "4096", "-m", "0", "-J", "size=16", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"];

/// The file behind the disk that is mounted at `place`.
fn image(place: &Path) -> PathBuf {
    place.with_extension("ext4")
}

/// Mounts a disk of `gib` GiB at `place`; one that an earlier agent has made is kept with what is on it. `lock` is held by
/// what is executed.
pub(super) async fn make(place: &Path, gib: u32, lock: &fs::File) -> Result<(), SandboxError> {
    if is_mounted(place) {
        return Ok(());
    }
    let image = image(place);
    if !image.exists() {
        format(&image, gib, lock).await?;
    }
    let place = place.to_owned();
    blocking(move || {
        super::make_directory(&place, 0o755)?;
        let open = OpenOptions::new().read(true).write(true).open(&image).map_err(file(&image))?;
        let device = loop_device::attach(&open, BLOCK_BYTES).map_err(disk(&image))?;
        let mounted = mount(Some(device.path()), &place, Some("ext4"), MsFlags::empty(), Some(OPTIONS));
        mounted.map_err(|errno| disk(&image)(errno.into()))
    })
    .await
}

/// Whole under its name or not at all: an agent may be killed in the middle.
async fn format(image: &Path, gib: u32, lock: &fs::File) -> Result<(), SandboxError> {
    let new = image.with_extension("ext4.new");
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(file(&new))?;
    open.set_len(u64::from(gib) << 30).map_err(file(&new))?;
    let mkfs = |source| SandboxError::Mkfs { source };
    let output = Command::new("mkfs.ext4")
        .args(FORMAT)
        .arg(&new)
        // Debian's users have no sbin in theirs, and root may have come from one.
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::from(lock.try_clone().map_err(mkfs)?))
        .output()
        .await
        .map_err(mkfs)?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(SandboxError::Runtime { command: "mkfs.ext4", message });
    }
    fs::rename(&new, image).map_err(file(image))
}

/// Takes the disk off its place; the kernel frees the loop device with the last file that is open on it. The file stays
/// with the task's other files. One that is not mounted is success.
pub(super) fn remove(place: &Path) -> Result<(), SandboxError> {
    match umount2(place, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // EINVAL: nothing is mounted there.
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => Ok(()),
        Err(errno) => Err(disk(place)(errno.into())),
    }
}

fn is_mounted(place: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|found| found.dev()).ok();
    device(place).is_some() && device(place) != place.parent().and_then(device)
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> SandboxError {
    move |source| SandboxError::Disk { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_holds_what_it_was_made_for_and_is_kept_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let lock = tempfile::tempfile().unwrap();
        let place = directory.path().join("disk");
        make(&place, 21, &lock).await.unwrap();
        fs::File::create(place.join("kept")).unwrap();
        let (size, taken) = (fs::metadata(image(&place)).unwrap().len(), fs::metadata(image(&place)).unwrap().blocks());
        assert_eq!(size, 21 << 30);
        assert!(taken * 512 < 64 << 20, "a new disk takes {} bytes of the host's", taken * 512);
        make(&place, 21, &lock).await.unwrap();
        assert!(place.join("kept").exists(), "made twice it is not made anew");
        remove(&place).unwrap();
        assert!(!place.join("kept").exists());
        remove(&place).unwrap();
        make(&place, 21, &lock).await.unwrap();
        assert!(place.join("kept").exists(), "mounted again it has what it had");
        remove(&place).unwrap();
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }
}
