// SPDX-License-Identifier: GPL-2.0

//! Whether a caller may use a template: its credentials must equal the creator's, by content.
//!
//! A template gives nobody a right: every check of exec is made at each spawn, with the credentials
//! of the spawning task. The rule only keeps a descriptor that was passed on from being of any use.
//! By content, because each forked process has a `struct cred` of its own.

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
        && label(a).bytes == label(b).bytes
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
///
/// Landlock's restrictions are no part of it. They need not be: each spawn opens the executable
/// anew, with the restrictions of the task that spawns.
fn label(cred: &bindings::cred) -> Label {
    let mut label = Label {
        _align: [],
        bytes: [0; size_of::<bindings::lsm_prop>()],
    };
    // SAFETY: `cred` is valid, and the bytes have the size and alignment of the property, all of
    // whose states but the one they are in are for C to make.
    unsafe { bindings::security_cred_getlsmprop(cred, (&raw mut label).cast()) };
    label
}

/// Memory for a `struct lsm_prop`, padding included.
#[repr(C)]
struct Label {
    _align: [bindings::lsm_prop; 0],
    bytes: [u8; size_of::<bindings::lsm_prop>()],
}
