//! [malloc_trim(3)](https://man7.org/linux/man-pages/man3/malloc_trim.3.html) and
//! [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html): memory back to the kernel.

use std::ffi::c_void;

/// Gives freed heap back, and forgets the pages of the program's file that happen to be mapped: those used again come
/// back from the page cache.
pub fn give_back() {
    // SAFETY: malloc_trim touches only memory that the allocator holds free.
    unsafe { libc::malloc_trim(0) };
    for (start, end) in file_mappings(&std::fs::read_to_string("/proc/self/maps").unwrap_or_default()) {
        // SAFETY: the range is a mapping of a file without write permission, so that no page in it can differ from the
        // file; one that is read after MADV_DONTNEED is read from there. A failure leaves things as they were.
        unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// Ranges of proc_pid_maps(5) that map a file and cannot be written.
fn file_mappings(maps: &str) -> Vec<(usize, usize)> {
    let mapping = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?;
        let inode = fields.nth(2)?;
        // A page written before it was protected, as by relocation, is the mapping's own: those are never executable.
        let is_file = permissions.starts_with("r-x") && inode != "0";
        let address = |text| usize::from_str_radix(text, 16).ok();
        Some((address(start)?, address(end)?)).filter(|_| is_file)
    };
    maps.lines().filter_map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_forgotten() {
        let maps = "00200000-00337000 r--p 00000000 00:0f 15 /x\n00337000-006cb000 r-xp 00137000 00:0f 15 /x\n\
                    006cb000-006d1000 rw-p 004cb000 00:0f 15 /x\n7ffe000-7fff000 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(file_mappings(maps), [(0x0033_7000, 0x006c_b000)]);
        give_back();
        assert!(maps.len() > 3, "code and data are still there");
    }
}
