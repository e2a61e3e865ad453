// SPDX-License-Identifier: GPL-2.0

//! Spawn templates: the two system calls, and how they reach this module.
//!
//! One idea per file:
//!
//! - [`uapi`]: structures and strings that come from user memory.
//! - [`template`]: what a template keeps, and `spawn_template_create()`.
//! - [`template_file`]: the file descriptor that stands for a template.
//! - [`exec_file`]: an executable, opened the way exec opens it.
//! - [`elf`]: ELF metadata, parsed and checked.
//! - [`identity`]: whether a file is still the one that was parsed.
//! - [`interpreter`]: the program interpreter's ELF headers.
//! - [`startup`]: what is known of the pages that a program uses when it starts.
//! - [`creds`]: whether a caller may use a template.
//! - [`action`]: one action, read and checked in the caller.
//! - [`calls`]: the system calls that a spawn stands for.
//! - [`fork_signals`]: the signals that come while a fork is under way.
//! - [`groups`]: a list of supplementary groups.
//! - [`plan`]: all that the child will do.
//! - [`child`]: doing it, in the child.
//! - [`outcome`]: how a spawn ended, and where it failed.
//! - [`spawn`]: from the arguments of `spawn_template_spawn()` to a child and its outcome.
//! - [`held_file`]: a counted reference to an open file.
//! - [`user_string`]: a string whose memory is charged to the caller.
//!
//! C header: [`include/linux/spawn_template.h`](srctree/include/linux/spawn_template.h).

use kernel::{
    bindings,
    error::to_result,
    module::this_module,
    prelude::*, //
};

mod action;
mod calls;
mod child;
mod creds;
mod elf;
mod exec_file;
mod fork_signals;
mod groups;
mod held_file;
mod identity;
mod interpreter;
mod outcome;
mod plan;
mod spawn;
mod startup;
mod template;
mod template_file;
mod uapi;
mod user_string;

module! {
    type: SpawnTemplate,
    name: "spawn_template",
    authors: ["The spawn-template developers"],
    description: "Start a program again and again without fork and exec",
    license: "GPL",
}

/// The module: registered as the supplier of the system calls for as long as it exists.
struct SpawnTemplate;

/// The operations in the form that C takes.
#[repr(transparent)]
struct Ops(bindings::spawn_template_ops);

// SAFETY: The contents are function pointers and a module pointer, and never change.
unsafe impl Sync for Ops {}

static OPS: Ops = Ops(bindings::spawn_template_ops {
    owner: this_module::<SpawnTemplate>().as_ptr(),
    create: Some(create),
    spawn: Some(spawn_),
    create_flags: template::CREATE_FLAGS,
    exec_flags: template::EXEC_FLAGS,
    spawn_flags: spawn::SPAWN_FLAGS,
    actions: action::TYPES,
});

impl kernel::Module for SpawnTemplate {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // SAFETY: `OPS` is static, and `Drop` takes it back before the module goes.
        to_result(unsafe { bindings::spawn_template_register(&OPS.0) })?;
        Ok(Self)
    }
}

impl Drop for SpawnTemplate {
    fn drop(&mut self) {
        // SAFETY: `OPS` was registered in `init`.
        unsafe { bindings::spawn_template_unregister(&OPS.0) };
    }
}

/// Turns a result into what a system call returns.
fn to_ret(result: Result<c_int>) -> c_long {
    result.unwrap_or_else(Error::to_errno) as c_long
}

extern "C" fn create(args: *mut bindings::spawn_template_create_args, size: usize) -> c_long {
    to_ret(template::create(args.addr(), size))
}

extern "C" fn spawn_(
    template_fd: c_int,
    args: *mut bindings::spawn_template_spawn_args,
    size: usize,
) -> c_long {
    to_ret(spawn::spawn(template_fd, args.addr(), size))
}
