//! Start a program again and again through the Linux *spawn template* system calls.
//!
//! A [`Template`] is a file descriptor that keeps one opened executable and its parsed ELF metadata in the kernel. A
//! [`Command`] describes one way to start it: arguments, environment, and the [`Action`]s the child performs before it
//! runs the program. [`Command::spawn`] returns a [`Child`], which owns the process's pidfd.
//!
//! ```no_run
//! use spawn_template::{Command, Template};
//!
//! # fn main() -> Result<(), spawn_template::Error> {
//! let echo = Template::open("/bin/echo")?;
//! let status = Command::new(&echo).arg("hello").status()?;
//! assert!(status.success());
//! # Ok(())
//! # }
//! ```
//!
//! # Differences from `std::process::Command`
//!
//! - **Descriptors.** The child gets 0, 1 and 2 as far as they are open in the caller, and what the actions place. Others
//!   stay behind, whether they are close-on-exec or not; see [`Command::inherit_fds`].
//! - **Signals.** The child inherits the calling thread's blocked signals and every ignored signal. The Rust runtime
//!   ignores `SIGPIPE`, so programs that rely on being ended by it need [`Command::sigdefault`].
//! - **No `PATH` search, no scripts.** A template is made from an absolute path or an open file, and only from a native
//!   ELF program.
//! - **Errors.** A failing action or exec is the error of [`Command::spawn`] itself, and no child is left behind.
//!
//! # Kernel support
//!
//! The calls need a kernel with this project's patches and its module loaded. Without them everything fails with
//! `ENOSYS`, which [`Error::is_unsupported`] recognises and [`is_supported`] tells in advance.
//!
//! Only x86-64 Linux has the calls; on any other target this crate does not compile.

/// The Rust example of the project's README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64")))]
compile_error!("spawn-template: the spawn template system calls exist on x86-64 Linux only");

mod action;
mod child;
mod command;
mod error;
mod fdinfo;
mod signal;
pub mod sys;
mod template;
pub mod uapi;

pub use action::{Action, ChildFd, Fd, Open};
pub use child::Child;
pub use command::{Command, Prepared};
pub use error::{Call, Error, InvalidInput};
pub use fdinfo::Stats;
pub use signal::SignalSet;
pub use std::process::ExitStatus;
pub use template::{Template, TemplateOptions};

/// Whether this kernel has the spawn template system calls, with the module that supplies them loaded.
///
/// Asks with a `spawn_template_create` that is too short to be valid: `EINVAL` means yes; `ENOSYS`, or whatever a
/// seccomp filter answers, means no. The answer can change while the program runs, when the module is loaded or
/// unloaded.
pub fn is_supported() -> bool {
    // SAFETY: a null pointer with size 0 gives the kernel nothing to read.
    let answer = unsafe { sys::spawn_template_create(std::ptr::null(), 0) };
    matches!(answer, Err(error) if error.raw_os_error() == Some(libc::EINVAL))
}
