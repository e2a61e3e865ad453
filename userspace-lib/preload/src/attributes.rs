//! `posix_spawnattr_*`.
//!
//! A record begins with a number that `posix_spawnattr_init` puts there. One without it was made by somebody else, such
//! as a program that clears the memory instead of calling the function: it is left to the C library, in all functions.

use libc::{c_int, c_short, pid_t, posix_spawnattr_t, sched_param, sigset_t};

use crate::real;

/// Two numbers below zero, where the C library has its flags and the process group.
const MAGIC: u64 = 0xd3a7_51c4_a1f2_9e86;

/// `POSIX_SPAWN_SETSID`, an extension.
pub(crate) const SETSID: c_short = 0x80;
/// `POSIX_SPAWN_SETCGROUP`, an extension.
pub(crate) const SETCGROUP: c_short = 0x100;

const USEVFORK: c_int = 0x40;

const KNOWN: c_int = libc::POSIX_SPAWN_RESETIDS
    | libc::POSIX_SPAWN_SETPGROUP
    | libc::POSIX_SPAWN_SETSIGDEF
    | libc::POSIX_SPAWN_SETSIGMASK
    | libc::POSIX_SPAWN_SETSCHEDPARAM
    | libc::POSIX_SPAWN_SETSCHEDULER
    | USEVFORK
    | SETSID as c_int
    | SETCGROUP as c_int;

/// What is in the caller's `posix_spawnattr_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Attributes {
    magic: u64,
    pub(crate) flags: c_short,
    pub(crate) pgroup: pid_t,
    /// Signal N is bit N - 1.
    pub(crate) sigdefault: u64,
    pub(crate) sigmask: u64,
    pub(crate) priority: c_int,
    pub(crate) policy: c_int,
    pub(crate) cgroup: c_int,
}

const _: () = assert!(size_of::<Attributes>() <= size_of::<posix_spawnattr_t>());
const _: () = assert!(align_of::<Attributes>() <= align_of::<posix_spawnattr_t>());

impl Attributes {
    /// What a new record says.
    pub(crate) const NEW: Attributes = Attributes {
        magic: MAGIC,
        flags: 0,
        pgroup: 0,
        sigdefault: 0,
        sigmask: 0,
        priority: 0,
        policy: libc::SCHED_OTHER,
        cgroup: 0,
    };

    /// Our record; `None` if it is not ours.
    ///
    /// # Safety
    ///
    /// `attr` must point to a record that some `posix_spawnattr_init` made, or of zeroes, and that does not change
    /// while the reference is used.
    pub(crate) unsafe fn of<'a>(attr: *const posix_spawnattr_t) -> Option<&'a Self> {
        // SAFETY: large enough and aligned, see above, and any bits are a value of this structure of integers.
        unsafe { attr.cast::<Self>().as_ref() }.filter(|ours| ours.magic == MAGIC)
    }

    /// As [`of`](Self::of), to be changed.
    ///
    /// # Safety
    ///
    /// As there, and nobody else may use the record.
    unsafe fn of_mut<'a>(attr: *mut posix_spawnattr_t) -> Option<&'a mut Self> {
        // SAFETY: as in `of`.
        unsafe { attr.cast::<Self>().as_mut() }.filter(|ours| ours.magic == MAGIC)
    }
}

/// The C library's form of a signal set.
pub(crate) fn to_sigset(signals: u64) -> sigset_t {
    let mut set = std::mem::MaybeUninit::<sigset_t>::zeroed();
    // SAFETY: the set begins with a bit for each of the kernel's 64 signals, and has room for them.
    unsafe { set.as_mut_ptr().cast::<u64>().write(signals) };
    // SAFETY: all of it is zero or has been written.
    unsafe { set.assume_init() }
}

/// The part of a signal set that the kernel knows.
///
/// # Safety
///
/// It must point to one.
unsafe fn from_sigset(set: *const sigset_t) -> u64 {
    // SAFETY: the set begins with a bit for each of the kernel's 64 signals.
    unsafe { set.cast::<u64>().read() }
}

/// The same call to the C library.
macro_rules! real {
    ($name:ident($($argument:expr),*)) => {
        match real::$name.get() {
            // SAFETY: the caller's arguments, as they are.
            Ok(function) => unsafe { function($($argument),*) },
            Err(errno) => errno,
        }
    };
}

/// `posix_spawnattr_init(3)`
///
/// # Safety
///
/// As in C: there must be room for the record.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_spawnattr_init(attr: *mut posix_spawnattr_t) -> c_int {
    // SAFETY: the caller's room is large enough.
    unsafe { attr.cast::<Attributes>().write(Attributes::NEW) };
    0
}

/// `posix_spawnattr_destroy(3)`
///
/// # Safety
///
/// As in C: the record must have been made by `posix_spawnattr_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_spawnattr_destroy(attr: *mut posix_spawnattr_t) -> c_int {
    // SAFETY: the caller's record.
    match unsafe { Attributes::of_mut(attr) } {
        Some(ours) => {
            ours.magic = 0;
            0
        }
        None => real!(posix_spawnattr_destroy(attr)),
    }
}

/// A function that stores a part of the record where `value` points.
macro_rules! getter {
    ($name:ident, $type:ty, |$ours:ident| $value:expr) => {
        #[doc = concat!("`", stringify!($name), "(3)`")]
        ///
        /// # Safety
        ///
        /// As in C: the record must have been made by `posix_spawnattr_init`, and there must be room for the value.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(attr: *const posix_spawnattr_t, value: *mut $type) -> c_int {
            // SAFETY: the caller's record.
            match unsafe { Attributes::of(attr) } {
                Some($ours) => {
                    // SAFETY: the caller has room for it.
                    unsafe { value.write($value) };
                    0
                }
                None => real!($name(attr, value)),
            }
        }
    };
}

/// A function that changes the record, and returns 0 or an errno.
macro_rules! setter {
    ($name:ident, $type:ty, |$ours:ident, $value:ident| $set:expr) => {
        #[doc = concat!("`", stringify!($name), "(3)`")]
        ///
        /// # Safety
        ///
        /// As in C: the record must have been made by `posix_spawnattr_init`, and a pointer lead to the value.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(attr: *mut posix_spawnattr_t, $value: $type) -> c_int {
            // SAFETY: the caller's record.
            match unsafe { Attributes::of_mut(attr) } {
                Some($ours) => $set,
                None => real!($name(attr, $value)),
            }
        }
    };
}

getter!(posix_spawnattr_getflags, c_short, |ours| ours.flags);
setter!(posix_spawnattr_setflags, c_short, |ours, flags| {
    if c_int::from(flags) & !KNOWN != 0 {
        return libc::EINVAL;
    }
    ours.flags = flags;
    0
});

getter!(posix_spawnattr_getpgroup, pid_t, |ours| ours.pgroup);
setter!(posix_spawnattr_setpgroup, pid_t, |ours, group| {
    ours.pgroup = group;
    0
});

getter!(posix_spawnattr_getsigmask, sigset_t, |ours| to_sigset(ours.sigmask));
setter!(posix_spawnattr_setsigmask, *const sigset_t, |ours, set| {
    // SAFETY: the caller's set.
    ours.sigmask = unsafe { from_sigset(set) };
    0
});

getter!(posix_spawnattr_getsigdefault, sigset_t, |ours| to_sigset(ours.sigdefault));
setter!(posix_spawnattr_setsigdefault, *const sigset_t, |ours, set| {
    // SAFETY: the caller's set.
    ours.sigdefault = unsafe { from_sigset(set) };
    0
});

getter!(posix_spawnattr_getschedparam, sched_param, |ours| sched_param { sched_priority: ours.priority });
setter!(posix_spawnattr_setschedparam, *const sched_param, |ours, param| {
    // SAFETY: the caller's parameters.
    ours.priority = unsafe { (*param).sched_priority };
    0
});

getter!(posix_spawnattr_getschedpolicy, c_int, |ours| ours.policy);
setter!(posix_spawnattr_setschedpolicy, c_int, |ours, policy| {
    // What the C library takes.
    if !matches!(policy, libc::SCHED_OTHER | libc::SCHED_FIFO | libc::SCHED_RR) {
        return libc::EINVAL;
    }
    ours.policy = policy;
    0
});

getter!(posix_spawnattr_getcgroup_np, c_int, |ours| ours.cgroup);
setter!(posix_spawnattr_setcgroup_np, c_int, |ours, fd| {
    ours.cgroup = fd;
    0
});
