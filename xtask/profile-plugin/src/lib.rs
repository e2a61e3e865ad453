//! A plugin for QEMU's translator: counts exactly which instructions a guest with one processor executes between two
//! marks, and by which calls it came to them.
//!
//! Every instruction adds one to a variable, in line. Each block, call and return looks at how far that has come: the
//! instructions since the last look were executed where that one was. So a block that an exception leaves in the middle
//! is counted as far as it came.
//!
//! Usage: `-plugin libprofile_plugin.so,out=FILE`. The file is written when QEMU ends.

// The tests link without QEMU, so they are of what needs none of it.
mod instruction;
#[path = "../../../qemu-tests/bench/src/mark_bytes.rs"]
mod mark;
#[cfg(not(test))]
mod plugin;
mod profile;
#[cfg(not(test))]
mod qemu;
