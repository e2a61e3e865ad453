// SPDX-License-Identifier: GPL-2.0

//! `spawn_template_spawn()`: from the caller's arguments to a child, and back with the outcome.

use crate::{
    child,
    elf::ElfImage,
    exec_file::ExecFile,
    plan::Plan,
    template::Template,
    template_file::TemplateRef,
    uapi::{
        self,
        spawn_template_spawn_args, //
    }, //
};
use core::{
    cell::UnsafeCell,
    mem::ManuallyDrop,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    fs::{
        file::FileDescriptorReservation,
        File, //
    },
    prelude::*,
    sync::aref::ARef,
    types::Opaque,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// An exec whose arguments have been copied already.
///
/// # Invariants
///
/// The pointer was returned by `bprm_alloc_user()` and is owned by this object. The name given
/// then outlives it.
pub(crate) struct Bprm(NonNull<bindings::linux_binprm>);

/// The pages of argument strings, which count as the caller's until the outcome is known.
///
/// # Invariants
///
/// The calling task was charged with as many pages, and not uncharged yet.
struct ArgCharge(c_ulong);

impl Drop for ArgCharge {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; the calling task is a process, so it has an mm.
        unsafe { bindings::bprm_uncharge_args(self.0) };
    }
}

// SAFETY: What one task has prepared another may execute.
unsafe impl Send for Bprm {}

impl Bprm {
    /// Copies the argument and environment strings, with the limits and errors of execve(2).
    ///
    /// # Safety
    ///
    /// `template` must outlive the returned bprm.
    unsafe fn new(template: &Template, argv: u64, envp: u64) -> Result<(Self, ArgCharge)> {
        let mut pages = 0;
        // SAFETY: The name is a valid string, which outlives the bprm by the safety requirements;
        // the others are user pointers.
        let bprm = from_err_ptr(unsafe {
            bindings::bprm_alloc_user(
                template.name().as_char_ptr(),
                template.comm_from_file(),
                argv as *const c_void,
                envp as *const c_void,
                &mut pages,
            )
        })?;
        // INVARIANT: Just returned, and not an error.
        let bprm = NonNull::new(bprm).map(Self).ok_or(ENOMEM)?;
        // INVARIANT: `bprm_alloc_user()` charged these.
        Ok((bprm, ArgCharge(pages)))
    }

    /// Turns the calling task into the program. After an error it must exit.
    pub(crate) fn exec(self, file: ExecFile, image: &ElfImage) -> Result {
        let bprm = ManuallyDrop::new(self).0.as_ptr();
        let image = image.as_bprm_image();
        // SAFETY: By the type invariant the bprm is valid, and it is given up, as is the file. The
        // image describes the file, whose identity was checked after writes had been denied.
        to_result(unsafe { bindings::bprm_exec_file(bprm, file.into_raw(), &image) })
    }
}

impl Drop for Bprm {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the bprm is ours to free.
        unsafe { bindings::bprm_free(self.0.as_ptr()) };
    }
}

// One task fills it in, another works it off.
const _: () = {
    const fn assert_send<T: Send>() {}
    assert_send::<Work<'static>>();
};

/// What the child is given.
struct Work<'a> {
    plan: Plan,
    /// Taken by the child.
    bprm: Option<Bprm>,
    template: &'a Template,
}

/// A spawn that is under way.
#[repr(C)]
struct Spawn<'a> {
    raw: Opaque<bindings::kernel_spawn>,
    /// The child's from its birth to its outcome, for which the caller waits; the caller's else.
    work: UnsafeCell<Work<'a>>,
}

impl Spawn<'_> {
    /// What runs in the child.
    ///
    /// # Safety
    ///
    /// Only to be called by `kernel_spawn()`, with a pointer to a `Spawn`, whose first field is
    /// the C structure.
    unsafe extern "C" fn run(raw: *mut bindings::kernel_spawn) -> c_int {
        // SAFETY: By the safety requirements this is a `Spawn`, which lives on the stack of the
        // caller, who waits for the outcome of this function.
        let spawn = unsafe { &*raw.cast::<Self>() };
        // SAFETY: Until this function returns the child alone uses it.
        let work = unsafe { &mut *spawn.work.get() };

        let Some(bprm) = work.bprm.take() else {
            return EINVAL.to_errno();
        };
        match child::run(&work.plan, bprm, work.template) {
            Ok(()) => 0,
            Err(error) => outcome(error).to_errno(),
        }
    }

    /// Makes the child and waits for its outcome.
    fn start(template: &Template, plan: Plan, bprm: Bprm) -> Result<(bindings::pid_t, ARef<File>)> {
        let inherit = plan.inherit;
        let spawn = Spawn {
            raw: Opaque::new(bindings::kernel_spawn {
                run: Some(Spawn::run),
                ..pin_init::zeroed()
            }),
            work: UnsafeCell::new(Work {
                plan,
                bprm: Some(bprm),
                template,
            }),
        };
        // The whole object, not only its first field: `run` needs the rest.
        let raw = (&raw const spawn)
            .cast_mut()
            .cast::<bindings::kernel_spawn>();

        // SAFETY: `raw` points to a `Spawn`, which does not move and outlives the call; when the
        // call returns the child does not use it any more.
        to_result(unsafe { bindings::kernel_spawn(raw, inherit) })?;

        // SAFETY: After success both are set, and the reference to the file is ours.
        unsafe {
            let file = NonNull::new_unchecked((*raw).pidfile.cast());
            Ok(((*raw).pid, ARef::from_raw(file)))
        }
    }
}

/// What the caller learns of an error in the child.
///
/// A signal that interrupted the child cannot make the caller start over.
fn outcome(error: Error) -> Error {
    const RESTARTS: [Error; 4] = [
        ERESTARTSYS,
        ERESTARTNOINTR,
        ERESTARTNOHAND,
        ERESTART_RESTARTBLOCK,
    ];

    if RESTARTS.contains(&error) {
        EINTR
    } else {
        error
    }
}

/// `spawn_template_spawn()`; the errors are listed in `include/uapi/linux/spawn_template.h`.
pub(crate) fn spawn(template_fd: c_int, addr: usize, size: usize) -> Result<c_int> {
    let least = bindings::SPAWN_TEMPLATE_SPAWN_ARGS_SIZE_VER0;
    uapi::check_size(size, least)?;

    let template = TemplateRef::from_fd(template_fd)?;
    if !template.may_use() {
        return Err(EACCES);
    }

    let spawn_template_spawn_args(args) = uapi::read_versioned(addr, size, least)?;
    let pid = spawn_from(&template, &args);
    // A signal that came first makes the caller call again, without it knowing.
    if pid != Err(ERESTARTNOINTR) {
        template.count(&pid);
    }
    pid
}

fn spawn_from(template: &Template, args: &bindings::spawn_template_spawn_args) -> Result<c_int> {
    let inherit = u64::from(bindings::SPAWN_TEMPLATE_SPAWN_INHERIT_FDS);
    if args.flags & !inherit != 0 || args.pidfd == 0 || args.reserved != [0; 4] {
        return Err(EINVAL);
    }

    let plan = Plan::read(args.flags & inherit != 0, args.actions, args.actions_len)?;
    // SAFETY: The caller keeps the template for longer than this function runs.
    let (bprm, _charge) = unsafe { Bprm::new(template, args.argv, args.envp) }?;

    // All that can fail for the caller's sake does so before there is a child.
    let pidfd = FileDescriptorReservation::get_unused_fd_flags(bindings::O_CLOEXEC)?;
    let number = pidfd.reserved_fd() as c_int;
    UserSlice::new(UserPtr::from_addr(args.pidfd as usize), size_of::<c_int>())
        .writer()
        .write(&number)?;

    let (pid, file) = Spawn::start(template, plan, bprm)?;
    pidfd.fd_install(file);
    Ok(pid)
}
