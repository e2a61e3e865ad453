//! The calling process: whether it may use what it finds in its memory, and what its children are born with.
//!
//! After `fork` a process has a copy of the memory and of the descriptors; in the child of `vfork`, or of `clone` with
//! `CLONE_VM`, the memory is the parent's, but the descriptors are not. The first may go on with what the parent has kept,
//! the second must leave it alone.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::kernel;

/// How the memory of the calling process came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// It is this process's own, as it was at the last call.
    Own,
    /// It is a copy that `fork` has made since the last call, of a process with other threads. Returned once.
    Forked,
    /// It is another process's, or that cannot be told.
    Shared,
}

/// A page that is all zeroes after `fork`. It begins with the id of the process that it belongs to.
static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

const PAGE_SIZE: usize = 4096;

/// In the place of the id while a forked process gets ready.
const BUSY: u32 = u32::MAX;

/// What the memory of this process is. With [`Memory::Forked`] the caller calls [`ready`] when it has put its own things
/// right.
pub fn memory() -> Memory {
    let this = id();
    let page = match PAGE.load(Ordering::Acquire) {
        page if page.is_null() => make(this),
        page => page,
    };
    // SAFETY: null or the page, which is never unmapped.
    let Some(owner) = (unsafe { page.as_ref() }) else { return Memory::Shared };
    match owner.compare_exchange(0, BUSY, Ordering::Acquire, Ordering::Acquire) {
        Ok(_) => Memory::Forked,
        Err(owner) if owner == this => Memory::Own,
        Err(_) => Memory::Shared,
    }
}

/// From now on the memory is this process's own.
pub fn ready() {
    // SAFETY: null or the page, which is never unmapped.
    if let Some(owner) = unsafe { PAGE.load(Ordering::Acquire).as_ref() } {
        owner.store(id(), Ordering::Release);
    }
}

/// This process, whatever a C library may remember.
fn id() -> u32 {
    // SAFETY: has no arguments.
    unsafe { libc::syscall(libc::SYS_getpid) as u32 }
}

/// `SCHED_RESET_ON_FORK` in the answer of `sched_getscheduler(2)`
const RESET_ON_FORK: i64 = 0x4000_0000;

/// The nice value that a child of the calling thread is born with, or the `errno`.
pub fn nice_of_child() -> Result<i32, i32> {
    // SAFETY: plain numbers.
    let nice = match unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, 0) } {
        // The kernel's answer is 1 for a nice value of 19, 40 for -20.
        answer @ 1..=40 => 20 - answer as i32,
        _ => return Err(kernel::errno()),
    };
    // SAFETY: a plain number.
    let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
    let ordinary = [libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_IDLE];
    match policy {
        policy if policy < 0 => Err(kernel::errno()),
        policy if policy & RESET_ON_FORK == 0 => Ok(nice),
        policy if ordinary.iter().any(|&known| i64::from(known) == policy & !RESET_ON_FORK) => Ok(nice.max(0)),
        _ => Ok(0),
    }
}

/// Makes the page; null if that is impossible.
fn make(this: u32) -> *mut AtomicU32 {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let page = unsafe { libc::mmap(ptr::null_mut(), PAGE_SIZE, access, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return ptr::null_mut();
    }
    // SAFETY: the page just made.
    let wiped = unsafe { libc::madvise(page, PAGE_SIZE, libc::MADV_WIPEONFORK) } == 0;
    let new: *mut AtomicU32 = page.cast();
    if wiped {
        // SAFETY: the page just made, aligned, and nobody else has seen it.
        unsafe { new.write(AtomicU32::new(this)) };
        match PAGE.compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return new,
            Err(other) => {
                // SAFETY: the page just made, which nobody else has seen.
                unsafe { libc::munmap(page, PAGE_SIZE) };
                return other;
            }
        }
    }
    // SAFETY: the page just made, which nobody else has seen.
    unsafe { libc::munmap(page, PAGE_SIZE) };
    ptr::null_mut()
}

#[cfg(test)]
#[allow(clippy::multiple_unsafe_ops_per_block, reason = "calls of the C library in a row")]
mod tests {
    use super::*;

    /// Runs `check` in a process made with these flags of `clone`, and returns what it returns.
    fn in_child(flags: libc::c_int, check: fn() -> i32) -> i32 {
        extern "C" fn start(check: *mut libc::c_void) -> libc::c_int {
            // SAFETY: what `in_child` passes.
            let check = unsafe { std::mem::transmute::<*mut libc::c_void, fn() -> i32>(check) };
            check()
        }
        let mut stack = vec![0_u8; 256 << 10];
        // SAFETY: the stack is large enough, and this thread waits.
        unsafe {
            let top = stack.as_mut_ptr().add(stack.len() & !15);
            let pid = libc::clone(start, top.cast(), flags | libc::SIGCHLD, check as *mut libc::c_void);
            assert!(pid > 0);
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
            assert!(libc::WIFEXITED(status), "{status:#x}");
            libc::WEXITSTATUS(status)
        }
    }

    #[test]
    fn fork_and_vfork_are_told_apart() {
        assert_eq!(memory(), Memory::Own);
        assert_eq!(in_child(libc::CLONE_VM | libc::CLONE_VFORK, || i32::from(memory() == Memory::Shared)), 1);
        assert_eq!(memory(), Memory::Own);
        let forked = in_child(0, || {
            let first = memory();
            let second = memory();
            ready();
            i32::from(first == Memory::Forked && second == Memory::Shared && memory() == Memory::Own)
        });
        assert_eq!(forked, 1);
        assert_eq!(memory(), Memory::Own);
    }
}
