// SPDX-License-Identifier: GPL-2.0

//! `spawn_template_spawn()`: from the caller's arguments to a child, and back with the outcome.

use crate::{
    calls::{
        self,
        Call, //
    },
    child,
    exec_file::ExecFile,
    fork_signals::ForkSignals,
    outcome::{
        At,
        Failure,
        Report,
        SharedPlace,
        Stage, //
    },
    plan::Plan,
    template::Template,
    template_file::TemplateRef,
    uapi::{
        self,
        spawn_template_spawn_args, //
    },
    SpawnTemplate, //
};
use core::{
    cell::UnsafeCell,
    mem::ManuallyDrop,
    pin::{
        pin,
        Pin, //
    },
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
    module::this_module,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
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
                template.is_held(),
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

    /// The bprm, valid for as long as `self` lives.
    fn as_ptr(&self) -> *mut bindings::linux_binprm {
        self.0.as_ptr()
    }

    /// Turns the calling task, the child of `spawn`, into the program. After an error it must exit.
    pub(crate) fn exec(
        self,
        file: ExecFile,
        template: &Template,
        spawn: *mut bindings::kernel_spawn,
    ) -> Result {
        let bprm = ManuallyDrop::new(self).0.as_ptr();
        let interpreter = template.known_interpreter();
        let image = template.bprm_image(interpreter.as_ref());
        // SAFETY: By the type invariant the bprm is valid, and it is given up, as is the file. The
        // image describes the file, whose identity was checked after writes had been denied; what
        // it says about the interpreter outlives the call, and so does `spawn`.
        to_result(unsafe { bindings::bprm_exec_file(bprm, file.into_raw(), &image, spawn) })
    }
}

impl Drop for Bprm {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the bprm is ours to free.
        unsafe { bindings::bprm_free(self.0.as_ptr()) };
    }
}

/// What the child is given.
struct Job {
    plan: Plan,
    bprm: Bprm,
    /// The system call that exec stands for.
    execve: Call,
    /// Last, because the bprm refers to the template's name.
    template: TemplateRef,
}

// One task fills it in, another works it off.
const _: () = {
    const fn assert_send<T: Send>() {}
    assert_send::<Job>();
};

/// A spawn that is under way. Both the caller and the child own it.
#[repr(C)]
struct Spawn {
    raw: Opaque<bindings::kernel_spawn>,
    /// The child's alone.
    job: UnsafeCell<Option<Job>>,
    failed_at: SharedPlace,
}

// SAFETY: The caller and the child share what is atomic. Of the rest, `raw` is `kernel_spawn()`'s,
// and `job` is used by the child only.
unsafe impl Sync for Spawn {}
// SAFETY: The contents can be dropped by any task.
unsafe impl Send for Spawn {}

impl Spawn {
    /// What runs in the child.
    ///
    /// # Safety
    ///
    /// Only to be called by `kernel_spawn()`, once, with the first field of a `Spawn`.
    unsafe extern "C" fn run(raw: *mut bindings::kernel_spawn) -> c_int {
        // SAFETY: By the safety requirements this is a `Spawn`, and the child has a reference.
        let spawn = unsafe { &*raw.cast::<Self>() };
        // SAFETY: Only the child uses it, and only here.
        let job = unsafe { (*spawn.job.get()).take() };

        let Some(Job {
            plan,
            bprm,
            execve,
            template,
        }) = job
        else {
            return EINVAL.to_errno();
        };
        match child::run(plan, bprm, &template, &execve, spawn.raw.get()) {
            Ok(()) => 0,
            Err(failure) => {
                spawn.failed_at.set(failure.place);
                outcome(failure.error).to_errno()
            }
        }
    }

    /// Drops the child's reference.
    ///
    /// # Safety
    ///
    /// Only to be called by `kernel_spawn()`, once, with what it was given.
    unsafe extern "C" fn release(raw: *mut bindings::kernel_spawn) {
        // SAFETY: `start` gave a reference up, with a pointer to the whole object.
        drop(unsafe { Arc::from_raw(raw.cast::<Self>()) });
    }

    /// Makes the child and, unless `nowait`, waits for its outcome.
    fn start(
        job: Job,
        charge: &ArgCharge,
        signals: Pin<&mut ForkSignals>,
        nowait: bool,
        pidfd: bool,
    ) -> Result<(bindings::pid_t, Option<ARef<File>>), Failure> {
        let mut flags = 0;
        let mut flag = |set: bool, flag| flags |= if set { flag } else { 0 };
        flag(job.plan.inherit, bindings::KERNEL_SPAWN_INHERIT_FILES);
        flag(
            job.plan.cgroup.is_some(),
            bindings::KERNEL_SPAWN_INTO_CGROUP,
        );
        flag(nowait, bindings::KERNEL_SPAWN_NOWAIT);
        flag(!pidfd, bindings::KERNEL_SPAWN_NO_PIDFILE);
        flag(
            job.plan.needs_mm() || job.template.needs_mm(),
            bindings::KERNEL_SPAWN_EMPTY_MM,
        );

        let spawn = Self {
            raw: Opaque::new(bindings::kernel_spawn {
                run: Some(Self::run),
                release: Some(Self::release),
                owner: this_module::<SpawnTemplate>().as_ptr(),
                flags,
                cgroup: job.plan.cgroup.unwrap_or(-1),
                bprm: job.bprm.as_ptr(),
                arg_pages: charge.0,
                signals: signals.as_ptr(),
                ..pin_init::zeroed()
            }),
            job: UnsafeCell::new(Some(job)),
            failed_at: SharedPlace::new(),
        };
        let spawn = Arc::new(spawn, GFP_KERNEL_ACCOUNT).map_err(Error::from);
        let spawn = spawn.at(Stage::Create)?;
        // The whole object, not only its first field: `run` needs the rest.
        let raw = Arc::into_raw(spawn.clone())
            .cast_mut()
            .cast::<bindings::kernel_spawn>();

        // SAFETY: `raw` is the first field of a `Spawn`, which stays valid and where it is until
        // `release` is called. The functions are those of the module that calls.
        let started = to_result(unsafe { bindings::kernel_spawn(raw) });
        started.map_err(|error| Failure {
            error,
            place: spawn.failed_at.get(),
        })?;

        // SAFETY: After success the process id is set, and the file set or null; neither changes
        // any more. `spawn` keeps the object.
        let (pid, file) = unsafe { ((*raw).pid, (*raw).pidfile) };
        // SAFETY: If there is a file, its reference is ours.
        let file = NonNull::new(file).map(|file| unsafe { ARef::from_raw(file.cast()) });
        Ok((pid, file))
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

const INHERIT_FDS: u64 = bindings::SPAWN_TEMPLATE_SPAWN_INHERIT_FDS as u64;
const NOWAIT: u64 = bindings::SPAWN_TEMPLATE_SPAWN_NOWAIT as u64;
const NO_PIDFD: u64 = bindings::SPAWN_TEMPLATE_SPAWN_NO_PIDFD as u64;
const CHECK_ID: u64 = bindings::SPAWN_TEMPLATE_SPAWN_CHECK_ID as u64;

/// The flags that `spawn_template_spawn()` knows.
pub(crate) const SPAWN_FLAGS: u64 = INHERIT_FDS | NOWAIT | NO_PIDFD | CHECK_ID;

/// `spawn_template_spawn()`; the errors are listed in `include/uapi/linux/spawn_template.h`.
pub(crate) fn spawn(template_fd: c_int, addr: usize, size: usize) -> Result<c_int> {
    let least = bindings::SPAWN_TEMPLATE_SPAWN_ARGS_SIZE_VER0;
    let spawn_template_spawn_args(args) = uapi::read_versioned(addr, size, least)?;
    let report = Report::new(args.result, args.result_size).inspect_err(|_| no_pidfd(&args))?;

    let template = find(template_fd, &args).at(Stage::Arguments);
    let pid = match &template {
        Ok(template) => spawn_from(template, addr, &args),
        Err(failure) => Err(*failure),
    };
    // A signal that came first makes the caller call again, without it knowing.
    if !pid
        .as_ref()
        .is_err_and(|failure| failure.error == ERESTARTNOINTR)
    {
        if let Ok(template) = &template {
            template.count(&pid);
        }
        if let Err(failure) = &pid {
            report.fail(failure);
            no_pidfd(&args);
        }
    }
    pid.map_err(|failure| failure.error)
}

/// Tells a caller that does not look at what the call returns that there is no pidfd.
///
/// The number that it was told may be another thread's descriptor by now.
fn no_pidfd(args: &bindings::spawn_template_spawn_args) {
    // Another flag may have given the field another meaning.
    if args.pidfd != 0 && args.flags & (!SPAWN_FLAGS | NO_PIDFD) == 0 {
        // If it cannot be written to, nobody has told a number there either.
        let _ = write_pidfd(args.pidfd, -1);
    }
}

fn write_pidfd(addr: u64, number: c_int) -> Result {
    UserSlice::new(UserPtr::from_addr(addr as usize), size_of::<c_int>())
        .writer()
        .write(&number)
}

/// Finds the template that the caller means.
fn find(fd: c_int, args: &bindings::spawn_template_spawn_args) -> Result<TemplateRef> {
    let template = TemplateRef::from_fd(fd);
    if args.flags & CHECK_ID == 0 {
        return template;
    }
    // Whatever has the number now is not what the caller had there.
    let template = template.map_err(|_| EBADF)?;
    if template.id() != args.template_id {
        return Err(EBADF);
    }
    Ok(template)
}

fn spawn_from(
    template: &TemplateRef,
    addr: usize,
    args: &bindings::spawn_template_spawn_args,
) -> Result<c_int, Failure> {
    if !template.may_use() {
        return Err(Failure::of(Stage::Identity, EACCES));
    }

    let has = |flag| args.flags & flag != 0;
    if has(!SPAWN_FLAGS)
        || (args.pidfd == 0) != has(NO_PIDFD)
        || (args.template_id != 0 && !has(CHECK_ID))
        || args.reserved != [0; 4]
    {
        return Err(Failure::of(Stage::Arguments, EINVAL));
    }
    // From here on no signal makes the caller start over.
    let mut signals = pin!(ForkSignals::new());
    signals.as_mut().begin().at(Stage::Arguments)?;

    let naming = template.naming();
    let execve = if naming.is_plain() {
        Call::execve(addr as u64, args.argv, args.envp)
    } else {
        Call::execveat(naming.fd, addr as u64, args.argv, args.envp, naming.flags)
    };
    calls::ask_about_spawn(&execve)?;
    let plan = Plan::read(has(INHERIT_FDS), args.actions, args.actions_len)?;
    // A child that failed would take its PID namespace with it.
    // SAFETY: A process may call it at any time.
    if unsafe { bindings::spawn_makes_init() } {
        let opened = template.open();
        opened.map_err(|error| Failure::of(template.open_stage(error), outcome(error)))?;
    }
    let template = template.clone();
    // SAFETY: The job keeps the template for longer than the bprm.
    let bprm = unsafe { Bprm::new(&template, args.argv, args.envp) };
    let (bprm, charge) = bprm.at(Stage::Arguments)?;

    // All that can fail for the caller's sake does so before there is a child.
    let pidfd = match args.pidfd {
        0 => None,
        addr => Some(PidfdSlot::new(addr).at(Stage::Arguments)?),
    };

    // Again, as another thread may have installed a filter meanwhile. The child inherits what is
    // in force when it is made, and asks about all else.
    calls::ask_about_birth(&plan.actions)?;
    let job = Job {
        plan,
        bprm,
        execve,
        template,
    };
    let (pid, file) = Spawn::start(job, &charge, signals, has(NOWAIT), pidfd.is_some())?;
    if let (Some(pidfd), Some(file)) = (pidfd, file) {
        pidfd.0.fd_install(file);
    }
    Ok(pid)
}

/// A descriptor number that the caller has been told already.
struct PidfdSlot(FileDescriptorReservation);

impl PidfdSlot {
    fn new(addr: u64) -> Result<Self> {
        let slot = FileDescriptorReservation::get_unused_fd_flags(bindings::O_CLOEXEC)?;
        write_pidfd(addr, slot.reserved_fd() as c_int)?;
        Ok(Self(slot))
    }
}
