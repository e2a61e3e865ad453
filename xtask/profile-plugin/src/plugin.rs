//! What QEMU calls.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::fs::File;
use std::io::BufWriter;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::instruction::{Kind, kind};
use crate::profile::{Profile, is_kernel};
use crate::qemu::{self, Block, Id, Info, Instruction};

/// How many instructions the guest has executed.
static EXECUTED: AtomicU64 = AtomicU64::new(0);
/// Whether a sample is being taken. Nearly always it is not, and that must cost nearly nothing.
static SAMPLING: AtomicBool = AtomicBool::new(false);
/// Whether the access that a call or return makes is still to come. QEMU 7.2 reports more accesses than that one under
/// the same callback, such as what an interrupt that follows pushes.
static EXPECTED: AtomicBool = AtomicBool::new(false);
static PROFILE: OnceLock<Mutex<Profile>> = OnceLock::new();
static OUT: OnceLock<String> = OnceLock::new();

/// The version of the interface that QEMU checks.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "QEMU looks for this name")]
pub static qemu_plugin_version: c_int = qemu::VERSION;

/// Called when QEMU loads the plugin. Anything but 0 ends QEMU.
///
/// # Safety
///
/// `argv` is an array of `argc` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(id: Id, _info: *const Info, argc: c_int, argv: qemu::Arguments) -> c_int {
    let arguments = match usize::try_from(argc) {
        // SAFETY: the caller says so.
        Ok(count @ 1..) => unsafe { std::slice::from_raw_parts(argv, count) },
        _ => &[],
    };
    for &argument in arguments {
        // SAFETY: QEMU passes strings.
        let argument = unsafe { CStr::from_ptr(argument) }.to_string_lossy();
        if let Some(path) = argument.strip_prefix("out=") {
            OUT.get_or_init(|| path.to_owned());
        }
    }
    if OUT.get().is_none() {
        eprintln!("profile-plugin: out=FILE is missing");
        return 1;
    }
    // SAFETY: the callback has the type that is asked for.
    unsafe { qemu::qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate) };
    // SAFETY: as above; the callback uses no data.
    unsafe { qemu::qemu_plugin_register_atexit_cb(id, on_exit, ptr::null_mut()) };
    0
}

extern "C" fn on_translate(_: Id, block: *mut Block) {
    // SAFETY: QEMU passes a block that lives until this returns, and so do its instructions.
    let address = unsafe { qemu::qemu_plugin_tb_vaddr(block) };
    // SAFETY: as above.
    let count = unsafe { qemu::qemu_plugin_tb_n_insns(block) };
    // SAFETY: as above; the callback takes its data for an address.
    unsafe { qemu::qemu_plugin_register_vcpu_tb_exec_cb(block, on_block, qemu::NO_REGISTERS, data(address)) };
    for index in 0..count {
        // SAFETY: below the number of instructions.
        let instruction = unsafe { qemu::qemu_plugin_tb_get_insn(block, index) };
        watch(instruction);
    }
}

/// Asks for what is needed of one instruction.
fn watch(instruction: *mut Instruction) {
    let counter = EXECUTED.as_ptr().cast();
    // SAFETY: the variable is never dropped, and is eight bytes that nobody else writes.
    unsafe { qemu::qemu_plugin_register_vcpu_insn_exec_inline(instruction, qemu::ADD_U64, counter, 1) };
    // SAFETY: on_translate() passes an instruction that lives until it returns.
    let start = unsafe { qemu::qemu_plugin_insn_data(instruction) };
    // SAFETY: as above.
    let size = unsafe { qemu::qemu_plugin_insn_size(instruction) };
    // SAFETY: the instruction's bytes, which live as long as it does.
    let bytes = unsafe { std::slice::from_raw_parts(start, size) };
    // SAFETY: as above.
    let address = unsafe { qemu::qemu_plugin_insn_vaddr(instruction) };
    let access = |callback, value| {
        // SAFETY: as above; the callbacks take their data for an address. Which accesses are reported is looked at when
        // they are: asked for reads only, QEMU 7.2 leaves out most.
        unsafe {
            qemu::qemu_plugin_register_vcpu_mem_cb(
                instruction,
                callback,
                qemu::NO_REGISTERS,
                qemu::ACCESSES,
                data(value),
            );
        }
    };
    let execute = |callback| {
        // SAFETY: as above; the callbacks take their data for an address.
        unsafe {
            qemu::qemu_plugin_register_vcpu_insn_exec_cb(instruction, callback, qemu::NO_REGISTERS, data(address));
        }
    };
    match kind(bytes) {
        Kind::Call if is_kernel(address) => {
            execute(on_call_or_return);
            access(on_call, address + size as u64);
        }
        Kind::Return if is_kernel(address) => {
            execute(on_call_or_return);
            access(on_return, address);
        }
        Kind::Begin => execute(on_begin),
        Kind::End => execute(on_end),
        _ => {}
    }
}

/// A number as what QEMU hands to a callback.
fn data(number: u64) -> *mut c_void {
    ptr::without_provenance_mut(number as usize)
}

fn profile() -> MutexGuard<'static, Profile> {
    PROFILE.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

fn executed() -> u64 {
    EXECUTED.load(Ordering::Relaxed)
}

fn is_sampling() -> bool {
    SAMPLING.load(Ordering::Relaxed)
}

extern "C" fn on_block(_: c_uint, address: *mut c_void) {
    if is_sampling() {
        profile().enter(executed(), address.addr() as u64);
    }
}

extern "C" fn on_call_or_return(_: c_uint, _: *mut c_void) {
    EXPECTED.store(is_sampling(), Ordering::Relaxed);
}

extern "C" fn on_call(_: c_uint, access: u32, slot: u64, site: *mut c_void) {
    if is_expected(access, true) {
        profile().call(executed(), site.addr() as u64, slot);
    }
}

extern "C" fn on_return(_: c_uint, access: u32, slot: u64, _: *mut c_void) {
    if is_expected(access, false) {
        profile().ret(executed(), slot);
    }
}

/// Whether an access is the expected one. True once.
fn is_expected(access: u32, store: bool) -> bool {
    if !EXPECTED.load(Ordering::Relaxed) {
        return false;
    }
    // SAFETY: reads the number only.
    let is_store = unsafe { qemu::qemu_plugin_mem_is_store(access) };
    is_store == store && EXPECTED.swap(false, Ordering::Relaxed)
}

extern "C" fn on_begin(_: c_uint, address: *mut c_void) {
    profile().begin(executed(), address.addr() as u64);
    SAMPLING.store(true, Ordering::Relaxed);
}

extern "C" fn on_end(_: c_uint, _: *mut c_void) {
    if SAMPLING.swap(false, Ordering::Relaxed) {
        profile().end(executed());
    }
}

extern "C" fn on_exit(_: Id, _: *mut c_void) {
    let Some(path) = OUT.get() else { return };
    let written = File::create(path).and_then(|file| profile().write(BufWriter::new(file)));
    if let Err(error) = written {
        eprintln!("profile-plugin: cannot write {path}: {error}");
    }
}
