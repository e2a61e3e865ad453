// SPDX-License-Identifier: GPL-2.0

//! Structures and strings that come from user memory.
//!
//! The layouts are bindgen's, from `include/uapi/linux/spawn_template.h`.

use crate::user_string::UserString;
use kernel::{
    bindings,
    page::PAGE_SIZE,
    prelude::*,
    transmute::FromBytes,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// Makes an ABI structure readable from user memory.
macro_rules! user_struct {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[repr(transparent)]
        #[derive(Clone, Copy)]
        pub(crate) struct $name(pub(crate) bindings::$name);

        // SAFETY: The structure consists of integers only, without padding.
        unsafe impl FromBytes for $name {}
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
        /// What a SIGMASK or SIGDEFAULT action refers to.
        spawn_template_sigset
    );
}
pub(crate) use structs::*;

/// Reads a structure that may be longer or, down to `least`, shorter than the one known here.
///
/// The rule is that of `copy_struct_from_user()`: `EINVAL` for a `size` below `least`, `E2BIG` for
/// one above a page or for bytes unknown here that are not zero, `EFAULT` for memory that cannot be
/// read.
pub(crate) fn read_versioned<T: FromBytes>(addr: usize, size: usize, least: u32) -> Result<T> {
    check_size(size, least)?;

    let mut reader = UserSlice::new(UserPtr::from_addr(addr), size).reader();
    let value = reader.read()?;

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

/// Reads a structure of which there is one version only.
pub(crate) fn read<T: FromBytes>(addr: u64) -> Result<T> {
    UserSlice::new(UserPtr::from_addr(addr as usize), size_of::<T>())
        .reader()
        .read()
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
