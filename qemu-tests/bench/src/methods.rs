//! The ways to start a program and wait for its end, each as one function whose duration is the measurement.

use std::arch::asm;
use std::ffi::{CString, OsStr, c_char, c_int, c_long};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use spawn_template::uapi::{SPAWN_TEMPLATE_SPAWN_NO_PIDFD, SPAWN_TEMPLATE_SPAWN_NOWAIT, spawn_template_spawn_args};
use spawn_template::{Mode, Template, TemplateOptions, sys};

/// A way to start a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `fork()`, `execve()` in the child, `waitpid()`.
    ForkExec,
    /// `vfork()`, `execve()` in the child, `waitpid()`.
    VforkExec,
    /// glibc's `posix_spawn()` without attributes or actions, `waitpid()`.
    PosixSpawn,
    /// `clone3(CLONE_VM | CLONE_VFORK)` with a stack of its own, `execve()` in the child, `waitpid()`.
    Clone3,
    /// `spawn_template_spawn()`, `waitid()` on the pidfd, `close()` of the pidfd.
    SpawnTemplate,
    /// `spawn_template_spawn()` without a pidfd, `waitpid()`: what `posix_spawn()` does for its caller.
    SpawnTemplatePid,
    /// As [`Method::SpawnTemplate`], but the call returns once the child exists.
    SpawnTemplateNowait,
    /// A new template, two starts as [`Method::SpawnTemplatePid`], `close()` of the template: what first use costs.
    SpawnTemplateTwice,
}

impl Method {
    /// All of them: those of the table in its order, then what is measured only where it is asked for.
    pub const ALL: [Method; 8] = [
        Method::ForkExec,
        Method::VforkExec,
        Method::PosixSpawn,
        Method::Clone3,
        Method::SpawnTemplate,
        Method::SpawnTemplatePid,
        Method::SpawnTemplateNowait,
        Method::SpawnTemplateTwice,
    ];

    /// Those of the table.
    pub const TABLE: &[Method] = Self::ALL.split_at(6).0;

    /// The name used on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Method::ForkExec => "fork_exec",
            Method::VforkExec => "vfork_exec",
            Method::PosixSpawn => "posix_spawn",
            Method::Clone3 => "clone3",
            Method::SpawnTemplate => "spawn_template",
            Method::SpawnTemplatePid => "spawn_template_pid",
            Method::SpawnTemplateNowait => "spawn_template_nowait",
            Method::SpawnTemplateTwice => "spawn_template_twice",
        }
    }

    /// Whether it takes templates.
    pub fn is_of_template(self) -> bool {
        self == Method::SpawnTemplateTwice || self.uses_the_template()
    }

    /// Whether it takes the one that [`Program::make_template`] makes.
    pub fn uses_the_template(self) -> bool {
        matches!(self, Method::SpawnTemplate | Method::SpawnTemplatePid | Method::SpawnTemplateNowait)
    }

    /// How many times it starts the program.
    pub fn starts(self) -> u32 {
        if self == Method::SpawnTemplateTwice { 2 } else { 1 }
    }
}

/// A program with the arguments and environment that every method passes to it, and a template of it where the kernel
/// has them.
pub struct Program {
    path: CString,
    /// With the path before them; at most [`MOST_ARGUMENTS`].
    arguments: Vec<CString>,
    environment: CString,
    stack: Box<ChildStack>,
    template: Option<Template>,
}

/// How many arguments a program is given, with its name.
const MOST_ARGUMENTS: usize = 3;

/// The stack a clone3 child starts on. The child here calls execve() without touching it.
#[repr(align(16))]
struct ChildStack(#[expect(dead_code, reason = "only its address is used")] [u8; 16 << 10]);

impl Program {
    /// The program at `path`, started with its path and these arguments, and a PATH as the only variable.
    pub fn new(path: &str, arguments: &[&str]) -> io::Result<Self> {
        let arguments: Vec<_> =
            [&[path], arguments].concat().into_iter().map(CString::new).collect::<Result<_, _>>()?;
        if arguments.len() > MOST_ARGUMENTS {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        Ok(Self {
            path: CString::new(path)?,
            arguments,
            environment: CString::from(c"PATH=/usr/sbin:/usr/bin:/sbin:/bin"),
            stack: Box::new(ChildStack([0; 16 << 10])),
            template: None,
        })
    }

    /// Makes the template that the methods that take one start.
    pub fn make_template(&mut self) -> Result<(), spawn_template::Error> {
        self.template = Some(self.new_template()?);
        Ok(())
    }

    fn template(&self) -> io::Result<&Template> {
        self.template.as_ref().ok_or(io::ErrorKind::Unsupported.into())
    }

    fn new_template(&self) -> Result<Template, spawn_template::Error> {
        TemplateOptions::new().mode(Mode::Template).open(OsStr::from_bytes(self.path.to_bytes()))
    }

    /// How many processes the kernel says it has started from the template, if there is one.
    pub fn template_spawns(&self) -> Result<Option<u64>, spawn_template::Error> {
        self.template.as_ref().map(|template| Ok(template.stats()?.spawns)).transpose()
    }

    /// Starts the program with `method` and waits until it is reaped. An error unless it exits with status 0.
    pub fn run(&self, method: Method) -> io::Result<()> {
        let mut argv = [ptr::null(); MOST_ARGUMENTS + 1];
        for (pointer, argument) in argv.iter_mut().zip(&self.arguments) {
            *pointer = argument.as_ptr();
        }
        let envp = [self.environment.as_ptr(), ptr::null()];
        let (argv, envp) = (argv.as_ptr(), envp.as_ptr());
        match method {
            Method::ForkExec => wait(self.fork_exec(argv, envp)?),
            Method::VforkExec => wait(self.vfork_exec(argv, envp)?),
            Method::PosixSpawn => wait(self.posix_spawn(argv, envp)?),
            Method::Clone3 => wait(self.clone3_exec(argv, envp)?),
            Method::SpawnTemplate | Method::SpawnTemplateNowait => {
                let flags = if method == Method::SpawnTemplate { 0 } else { SPAWN_TEMPLATE_SPAWN_NOWAIT };
                let mut pidfd: c_int = -1;
                Self::spawn(self.template()?, argv, envp, flags, (&raw mut pidfd) as u64)?;
                // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
                wait_and_close(unsafe { OwnedFd::from_raw_fd(pidfd) })
            }
            Method::SpawnTemplatePid => {
                wait(Self::spawn(self.template()?, argv, envp, SPAWN_TEMPLATE_SPAWN_NO_PIDFD, 0)?)
            }
            Method::SpawnTemplateTwice => {
                let template = self.new_template()?;
                for _ in 0..method.starts() {
                    wait(Self::spawn(&template, argv, envp, SPAWN_TEMPLATE_SPAWN_NO_PIDFD, 0)?)?;
                }
                Ok(())
            }
        }
    }

    fn fork_exec(&self, argv: *const *const c_char, envp: *const *const c_char) -> io::Result<libc::pid_t> {
        // SAFETY: this process has one thread, so the child may call anything.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: path and vectors are NUL and NULL terminated.
                unsafe { libc::execve(self.path.as_ptr(), argv, envp) };
                // SAFETY: ends this process without running what the parent registered for its own end.
                unsafe { libc::_exit(127) }
            }
            pid => Ok(pid),
        }
    }

    fn vfork_exec(&self, argv: *const *const c_char, envp: *const *const c_char) -> io::Result<libc::pid_t> {
        self.exec_in_child(libc::SYS_vfork, ptr::null(), argv, envp)
    }

    /// As [`Self::vfork_exec`], but with a stack for the child, as a C library does it.
    fn clone3_exec(&self, argv: *const *const c_char, envp: *const *const c_char) -> io::Result<libc::pid_t> {
        // SAFETY: clone_args is plain integers, for which zero is "not used".
        let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
        arguments.flags = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
        arguments.exit_signal = libc::SIGCHLD as u64;
        arguments.stack = (&raw const *self.stack) as u64;
        arguments.stack_size = size_of::<ChildStack>() as u64;
        self.exec_in_child(libc::SYS_clone3, &raw const arguments, argv, envp)
    }

    /// Makes vfork(), which takes no arguments, or clone3() with these, and has the child execute the program.
    ///
    /// vfork() returns twice on one stack, which no Rust function may do. So the child's whole life is inside one asm
    /// block that uses registers only: nothing the parent relies on is changed when it continues.
    fn exec_in_child(
        &self,
        call: c_long,
        arguments: *const libc::clone_args,
        argv: *const *const c_char,
        envp: *const *const c_char,
    ) -> io::Result<libc::pid_t> {
        let result: isize;
        // SAFETY: the child, which shares this memory, writes none of it: it executes the instructions up to label 2,
        // and these only make system calls. The stack that clone3() gives it is not used. The parent is suspended
        // meanwhile and sees what a system call clobbers.
        unsafe {
            asm!(
                "syscall",
                "test rax, rax",
                "jnz 2f",
                "mov rdi, r8",
                "mov rsi, r9",
                "mov eax, {execve}",
                "syscall",
                "mov edi, 127",
                "mov eax, {exit_group}",
                "syscall",
                "ud2",
                "2:",
                execve = const libc::SYS_execve,
                exit_group = const libc::SYS_exit_group,
                inlateout("rax") call as isize => result,
                in("rdi") arguments,
                in("rsi") size_of::<libc::clone_args>(),
                in("rdx") envp,
                in("r8") self.path.as_ptr(),
                in("r9") argv,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        if result < 0 { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(result as libc::pid_t) }
    }

    /// Starts a process from the template, and its pidfd is stored at `pidfd`. This is the bare system call, as the other
    /// methods are: the crate's `Command` would build the vectors anew each time.
    fn spawn(
        template: &Template,
        argv: *const *const c_char,
        envp: *const *const c_char,
        flags: u32,
        pidfd: u64,
    ) -> io::Result<libc::pid_t> {
        let arguments = spawn_template_spawn_args {
            flags: flags.into(),
            pidfd,
            argv: argv as u64,
            envp: envp as u64,
            ..Default::default()
        };
        // SAFETY: the call writes a pidfd only, and reads the structure and vectors that are NUL and NULL terminated.
        unsafe { sys::spawn_template_spawn(template.as_fd().as_raw_fd(), &arguments, size_of_val(&arguments)) }
    }

    fn posix_spawn(&self, argv: *const *const c_char, envp: *const *const c_char) -> io::Result<libc::pid_t> {
        let mut pid = 0;
        // SAFETY: path and vectors are NUL and NULL terminated; posix_spawn only reads them, whatever its type says.
        let error = unsafe {
            libc::posix_spawn(&mut pid, self.path.as_ptr(), ptr::null(), ptr::null(), argv.cast(), envp.cast())
        };
        if error == 0 { Ok(pid) } else { Err(io::Error::from_raw_os_error(error)) }
    }
}

/// Reaps the child `pid`, which must exit with status 0.
fn wait(pid: libc::pid_t) -> io::Result<()> {
    let mut status: c_int = 0;
    // SAFETY: waitpid only writes the integer passed to it.
    if unsafe { libc::waitpid(pid, &mut status, 0) } != pid {
        return Err(io::Error::last_os_error());
    }
    if status == 0 { Ok(()) } else { Err(io::Error::other(format!("the child ended with wait status {status:#x}"))) }
}

/// Reaps the child of `pidfd`, which must exit with status 0, and closes the pidfd.
fn wait_and_close(pidfd: OwnedFd) -> io::Result<()> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let id = pidfd.as_raw_fd() as libc::id_t;
    // SAFETY: waitid only writes the structure passed to it.
    if unsafe { libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), libc::WEXITED) } != 0 {
        return Err(io::Error::last_os_error());
    }
    drop(pidfd);
    // SAFETY: zero is a valid value of this structure of integers, and the kernel has written into it.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid succeeded, so the fields of a SIGCHLD are set.
    let status = unsafe { info.si_status() };
    if info.si_code == libc::CLD_EXITED && status == 0 {
        Ok(())
    } else {
        Err(io::Error::other(format!("the child ended with code {} and status {status}", info.si_code)))
    }
}
