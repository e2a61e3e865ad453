//! Programs that do what a library does not expect, and kernels, filters and emulators that answer what they should not:
//! the program asked for starts, and no descriptor but the library's own is touched.

#![allow(clippy::multiple_unsafe_ops_per_block, reason = "calls of the C library in a row")]

#[path = "common/alone.rs"]
mod alone;

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::{env, process, thread};

use alone::{alone, answer_calls, calls, close_all, descriptors, errno, forked};
use spawn_template::{Command, Mode, Open, Reason, Template, Via, cache};

/// The exit code of a program.
fn code(program: impl AsRef<Path>) -> Option<i32> {
    let mut child = Command::new(program.as_ref()).spawn().unwrap();
    child.wait().unwrap().code()
}

fn via(program: &str) -> Via {
    let mut child = Command::new(program).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(if program.ends_with("false") { 1 } else { 0 }), "{program}");
    child.via()
}

/// What this kernel does without a fallback.
fn usual() -> Via {
    if spawn_template::is_supported() { Via::Template } else { Via::ForkExec(Reason::Unsupported) }
}

/// Both programs, with other names for what is kept of them.
fn both() {
    assert_eq!(code("/bin/true"), Some(0));
    assert_eq!(code("/bin/false"), Some(1));
    assert_eq!(code("/bin/true"), Some(0));
}

/// A folder for files of a test.
fn folder(name: &str) -> PathBuf {
    let folder = env::temp_dir().join(format!("spawn-template-{}-{name}", process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A file that must not be there yet.
fn new_file(path: impl AsRef<Path>) -> Open<'static> {
    Open::with_flags(path, libc::O_WRONLY | libc::O_EXCL).create(0o600)
}

/// An executable file, written by another process, so that no other thread's child has it open for writing.
fn put(path: &Path, bytes: &[u8], mode: u32) {
    let _ = fs::remove_file(path);
    let new = path.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
    fs::rename(&new, path).unwrap();
}

#[test]
fn a_daemon_that_closes_all_descriptors() {
    alone("a_daemon_that_closes_all_descriptors", || {
        assert_eq!(code("/bin/true"), Some(0));
        forked(|| {
            close_all();
            // Gets the number that /bin/true had.
            assert_eq!(code("/bin/false"), Some(1));
            both();
        });
        forked(|| {
            close_all();
            let log = File::open("/dev/null").unwrap();
            both();
            cache::clear();
            assert!(log.metadata().unwrap().rdev() == fs::metadata("/dev/null").unwrap().rdev());
        });
        // Without a fork.
        close_all();
        assert_eq!(code("/bin/false"), Some(1));
        both();
        assert_eq!(usual(), via("/bin/true"));
    });
}

#[test]
fn a_template_whose_number_is_something_else() {
    alone("a_template_whose_number_is_something_else", || {
        let template = Template::open("/bin/true").unwrap();
        let number = template.as_fd().as_raw_fd();
        close_all();
        assert!(Command::new(&template).status().is_err());
        // Another template, which this one does not own.
        let others: Vec<_> = (0..8).map(|_| Template::open("/bin/false").unwrap()).collect();
        let other = others.iter().find(|other| other.as_fd().as_raw_fd() == number).expect("the number is used again");
        let error = Command::new(&template).status().unwrap_err();
        let expected = if usual() == Via::Template { libc::EBADF } else { libc::ESTALE };
        assert_eq!(error.raw_os_error(), Some(expected), "{error}");
        drop(template);
        assert_eq!(Command::new(other).status().unwrap().code(), Some(1));
    });
}

#[test]
fn a_thread_with_descriptors_of_its_own() {
    alone("a_thread_with_descriptors_of_its_own", || {
        both();
        cache::clear();
        assert_eq!(code("/bin/true"), Some(0));
        let before = descriptors();
        let work = || {
            // SAFETY: a plain number.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
            both();
            close_all();
            let mine: Vec<_> = (0..8).map(|_| File::open("/dev/null").unwrap()).collect();
            let before = descriptors();
            for _ in 0..4 {
                both();
            }
            assert_eq!(descriptors(), before, "a thread that has its own table keeps nothing");
            cache::clear();
            assert!(mine.iter().all(|file| file.metadata().is_ok()));
        };
        for _ in 0..3 {
            thread::spawn(work).join().unwrap();
            both();
        }
        assert!(descriptors() <= before + 1, "the main thread has {} descriptors, not {before}", descriptors());
    });
}

#[test]
fn the_child_of_a_vfork() {
    alone("the_child_of_a_vfork", || {
        extern "C" fn child(_: *mut libc::c_void) -> libc::c_int {
            close_all();
            let _log = File::open("/dev/null");
            let run = |program: &str| Command::new(program).status().ok().and_then(|status| status.code());
            let good = run("/bin/false") == Some(1) && run("/bin/true") == Some(0) && run("/bin/false") == Some(1);
            if good { 0 } else { 1 }
        }
        assert_eq!(code("/bin/true"), Some(0));
        let before = descriptors();
        let mut stack = vec![0_u128; 64 << 10];
        for _ in 0..4 {
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
            // SAFETY: the stack is large enough, and this thread waits until the child has ended.
            let pid = unsafe { libc::clone(child, stack.as_mut_ptr_range().end.cast(), flags, std::ptr::null_mut()) };
            assert!(pid > 0);
            let mut status = 0;
            // SAFETY: the status may be written to.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            assert_eq!(status, 0);
            assert_eq!(usual(), via("/bin/true"));
        }
        assert_eq!(descriptors(), before);
    });
}

/// What a filter could answer in the place of the kernel.
const ANSWERS: [i32; 9] = [
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

#[test]
fn whatever_is_answered_in_place_of_the_calls() {
    alone("whatever_is_answered_in_place_of_the_calls", || {
        let [create, spawn] = calls();
        for answer in ANSWERS {
            for numbers in [&[create, spawn][..], &[create], &[spawn]] {
                eprintln!("{answer} for {numbers:?}");
                forked(|| {
                    let held = Template::open("/bin/false").unwrap();
                    assert_eq!(usual(), via("/bin/true"));
                    let input = fs::metadata("/proc/self/fd/0").unwrap().ino();
                    answer_calls(numbers, errno(answer));
                    // Kept from before, and new, by path and by name.
                    if numbers.contains(&spawn) {
                        assert_eq!(via("/bin/true"), Via::ForkExec(Reason::Unsupported));
                    }
                    assert_eq!(via("/bin/false"), Via::ForkExec(Reason::Unsupported));
                    assert_eq!(via("true"), Via::ForkExec(Reason::Unsupported));
                    let error = Command::new("no-such-program").spawn().unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
                    let template = Template::open("/bin/true").unwrap();
                    assert_eq!(Command::new(&template).status().unwrap().code(), Some(0));
                    assert_eq!(Command::new(&held).status().unwrap().code(), Some(1));
                    drop((template, held));
                    cache::clear();
                    assert_eq!(fs::metadata("/proc/self/fd/0").unwrap().ino(), input);
                });
            }
        }
    });
}

#[test]
fn no_call_without_the_file() {
    alone("no_call_without_the_file", || {
        if spawn_template::is_supported() {
            // As if it were another kernel: the file is gone when this process looks for the first time.
            eprintln!("skipped: this kernel has the file");
            return;
        }
        answer_calls(&[473, 474], libc::SECCOMP_RET_KILL_PROCESS);
        both();
        assert_eq!(code("true"), Some(0));
        assert!(Command::new("/bin/true").mode(Mode::Template).spawn().unwrap_err().is_unsupported());
        assert_eq!(Template::open("/bin/true").unwrap().via(), Via::ForkExec(Reason::Unsupported));
    });
}

#[test]
fn a_filter_that_is_installed_later() {
    alone("a_filter_that_is_installed_later", || {
        assert_eq!(usual(), via("/bin/true"));
        answer_calls(&[473, 474], errno(libc::EPERM));
        for program in ["/bin/true", "/bin/false", "true"] {
            assert_eq!(via(program), Via::ForkExec(Reason::Unsupported));
        }
    });
}

#[test]
fn a_supervisor_that_decides_about_exec() {
    alone("a_supervisor_that_decides_about_exec", || {
        assert_eq!(usual(), via("/bin/true"));
        alone::supervise_exec();
        let expected = if spawn_template::is_supported() { Reason::Seccomp } else { Reason::Unsupported };
        for program in ["/bin/true", "/bin/false", "true"] {
            assert_eq!(via(program), Via::ForkExec(expected));
        }
        // The file is made once.
        let folder = folder("supervised");
        let mut command = Command::new("/bin/true");
        command.open(new_file(folder.join("file")), 5);
        assert_eq!(command.status().unwrap().code(), Some(0));
        fs::remove_dir_all(&folder).unwrap();
    });
}

#[test]
fn the_search_in_path_goes_on() {
    alone("the_search_in_path_goes_on", || {
        let folder = folder("path");
        let [one, two] = ["one", "two"].map(|name| folder.join(name));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&two).unwrap();
        fs::copy("/bin/true", two.join("prog")).unwrap();
        let path = format!("{}:{}", one.display(), two.display());
        let interpreter = b"/lib64/ld-linux-x86-64.so.2";
        let program = fs::read("/bin/true").unwrap();
        let mut other = program.clone();
        let at = program.windows(interpreter.len()).position(|bytes| bytes == interpreter).unwrap();
        other[at..][..interpreter.len()].copy_from_slice(b"/lib64/ld-musl-x86_64.so.11");
        let files: [(&str, &[u8], u32); 5] = [
            ("a program for another C library", &other, 0o755),
            ("a script without its interpreter", b"#!/usr/local/bin/nothing\n", 0o755),
            ("a script whose interpreter is a folder", b"#!/tmp\n", 0o755),
            ("a program that may not be executed", &program, 0o644),
            ("an empty file that may not be executed", b"", 0o644),
        ];
        for (what, bytes, mode) in files {
            eprintln!("{what}");
            put(&one.join("prog"), bytes, mode);
            let expected = process::Command::new("prog").env("PATH", &path).status().unwrap();
            assert_eq!(expected.code(), Some(0));
            for round in 0..2 {
                let mut command = Command::new("prog");
                command.env("PATH", &path);
                assert_eq!(command.status().unwrap().code(), Some(0), "{what}, round {round}");
                // What the child opens it opens once.
                let made = folder.join("made");
                command.open(new_file(&made), 5);
                assert_eq!(command.status().unwrap().code(), Some(0), "{what}, with a new file");
                fs::remove_file(made).unwrap();
            }
        }
        // None at all: "permission denied" counts more than "not found".
        fs::remove_file(two.join("prog")).unwrap();
        let mut command = Command::new("prog");
        let error = command.env("PATH", &path).spawn().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
        fs::remove_dir_all(&folder).unwrap();
    });
}

#[test]
fn a_directory_deeper_than_any_path() {
    alone("a_directory_deeper_than_any_path", || {
        let folder = folder("deep");
        let name = "d".repeat(200);
        env::set_current_dir(&folder).unwrap();
        for depth in 1..=24 {
            fs::create_dir(&name).unwrap();
            env::set_current_dir(&name).unwrap();
            if depth % 8 == 0 {
                fs::copy("/bin/true", "prog").unwrap();
                assert_eq!(code("./prog"), Some(0), "at {depth}");
                let mut command = Command::new("prog");
                assert_eq!(command.env("PATH", ".").status().unwrap().code(), Some(0), "at {depth}");
            }
        }
        env::set_current_dir("/").unwrap();
        fs::remove_dir_all(&folder).unwrap();
    });
}

#[test]
fn a_directory_out_of_reach() {
    alone("a_directory_out_of_reach", || {
        // SAFETY: has no arguments.
        if unsafe { libc::getuid() } != 0 {
            eprintln!("skipped: not root");
            return;
        }
        let folder = folder("barred");
        let work = folder.join("work");
        fs::create_dir(&work).unwrap();
        fs::copy("/bin/true", work.join("prog")).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        env::set_current_dir(&work).unwrap();
        forked(|| {
            // SAFETY: plain numbers.
            unsafe { assert_eq!((libc::setgid(1234), libc::setuid(1234)), (0, 0)) };
            assert_eq!(code("./prog"), Some(0));
            assert_eq!(Command::new("prog").env("PATH", ".:/bin").status().unwrap().code(), Some(0));
        });
        env::set_current_dir("/").unwrap();
        fs::remove_dir_all(&folder).unwrap();
    });
}

#[test]
fn a_root_without_proc() {
    alone("a_root_without_proc", || {
        assert_eq!(usual(), via("/bin/true"));
        let folder = folder("root");
        fs::copy("/bin/true", folder.join("prog")).unwrap();
        forked(|| {
            // SAFETY: a C string.
            if unsafe { libc::chroot(CString::new(folder.to_str().unwrap()).unwrap().as_ptr()) } != 0 {
                eprintln!("skipped: not permitted");
                return;
            }
            // SAFETY: a plain number.
            let open = || (0..256).filter(|&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0).count();
            let before = open();
            for _ in 0..3 {
                assert_eq!(Template::open("/prog").unwrap().via(), Via::ForkExec(Reason::Unsupported));
            }
            assert_eq!(open(), before);
            // Its dynamic linker is not there.
            let error = Command::new("/prog").spawn().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
            assert_eq!(open(), before);
            cache::clear();
        });
        fs::remove_dir_all(&folder).unwrap();
    });
}

#[test]
fn an_emulator_without_pidfds_from_clone() {
    alone("an_emulator_without_pidfds_from_clone", || {
        // As qemu-user, which has fork and threads, and makes one of the two of each clone.
        let refused = (libc::CLONE_PIDFD | libc::CLONE_VM) as u32;
        let steps = [
            alone::load(0),
            alone::unless(libc::SYS_openat2 as u32, 1),
            alone::answer(errno(libc::ENOSYS)),
            alone::unless(libc::SYS_clone3 as u32, 1),
            alone::answer(errno(libc::ENOSYS)),
            alone::unless(libc::SYS_clone as u32, 3),
            alone::load(16),
            alone::unless_any(refused, 1),
            alone::answer(errno(libc::EINVAL)),
            alone::answer(libc::SECCOMP_RET_ALLOW),
        ];
        alone::filter(&steps, 0);
        for mode in [Mode::ForkExec, Mode::Auto] {
            let run = |program: &str| {
                let mut command = Command::new(program);
                command.mode(mode).args(["-c", "exit 3"]);
                command
            };
            assert_eq!(run("/bin/sh").status().unwrap().code(), Some(3));
            assert_eq!(run("/bin/true").output().unwrap().status.code(), Some(0));
            let error = run("/no/such/program").spawn().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
            // The pipe that tells of exec stays open whatever is closed.
            let error = run("/no/such/program").close_range(3, None).spawn().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
            let mut command = run("/bin/sh");
            command.kill_on_drop(true);
            let mut child = command.spawn().unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(3));
        }
        let mut child = Command::new("/bin/sh").mode(Mode::ForkExec).args(["-c", "kill -9 $$"]).spawn().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    });
}

#[test]
fn one_descriptor_is_left() {
    alone("one_descriptor_is_left", || {
        for program in ["/bin/sh", "/bin/true"] {
            assert_eq!(Command::new(program).args(["-c", "exit 0"]).status().unwrap().code(), Some(0));
        }
        let limit = libc::rlimit { rlim_cur: 40, rlim_max: 40 };
        // SAFETY: the structure is one.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        // One is left, and the templates that are kept.
        let mut files = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            files.push(file);
        }
        files.pop();
        for _ in 0..2 {
            assert_eq!(code("/bin/false"), Some(1));
            assert_eq!(code("/bin/true"), Some(0));
        }
    });
}

#[test]
fn priorities_that_children_do_not_get() {
    alone("priorities_that_children_do_not_get", || {
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
        for mode in [Mode::ForkExec, Mode::Auto] {
            let mut command = Command::new("/bin/sh");
            command.mode(mode).args(["-c", "exit $(cut -d' ' -f19 /proc/self/stat)"]);
            command.scheduler(spawn_template::Scheduler::Other);
            assert_eq!(command.status().unwrap().code(), Some(0), "{mode:?}");
        }
    });
}

#[test]
fn the_program_of_this_process() {
    alone("the_program_of_this_process", || {
        for program in ["/proc/self/exe", "/proc/thread-self/exe"] {
            for _ in 0..2 {
                let output = Command::new(program).arg("--list").output().unwrap();
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(text.contains("the_program_of_this_process: test"), "{program}: {text}");
            }
        }
        let exe = CString::new("/proc/self/exe").unwrap();
        assert!(cache::template(&exe).is_ok());
    });
}

/// How many templates this process has open.
fn templates() -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link.to_string_lossy().contains("spawn_template")).count()
}

#[test]
fn a_server_that_changes_its_user() {
    alone("a_server_that_changes_its_user", || {
        // SAFETY: has no arguments.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: only root may");
            return;
        }
        for user in 1000..1010 {
            // SAFETY: plain numbers.
            assert_eq!(unsafe { (libc::seteuid(0), libc::seteuid(user)) }, (0, 0));
            via("/bin/true");
            assert!(templates() <= spawn_template::cache::len(), "templates of former users stay open");
        }
    });
}

#[test]
fn a_filter_that_kills_for_a_spawn() {
    alone("a_filter_that_kills_for_a_spawn", || {
        let template = Template::open("/bin/true").unwrap();
        via("/bin/true");
        answer_calls(&alone::calls(), libc::SECCOMP_RET_KILL_PROCESS);
        drop(template);
        spawn_template::cache::clear();
        assert_eq!(templates(), 0);
    });
}
