//! Programs that do what the library does not expect, and filters that answer what the kernel would not: everything comes
//! out as with the C library alone, with which each test runs as well.

#![allow(clippy::multiple_unsafe_ops_per_block, reason = "calls of the C library in a row")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::{env, ptr, thread};

use alone::{answer_calls, calls, close_all, descriptors, errno, forked};
use common::{folder, library, number};

#[path = "../../tests/common/alone.rs"]
mod alone;
mod common;

/// Names the test that a process is for.
const NAME: &str = "SPAWN_TEMPLATE_HOSTILE";

/// Runs `test` in two processes of its own, without and with the library. Returns what the library counted.
fn both_ways(name: &str, test: impl FnOnce()) -> Option<String> {
    if env::var_os(NAME).is_some_and(|alone| alone == name) {
        test();
        return None;
    }
    let base = folder(name);
    let stats = base.join("stats");
    for with in [false, true] {
        let mut command = std::process::Command::new(env::current_exe().expect("the test has a path"));
        command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(NAME, name);
        if with {
            command.env("LD_PRELOAD", library()).env("SPAWN_TEMPLATE_STATS", &stats);
        }
        let output = command.output().expect("the test starts");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        eprintln!("with the library: {with}\n{text}");
        assert!(output.status.success() && text.contains("1 passed"), "{name}, library {with}: {}", output.status);
    }
    let stats = fs::read_to_string(stats).unwrap_or_default();
    eprintln!("{stats}");
    stats.lines().last().map(str::to_owned)
}

/// Checks what the library counted, where there are templates.
fn assert_counted(stats: Option<String>, what: &str) {
    if let Some(line) = stats {
        let what = if spawn_template::is_supported() { what } else { "unsupported" };
        assert!(number(&line, what) > 0, "{what}: {line}");
    }
}

/// File actions, and the rest of a call.
struct Call {
    program: CString,
    search: bool,
    args: Vec<CString>,
    opens: Vec<(c_int, CString, c_int)>,
    attr: Option<libc::posix_spawnattr_t>,
}

fn c(path: impl AsRef<Path>) -> CString {
    CString::new(path.as_ref().as_os_str().as_bytes()).expect("no NUL")
}

fn call(program: impl AsRef<Path>) -> Call {
    let program = c(program);
    Call { args: vec![program.clone()], program, search: false, opens: Vec::new(), attr: None }
}

impl Call {
    fn search(mut self) -> Self {
        self.search = true;
        self
    }

    fn arg(mut self, arg: &str) -> Self {
        self.args.push(c(arg));
        self
    }

    fn open(mut self, fd: c_int, path: impl AsRef<Path>, flags: c_int) -> Self {
        self.opens.push((fd, c(path), flags));
        self
    }

    /// The exit code, or the errno.
    fn run(&self) -> Result<c_int, c_int> {
        let mut actions = MaybeUninit::<libc::posix_spawn_file_actions_t>::zeroed();
        let mut argv: Vec<*mut c_char> = self.args.iter().map(|arg| arg.as_ptr().cast_mut()).collect();
        argv.push(ptr::null_mut());
        let mut pid = 0;
        let attr = self.attr.as_ref().map_or(ptr::null(), ptr::from_ref);
        let spawn = if self.search { libc::posix_spawnp } else { libc::posix_spawn };
        unsafe extern "C" {
            static environ: *const *mut c_char;
        }
        // SAFETY: everything is what the manual page says; no other thread changes the environment.
        unsafe {
            assert_eq!(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()), 0);
            for (fd, path, flags) in &self.opens {
                let added =
                    libc::posix_spawn_file_actions_addopen(actions.as_mut_ptr(), *fd, path.as_ptr(), *flags, 0o600);
                assert_eq!(added, 0);
            }
            let error = spawn(&mut pid, self.program.as_ptr(), actions.as_ptr(), attr, argv.as_ptr(), environ);
            libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr());
            if error != 0 {
                return Err(error);
            }
            assert!(pid > 0, "the process id is {pid}");
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
            assert!(libc::WIFEXITED(status), "{status:#x}");
            Ok(libc::WEXITSTATUS(status))
        }
    }
}

/// Both programs, with other names for what is kept of them.
fn true_and_false() {
    assert_eq!(call("/bin/true").run(), Ok(0));
    assert_eq!(call("/bin/false").run(), Ok(1));
    assert_eq!(call("/bin/true").run(), Ok(0));
}

#[test]
fn a_daemon_that_closes_all_descriptors() {
    let stats = both_ways("a_daemon_that_closes_all_descriptors", || {
        assert_eq!(call("/bin/true").run(), Ok(0));
        let work = || {
            close_all();
            assert_eq!(call("/bin/false").run(), Ok(1));
            true_and_false();
            close_all();
            let logs: Vec<_> = (0..120).map(|_| File::open("/dev/null").expect("a descriptor")).collect();
            true_and_false();
            // So many programs that others have to go.
            let base = folder("links");
            for index in 0..70 {
                let link = base.join(index.to_string());
                symlink("/bin/false", &link).expect("a link");
                assert_eq!(call(&link).run(), Ok(1));
            }
            assert!(logs.iter().all(|log| log.metadata().is_ok()));
            true_and_false();
        };
        forked(work);
        work();
    });
    assert_counted(stats, "templates");
}

#[test]
fn a_thread_with_descriptors_of_its_own() {
    let stats = both_ways("a_thread_with_descriptors_of_its_own", || {
        assert_eq!(call("/bin/true").run(), Ok(0));
        let before = descriptors();
        let work = || {
            // SAFETY: a plain number.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
            true_and_false();
            close_all();
            let mine: Vec<_> = (0..120).map(|_| File::open("/dev/null").expect("a descriptor")).collect();
            let before = descriptors();
            assert_eq!(call("/bin/false").run(), Ok(1));
            true_and_false();
            assert_eq!(descriptors(), before, "a thread that has its own table keeps nothing");
            assert!(mine.iter().all(|file| file.metadata().is_ok()));
            drop(mine);
            assert_eq!(call("/bin/false").run(), Ok(1));
            true_and_false();
        };
        for _ in 0..3 {
            thread::spawn(work).join().expect("the thread ends");
            assert_eq!(call("/bin/false").run(), Ok(1));
            true_and_false();
        }
        assert!(descriptors() <= before + 1, "the main thread has {} descriptors, not {before}", descriptors());
    });
    assert_counted(stats, "templates");
}

#[test]
fn the_child_of_a_vfork() {
    let stats = both_ways("the_child_of_a_vfork", || {
        extern "C" fn child(_: *mut libc::c_void) -> c_int {
            close_all();
            let good = call("/bin/false").run() == Ok(1) && call("/bin/true").run() == Ok(0);
            if good { 0 } else { 1 }
        }
        assert_eq!(call("/bin/true").run(), Ok(0));
        assert_eq!(call("/bin/sh").arg("-c").arg("exit 3").run(), Ok(3));
        let before = descriptors();
        let mut stack = vec![0_u128; 64 << 10];
        for _ in 0..4 {
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
            // SAFETY: the stack is large enough, and this thread waits until the child has ended.
            let pid = unsafe { libc::clone(child, stack.as_mut_ptr_range().end.cast(), flags, ptr::null_mut()) };
            assert!(pid > 0);
            let mut status = 0;
            // SAFETY: the status may be written to.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            assert_eq!(status, 0);
            assert_eq!(call("/bin/true").run(), Ok(0));
        }
        assert_eq!(descriptors(), before);
        true_and_false();
    });
    assert_counted(stats, "templates");
}

#[test]
fn whatever_is_answered_in_place_of_the_calls() {
    let stats = both_ways("whatever_is_answered_in_place_of_the_calls", || {
        let [create, spawn] = calls();
        let errors = [
            libc::ENOSYS,
            libc::EPERM,
            libc::EINVAL,
            libc::EBADF,
            libc::EFAULT,
            libc::EACCES,
            libc::ENOENT,
            libc::EOPNOTSUPP,
            0,
        ];
        for answer in errors {
            for numbers in [&[create, spawn][..], &[create], &[spawn]] {
                eprintln!("{answer} for {numbers:?}");
                forked(|| {
                    assert_eq!(call("/bin/true").run(), Ok(0));
                    let input = fs::metadata("/proc/self/fd/0").expect("standard input").ino();
                    answer_calls(numbers, errno(answer));
                    true_and_false();
                    assert_eq!(call("false").search().run(), Ok(1));
                    assert_eq!(call("no-such-program").search().run(), Err(libc::ENOENT));
                    assert_eq!(fs::metadata("/proc/self/fd/0").expect("standard input").ino(), input);
                });
            }
        }
        answer_calls(&[create, spawn], errno(libc::EACCES));
        true_and_false();
    });
    assert_counted(stats, "unsupported");
}

#[test]
fn no_call_without_the_file() {
    both_ways("no_call_without_the_file", || {
        if spawn_template::is_supported() {
            eprintln!("skipped: this kernel has the file");
            return;
        }
        answer_calls(&[473, 474], libc::SECCOMP_RET_KILL_PROCESS);
        true_and_false();
        assert_eq!(call("false").search().run(), Ok(1));
    });
}

#[test]
fn a_supervisor_that_decides_about_exec() {
    let stats = both_ways("a_supervisor_that_decides_about_exec", || {
        alone::supervise_exec();
        true_and_false();
        // The file is made once.
        let file = folder("supervised").join("file");
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        let made = call("/bin/true").open(5, &file, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL).run();
        assert_eq!(made, Ok(0));
        fs::remove_dir_all(file.parent().expect("a folder")).expect("removed");
    });
    assert_counted(stats, "seccomp");
}

#[test]
fn files_are_opened_once_and_then_the_search_goes_on() {
    let stats = both_ways("files_are_opened_once_and_then_the_search_goes_on", || {
        let base = folder("path");
        let [one, two] = ["one", "two"].map(|name| base.join(name));
        fs::create_dir(&one).expect("a folder");
        fs::create_dir(&two).expect("a folder");
        let program = fs::read("/bin/true").expect("a program");
        let interpreter = b"/lib64/ld-linux-x86-64.so.2";
        let at = program.windows(interpreter.len()).position(|bytes| bytes == interpreter).expect("it is dynamic");
        let mut other = program.clone();
        other[at..][..interpreter.len()].copy_from_slice(b"/lib64/ld-musl-x86_64.so.11");
        let put = |path: &Path, bytes: &[u8]| {
            fs::write(path, bytes).expect("a file");
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions");
        };
        put(&two.join("prog"), &program);
        put(&one.join("prog"), &other);
        // SAFETY: the process has one thread that does something.
        unsafe { env::set_var("PATH", env::join_paths([&one, &two]).expect("a path")) };
        let made = base.join("made");
        for flags in [libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, libc::O_WRONLY | libc::O_CREAT] {
            for _ in 0..2 {
                assert_eq!(call("prog").search().open(5, &made, flags).run(), Ok(0));
                assert_eq!(call("prog").search().run(), Ok(0));
                fs::remove_file(&made).expect("it was made");
            }
        }
    });
    assert_counted(stats, "search");
}

#[test]
fn relative_names_are_relative_to_the_directory() {
    let stats = both_ways("relative_names_are_relative_to_the_directory", || {
        let base = folder("relative");
        let name = "d".repeat(200);
        env::set_current_dir(&*base).expect("a folder");
        for depth in 1..=24 {
            fs::create_dir(&name).expect("a folder");
            env::set_current_dir(&name).expect("a folder");
            if depth % 8 == 0 {
                fs::copy("/bin/true", "prog").expect("a program");
                assert_eq!(call("./prog").run(), Ok(0), "at {depth}");
                assert_eq!(call("prog").run(), Ok(0), "at {depth}");
            }
        }
        env::set_current_dir(&*base).expect("a folder");
        // SAFETY: has no arguments.
        if unsafe { libc::getuid() } == 0 {
            fs::create_dir("work").expect("a folder");
            fs::copy("/bin/true", "work/prog").expect("a program");
            env::set_current_dir("work").expect("a folder");
            fs::set_permissions(&*base, fs::Permissions::from_mode(0o700)).expect("permissions");
            forked(|| {
                // SAFETY: plain numbers.
                unsafe { assert_eq!((libc::setgid(1234), libc::setuid(1234)), (0, 0)) };
                assert_eq!(call("./prog").run(), Ok(0));
            });
        }
        env::set_current_dir("/").expect("a folder");
    });
    assert_counted(stats, "relative-path");
}

#[test]
fn templates_give_way_when_descriptors_run_out() {
    both_ways("templates_give_way_when_descriptors_run_out", || {
        // SAFETY: a C string.
        let pidfd_spawn = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"pidfd_spawn".as_ptr()) };
        if pidfd_spawn.is_null() || !spawn_template::is_supported() {
            eprintln!("skipped: no pidfd_spawn");
            return;
        }
        type Spawn = unsafe extern "C" fn(
            *mut c_int,
            *const c_char,
            *const libc::posix_spawn_file_actions_t,
            *const libc::posix_spawnattr_t,
            *const *mut c_char,
            *const *mut c_char,
        ) -> c_int;
        // SAFETY: that is its type.
        let pidfd_spawn = unsafe { std::mem::transmute::<*mut libc::c_void, Spawn>(pidfd_spawn) };
        let limit = libc::rlimit { rlim_cur: 160, rlim_max: 160 };
        // SAFETY: the structure is one.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        true_and_false();
        let mut files = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            files.push(file);
        }
        files.pop();
        let start = |program: &CStr| {
            let argv = [program.as_ptr().cast_mut(), ptr::null_mut()];
            let mut pidfd = -1;
            // SAFETY: everything is what the manual page says.
            let error = unsafe {
                pidfd_spawn(&mut pidfd, program.as_ptr(), ptr::null(), ptr::null(), argv.as_ptr(), argv[1..].as_ptr())
            };
            if error == 0 {
                let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
                // SAFETY: the structure may be written to, and the descriptor is ours.
                unsafe {
                    assert_eq!(libc::waitid(libc::P_PIDFD, pidfd as u32, info.as_mut_ptr(), libc::WEXITED), 0);
                    libc::close(pidfd);
                }
            }
            error
        };
        assert_eq!(start(c"/bin/sh"), 0);
        assert_eq!(start(c"/bin/true"), 0);
        assert!(files.iter().all(|file| file.metadata().is_ok() && file.as_raw_fd() < 160));
    });
}

#[test]
fn priorities_that_children_do_not_get() {
    both_ways("priorities_that_children_do_not_get", || {
        let parameter = libc::sched_param { sched_priority: 0 };
        let reset = libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK;
        // SAFETY: plain numbers, and a structure.
        let done = unsafe {
            libc::setpriority(libc::PRIO_PROCESS, 0, -4) == 0 && libc::sched_setscheduler(0, reset, &parameter) == 0
        };
        if !done {
            eprintln!("skipped: not permitted");
            return;
        }
        for flag in [libc::POSIX_SPAWN_SETSCHEDULER, libc::POSIX_SPAWN_SETSCHEDPARAM] {
            let mut attr = MaybeUninit::<libc::posix_spawnattr_t>::zeroed();
            // SAFETY: a record, which the first call initialises.
            let attr = unsafe {
                assert_eq!(libc::posix_spawnattr_init(attr.as_mut_ptr()), 0);
                assert_eq!(libc::posix_spawnattr_setflags(attr.as_mut_ptr(), flag as libc::c_short), 0);
                assert_eq!(libc::posix_spawnattr_setschedpolicy(attr.as_mut_ptr(), libc::SCHED_OTHER), 0);
                assert_eq!(libc::posix_spawnattr_setschedparam(attr.as_mut_ptr(), &parameter), 0);
                attr.assume_init()
            };
            let mut call = call("/bin/sh").arg("-c").arg("exit $(cut -d' ' -f19 /proc/self/stat)");
            call.attr = Some(attr);
            assert_eq!(call.run(), Ok(0));
        }
    });
}

#[test]
fn the_program_of_this_process() {
    both_ways("the_program_of_this_process", || {
        for program in ["/proc/self/exe", "/proc/thread-self/exe"] {
            for _ in 0..2 {
                assert_eq!(call(program).arg("--list").open(1, "/dev/null", libc::O_WRONLY).run(), Ok(0));
            }
        }
        let script =
            format!("test \"$(readlink /proc/self/fd/9)\" = {}", env::current_exe().expect("a path").display());
        let read = call("/bin/sh").arg("-c").arg(&script).open(9, "/proc/self/exe", libc::O_RDONLY).run();
        assert_eq!(read, Ok(0));
    });
}

#[test]
fn an_open_of_a_directory_without_a_name() {
    both_ways("an_open_of_a_directory_without_a_name", || {
        const O_EMPTYPATH: c_int = 1 << 26;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | O_EMPTYPATH;
        // SAFETY: a C string and a plain number.
        let fd = unsafe { libc::open(c"".as_ptr(), flags) };
        let expected = if fd < 0 { Err(libc::ENOENT) } else { Ok(0) };
        // SAFETY: the descriptor was just made, if there is one.
        unsafe { libc::close(fd) };
        assert_eq!(call("/bin/true").open(9, "", flags).run(), expected);
    });
}
