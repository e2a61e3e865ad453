//! Memory for the arguments of one call, with places where it ends, cannot be written or is not there.

use std::io;
use std::ptr;

const PAGE: usize = 4096;
/// Room for what lies anywhere.
const ROOM: usize = 512 * PAGE;
/// How many things may lie at an end, each in a slot of its own: two pages and one that is missing.
const SLOTS: usize = 64;
const SLOT: usize = 3 * PAGE;
/// The size of everything; the last page can be read only.
const SIZE: usize = ROOM + SLOTS * SLOT + PAGE;

/// The memory.
///
/// Invariant: `base` is the start of a mapping of `SIZE` bytes that nothing else uses. Of it, the first `ROOM` bytes
/// and the first two pages of each slot can be read and written.
pub struct Arena {
    base: *mut u8,
    used: usize,
    slots: usize,
}

impl Arena {
    /// Maps it.
    pub fn new() -> io::Result<Arena> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses harms nothing.
        let base = unsafe { libc::mmap(ptr::null_mut(), SIZE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let arena = Arena { base: base.cast(), used: 0, slots: 0 };
        for slot in 0..SLOTS {
            arena.protect(ROOM + slot * SLOT + 2 * PAGE, libc::PROT_NONE)?;
        }
        arena.protect(SIZE - PAGE, libc::PROT_READ)?;
        Ok(arena)
    }

    fn protect(&self, offset: usize, protection: libc::c_int) -> io::Result<()> {
        let page = self.base.wrapping_add(offset).cast();
        // SAFETY: the page lies in our mapping, and nothing refers to it yet.
        match unsafe { libc::mprotect(page, PAGE, protection) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn address(&self, offset: usize) -> u64 {
        self.base.wrapping_add(offset).expose_provenance() as u64
    }

    /// Forgets what was put.
    pub fn reset(&mut self) {
        self.used = 0;
        self.slots = 0;
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let place = self.base.wrapping_add(offset);
        // SAFETY: the callers stay within what the type's invariant says is writable.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
    }

    /// Puts `bytes` somewhere.
    pub fn put(&mut self, bytes: &[u8]) -> u64 {
        let offset = self.used;
        assert!(offset + bytes.len() <= ROOM, "a call needs more memory than there is");
        self.used = (offset + bytes.len()).next_multiple_of(8);
        self.write(offset, bytes);
        self.address(offset)
    }

    /// Puts `bytes` before a missing page, all but the last `missing` of them. What does not fit in two pages, or finds
    /// no slot left, goes anywhere; `None` then if something was to be missing.
    pub fn put_at_end(&mut self, bytes: &[u8], missing: usize) -> Option<u64> {
        let there = bytes.len() - missing;
        if there > 2 * PAGE || self.slots == SLOTS {
            return (missing == 0).then(|| self.put(bytes));
        }
        let end = ROOM + self.slots * SLOT + 2 * PAGE;
        self.slots += 1;
        self.write(end - there, &bytes[..there]);
        Some(self.address(end - there))
    }

    /// A missing page.
    pub fn missing(&self) -> u64 {
        self.address(ROOM + 2 * PAGE)
    }

    /// A page that can only be read; it is all zero.
    pub fn read_only(&self) -> u64 {
        self.address(SIZE - PAGE)
    }

    /// What lies at an address that `put` or `put_at_end`, with nothing missing, returned for at least `N` bytes.
    pub fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let offset = address as usize - self.base.expose_provenance();
        assert!(offset + N <= SIZE - PAGE);
        let place = self.base.wrapping_add(offset).cast::<[u8; N]>();
        // SAFETY: by what the caller promises the bytes lie in the readable part; the kernel may have changed them.
        unsafe { ptr::read_volatile(place) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: by the type's invariant the mapping is ours.
        unsafe { libc::munmap(self.base.cast(), SIZE) };
    }
}
