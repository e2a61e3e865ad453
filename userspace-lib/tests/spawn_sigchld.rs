//! What the parent of a child notices, by itself in a process, because it is about all of its children.

#[path = "common/ways.rs"]
mod ways;

use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};

use ways::{each_way, shell};

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: c_int) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
}

fn wait_for_any(options: c_int) -> (i32, Option<i32>) {
    // SAFETY: nothing is written.
    let pid = unsafe { libc::waitpid(-1, std::ptr::null_mut(), options) };
    (pid, std::io::Error::last_os_error().raw_os_error())
}

#[test]
fn only_a_child_that_runs_is_noticed() {
    let handler: extern "C" fn(c_int) = count;
    // SAFETY: the handler only counts.
    assert_ne!(unsafe { libc::signal(libc::SIGCHLD, handler as libc::sighandler_t) }, libc::SIG_ERR);
    each_way(|mode| {
        SIGNALS.store(0, Ordering::SeqCst);
        // One that fails leaves no zombie, and no signal.
        let mut failing = shell(mode, "true");
        failing.current_dir("/does/not/exist");
        for _ in 0..20 {
            assert_eq!(failing.spawn().unwrap_err().raw_os_error(), Some(libc::ENOENT));
        }
        assert_eq!(wait_for_any(libc::__WALL), (-1, Some(libc::ECHILD)));
        assert_eq!(SIGNALS.load(Ordering::SeqCst), 0);
        // One that starts is an ordinary child, which a plain wait() finds.
        let child = shell(mode, "true").spawn().unwrap();
        while SIGNALS.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(wait_for_any(0).0 as u32, child.id());
        assert_eq!(SIGNALS.load(Ordering::SeqCst), 1);
    });
}
