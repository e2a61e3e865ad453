//! Start programs through the Linux *spawn template* system calls, or as [`std::process::Command`] does where the kernel
//! has none.
//!
//! A [`Command`] is made and used like that of the standard library, with more to say: descriptors at any number, terminal,
//! limits, scheduling, cgroup and the rest of what people fall back to `fork` for. [`Command::spawn`] returns a [`Child`],
//! which owns the process's pidfd. A failure names the [`Step`] that failed.
//!
//! ```
//! use spawn_template::Command;
//!
//! # fn main() -> Result<(), spawn_template::Error> {
//! let output = Command::new("echo").arg("hello").output()?;
//! assert_eq!(output.stdout, b"hello\n");
//! # Ok(())
//! # }
//! ```
//!
//! A [`Template`] is a file descriptor that keeps one opened executable and its parsed ELF metadata in the kernel. A
//! `Command` that is given a name or path takes one from the process-wide [`cache`]; who starts the same program often can
//! hold it, and [`Command::prepare`] the arguments as well:
//!
//! ```
//! use spawn_template::{Command, Template};
//!
//! # fn main() -> Result<(), spawn_template::Error> {
//! let test = Template::open("/usr/bin/test")?;
//! let mut command = Command::new(&test);
//! let prepared = command.args(["-d", "/"]).prepare()?;
//! for _ in 0..3 {
//!     let mut child = prepared.spawn()?;
//!     assert!(child.wait()?.success());
//!     println!("started by {}", child.via());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Kernels with and without the calls
//!
//! The calls need a kernel with this project's patches and its module loaded; [`is_supported`] tells. Their numbers are not
//! assigned in Linux, so on another kernel they may be other calls. The crate makes neither call before the kernel has
//! identified itself by the file `/proc/spawn_template`, which also names the numbers and what is supported ([`Kernel`]).
//! The file is read once, before the first spawn. Without it nothing but fork and exec is used.
//!
//! Everywhere else, and for programs that cannot be templates (scripts), the same steps are done by fork and exec, in the
//! way of `posix_spawn(3)`: without a copy of the caller's memory. [`Child::via`] tells which it was and why ([`Reason`]), and
//! [`Mode`] chooses; `SPAWN_TEMPLATE_REQUIRED=1` in the environment makes every silent fallback an error. What differs:
//!
//! - A template of the kernel can be used only with the credentials that it was made with (`EACCES`).
//! - Where an action's flags are wrong in a way that only `openat2(2)` knows, the stage is [`Stage::Action`], not
//!   [`Stage::Arguments`].
//! - An `O_PATH` descriptor of each executable stands for the template; [`Template::stats`] is not available.
//! - It needs Linux 5.11. Emulators of user space (qemu-user) are served by a plain `fork`.
//! - A program that fails after the point of no return of `execve(2)`, for example because its memory cannot be mapped, is an
//!   error from a template. By fork and exec it starts and dies by `SIGSEGV`.
//!
//! A seccomp filter may forbid the calls, or answer them with any errno or with 0. A filter or a tracer may also want to
//! decide about each call of the child (`SECCOMP_RET_TRACE`, `SECCOMP_RET_USER_NOTIF`; `strace --seccomp-bpf`), which the
//! kernel cannot ask from within a spawn. In both cases fork and exec are used ([`Reason::Unsupported`],
//! [`Reason::Seccomp`]). Steps that the child took before the filter refused one are done again. A file that must be new
//! (`O_EXCL`) is never opened twice: with a filter, such a command does not use a template at all.
//!
//! # Descriptors of this crate
//!
//! A template is a descriptor, 3 or above, and a program may close descriptors that it does not know. So the kernel
//! compares the identity of the template as part of each spawn, and the crate compares it before it closes one. A number
//! that has become another file is neither used nor closed. The [`cache`] makes a new template; a [`Template`] that the
//! program holds fails with `EBADF`. See [`cache`] for threads with a table of their own, `fork` and `vfork`.
//!
//! Each spawn needs one free descriptor for the pidfd, [`Command::status`] as well. When there is none left, the templates
//! of the cache are closed first.
//!
//! # Where a program is looked for
//!
//! A name without a slash is looked for in the folders of `PATH` as `posix_spawnp(3)` does: after a file that is not there
//! or may not be executed, or whose interpreter is, the search goes on. What the child opens it opens once. A relative path
//! is relative to the working directory itself, even if that is too deep to have a path or cannot be reached from the root;
//! then fork and exec are used. From a template, `AT_EXECFN` of a relative path is absolute. An executable text file without
//! `#!` is `ENOEXEC`; it is never given to `/bin/sh`. Paths in `/proc` and `/dev/fd`, which are other files for other
//! processes, are left to fork and exec ([`Reason::ProcPath`]), but for `/proc/self/exe`.
//!
//! Only x86-64 Linux has the calls; on any other target this crate does not compile.
//!
//! # Differences from `std::process::Command`
//!
//! - **Descriptors.** The child gets 0, 1 and 2 as far as they are open in the caller, and what the command places. Others
//!   stay behind, whether they are close-on-exec or not; see [`Command::inherit_fds`].
//! - **Borrowing.** A descriptor can be given by reference, so `Command` has a lifetime; one that only takes owned things is
//!   a `Command<'static>`.
//! - **`&self`.** Starting does not change the command, which can be shared between threads and cloned.
//! - **Environment.** It is read as the C library reads it, without a lock: nothing may change the environment of this
//!   process while another thread starts one, which [`std::env::set_var`] asks for in any case.
//! - **Malformed environment.** Strings of the caller's environment without `=`, and duplicate ones, are passed on.
//! - **Errors** are [`Error`], which converts to [`std::io::Error`] with the same `errno`.
//! - [`Command::pre_exec`] takes a `Fn`, and forces fork and exec.
//!
//! All features, with their counterparts in `std`, tokio and `posix_spawn`, are in `PARITY.md`.

/// The examples of the project's README and of this crate's compile and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64")))]
compile_error!("spawn-template: the spawn template system calls exist on x86-64 Linux only");

mod action;
pub mod cache;
mod child;
mod command;
mod environment;
mod error;
mod executable;
mod fdinfo;
mod fork_exec;
#[doc(hidden)]
pub mod kernel;
mod plan;
#[doc(hidden)]
pub mod process;
mod program;
#[doc(hidden)]
pub mod proof;
pub mod raw;
pub mod search;
mod signal;
mod stdio;
mod step;
pub mod sys;
mod template;
#[cfg(feature = "tokio")]
pub mod tokio;
pub mod uapi;
mod via;

pub use action::{Action, ActionPath, ChildFd, Fd, Open, Resource, SchedAttr, Scheduler};
pub use child::Child;
pub use command::{Command, Prepared};
pub use error::{Call, Error, InvalidInput};
pub use fdinfo::Stats;
pub use kernel::Kernel;
pub use program::Program;
pub use raw::Stage;
pub use signal::SignalSet;
pub use std::process::{ExitStatus, Output};
pub use stdio::Stdio;
pub use step::Step;
pub use template::{Template, TemplateOptions};
pub use via::{Mode, Reason, Via};

/// Whether this kernel has the spawn template system calls, with the module that supplies them loaded.
///
/// Reads `/proc/spawn_template` anew, so the answer can change while the program runs, when the module is loaded or
/// unloaded. Everything else in this crate goes by the last answer; the first spawn asks if nobody has asked before.
///
/// A seccomp filter may forbid the calls all the same. Then processes are started by fork and exec, and
/// [`Child::via`] says so.
pub fn is_supported() -> bool {
    Kernel::look().is_some()
}
