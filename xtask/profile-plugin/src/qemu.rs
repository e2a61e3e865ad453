//! What QEMU 7.2 offers plugins, as far as it is used here: version 1 of its plugin interface.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// The version of the interface that these declarations follow.
pub const VERSION: c_int = 1;

/// `QEMU_PLUGIN_CB_NO_REGS`: a callback that touches no register of the guest.
pub const NO_REGISTERS: c_int = 0;
/// `QEMU_PLUGIN_MEM_RW`
pub const ACCESSES: c_int = 3;
/// `QEMU_PLUGIN_INLINE_ADD_U64`
pub const ADD_U64: c_int = 0;

/// `qemu_plugin_id_t`
pub type Id = u64;

/// `struct qemu_info_t`, not looked into.
#[repr(C)]
pub struct Info([u8; 0]);

/// `struct qemu_plugin_tb`
#[repr(C)]
pub struct Block([u8; 0]);

/// `struct qemu_plugin_insn`
#[repr(C)]
pub struct Instruction([u8; 0]);

/// Called when a block is translated.
pub type OnTranslate = extern "C" fn(Id, *mut Block);
/// Called when something is executed.
pub type OnExecute = extern "C" fn(c_uint, *mut c_void);
/// Called when memory is accessed.
pub type OnAccess = extern "C" fn(c_uint, u32, u64, *mut c_void);
/// Called at QEMU's end.
pub type OnExit = extern "C" fn(Id, *mut c_void);

unsafe extern "C" {
    pub fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, callback: OnTranslate);
    pub fn qemu_plugin_register_atexit_cb(id: Id, callback: OnExit, data: *mut c_void);
    pub fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    pub fn qemu_plugin_tb_vaddr(block: *const Block) -> u64;
    pub fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    pub fn qemu_plugin_insn_vaddr(instruction: *const Instruction) -> u64;
    pub fn qemu_plugin_insn_data(instruction: *const Instruction) -> *const u8;
    pub fn qemu_plugin_insn_size(instruction: *const Instruction) -> usize;
    pub fn qemu_plugin_register_vcpu_tb_exec_cb(
        block: *mut Block,
        callback: OnExecute,
        flags: c_int,
        data: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        callback: OnExecute,
        flags: c_int,
        data: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_insn_exec_inline(
        instruction: *mut Instruction,
        operation: c_int,
        variable: *mut c_void,
        operand: u64,
    );
    pub fn qemu_plugin_mem_is_store(access: u32) -> bool;
    pub fn qemu_plugin_register_vcpu_mem_cb(
        instruction: *mut Instruction,
        callback: OnAccess,
        flags: c_int,
        access: c_int,
        data: *mut c_void,
    );
}

/// The arguments of `qemu_plugin_install()`, each `name=value`.
pub type Arguments = *const *const c_char;
