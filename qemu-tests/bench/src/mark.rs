//! The marks around every sample that counts, for the profiler.

#[path = "mark_bytes.rs"]
mod bytes;

use std::arch::asm;

/// A sample begins.
#[inline(always)]
pub fn begin() {
    execute::<{ bytes::BEGIN }>();
}

/// A sample ends.
#[inline(always)]
pub fn end() {
    execute::<{ bytes::END }>();
}

#[inline(always)]
fn execute<const DISPLACEMENT: u32>() {
    const OPCODE: [u8; 3] = bytes::OPCODE;
    // SAFETY: the instruction does nothing. What it seems to clobber keeps the compiler from moving work across it.
    unsafe {
        asm!(
            ".byte {a}, {b}, {c}",
            ".long {displacement}",
            a = const OPCODE[0],
            b = const OPCODE[1],
            c = const OPCODE[2],
            displacement = const DISPLACEMENT,
            options(nostack, preserves_flags),
        );
    }
}
