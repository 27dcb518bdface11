//! [loop(4)](https://man7.org/linux/man-pages/man4/loop.4.html): a file as a block device. Mounting it belongs to the
//! callers.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

const CONTROL: &str = "/dev/loop-control";
/// Others take devices too, between our asking for a free one and our taking it.
const TRIES: u32 = 64;

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// loop_info64 of linux/loop.h.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// loop_config of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// A device with a file behind it. The kernel detaches the file with the device's last user: when this is dropped,
/// unless it has been mounted.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _open: OwnedFd,
}

impl LoopDevice {
    /// The device node.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Puts `file`, open for reading and writing, behind a free device with blocks of `block_size` bytes, past the page cache
/// where its file system can.
pub fn attach(file: impl AsFd, block_size: u32) -> io::Result<LoopDevice> {
    let control = open(Path::new(CONTROL))?;
    let fd = file.as_fd().as_raw_fd().unsigned_abs();
    // SAFETY: loop_config is plain data for which all zeroes is valid.
    let mut config: LoopConfig = unsafe { std::mem::zeroed() };
    config.fd = fd;
    config.block_size = block_size;
    config.info.flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
    for _ in 0..TRIES {
        // SAFETY: takes no argument; answers a number.
        let number = Errno::result(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path)?;
        // SAFETY: the configuration is a live loop_config, which the kernel only reads.
        match Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) }) {
            Ok(_) => return Ok(LoopDevice { path, _open: device.into() }),
            Err(Errno::EBUSY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::EBUSY.into())
}

fn open(path: &Path) -> io::Result<File> {
    let open = OpenOptions::new().read(true).write(true).open(path);
    open.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_a_device_until_nobody_uses_it() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let device = attach(&file, 512).unwrap();
        let name = device.path().file_name().unwrap().to_owned();
        let size = || std::fs::read_to_string(Path::new("/sys/block").join(&name).join("size"));
        assert_eq!(size().unwrap().trim(), (1 << 20 >> 9).to_string());
        let backing = Path::new("/sys/block").join(&name).join("loop/backing_file");
        assert!(backing.exists());
        let inode = std::fs::read_to_string(&backing).unwrap();
        drop(device);
        // Another test or program may have taken the device at once, but not our file.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::fs::read_to_string(&backing).is_ok_and(|found| found == inode) {
            assert!(std::time::Instant::now() < deadline, "{inode} is still behind {name:?}");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}
