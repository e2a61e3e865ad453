// SPDX-License-Identifier: GPL-2.0

//! A list of supplementary groups.

use crate::uapi::{
    self,
    spawn_template_groups, //
};
use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// A sorted list of groups, ready to become a task's.
///
/// # Invariants
///
/// `self.0` is valid, and one of its references is owned by this object.
pub(crate) struct Groups(NonNull<bindings::group_info>);

// SAFETY: What is counted and does not change can be used and dropped by any task.
unsafe impl Send for Groups {}

impl Groups {
    /// Reads what the `struct spawn_template_groups` of `action` lists.
    ///
    /// `EINVAL` for more than `NGROUPS_MAX`, or one that the caller's user namespace does not have;
    /// `EFAULT`.
    /// `inner` is set to where the IDs themselves are.
    pub(crate) fn read(action: &bindings::spawn_template_action, inner: &mut u64) -> Result<Self> {
        let least = bindings::SPAWN_TEMPLATE_GROUPS_SIZE_VER0;
        let spawn_template_groups(args) = uapi::read_arg(action, least)?;
        *inner = args.groups;
        if args.count > u64::from(bindings::NGROUPS_MAX) {
            return Err(EINVAL);
        }
        // The limit makes it fit.
        let count = args.count as usize;

        // SAFETY: The count is in range.
        let info = NonNull::new(unsafe { bindings::groups_alloc(count as c_int) });
        // INVARIANT: Just allocated, with one reference.
        let groups = Self(info.ok_or(ENOMEM)?);
        // SAFETY: It is valid.
        let first = unsafe { (&raw mut (*groups.as_ptr()).gid).cast::<bindings::kgid_t>() };

        let size = count * size_of::<bindings::gid_t>();
        let mut reader = UserSlice::new(UserPtr::from_addr(args.groups as usize), size).reader();
        for index in 0..count {
            let gid: bindings::gid_t = reader.read()?;
            // SAFETY: Any number may be looked up.
            let kgid = unsafe { bindings::spawn_make_kgid(gid) };
            if kgid.val == bindings::gid_t::MAX {
                return Err(EINVAL);
            }
            // SAFETY: There is room for `count` entries, and nobody else has the list yet.
            unsafe { first.add(index).write(kgid) };
        }
        // SAFETY: All entries have been filled in.
        unsafe { bindings::groups_sort(groups.as_ptr()) };
        Ok(groups)
    }

    /// How many groups it has.
    pub(crate) fn count(&self) -> usize {
        // SAFETY: By the type invariant the list is valid.
        let count = unsafe { (*self.as_ptr()).ngroups };
        usize::try_from(count).unwrap_or(0)
    }

    /// The list, valid for as long as `self` lives.
    pub(crate) fn as_ptr(&self) -> *mut bindings::group_info {
        self.0.as_ptr()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is valid, and the reference ours to drop.
        unsafe {
            if bindings::refcount_dec_and_test(&raw mut (*self.as_ptr()).usage) {
                bindings::groups_free(self.as_ptr());
            }
        }
    }
}
