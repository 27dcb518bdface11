//! [malloc_trim(3)](https://man7.org/linux/man-pages/man3/malloc_trim.3.html),
//! [mallopt(3)](https://man7.org/linux/man-pages/man3/mallopt.3.html) and
//! [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html): memory back to the kernel, and a poll(2) that
//! takes none again.

use std::arch::asm;
use std::ffi::c_void;

use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout};

/// Of x86_64, bytes.
const PAGE: usize = 4096;
/// What a function may use below its stack pointer, bytes: the red zone of the System V ABI.
const RED_ZONE: usize = 128;

/// Has all threads share so many heaps, where the allocator would make eight for each processor, of which each keeps
/// what it once needed. For programs whose threads are there to wait.
pub fn share_heaps(most: i32) {
    // SAFETY: mallopt changes how the allocator goes on from here, and takes its own lock for that. One that knows no
    // such parameter goes on as before.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, most) };
}

/// Gives freed heap back, and forgets the pages of the program's file that happen to be mapped: those used again come
/// back from the page cache. Costs a millisecond or so; nothing may be in a hurry.
pub fn give_back() {
    let ranges = unchanged_file_mappings(&mappings());
    trim();
    for (start, end) in ranges {
        // SAFETY: the range is a mapping of a file that cannot be written and of which no page was changed before it was
        // protected (as by relocation), so that what is read after MADV_DONTNEED is what was there: the file's content.
        // There is no other thread that could change its protection meanwhile. A failure leaves things as they were.
        unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// [`give_back`], then poll(2). Each function that ran in between would map 64 KiB of the program again, and who rests
/// may do so for weeks: both are done here, by the bare system calls.
pub fn rest(watched: &mut [PollFd<'_>], timeout: PollTimeout) -> Result<i32, Errno> {
    let smaps = mappings();
    let mut ranges = unchanged_file_mappings(&smaps);
    let stack = stack(&smaps, (&raw const watched).addr());
    // What was needed to read this is given back as well.
    drop(smaps);
    trim();
    // Only after the last call of a function: below this function's own stack there is nothing any more.
    ranges.extend(stack.and_then(|(start, _)| below(start, stack_pointer())));
    let timeout = i32::from(timeout).cast_unsigned() as usize;
    for (start, end) in &ranges {
        // SAFETY: as in `give_back`; the stack is forgotten only where nobody's frame is, below this function's own and
        // its red zone. The calls of the loop are system calls, which take no stack.
        unsafe { system_call(libc::SYS_madvise, *start, end - start, libc::MADV_DONTNEED as usize) };
    }
    // SAFETY: PollFd is a transparent pollfd, and `watched` is a slice of as many.
    let events = unsafe { system_call(libc::SYS_poll, watched.as_mut_ptr() as usize, watched.len(), timeout) };
    let events = i32::try_from(events).unwrap_or(-libc::EOVERFLOW);
    if events < 0 { Err(Errno::from_raw(-events)) } else { Ok(events) }
}

/// A system call of three arguments, without a function of libc's: what syscall(2) of the kernel itself answers.
///
/// # Safety
/// The call must be one that touches no memory but what its arguments name, validly.
#[inline(always)]
unsafe fn system_call(number: i64, first: usize, second: usize, third: usize) -> isize {
    let answer: isize;
    // SAFETY: the kernel's calling convention of x86_64; it clobbers rcx and r11. The rest is the caller's promise.
    unsafe {
        asm!("syscall", inlateout("rax") number => answer, in("rdi") first, in("rsi") second, in("rdx") third,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer
}

/// What is mapped, as proc_pid_smaps(5) tells it.
fn mappings() -> String {
    std::fs::read_to_string("/proc/self/smaps").unwrap_or_default()
}

/// Trims the heap.
fn trim() {
    // SAFETY: malloc_trim touches only memory that the allocator holds free.
    unsafe { libc::malloc_trim(0) };
}

/// Where the caller's stack ends.
#[inline(always)]
fn stack_pointer() -> usize {
    let pointer;
    // SAFETY: a register is read.
    unsafe { asm!("mov {}, rsp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}

/// The main thread's stack, where `frame` is on it.
fn stack(smaps: &str, frame: usize) -> Option<(usize, usize)> {
    let line = smaps.lines().find(|line| line.ends_with(" [stack]"))?;
    let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    (start..end).contains(&frame).then_some((start, end))
}

/// The whole pages of a stack from its beginning to what is in use above `pointer`: what deeper calls have left.
#[inline(always)]
fn below(start: usize, pointer: usize) -> Option<(usize, usize)> {
    let used = pointer.saturating_sub(RED_ZONE) & !(PAGE - 1);
    (start < used).then_some((start, used))
}

/// Ranges of proc_pid_smaps(5) that map a file, cannot be written, and hold no page of their own.
fn unchanged_file_mappings(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(first), second) = (words.next(), words.next()) else { continue };
        match first.strip_suffix(':') {
            // Both are kB of pages that are no longer the file's, here or swapped out; the second comes last.
            Some("Anonymous" | "Swap") if second != Some("0") => current = None,
            Some("Swap") => found.extend(current.take()),
            Some(_) => {}
            None => current = file_mapping(first, second.unwrap_or_default(), words.nth(2).unwrap_or("0")),
        }
    }
    found
}

fn file_mapping(range: &str, permissions: &str, inode: &str) -> Option<(usize, usize)> {
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let found = (address(start)?, address(end)?);
    (permissions.starts_with("r-") && inode != "0").then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_still_the_files_is_forgotten() {
        let mapping = |range: &str, permissions: &str, inode: u32, anonymous: u32, swap: u32| {
            format!(
                "{range} {permissions} 00137000 00:0f {inode}   /x\nSize: 4 kB\nRss: 4 kB\nAnonymous: {anonymous} kB\n\
                 Swap:  {swap} kB\nSwapPss: 0 kB\nVmFlags: rd ex mr mw me\n"
            )
        };
        let smaps = [
            mapping("00200000-00337000", "r--p", 15, 0, 0),
            mapping("00337000-006cb000", "r-xp", 15, 0, 0),
            mapping("006cb000-006d0000", "r--p", 15, 20, 0),
            mapping("006d0000-006d1000", "r--p", 15, 0, 4),
            mapping("006d1000-006d2000", "rw-p", 15, 0, 0),
            mapping("7ffe000-7fff000", "r-xp", 0, 0, 0),
        ];
        assert_eq!(unchanged_file_mappings(&smaps.concat()), [(0x0020_0000, 0x0033_7000), (0x0033_7000, 0x006c_b000)]);
        give_back();
        assert!(smaps.len() > 3, "code and data are still there");
    }

    #[test]
    fn only_the_stack_below_is_unused() {
        let smaps = "7ffdfe533000-7ffdfe554000 rw-p 00000000 00:00 0                          [stack]\nSize: 132 kB\n";
        let (start, end) = (0x7ffd_fe53_3000, 0x7ffd_fe55_4000);
        assert_eq!(stack(smaps, 0x7ffd_fe55_2345), Some((start, end)));
        assert_eq!(stack(smaps, 0x1234_5678), None, "another thread's");
        assert_eq!(below(start, 0x7ffd_fe55_2345), Some((start, 0x7ffd_fe55_2000)));
        assert_eq!(below(start, 0x7ffd_fe55_2079), Some((start, 0x7ffd_fe55_1000)), "the red zone is in use");
        assert_eq!(below(start, start + 0x70), None, "next to its end");
    }

    #[test]
    fn who_rests_is_woken_as_by_poll() {
        use std::io::Write as _;
        use std::os::fd::AsFd as _;

        use nix::poll::PollFlags;

        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut watched = [PollFd::new(theirs.as_fd(), PollFlags::POLLIN)];
        assert_eq!(rest(&mut watched, PollTimeout::from(10u8)), Ok(0));
        ours.write_all(b"x").unwrap();
        assert_eq!(rest(&mut watched, PollTimeout::NONE), Ok(1));
        assert_eq!(watched[0].revents(), Some(PollFlags::POLLIN));
    }
}
