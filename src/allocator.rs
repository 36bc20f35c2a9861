//! How the C library's allocator is to behave.
//!
//! Measured with 10,000 Services of 10 endpoints from a file of 60 MB: glibc as it is by default makes one arena for each
//! thread, which grows by a page per system call and takes no part in what other threads free; and it maps each large
//! block anew, so that plans and texts of some hundred kilobytes cost a page fault for each of their pages each time.
//! That was two thirds of a cold start beside the kernel's work, and a fifth of the memory with 50,000 Services.
//!
//! Other C libraries are left as they are. With musl's and mimalloc, which is quicker than musl's own, a burst of 1,000 slices
//! takes 1.6 times as long in User-Mode Linux, and a restart 1.2 times: so the image has glibc too.

#[cfg(target_env = "gnu")]
mod glibc {
    use std::ffi::c_int;

    /// One arena: hardly ever do two threads allocate at once, since a change goes from one to the next.
    const ARENAS: c_int = 1;
    /// By how much the arena grows beyond what is needed, in bytes.
    const GROWTH_BYTES: c_int = 1 << 20;
    /// From this size on a block is mapped by itself: never, but for what no cluster needs.
    const MAPPED_BYTES: c_int = 1 << 30;
    /// As much may be free at the end of the arena before the kernel gets it back, in bytes.
    const SPARE_BYTES: c_int = 16 << 20;

    #[expect(
        unsafe_code,
        reason = "foreign functions that take numbers by value, and may be called at any time"
    )]
    pub(super) fn set_up() {
        let settings = [
            (libc::M_ARENA_MAX, ARENAS),
            (libc::M_TOP_PAD, GROWTH_BYTES),
            (libc::M_MMAP_THRESHOLD, MAPPED_BYTES),
            (libc::M_TRIM_THRESHOLD, SPARE_BYTES),
        ];
        for (setting, value) in settings {
            // One that this version does not know stays as it is.
            let _ = unsafe { libc::mallopt(setting, value) };
        }
    }

    #[expect(
        unsafe_code,
        reason = "a foreign function that takes a number by value, and may be called at any time"
    )]
    pub(super) fn give_back() {
        let _ = unsafe { libc::malloc_trim(0) };
    }
}

/// Sets the allocator up. To be called before there are threads: those that are there have their arenas.
pub fn set_up() {
    #[cfg(target_env = "gnu")]
    glibc::set_up();
}

/// Gives the kernel back the pages of which nothing is in use, wherever they lie: the text of a large file is free when
/// what was made of it is behind it. Whoever allocates meanwhile waits.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    glibc::give_back();
}
