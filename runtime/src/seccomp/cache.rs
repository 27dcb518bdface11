//! Compiled filters kept in a directory, each under the digest of its profile: libseccomp takes milliseconds for one,
//! and every start and every exec needs one. A file is used only if nobody but us can have written it and its content
//! is whole; anything else is compiled anew and replaced.
//!
//! ```text
//! DIR/<64 hex digits>   SHA-256 of the program, then the program
//! ```

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use libseccomp::ScmpVersion;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::sys::utsname::uname;
use nix::unistd::{geteuid, unlinkat};
use oci_spec::runtime::LinuxSeccomp;
use sha2::{Digest, Sha256};

use super::{Filter, SeccompError, compile, flags};

/// Changes with what [`compile`] makes of one and the same profile.
const FORMAT: u32 = 1;
const DIGEST: usize = 32;
const INSTRUCTION: usize = size_of::<libc::sock_filter>();
/// BPF_MAXINSNS of linux/bpf_common.h: the kernel takes no more.
const MAX_INSTRUCTIONS: usize = 4096;

/// Where compiled filters are kept, if anywhere.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    directory: Option<PathBuf>,
}

impl Cache {
    /// Keeps filters in `directory`, which is made when the first one is stored.
    pub fn at(directory: &Path) -> Cache {
        Cache { directory: Some(directory.to_owned()) }
    }

    /// That of a runtime with this state root. No container can have its name.
    pub fn below(state_root: &Path) -> Cache {
        Cache::at(&state_root.join("seccomp:"))
    }

    /// The filter of `profile`, compiled where it is not kept yet. A cache that cannot be used costs time, no more.
    pub fn compile(&self, profile: &LinuxSeccomp) -> Result<Filter, SeccompError> {
        let Some((directory, name)) = self.directory.as_deref().zip(name(profile)) else { return compile(profile) };
        if let Some(program) = load(directory, &name) {
            return Ok(Filter { program, flags: flags(profile)? });
        }
        let filter = compile(profile)?;
        // Full, read-only or another user's: the next one compiles again.
        let _ = store(directory, &name, &filter.program);
        Ok(filter)
    }
}

/// Digest of the profile and of everything else that a compiled program depends on.
fn name(profile: &LinuxSeccomp) -> Option<String> {
    let library = ScmpVersion::current().ok()?;
    let kernel = uname().ok()?;
    let mut digest = Sha256::new();
    digest.update(format!("{FORMAT} {library} {:?} {:?}\n", kernel.release(), kernel.machine()));
    digest.update(serde_json::to_vec(profile).ok()?);
    Some(format!("{:x}", digest.finalize()))
}

fn load(directory: &Path, name: &str) -> Option<Vec<u8>> {
    let directory = open_directory(directory).ok()?;
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(&directory, name, flags, Mode::empty()).ok()?;
    let stat = fstat(&file).ok()?;
    if !is_ours(&stat, SFlag::S_IFREG) {
        return None;
    }
    let mut content = Vec::new();
    let most = u64::try_from(DIGEST + MAX_INSTRUCTIONS * INSTRUCTION).ok()?;
    File::from(file).take(most + 1).read_to_end(&mut content).ok()?;
    let (digest, program) = content.split_at_checked(DIGEST)?;
    let whole = !program.is_empty()
        && program.len().is_multiple_of(INSTRUCTION)
        && program.len() <= MAX_INSTRUCTIONS * INSTRUCTION
        && Sha256::digest(program).as_slice() == digest;
    whole.then(|| program.to_vec())
}

fn store(directory: &Path, name: &str, program: &[u8]) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    match builder.mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            builder.recursive(true).create(directory)?;
        }
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let directory = open_directory(directory)?;
    let temporary = format!(".{name}.{}", std::process::id());
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = match openat(&directory, temporary.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR) {
        // Of an earlier process with our pid, which was killed.
        Err(Errno::EEXIST) => {
            unlinkat(&directory, temporary.as_str(), nix::unistd::UnlinkatFlags::NoRemoveDir)?;
            openat(&directory, temporary.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into()
        }
        other => File::from(other?),
    };
    let mut content = Sha256::digest(program).to_vec();
    content.extend_from_slice(program);
    // No fsync: what a crash leaves does not have the digest that it begins with.
    let written = file.write_all(&content);
    let renamed = written.and_then(|()| Ok(renameat(&directory, temporary.as_str(), &directory, name)?));
    if renamed.is_err() {
        unlinkat(&directory, temporary.as_str(), nix::unistd::UnlinkatFlags::NoRemoveDir)?;
    }
    renamed
}

/// EPERM for a directory that others may have written to.
fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = open(path, flags, Mode::empty())?;
    if is_ours(&fstat(&directory)?, SFlag::S_IFDIR) { Ok(directory) } else { Err(Errno::EPERM) }
}

fn is_ours(stat: &FileStat, kind: SFlag) -> bool {
    let others = Mode::S_IWGRP | Mode::S_IWOTH;
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == kind
        && stat.st_uid == geteuid().as_raw()
        && !Mode::from_bits_truncate(stat.st_mode).intersects(others)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;
    use crate::capabilities;
    use crate::seccomp::default_profile;

    fn kept(directory: &Path) -> Vec<PathBuf> {
        fs::read_dir(directory).map_or(Vec::new(), |entries| entries.flatten().map(|entry| entry.path()).collect())
    }

    fn profile() -> LinuxSeccomp {
        default_profile(&capabilities::DEFAULT)
    }

    /// A cache with the default profile in it, its file, and the right program.
    fn filled() -> (tempfile::TempDir, Cache, PathBuf, Vec<u8>) {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(&root.path().join("cache"));
        let program = cache.compile(&profile()).unwrap().program;
        let file = kept(&root.path().join("cache")).pop().unwrap();
        (root, cache, file, program)
    }

    /// What another file in this place does: nothing.
    fn put(file: &Path, content: &[u8]) {
        fs::remove_file(file).unwrap();
        File::create(file).unwrap().write_all(content).unwrap();
    }

    /// A program of one instruction, allow everything, as a cache would hold it.
    fn allow_all() -> Vec<u8> {
        let program = [6, 0, 0, 0, 0, 0, 0xff, 0x7f];
        [Sha256::digest(program).as_slice(), &program].concat()
    }

    #[test]
    fn what_is_kept_is_used() {
        let (_root, cache, file, program) = filled();
        assert_eq!(program, compile(&profile()).unwrap().program);
        put(&file, &allow_all());
        assert_eq!(cache.compile(&profile()).unwrap().program.len(), INSTRUCTION, "it was compiled again");
        let other = default_profile(&[]);
        assert_eq!(cache.compile(&other).unwrap().program, compile(&other).unwrap().program);
    }

    #[test]
    fn what_is_not_whole_is_replaced() {
        let (root, cache, file, program) = filled();
        let good = fs::read(&file).unwrap();
        let mut changed = good.clone();
        changed[DIGEST + 4] ^= 1;
        for bad in [&good[..good.len() - INSTRUCTION], &good[..good.len() - 1], &good[..DIGEST], &[], &changed] {
            put(&file, bad);
            assert_eq!(cache.compile(&profile()).unwrap().program, program);
            assert_eq!(fs::read(&file).unwrap(), good);
        }
        assert_eq!(kept(&root.path().join("cache")).len(), 1, "no temporary file stays");
    }

    #[test]
    fn what_others_may_have_written_is_not_used() {
        type Spoil = fn(&Path);
        let spoil: [(&str, Spoil); 5] = [
            ("group", |file| fs::set_permissions(file, fs::Permissions::from_mode(0o620)).unwrap()),
            ("world", |file| fs::set_permissions(file, fs::Permissions::from_mode(0o602)).unwrap()),
            ("owner", |file| chown(file, Some(1234), None).unwrap()),
            ("directory", |file| {
                fs::set_permissions(file.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
            }),
            ("link", |file| {
                let elsewhere = file.parent().unwrap().parent().unwrap().join("elsewhere");
                fs::rename(file, &elsewhere).unwrap();
                symlink(elsewhere, file).unwrap();
            }),
        ];
        for (what, spoil) in spoil {
            let (_root, cache, file, program) = filled();
            put(&file, &allow_all());
            spoil(&file);
            assert_eq!(cache.compile(&profile()).unwrap().program, program, "{what}");
        }
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_none() {
        let root = tempfile::tempdir().unwrap();
        File::create(root.path().join("file")).unwrap();
        let cache = Cache::at(&root.path().join("file/below"));
        assert_eq!(cache.compile(&profile()).unwrap().program, compile(&profile()).unwrap().program);
    }
}
