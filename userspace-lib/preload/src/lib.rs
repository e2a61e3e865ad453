//! `libspawn_template_preload.so`: the C library's `posix_spawn` family on the spawn template system calls.
//!
//! With `LD_PRELOAD` its functions come before those of the C library. Attributes and file actions are records of its
//! own; each spawn hands them to the kernel with a template of the program, and, where that cannot be done, to the C
//! library's functions, which then see the same attributes and actions in their own form. `README.md` has the cases.
//!
//! `posix_spawn()` and its relatives here allocate no memory, take no lock that a fork could leave behind, and are no
//! cancellation points. A panic would abort: it cannot leave an `extern "C"` function.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
compile_error!("spawn-template-preload: for the GNU C library on x86-64 Linux only");

mod attributes;
mod cache;
mod file_actions;
mod os;
mod real;
mod request;
mod spawn;
mod stats;

pub use attributes::*;
pub use file_actions::*;
pub use spawn::{pidfd_spawn, pidfd_spawnp, posix_spawn, posix_spawnp};
