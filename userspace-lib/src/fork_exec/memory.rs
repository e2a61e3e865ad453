//! The memory of a child before it executes its program, and what it leaves in it.

use std::ffi::c_char;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::raw::{Failure, Stage, address};
use crate::uapi::{
    SPAWN_TEMPLATE_STAGE_ACTION, SPAWN_TEMPLATE_STAGE_CREATE, SPAWN_TEMPLATE_STAGE_EXEC, SPAWN_TEMPLATE_STAGE_NONE,
};

/// The child's stack. Actions need a fraction of it; closures may need more.
pub(super) const STACK_SIZE: usize = 256 << 10;

const PAGE_SIZE: usize = 4096;

/// What the child leaves behind when it fails; in memory that it shares with the caller. The values of
/// `struct spawn_template_result`.
pub(super) struct Outcome {
    stage: AtomicU32,
    action: AtomicI32,
    error: AtomicI32,
}

impl Outcome {
    fn new() -> Self {
        Outcome {
            stage: AtomicU32::new(SPAWN_TEMPLATE_STAGE_NONE),
            action: AtomicI32::new(-1),
            error: AtomicI32::new(0),
        }
    }

    pub(super) fn set(&self, failure: Failure) {
        let stage = match failure.stage {
            Some(Stage::Create) => SPAWN_TEMPLATE_STAGE_CREATE,
            Some(Stage::Action) => SPAWN_TEMPLATE_STAGE_ACTION,
            _ => SPAWN_TEMPLATE_STAGE_EXEC,
        };
        self.error.store(failure.error, Ordering::Relaxed);
        self.action.store(failure.action.map_or(-1, |action| action as i32), Ordering::Relaxed);
        self.stage.store(stage, Ordering::Release);
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        let stage = Stage::from_number(self.stage.load(Ordering::Acquire))?;
        let action = usize::try_from(self.action.load(Ordering::Relaxed)).ok();
        Some(Failure { stage: Some(stage), action, error: self.error.load(Ordering::Relaxed) })
    }
}

/// Memory for one child: a page without access, the stack, and the [`Outcome`].
pub(super) struct Mapping {
    start: *mut c_char,
}

impl Mapping {
    const SIZE: usize = STACK_SIZE + PAGE_SIZE;

    /// `private` when the child shares all memory of the caller anyway.
    pub(super) fn new(private: bool) -> io::Result<Self> {
        let share = if private { libc::MAP_PRIVATE } else { libc::MAP_SHARED };
        let flags = share | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { libc::mmap(ptr::null_mut(), Self::SIZE, access, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = Mapping { start: start.cast() };
        // SAFETY: the lowest page of the stack, which nothing uses yet.
        if unsafe { libc::mprotect(start, PAGE_SIZE, libc::PROT_NONE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the last page is aligned and large enough, and nothing uses it yet.
        unsafe { mapping.last_page().write(Outcome::new()) };
        Ok(mapping)
    }

    /// The lowest address of the stack, [`STACK_SIZE`] bytes with a page at the bottom that cannot be used.
    pub(super) fn stack(&self) -> u64 {
        address(self.start)
    }

    pub(super) fn outcome(&self) -> &Outcome {
        // SAFETY: new() has put one there, and only atomics of it are changed.
        unsafe { &*self.last_page() }
    }

    fn last_page(&self) -> *mut Outcome {
        // SAFETY: there is a page above the stack.
        unsafe { self.start.add(STACK_SIZE) }.cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the child has ended, executed a program or has its own.
        unsafe { libc::munmap(self.start.cast(), Self::SIZE) };
    }
}
