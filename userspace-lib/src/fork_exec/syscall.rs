//! System calls without the C library, whose `errno`, locks and thread-local storage a child that shares the caller's
//! memory must not touch.

use std::arch::asm;
use std::ffi::c_void;

use libc::{c_int, c_long, pid_t};

/// The system call, what follows it as assembly, and the operands of that. Gives what the kernel has left in `rax`.
///
/// Unsafe to use: the system call, and what follows it.
macro_rules! syscall {
    ($number:expr, $args:expr $(, $after:literal)*; $($operands:tt)*) => {{
        let result: isize;
        // The kernel changes no registers but these.
        asm!(
            "syscall",
            $($after,)*
            inlateout("rax") $number as isize => result,
            in("rdi") $args[0],
            in("rsi") $args[1],
            in("rdx") $args[2],
            in("r10") $args[3],
            in("r8") $args[4],
            lateout("rcx") _,
            lateout("r11") _,
            $($operands)*
        );
        result
    }};
}

/// Makes a system call without the C library: no `errno`, no cancellation, no other threads. Returns the `errno` if it
/// fails.
///
/// # Safety
///
/// That of the system call.
pub(super) unsafe fn call(number: c_long, args: [usize; 5]) -> Result<usize, c_int> {
    // SAFETY: nothing follows the system call, and the caller answers for what it does.
    let result = unsafe { syscall!(number, args; options(nostack)) };
    if (-4095..0).contains(&result) { Err(-result as c_int) } else { Ok(result as usize) }
}

/// Makes `clone` or `clone3` and calls `child(argument)` in the new process.
///
/// # Safety
///
/// The arguments must name a stack for the child whose top is a multiple of 16 and which nobody else uses, and
/// `argument` must be good for `child`.
pub(super) unsafe fn clone_call(
    number: c_long,
    args: [usize; 5],
    child: unsafe extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> Result<pid_t, c_int> {
    // SAFETY: in the caller this is a system call like any other. The child comes back with the same registers on its
    // new stack, takes the other branch and never leaves `child`, so it does not run the code that follows here. The
    // stack pointer is a multiple of 16 before the call instruction, as the ABI wants it.
    let result = unsafe {
        syscall!(
            number, args,
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:";
            in("r12") child,
            in("r13") argument,
        )
    };
    if result < 0 { Err(-result as c_int) } else { Ok(result as pid_t) }
}
