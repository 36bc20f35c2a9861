//! Configures the C library's allocator.
//!
//! The figures were measured with 10,000 Services of 10 endpoints each, from a file of 60 MB. With its defaults, glibc
//! makes one arena per thread; an arena grows by one page per system call and does not reuse what other threads free.
//! It also maps each large block anew, so plans and texts of some hundred kilobytes cost a page fault for each of their
//! pages each time. Together this cost two thirds of a cold start, apart from the kernel's work, and a fifth of the
//! memory with 50,000 Services.
//!
//! Other C libraries keep their defaults. In User-Mode Linux, a musl build with mimalloc (faster than musl's own
//! allocator) takes 1.6 times as long for a burst of 1,000 slices and 1.2 times as long for a restart; so the image
//! uses glibc too.

#[cfg(target_env = "gnu")]
mod glibc {
    use std::ffi::c_int;

    /// One arena suffices: two threads hardly ever allocate at once, since a change passes from one thread to the next.
    const ARENAS: c_int = 1;
    /// By how many bytes the arena grows beyond what is needed.
    const GROWTH_BYTES: c_int = 1 << 20;
    /// Blocks of at least this size are mapped individually: larger than anything that a cluster needs.
    const MAPPED_BYTES: c_int = 1 << 30;
    /// How many bytes may be free at the end of the arena before they are returned to the kernel.
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
            // A setting that this version of glibc does not know keeps its default.
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

/// Configures the allocator. Must be called before threads are started: existing threads already have their arenas.
pub fn set_up() {
    #[cfg(target_env = "gnu")]
    glibc::set_up();
}

/// Returns unused pages to the kernel, wherever they lie: the text of a large file is free once it has been processed.
/// Threads that allocate meanwhile wait.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    glibc::give_back();
}
