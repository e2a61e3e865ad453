// SPDX-License-Identifier: GPL-2.0

//! What a template keeps, and `spawn_template_create()`.

use crate::{
    creds,
    elf::ElfImage,
    exec_file::ExecFile,
    held_file::HeldFile,
    identity::Identity,
    interpreter::{
        Interpreter,
        Known, //
    },
    outcome::Stage,
    startup::{
        self,
        StartupPages, //
    },
    template_file,
    uapi::{
        self,
        spawn_template_create_args, //
    },
    user_string::UserString, //
};
use kernel::{
    bindings,
    cred::Credential,
    fs::file::FileDescriptorReservation,
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        }, //
    }, //
};

/// How the executable is found again at each spawn.
enum Origin {
    /// By its name, an absolute path, which must lead to the same file each time.
    Path,
    /// It is kept open.
    Held,
}

/// How the executable was named, as execveat(2) takes it.
pub(crate) struct Naming {
    pub(crate) fd: c_int,
    pub(crate) flags: u32,
}

impl Naming {
    /// As execve(2) takes it, too.
    pub(crate) fn is_plain(&self) -> bool {
        self.fd == bindings::AT_FDCWD && self.flags == 0
    }
}

/// What a program is started as whose template has no path: a name that leads to it in any child,
/// as that of a descriptor would not.
const NO_PATH: &CStr = c"/proc/self/exe";

/// What execveat(2) makes of `path` and `naming`, a descriptor alone aside.
fn name(path: UserString, naming: &Naming) -> Result<UserString> {
    if path.is_empty() {
        UserString::new(NO_PATH)
    } else if naming.fd == bindings::AT_FDCWD || path.to_bytes().starts_with(b"/") {
        Ok(path)
    } else {
        let directory = CString::try_from_fmt(fmt!("/dev/fd/{}/", naming.fd))?;
        UserString::joined(&directory, &path)
    }
}

/// An executable that is ready to be started.
pub(crate) struct Template {
    /// Keeps the inode, and tells where it lies.
    file: HeldFile,
    origin: Origin,
    naming: Naming,
    /// What the program is started as (`AT_EXECFN`).
    name: UserString,
    /// There was no path to name it after.
    is_nameless: bool,
    identity: Identity,
    image: ElfImage,
    /// Nothing for a program without one, and where it could not be read; exec will tell.
    interpreter: Option<Interpreter>,
    /// Nothing for a template that is not to learn.
    startup: Option<StartupPages>,
    creator: ARef<Credential>,
    /// No other template has, or had, the same.
    id: u64,
    spawns: Atomic<u64>,
    failures: Atomic<u64>,
}

impl Template {
    /// Opens the executable that `path` and `naming` name.
    fn new(path: UserString, mut naming: Naming, learn: bool) -> Result<Self> {
        let file = ExecFile::open(naming.fd, &path, naming.flags)?;
        // Writes are denied from before the identity is taken until the metadata has been read.
        let identity = Identity::settled(file.file())?;
        let image = ElfImage::read(&file, identity.size())?;
        let interpreter = image.interpreter().map(Interpreter::read);
        let origin = if path.to_bytes().starts_with(b"/") {
            naming = Naming {
                // It does not matter.
                fd: bindings::AT_FDCWD,
                flags: naming.flags & bindings::AT_SYMLINK_NOFOLLOW,
            };
            Origin::Path
        } else {
            Origin::Held
        };
        let is_nameless = path.is_empty();

        Ok(Self {
            file: file.hold(),
            origin,
            name: name(path, &naming)?,
            naming,
            is_nameless,
            identity,
            image,
            interpreter: interpreter.and_then(Result::ok),
            startup: learn.then(StartupPages::new).transpose()?,
            creator: creds::current(),
            // SAFETY: May be called at any time.
            id: unsafe { bindings::spawn_template_new_id() },
            spawns: Atomic::new(0),
            failures: Atomic::new(0),
        })
    }

    /// Opens the executable for one spawn, in the task that is going to execute it.
    ///
    /// Fails with `ESTALE` if that would not give the file, with the contents and attributes, that
    /// the template was made from; with the errors of execve(2) otherwise.
    pub(crate) fn open(&self) -> Result<ExecFile> {
        let opened = match self.origin {
            Origin::Path => ExecFile::open(self.naming.fd, &self.name, self.naming.flags),
            Origin::Held => ExecFile::reopen(&self.file),
        };
        let file = opened.map_err(|error| if self.is_gone(error) { ESTALE } else { error })?;

        // Writes to what was opened are denied by now.
        if Identity::of(file.file())? != self.identity {
            return Err(ESTALE);
        }
        // What does not show in the identity shows in the contents, which are read as they are
        // except for the metadata.
        if !file.file().mapped_writes_show() || !self.identity.shows_each_change(file.file()) {
            match self.image.is_in(&file) {
                Ok(true) => (),
                Ok(false) => return Err(ESTALE),
                Err(error) if error == ENOEXEC => return Err(ESTALE),
                Err(error) => return Err(error),
            }
        }
        Ok(file)
    }

    /// The stage of a spawn that an error of [`open`](Self::open) belongs to.
    pub(crate) fn open_stage(&self, error: Error) -> Stage {
        if error == ESTALE {
            Stage::Identity
        } else {
            Stage::Exec
        }
    }

    /// How the executable was named.
    pub(crate) fn naming(&self) -> &Naming {
        &self.naming
    }

    /// Whether opening the executable takes an address space: `/proc/self/exe` is a link from that.
    pub(crate) fn needs_mm(&self) -> bool {
        !self.is_held() && self.name.to_bytes().starts_with(b"/proc/")
    }

    /// Whether the failure to open the executable is due to a change of the executable.
    fn is_gone(&self, error: Error) -> bool {
        if error == ENOENT || error == ENOTDIR || error == ELOOP {
            return true;
        }
        if error != EACCES && error != EPERM {
            return false;
        }
        // SAFETY: The path is valid for as long as the file is held.
        let noexec = unsafe { bindings::path_noexec(self.file.path()) };
        noexec || Identity::of(&self.file).ok() != Some(self.identity)
    }

    /// Whether the calling task may spawn from this template.
    pub(crate) fn may_use(&self) -> bool {
        creds::same(&creds::current(), &self.creator)
    }

    /// What tells this template from all others.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Counts a spawn, by its outcome.
    pub(crate) fn count<T, E>(&self, outcome: &Result<T, E>) {
        let counter = if outcome.is_ok() {
            &self.spawns
        } else {
            &self.failures
        };
        counter.add(1, Relaxed);
    }

    /// How many spawns succeeded and how many failed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.spawns.load(Relaxed), self.failures.load(Relaxed))
    }

    /// The executable.
    pub(crate) fn file(&self) -> &HeldFile {
        &self.file
    }

    /// The executable's identity.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The executable's metadata.
    pub(crate) fn image(&self) -> &ElfImage {
        &self.image
    }

    /// What exec is told about the interpreter.
    pub(crate) fn known_interpreter(&self) -> Option<Known<'_>> {
        self.interpreter.as_ref().map(Known::new)
    }

    /// What exec is told about the file, valid while `self` and `interpreter` are borrowed.
    pub(crate) fn bprm_image(&self, interpreter: Option<&Known<'_>>) -> bindings::bprm_image {
        let startup = self.startup.as_ref();
        self.image.as_bprm_image(
            interpreter.map_or(core::ptr::null(), Known::as_ptr),
            startup.map_or(core::ptr::null_mut(), StartupPages::as_ptr),
        )
    }

    /// How many pages are known that the program touches when it starts.
    pub(crate) fn startup_pages(&self) -> u32 {
        self.startup.as_ref().map_or(0, StartupPages::count)
    }

    /// How much memory the template takes, in bytes: its own, not that of the files it keeps open.
    pub(crate) fn memory(&self) -> usize {
        let startup = self.startup.as_ref().map_or(0, |_| startup::size());
        let interpreter = self.interpreter.as_ref().map_or(0, Interpreter::memory);
        size_of::<Self>() + self.name.memory() + self.image.memory() + interpreter + startup
    }

    /// The name that the program is started under (`AT_EXECFN`).
    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// Whether the name need not lead to the executable in the child.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.origin, Origin::Held)
    }

    /// Whether the program's `comm` comes from the file, because the name is a made-up one.
    pub(crate) fn comm_from_file(&self) -> bool {
        self.is_nameless
    }
}

const CLOEXEC: u64 = bindings::SPAWN_TEMPLATE_CREATE_CLOEXEC as u64;
const NO_LEARNING: u64 = bindings::SPAWN_TEMPLATE_CREATE_NO_LEARNING as u64;

/// The flags that `spawn_template_create()` knows.
pub(crate) const CREATE_FLAGS: u64 = CLOEXEC | NO_LEARNING;

/// Those of `exec_flags`.
pub(crate) const EXEC_FLAGS: u64 = (bindings::AT_EMPTY_PATH | bindings::AT_SYMLINK_NOFOLLOW) as u64;

/// `spawn_template_create()`; the errors are listed in `include/uapi/linux/spawn_template.h`.
pub(crate) fn create(addr: usize, size: usize) -> Result<c_int> {
    let spawn_template_create_args(args) =
        uapi::read_versioned(addr, size, bindings::SPAWN_TEMPLATE_CREATE_ARGS_SIZE_VER0)?;

    if args.flags & !CREATE_FLAGS != 0
        || u64::from(args.exec_flags) & !EXEC_FLAGS != 0
        || args.actions != 0
        || args.actions_len != 0
        || args.reserved != [0; 4]
    {
        return Err(EINVAL);
    }

    let learn = args.flags & NO_LEARNING == 0;
    let mut naming = Naming {
        fd: args.execfd,
        flags: args.exec_flags,
    };
    let path = if args.filename != 0 {
        uapi::read_path(args.filename)?
    } else {
        // Nothing at all is named, unless the flag says that the descriptor is meant.
        if naming.fd < 0 && naming.flags & bindings::AT_EMPTY_PATH == 0 {
            return Err(EINVAL);
        }
        naming.flags |= bindings::AT_EMPTY_PATH;
        UserString::new(c"")?
    };
    if path.is_empty() && naming.flags & bindings::AT_EMPTY_PATH == 0 {
        return Err(ENOENT);
    }
    let template = Template::new(path, naming, learn)?;

    let flags = if args.flags & CLOEXEC != 0 {
        bindings::O_CLOEXEC
    } else {
        0
    };
    let fd = FileDescriptorReservation::get_unused_fd_flags(flags)?;
    let file = template_file::new(KBox::new(template, GFP_KERNEL_ACCOUNT)?)?;
    let number = fd.reserved_fd();
    fd.fd_install(file);
    Ok(number as c_int)
}
