//! The C library's functions, and our records in the form that they take.

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{c_char, c_int, c_short, mode_t, pid_t, posix_spawn_file_actions_t, posix_spawnattr_t};
use libc::{sched_param, sigset_t};

use crate::attributes::{Attributes, SETCGROUP, to_sigset};
use crate::file_actions::Step;

/// A function of the C library that one of ours stands before.
pub(crate) struct Symbol<F> {
    name: &'static CStr,
    /// Null until it was looked up.
    address: AtomicPtr<c_void>,
    function: PhantomData<F>,
}

impl<F: Copy> Symbol<F> {
    const fn new(name: &'static CStr) -> Self {
        assert!(size_of::<F>() == size_of::<*mut c_void>());
        Symbol { name, address: AtomicPtr::new(ptr::null_mut()), function: PhantomData }
    }

    /// The function; `ENOSYS` if this C library is older than it.
    pub(crate) fn get(&self) -> Result<F, c_int> {
        let mut address = self.address.load(Ordering::Relaxed);
        if address.is_null() {
            // SAFETY: the name is a C string.
            address = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            self.address.store(address, Ordering::Relaxed);
        }
        if address.is_null() {
            return Err(libc::ENOSYS);
        }
        // SAFETY: `F` is the type of the function that has this name, and as large as an address.
        Ok(unsafe { mem::transmute_copy::<*mut c_void, F>(&address) })
    }
}

/// Type of the four functions that spawn. What the first argument points to is a process id or a pidfd.
pub(crate) type Spawn = unsafe extern "C" fn(
    *mut c_int,
    *const c_char,
    *const posix_spawn_file_actions_t,
    *const posix_spawnattr_t,
    *const *mut c_char,
    *const *mut c_char,
) -> c_int;

type Attr = posix_spawnattr_t;
type Actions = posix_spawn_file_actions_t;

macro_rules! symbols {
    ($($name:ident: fn($($argument:ty),*);)*) => {
        $(
            #[allow(non_upper_case_globals)]
            pub(crate) static $name: Symbol<unsafe extern "C" fn($($argument),*) -> c_int> = {
                // The name of the static, as a C string.
                const NAME: &str = concat!(stringify!($name), "\0");
                match CStr::from_bytes_with_nul(NAME.as_bytes()) {
                    Ok(name) => Symbol::new(name),
                    Err(_) => panic!(),
                }
            };
        )*

        /// Looks all of them up, so that later nothing needs the dynamic linker.
        pub(crate) fn look_up() {
            $(let _ = $name.get();)*
            for spawn in [&posix_spawn, &posix_spawnp, &pidfd_spawn, &pidfd_spawnp] {
                let _ = spawn.get();
            }
        }
    };
}

#[allow(non_upper_case_globals)]
pub(crate) static posix_spawn: Symbol<Spawn> = Symbol::new(c"posix_spawn");
#[allow(non_upper_case_globals)]
pub(crate) static posix_spawnp: Symbol<Spawn> = Symbol::new(c"posix_spawnp");
#[allow(non_upper_case_globals)]
pub(crate) static pidfd_spawn: Symbol<Spawn> = Symbol::new(c"pidfd_spawn");
#[allow(non_upper_case_globals)]
pub(crate) static pidfd_spawnp: Symbol<Spawn> = Symbol::new(c"pidfd_spawnp");

symbols! {
    posix_spawnattr_init: fn(*mut Attr);
    posix_spawnattr_destroy: fn(*mut Attr);
    posix_spawnattr_getflags: fn(*const Attr, *mut c_short);
    posix_spawnattr_setflags: fn(*mut Attr, c_short);
    posix_spawnattr_getpgroup: fn(*const Attr, *mut pid_t);
    posix_spawnattr_setpgroup: fn(*mut Attr, pid_t);
    posix_spawnattr_getsigmask: fn(*const Attr, *mut sigset_t);
    posix_spawnattr_setsigmask: fn(*mut Attr, *const sigset_t);
    posix_spawnattr_getsigdefault: fn(*const Attr, *mut sigset_t);
    posix_spawnattr_setsigdefault: fn(*mut Attr, *const sigset_t);
    posix_spawnattr_getschedparam: fn(*const Attr, *mut sched_param);
    posix_spawnattr_setschedparam: fn(*mut Attr, *const sched_param);
    posix_spawnattr_getschedpolicy: fn(*const Attr, *mut c_int);
    posix_spawnattr_setschedpolicy: fn(*mut Attr, c_int);
    posix_spawnattr_getcgroup_np: fn(*const Attr, *mut c_int);
    posix_spawnattr_setcgroup_np: fn(*mut Attr, c_int);
    posix_spawn_file_actions_init: fn(*mut Actions);
    posix_spawn_file_actions_destroy: fn(*mut Actions);
    posix_spawn_file_actions_addopen: fn(*mut Actions, c_int, *const c_char, c_int, mode_t);
    posix_spawn_file_actions_addclose: fn(*mut Actions, c_int);
    posix_spawn_file_actions_adddup2: fn(*mut Actions, c_int, c_int);
    posix_spawn_file_actions_addchdir_np: fn(*mut Actions, *const c_char);
    posix_spawn_file_actions_addfchdir_np: fn(*mut Actions, c_int);
    posix_spawn_file_actions_addclosefrom_np: fn(*mut Actions, c_int);
    posix_spawn_file_actions_addtcsetpgrp_np: fn(*mut Actions, c_int);
}

/// Turns what one of these functions returns into a result.
fn check(errno: c_int) -> Result<(), c_int> {
    if errno == 0 { Ok(()) } else { Err(errno) }
}

/// Attributes of the C library.
pub(crate) struct RealAttributes(posix_spawnattr_t);

impl RealAttributes {
    /// The same as `ours`.
    pub(crate) fn new(ours: &Attributes) -> Result<Self, c_int> {
        let mut attr = MaybeUninit::<posix_spawnattr_t>::zeroed();
        let init = posix_spawnattr_init.get()?;
        // SAFETY: room for the record.
        check(unsafe { init(attr.as_mut_ptr()) })?;
        // SAFETY: all of it is zero or has been filled in.
        let mut real = RealAttributes(unsafe { attr.assume_init() });
        let attr = &raw mut real.0;

        let set = posix_spawnattr_setflags.get()?;
        // SAFETY: initialised above; the same holds for each call below.
        check(unsafe { set(attr, ours.flags) })?;
        let set = posix_spawnattr_setpgroup.get()?;
        // SAFETY: as above.
        check(unsafe { set(attr, ours.pgroup) })?;
        let set = posix_spawnattr_setsigmask.get()?;
        // SAFETY: as above; the set is one.
        check(unsafe { set(attr, &to_sigset(ours.sigmask)) })?;
        let set = posix_spawnattr_setsigdefault.get()?;
        // SAFETY: as above; the set is one.
        check(unsafe { set(attr, &to_sigset(ours.sigdefault)) })?;
        let set = posix_spawnattr_setschedparam.get()?;
        // SAFETY: as above.
        check(unsafe { set(attr, &sched_param { sched_priority: ours.priority }) })?;
        let set = posix_spawnattr_setschedpolicy.get()?;
        // SAFETY: as above.
        check(unsafe { set(attr, ours.policy) })?;
        if ours.flags & SETCGROUP != 0 {
            let set = posix_spawnattr_setcgroup_np.get()?;
            // SAFETY: as above.
            check(unsafe { set(attr, ours.cgroup) })?;
        }
        Ok(real)
    }

    pub(crate) fn as_ptr(&self) -> *const posix_spawnattr_t {
        &self.0
    }
}

impl Drop for RealAttributes {
    fn drop(&mut self) {
        if let Ok(destroy) = posix_spawnattr_destroy.get() {
            // SAFETY: initialised by the C library, and not used again.
            unsafe { destroy(&mut self.0) };
        }
    }
}

/// File actions of the C library.
pub(crate) struct RealActions(posix_spawn_file_actions_t);

impl RealActions {
    /// The same as `ours`.
    pub(crate) fn new(ours: &[Step]) -> Result<Self, c_int> {
        let mut actions = MaybeUninit::<posix_spawn_file_actions_t>::zeroed();
        let init = posix_spawn_file_actions_init.get()?;
        // SAFETY: room for the record.
        check(unsafe { init(actions.as_mut_ptr()) })?;
        // SAFETY: all of it is zero or has been filled in.
        let mut real = RealActions(unsafe { actions.assume_init() });
        for step in ours {
            check(real.add(step)?)?;
        }
        Ok(real)
    }

    fn add(&mut self, step: &Step) -> Result<c_int, c_int> {
        let actions = &raw mut self.0;
        Ok(match *step {
            Step::Close(fd) => {
                let add = posix_spawn_file_actions_addclose.get()?;
                // SAFETY: `new` has initialised them; the same holds for each call below.
                unsafe { add(actions, fd) }
            }
            Step::Dup2(fd, newfd) => {
                let add = posix_spawn_file_actions_adddup2.get()?;
                // SAFETY: as above.
                unsafe { add(actions, fd, newfd) }
            }
            Step::Open(fd, ref open) => {
                let add = posix_spawn_file_actions_addopen.get()?;
                let (path, oflag, mode) = open.get();
                // SAFETY: as above; the path is a C string of the record.
                unsafe { add(actions, fd, path, oflag, mode) }
            }
            Step::Chdir(path) => {
                let add = posix_spawn_file_actions_addchdir_np.get()?;
                // SAFETY: as above; the path is a C string of the record.
                unsafe { add(actions, path) }
            }
            Step::Fchdir(fd) => {
                let add = posix_spawn_file_actions_addfchdir_np.get()?;
                // SAFETY: as above.
                unsafe { add(actions, fd) }
            }
            Step::CloseFrom(fd) => {
                let add = posix_spawn_file_actions_addclosefrom_np.get()?;
                // SAFETY: as above.
                unsafe { add(actions, fd) }
            }
            Step::Tcsetpgrp(fd) => {
                let add = posix_spawn_file_actions_addtcsetpgrp_np.get()?;
                // SAFETY: as above.
                unsafe { add(actions, fd) }
            }
        })
    }

    pub(crate) fn as_ptr(&self) -> *const posix_spawn_file_actions_t {
        &self.0
    }
}

impl Drop for RealActions {
    fn drop(&mut self) {
        if let Ok(destroy) = posix_spawn_file_actions_destroy.get() {
            // SAFETY: initialised by the C library, and not used again.
            unsafe { destroy(&mut self.0) };
        }
    }
}
