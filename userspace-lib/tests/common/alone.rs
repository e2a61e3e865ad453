//! Tests that change the process they run in: each runs in one of its own.

#![allow(dead_code, reason = "not every test needs all of this")]

use std::env;
use std::fs;
use std::io;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

/// Names the test that a process is for.
const NAME: &str = "SPAWN_TEMPLATE_ALONE";

/// Runs `test` in a process of its own, in which fork and exec may be used. `name` is that of the calling test.
pub fn alone(name: &str, test: impl FnOnce()) {
    if env::var_os(NAME).is_some_and(|alone| alone == name) {
        return test();
    }
    assert!(
        spawn_template::is_supported() || env::var_os("SPAWN_TEMPLATE_REQUIRED").is_none(),
        "this kernel has no spawn templates"
    );
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(NAME, name)
        .env_remove("SPAWN_TEMPLATE_REQUIRED")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    eprintln!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{name}: {}", output.status);
}

/// Calls `test` in a forked process, where it must not fail.
pub fn forked(test: impl FnOnce()) {
    // SAFETY: the process has one thread that does something.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        // SAFETY: ends the process.
        unsafe { libc::_exit(if result.is_ok() { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: the status may be written to.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0, "the forked process failed");
}

/// How many descriptors this thread has.
pub fn descriptors() -> usize {
    fs::read_dir("/proc/thread-self/fd").unwrap().count()
}

/// Closes all descriptors but the standard streams, as daemons do.
pub fn close_all() {
    for fd in 3..1024 {
        // SAFETY: a plain number. What had it does not use it again.
        unsafe { libc::close(fd) };
    }
}

/// A step of a seccomp filter.
pub fn step(code: u32, yes: u8, no: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: yes, jf: no, k }
}

/// Loads the word at this offset of `struct seccomp_data`: 0 is the system call, 16 the first argument.
pub fn load(offset: u32) -> libc::sock_filter {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

/// Goes so many steps further if the word is not this.
pub fn unless(value: u32, skip: u8) -> libc::sock_filter {
    step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, value)
}

/// Goes so many steps further if none of these bits is set in the word.
pub fn unless_any(bits: u32, skip: u8) -> libc::sock_filter {
    step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, skip, bits)
}

/// Ends the filter.
pub fn answer(action: u32) -> libc::sock_filter {
    step(libc::BPF_RET | libc::BPF_K, 0, 0, action)
}

/// The answer that makes a system call fail, or succeed with 0.
pub fn errno(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

/// Installs a filter for this thread and what it starts. Returns what `seccomp(2)` returns.
pub fn filter(steps: &[libc::sock_filter], flags: libc::c_ulong) -> i32 {
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_ptr().cast_mut() };
    // SAFETY: plain numbers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program is one, for as long as the call takes.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    assert!(result >= 0, "{}", io::Error::last_os_error());
    result as i32
}

/// Installs a filter that answers these system calls with `action`.
pub fn answer_calls(calls: &[i64], action: u32) {
    let mut steps = vec![load(0)];
    for &call in calls {
        steps.extend([unless(call as u32, 1), answer(action)]);
    }
    steps.push(answer(libc::SECCOMP_RET_ALLOW));
    filter(&steps, 0);
}

/// The numbers of the two system calls, or what they would be.
pub fn calls() -> [i64; 2] {
    spawn_template::Kernel::get().map_or([473, 474], |kernel| [kernel.create, kernel.spawn])
}

/// Installs a filter that has a thread of this process asked about each execve(2), which it lets go on.
pub fn supervise_exec() {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || supervise(receiver.recv().unwrap()));
    let steps = [
        load(0),
        unless(libc::SYS_execve as u32, 1),
        answer(libc::SECCOMP_RET_USER_NOTIF),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    sender.send(filter(&steps, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)).unwrap();
}

/// Lets every system call go on that a filter asks about.
fn supervise(listener: i32) {
    loop {
        // SAFETY: structures of integers, of which zeroes are values.
        let (mut question, mut answer): (libc::seccomp_notif, libc::seccomp_notif_resp) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        // SAFETY: the structure may be written to.
        if unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut question) } != 0 {
            if io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) {
                continue;
            }
            return;
        }
        answer.id = question.id;
        answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        // SAFETY: the structure may be read and written.
        unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
    }
}
