// SPDX-License-Identifier: GPL-2.0

//! Whether a caller may use a template: its credentials must equal the creator's, by content.
//!
//! A template gives nobody a right: every check of exec is made at each spawn, with the credentials
//! of the spawning task. The rule only keeps a descriptor that was passed on from being of any use.
//! By content, because each forked process has a `struct cred` of its own.

use core::mem::MaybeUninit;
use kernel::{
    bindings,
    cred::Credential,
    prelude::*,
    sync::aref::ARef,
    task::Task, //
};

/// The calling task's credentials.
pub(crate) fn current() -> ARef<Credential> {
    // SAFETY: The calling task is valid, and only it changes its own subjective credentials.
    let cred = unsafe { (*Task::current_raw()).cred };
    // SAFETY: As above, `cred` stays valid while the calling task is in this function.
    unsafe { Credential::from_ptr(cred) }.into()
}

/// Whether both are equal in user and group ids, capability sets, securebits, user namespace and
/// LSM label.
pub(crate) fn same(a: &Credential, b: &Credential) -> bool {
    if core::ptr::eq(a, b) {
        return true;
    }
    // SAFETY: Both are valid; the fields of credentials that are in use do not change.
    let (a, b) = unsafe { (&*a.as_ptr(), &*b.as_ptr()) };

    let ids = |c: &bindings::cred| {
        [
            c.uid.val,
            c.gid.val,
            c.suid.val,
            c.sgid.val,
            c.euid.val,
            c.egid.val,
            c.fsuid.val,
            c.fsgid.val,
        ]
    };
    let caps = |c: &bindings::cred| {
        [
            c.cap_inheritable.val,
            c.cap_permitted.val,
            c.cap_effective.val,
            c.cap_bset.val,
            c.cap_ambient.val,
        ]
    };

    ids(a) == ids(b)
        && caps(a) == caps(b)
        && a.securebits == b.securebits
        && a.user_ns == b.user_ns
        && groups(a).eq(groups(b))
        && label(a) == label(b)
}

/// The supplementary groups.
fn groups(cred: &bindings::cred) -> impl Iterator<Item = bindings::gid_t> + '_ {
    let info = cred.group_info;
    // SAFETY: `group_info` is valid and constant for as long as `cred` is, and has `ngroups`
    // entries.
    let groups = unsafe {
        let len = usize::try_from((*info).ngroups).unwrap_or(0);
        (*info).gid.as_slice(len)
    };
    groups.iter().map(|group| group.val)
}

/// The LSM label, as bytes that can only be compared.
fn label(cred: &bindings::cred) -> [u8; size_of::<bindings::lsm_prop>()] {
    let mut prop = MaybeUninit::<bindings::lsm_prop>::zeroed();
    // SAFETY: `cred` is valid, and the property is zeroed, which is its initial state.
    unsafe { bindings::security_cred_getlsmprop(cred, prop.as_mut_ptr()) };
    // SAFETY: All bytes were zeroed before single fields were set, padding stays as it was.
    unsafe { core::mem::transmute(prop) }
}
