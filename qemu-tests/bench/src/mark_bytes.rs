//! The instructions that tell the profiler in QEMU where a sample begins and ends: `nop dword ptr [rax + displacement]`,
//! which does nothing, with a displacement that no compiler emits. The profiler's plugin compiles this file too.

/// The first bytes of both.
pub const OPCODE: [u8; 3] = [0x0f, 0x1f, 0x80];
/// The displacement that begins a sample.
pub const BEGIN: u32 = 0x5d3a_b4e1;
/// The displacement that ends it.
pub const END: u32 = 0x5d3a_b4e2;
