//! Signals of the child.

use libc::c_int;

use super::syscall::call;
use crate::raw::address;

const SIGNALS: std::ops::RangeInclusive<c_int> = 1..=64;

/// The size of the kernel's signal set.
const SIGSET_SIZE: usize = 8;

/// The kernel's `struct sigaction`, which the C library's differs from.
#[repr(C)]
struct KernelSigaction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// Blocks every signal in the calling thread and returns the ones that were blocked.
pub(super) fn block_all() -> u64 {
    let all = u64::MAX;
    let mut old = 0_u64;
    let (new, saved) = (address(&raw const all) as usize, address(&raw mut old) as usize);
    // Cannot fail with good addresses.
    // SAFETY: reads and writes the locals whose addresses it is given.
    let _ = unsafe { call(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, new, saved, SIGSET_SIZE, 0]) };
    // SAFETY: reads a local that the kernel has written to.
    unsafe { (&raw const old).read_volatile() }
}

/// Sets which signals are blocked in the calling thread.
pub(super) fn set_mask(mask: u64) {
    let new = address(&raw const mask) as usize;
    // Cannot fail with a good address.
    // SAFETY: reads the local whose address it is given.
    let _ = unsafe { call(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, new, 0, SIGSET_SIZE, 0]) };
}

/// Sets what happens on each of these signals.
pub(super) fn set_handlers(signals: u64, handler: usize) -> Result<(), c_int> {
    let action = KernelSigaction { handler, flags: 0, restorer: 0, mask: 0 };
    let new = address(&raw const action) as usize;
    for signal in SIGNALS {
        let unchangeable = signal == libc::SIGKILL || signal == libc::SIGSTOP;
        if signals & bit(signal) != 0 && !unchangeable {
            // SAFETY: reads the local whose address it is given, and no handler is installed.
            unsafe { call(libc::SYS_rt_sigaction, [signal as usize, new, 0, SIGSET_SIZE, 0]) }?;
        }
    }
    Ok(())
}

/// Gives signals that have a handler their default action, as `CLONE_CLEAR_SIGHAND`.
pub(super) fn clear_handlers() {
    for signal in SIGNALS {
        let mut action = KernelSigaction { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
        let old = address(&raw mut action) as usize;
        // SAFETY: writes the local whose address it is given.
        let asked = unsafe { call(libc::SYS_rt_sigaction, [signal as usize, 0, old, SIGSET_SIZE, 0]) };
        // SAFETY: reads a local that the kernel has written to.
        let handler = unsafe { (&raw const action.handler).read_volatile() };
        if asked.is_ok() && handler != libc::SIG_DFL && handler != libc::SIG_IGN {
            // The number is one of a signal that can be caught.
            let _ = set_handlers(bit(signal), libc::SIG_DFL);
        }
    }
}

fn bit(signal: c_int) -> u64 {
    1_u64.wrapping_shl((signal as u32).wrapping_sub(1))
}
