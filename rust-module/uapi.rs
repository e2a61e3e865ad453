// SPDX-License-Identifier: GPL-2.0

//! Structures and strings that come from user memory.
//!
//! The layouts are bindgen's, from `include/uapi/linux/spawn_template.h`.

use crate::user_string::UserString;
use kernel::{
    bindings,
    page::PAGE_SIZE,
    prelude::*,
    transmute::{
        AsBytes,
        FromBytes, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// A structure of integers, all of whose values are valid.
pub(crate) trait UserStruct: FromBytes + AsBytes + Zeroable {}

impl<T: FromBytes + AsBytes + Zeroable> UserStruct for T {}

/// Makes an ABI structure readable from user memory.
macro_rules! user_struct {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Zeroable)]
        pub(crate) struct $name(pub(crate) bindings::$name);

        // SAFETY: The structure consists of integers only, without padding.
        unsafe impl FromBytes for $name {}

        // SAFETY: As above.
        unsafe impl AsBytes for $name {}
    };
}

// The names are those of the C structures.
#[expect(non_camel_case_types)]
mod structs {
    use super::*;

    user_struct!(
        /// Argument of `spawn_template_create()`.
        spawn_template_create_args
    );
    user_struct!(
        /// Argument of `spawn_template_spawn()`.
        spawn_template_spawn_args
    );
    user_struct!(
        /// One action.
        spawn_template_action
    );
    user_struct!(
        /// What an OPEN action opens.
        spawn_template_open
    );
    user_struct!(
        /// What a SIGMASK, SIGDEFAULT or SIGIGNORE action refers to.
        spawn_template_sigset
    );
    user_struct!(
        /// What an RLIMIT action sets.
        spawn_template_rlimit
    );
    user_struct!(
        /// What a SETGROUPS action sets.
        spawn_template_groups
    );
    user_struct!(
        /// What a SCHED action sets.
        sched_attr
    );
}
pub(crate) use structs::*;

// What grows with openat2() has nothing behind it.
const _: () = assert!(
    core::mem::offset_of!(bindings::spawn_template_open, how) + size_of::<bindings::open_how>()
        == size_of::<spawn_template_open>()
);

/// Reads a structure that may be longer or, down to `least`, shorter than the one known here.
///
/// The rule is that of `copy_struct_from_user()`: `EINVAL` for a `size` below `least`, `E2BIG` for
/// one above a page or for bytes unknown here that are not zero, `EFAULT` for memory that cannot be
/// read.
pub(crate) fn read_versioned<T: UserStruct>(addr: usize, size: usize, least: u32) -> Result<T> {
    check_size(size, least)?;
    read_sized(addr, size)
}

/// Reads the first `size` bytes of a structure; what is missing is zero.
fn read_sized<T: UserStruct>(addr: usize, size: usize) -> Result<T> {
    let mut reader = UserSlice::new(UserPtr::from_addr(addr), size).reader();
    let mut value: T = pin_init::zeroed();
    let known = size.min(size_of::<T>());
    reader.read_slice(&mut value.as_bytes_mut()[..known])?;

    let mut tail = [0; 64];
    while !reader.is_empty() {
        let len = reader.len().min(tail.len());
        reader.read_slice(&mut tail[..len])?;
        if tail[..len].iter().any(|&byte| byte != 0) {
            return Err(E2BIG);
        }
    }
    Ok(value)
}

/// Checks the size a caller gives for a versioned structure.
pub(crate) fn check_size(size: usize, least: u32) -> Result {
    if size < least as usize {
        return Err(EINVAL);
    }
    if size > PAGE_SIZE {
        return Err(E2BIG);
    }
    Ok(())
}

/// Reads the structure that an action's `arg` points to, by the rule of [`read_versioned`];
/// `EINVAL` if it points to nothing. A size of 0 is `least`, that of the first version.
pub(crate) fn read_arg<T: UserStruct>(
    action: &bindings::spawn_template_action,
    least: u32,
) -> Result<T> {
    if action.arg == 0 {
        return Err(EINVAL);
    }
    let size = match action.arg_size {
        0 => least as usize,
        size => usize::try_from(size)?,
    };
    read_versioned(action.arg as usize, size, least)
}

/// Reads a `struct sched_attr`, by the rules of sched_setattr(2) for its size.
pub(crate) fn read_sched_attr(addr: u64) -> Result<bindings::sched_attr> {
    const VER0: usize = bindings::SCHED_ATTR_SIZE_VER0 as usize;
    const VER1: usize = bindings::SCHED_ATTR_SIZE_VER1 as usize;

    if addr == 0 {
        return Err(EINVAL);
    }
    let size: u32 = UserSlice::new(UserPtr::from_addr(addr as usize), size_of::<u32>())
        .reader()
        .read()?;
    let size = match size as usize {
        0 => VER0,
        size @ VER0..=PAGE_SIZE => size,
        _ => return Err(E2BIG),
    };
    let sched_attr(mut attr) = read_sized(addr as usize, size)?;
    let clamps =
        u64::from(bindings::SCHED_FLAG_UTIL_CLAMP_MIN | bindings::SCHED_FLAG_UTIL_CLAMP_MAX);
    if attr.sched_flags & clamps != 0 && size < VER1 {
        return Err(EINVAL);
    }
    attr.sched_nice = attr
        .sched_nice
        .clamp(bindings::MIN_NICE, bindings::MAX_NICE as i32);
    Ok(attr)
}

/// Reads a path: `ENAMETOOLONG` from `PATH_MAX` bytes on, NUL included.
pub(crate) fn read_path(addr: u64) -> Result<UserString> {
    const PATH_MAX: usize = bindings::PATH_MAX as usize;

    // One byte more than a path may have, so that one that just fits can be told from a cut one.
    let mut buf = KVec::from_elem(0u8, PATH_MAX + 1, GFP_KERNEL)?;
    let path = UserSlice::new(UserPtr::from_addr(addr as usize), PATH_MAX + 1)
        .reader()
        .strcpy_into_buf(&mut buf)?;
    if path.to_bytes_with_nul().len() > PATH_MAX {
        return Err(ENAMETOOLONG);
    }
    UserString::new(path)
}
