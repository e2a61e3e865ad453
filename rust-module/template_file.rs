// SPDX-License-Identifier: GPL-2.0

//! The file descriptor that stands for a template.

use crate::{
    action,
    held_file::HeldFile,
    spawn,
    template::{
        self,
        Template, //
    },
    SpawnTemplate, //
};
use core::ptr::NonNull;
use kernel::{
    bindings,
    error::from_err_ptr,
    fs::File,
    module::this_module,
    prelude::*,
    seq_file::{
        seq_print,
        SeqFile, //
    },
    sync::aref::ARef, //
};

/// The operations of a template file.
#[repr(transparent)]
struct Fops(bindings::file_operations);

// SAFETY: The contents are function pointers and a module pointer, and never change.
unsafe impl Sync for Fops {}

static FOPS: Fops = Fops(bindings::file_operations {
    owner: this_module::<SpawnTemplate>().as_ptr(),
    llseek: Some(bindings::noop_llseek),
    release: Some(release),
    show_fdinfo: Some(show_fdinfo),
    ..pin_init::zeroed()
});

/// Makes the file of `template`. It holds a reference to this module.
pub(crate) fn new(template: KBox<Template>) -> Result<ARef<File>> {
    let template = KBox::into_raw(template);
    // SAFETY: The name and the operations are static; the file takes `template` over.
    let file = from_err_ptr(unsafe {
        bindings::anon_inode_getfile(
            c"[spawn_template]".as_char_ptr(),
            &FOPS.0,
            template.cast(),
            bindings::O_RDWR as c_int,
        )
    })
    .inspect_err(|_| {
        // SAFETY: No file took it over, so it is ours again.
        drop(unsafe { KBox::from_raw(template) });
    })?;

    // SAFETY: The file is valid, nobody else has it yet, and its reference is ours.
    Ok(unsafe { ARef::from_raw(NonNull::new_unchecked(file.cast())) })
}

/// A reference to a template file.
///
/// # Invariants
///
/// The operations of the file are [`FOPS`], so its private data is a [`Template`].
pub(crate) struct TemplateRef(HeldFile);

impl TemplateRef {
    /// Looks `fd` up: `EBADF` if it is not open, `EINVAL` if it is not a template.
    pub(crate) fn from_fd(fd: c_int) -> Result<Self> {
        let file = HeldFile::from_fd(u32::try_from(fd).map_err(|_| EBADF)?)?;
        // SAFETY: The file is valid; its operations do not change any more.
        if !core::ptr::eq(unsafe { (*file.as_ptr()).f_op }, &FOPS.0) {
            return Err(EINVAL);
        }
        // INVARIANT: Just checked.
        Ok(Self(file))
    }
}

impl Clone for TemplateRef {
    fn clone(&self) -> Self {
        // INVARIANT: It is the same file.
        Self(self.0.clone())
    }
}

impl core::ops::Deref for TemplateRef {
    type Target = Template;

    fn deref(&self) -> &Template {
        // SAFETY: By the type invariant the private data is a template, which lives as long as
        // the file and is only ever shared.
        unsafe { &*(*self.0.as_ptr()).private_data.cast() }
    }
}

/// Called when the last reference to a template file goes.
///
/// # Safety
///
/// Only to be called by the VFS, on a file whose operations are [`FOPS`].
unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: `new` stored the pointer, and nobody can use the file any more.
    drop(unsafe { KBox::<Template>::from_raw((*file).private_data.cast()) });
    0
}

/// Shows `/proc/PID/fdinfo/FD`.
///
/// # Safety
///
/// Only to be called by the VFS, on a file whose operations are [`FOPS`].
unsafe extern "C" fn show_fdinfo(seq: *mut bindings::seq_file, file: *mut bindings::file) {
    // SAFETY: `new` stored the pointer; the caller holds a reference to the file.
    let template: &Template = unsafe { &*(*file).private_data.cast() };
    // SAFETY: The caller passes a valid `seq_file` of which it has the use.
    let m = unsafe { SeqFile::from_raw(seq) };
    let identity = template.identity();
    let (major, minor) = identity.device();
    let (spawns, failures) = template.counts();

    seq_print!(m, "path:\t");
    // SAFETY: `seq` is valid as above, the file as long as the template is, the string is static.
    unsafe { bindings::seq_file_path(seq, template.file().as_ptr(), c"\n\t\\".as_char_ptr()) };
    seq_print!(m, "\ndev:\t{major}:{minor}\n");
    seq_print!(m, "inode:\t{}\n", identity.inode());
    seq_print!(m, "size:\t{}\n", identity.size());
    // Contents of the executable, for those who may read it.
    // SAFETY: The file is valid as long as the template is.
    if unsafe { bindings::exec_may_read(template.file().as_ptr()) } {
        seq_print!(
            m,
            "interpreter:\t{}\n",
            template.image().interpreter().unwrap_or(c"-")
        );
        seq_print!(m, "program-headers:\t{}\n", template.image().phnum());
    }
    seq_print!(m, "id:\t{}\n", template.id());
    seq_print!(m, "create-flags:\t{:#x}\n", template::CREATE_FLAGS);
    seq_print!(m, "exec-flags:\t{:#x}\n", template::EXEC_FLAGS);
    seq_print!(m, "spawn-flags:\t{:#x}\n", spawn::SPAWN_FLAGS);
    seq_print!(m, "actions:\t{:#x}\n", action::TYPES);
    seq_print!(m, "memory:\t{}\n", template.memory());
    seq_print!(m, "startup-pages:\t{}\n", template.startup_pages());
    seq_print!(m, "spawns:\t{spawns}\n");
    seq_print!(m, "failures:\t{failures}\n");
}
