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
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        }, //
    }, //
};

/// How the executable was named, and is found again at each spawn.
enum Origin {
    /// By a path, which must lead to the same file each time.
    Path,
    /// By this descriptor; the file is where it is, whatever its names are.
    Descriptor(u32),
}

/// An executable that is ready to be started.
pub(crate) struct Template {
    /// Keeps the inode, and tells where it lies.
    file: HeldFile,
    origin: Origin,
    /// What the program is started as: the path, or what execveat(2) makes of a descriptor.
    name: UserString,
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
    fn new(file: ExecFile, origin: Origin, name: UserString, learn: bool) -> Result<Self> {
        // Writes are denied from before the identity is taken until the metadata has been read.
        let identity = Identity::settled(file.file())?;
        let image = ElfImage::read(&file, identity.size())?;
        let interpreter = image.interpreter().map(Interpreter::read);

        Ok(Self {
            file: file.hold(),
            origin,
            name,
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

    fn from_path(path: UserString, learn: bool) -> Result<Self> {
        let file = ExecFile::open(&path)?;
        Self::new(file, Origin::Path, path, learn)
    }

    fn from_fd(fd: u32, learn: bool) -> Result<Self> {
        let file = ExecFile::reopen(&HeldFile::from_fd(fd)?)?;
        let name = UserString::from_fmt(fmt!("/dev/fd/{fd}"))?;
        Self::new(file, Origin::Descriptor(fd), name, learn)
    }

    /// Opens the executable for one spawn, in the task that is going to execute it.
    ///
    /// Fails with `ESTALE` if that would not give the file, with the contents and attributes, that
    /// the template was made from; with the errors of execve(2) otherwise.
    pub(crate) fn open(&self) -> Result<ExecFile> {
        let opened = match self.origin {
            Origin::Path => ExecFile::open(&self.name),
            Origin::Descriptor(_) => ExecFile::reopen(&self.file),
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

    /// The number that named the executable, if it was a descriptor.
    pub(crate) fn descriptor(&self) -> Option<u32> {
        match self.origin {
            Origin::Path => None,
            Origin::Descriptor(fd) => Some(fd),
        }
    }

    /// Whether opening the executable takes an address space: `/proc/self/exe` is a link from that.
    pub(crate) fn needs_mm(&self) -> bool {
        matches!(self.origin, Origin::Path) && self.name.to_bytes().starts_with(b"/proc/")
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

    /// What exec is told about the file, valid for as long as `self` and `interpreter` are borrowed.
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

    /// Whether the program's `comm` comes from the file, because the name is a made-up one.
    pub(crate) fn comm_from_file(&self) -> bool {
        matches!(self.origin, Origin::Descriptor(_))
    }
}

const CLOEXEC: u64 = bindings::SPAWN_TEMPLATE_CREATE_CLOEXEC as u64;
const NO_LEARNING: u64 = bindings::SPAWN_TEMPLATE_CREATE_NO_LEARNING as u64;

/// The flags that `spawn_template_create()` knows.
pub(crate) const CREATE_FLAGS: u64 = CLOEXEC | NO_LEARNING;

/// `spawn_template_create()`; the errors are listed in `include/uapi/linux/spawn_template.h`.
pub(crate) fn create(addr: usize, size: usize) -> Result<c_int> {
    let spawn_template_create_args(args) =
        uapi::read_versioned(addr, size, bindings::SPAWN_TEMPLATE_CREATE_ARGS_SIZE_VER0)?;

    if args.flags & !CREATE_FLAGS != 0
        || args.exec_flags != 0
        || args.actions != 0
        || args.actions_len != 0
        || args.reserved != [0; 4]
    {
        return Err(EINVAL);
    }

    let learn = args.flags & NO_LEARNING == 0;
    let template = match (u32::try_from(args.execfd), args.filename) {
        (Ok(fd), 0) => Template::from_fd(fd, learn)?,
        (Err(_), addr) if addr != 0 => {
            let path = uapi::read_path(addr)?;
            if !path.to_bytes().starts_with(b"/") {
                return Err(EINVAL);
            }
            Template::from_path(path, learn)?
        }
        _ => return Err(EINVAL),
    };

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
