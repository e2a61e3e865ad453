//! The process-wide template cache. One test, because its tests would see each other's templates.

#[path = "common/ways.rs"]
mod ways;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::{env, fs, process, thread};

use spawn_template::{Command, Error, InvalidInput, Mode, Reason, Via, cache};

fn run(program: impl AsRef<Path>, code: i32) {
    let mut child = Command::new(program.as_ref()).args(["-c", "exit 3"]).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(code));
    if spawn_template::is_supported() {
        assert_eq!(child.via(), Via::Template);
    } else {
        assert_eq!(child.via(), Via::ForkExec(Reason::Unsupported));
    }
}

/// A copy of a program.
fn copy(program: &str, name: &str) -> PathBuf {
    let path = env::temp_dir().join(format!("spawn-template-{}-{name}", process::id()));
    let new = path.with_extension("new");
    fs::copy(program, &new).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, &path).unwrap();
    path
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

#[test]
fn cache() {
    // With SPAWN_TEMPLATE_REQUIRED there has to be something to test.
    ways::ways();
    one_template_for_each_path();
    a_changed_program_gets_a_new_template();
    it_is_bounded();
    many_threads_share_it();
    it_survives_fork();
    it_wants_absolute_paths();
}

/// How many of so many templates the kernel has.
fn kept(templates: usize) -> usize {
    if spawn_template::is_supported() { templates } else { 0 }
}

fn one_template_for_each_path() {
    cache::clear();
    for _ in 0..3 {
        run("/bin/sh", 3);
    }
    assert_eq!(cache::len(), kept(1));
    let template = cache::template(c"/bin/sh").unwrap();
    if template.via() == Via::Template {
        assert_eq!(template.stats().unwrap().spawns, 3);
    }
    // Found through PATH it is the same file under its own path.
    run("sh", 3);
    assert!((kept(1)..=kept(2)).contains(&cache::len()));
    // What fork and exec start without is not kept.
    Command::new("/bin/true").mode(Mode::ForkExec).status().unwrap();
    assert!((kept(1)..=kept(2)).contains(&cache::len()));
    cache::clear();
    assert_eq!(cache::len(), 0);
}

fn a_changed_program_gets_a_new_template() {
    let path = copy("/bin/sh", "changing");
    run(&path, 3);
    let old = cache::template(&c(&path)).unwrap();
    // Another program at the same path.
    copy("/bin/false", "changing");
    run(&path, 1);
    assert_eq!(Command::new(&old).spawn().unwrap_err().raw_os_error(), Some(libc::ESTALE));
    // The same program, touched.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).unwrap();
    run(&path, 1);
    fs::remove_file(&path).unwrap();
    let error = Command::new(&path).spawn().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
}

fn it_is_bounded() {
    cache::clear();
    cache::set_capacity(2);
    let [first, second, third] = ["first", "second", "third"].map(|name| copy("/bin/sh", name));
    for path in [&first, &second, &first, &third] {
        run(path, 3);
    }
    assert_eq!(cache::len(), kept(2));
    if spawn_template::is_supported() {
        // The one that was not used for the longest time went.
        let spawns = |path: &Path| cache::template(&c(path)).unwrap().stats().unwrap().spawns;
        assert_eq!((spawns(&first), spawns(&third), spawns(&second)), (2, 1, 0));
    }
    cache::set_capacity(0);
    cache::clear();
    run(&first, 3);
    assert_eq!(cache::len(), 0);
    cache::set_capacity(cache::DEFAULT_CAPACITY);
    for path in [first, second, third] {
        fs::remove_file(path).unwrap();
    }
}

fn many_threads_share_it() {
    cache::clear();
    let path = copy("/bin/sh", "threads");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..20).for_each(|_| run(&path, 3)));
        }
        // Meanwhile it changes, but not so often that a spawn gives up.
        scope.spawn(|| {
            for mode in [0o700, 0o711] {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                thread::yield_now();
            }
        });
    });
    fs::remove_file(path).unwrap();
}

fn it_survives_fork() {
    // Some thread is using it nearly all the time.
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    cache::template(c"/bin/sh").unwrap();
                }
            });
        }
        for _ in 0..200 {
            // SAFETY: the C library makes its allocator usable in the child, and the cache has to do so for itself,
            // which is what this is about.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let good = cache::template(c"/bin/sh").is_ok() && cache::len() <= 3;
                // SAFETY: ends the child.
                unsafe { libc::_exit(if good { 0 } else { 1 }) };
            }
            let mut status = 0;
            // SAFETY: writes the local.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            assert_eq!(status, 0);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

fn it_wants_absolute_paths() {
    for path in [c"", c"sh", c"./sh"] {
        assert!(matches!(cache::template(path), Err(Error::Input(InvalidInput::RelativePath))));
    }
}
