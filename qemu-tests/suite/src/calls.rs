//! The actions and the system calls they stand for, made by a child of fork: what the two are compared by.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;

use crate::os;
use crate::template::{Act, Open, Sched};

/// An action, and how a child of fork does the same.
pub struct Pair {
    /// Its name.
    pub what: &'static str,
    /// The action.
    pub act: Act,
    /// The system calls, in order, with arguments.
    pub calls: Vec<(libc::c_long, [u64; 6])>,
}

impl Pair {
    /// Makes the calls, in a process of its own.
    pub fn make(&self) {
        for &(number, [a, b, c, d, e, f]) in &self.calls {
            // SAFETY: the pointers among the arguments are to memory of `Pairs` in this process.
            unsafe { libc::syscall(number, a, b, c, d, e, f) };
        }
    }
}

/// All pairs, and the memory behind the calls.
pub struct Pairs {
    /// The pairs.
    pub list: Vec<Pair>,
    _folder: File,
    _strings: Box<[CString]>,
    _words: Box<[u64]>,
    _groups: Box<[u32]>,
}

impl Pairs {
    /// Every action but CGROUP, which is no call of the child's. Those on a terminal fail: there is none.
    pub fn new() -> std::io::Result<Pairs> {
        let folder = File::open("/tmp")?;
        let dir = folder.as_raw_fd();
        let strings: Box<[CString]> = Box::new([c"/dev/null".to_owned(), c"/tmp".to_owned()]);
        let sched = Sched { nice: 1, ..Sched::default() };
        // A signal set; its length makes it a sigaction of SIG_DFL, too; SIG_IGN; a limit; open_how; sched_attr.
        let mut words = vec![0; 20];
        words[4] = 1;
        (words[8], words[9]) = (4096, 8192);
        words[10..13].copy_from_slice(&[libc::O_RDONLY as u64, 0, libc::RESOLVE_NO_MAGICLINKS]);
        words[13..19].copy_from_slice(&sched.words(48));
        let (words, groups): (Box<[u64]>, Box<[u32]>) = (words.into(), Box::new([5, 6]));
        let word = |index: usize| &raw const words[index] as u64;
        let path = |index: usize| strings[index].as_ptr() as u64;
        let here = libc::AT_FDCWD as u64;
        let null = Open::new("/dev/null", libc::O_RDONLY, 9);
        let keep = u64::MAX;

        let mut list = Vec::new();
        let mut pair = |what, act, calls: &[(libc::c_long, &[u64])]| {
            let full = |args: &[u64]| std::array::from_fn(|i| args.get(i).copied().unwrap_or(0));
            let calls = calls.iter().map(|&(number, args)| (number, full(args))).collect();
            list.push(Pair { what, act, calls });
        };
        pair("CLOSE", Act::Close(2), &[(libc::SYS_close, &[2])]);
        pair("DUP2", Act::Dup2(1, 7), &[(libc::SYS_dup2, &[1, 7])]);
        let cloexec = libc::O_CLOEXEC as u64;
        pair("DUP2 with O_CLOEXEC", Act::Dup2Cloexec(1, 7), &[(libc::SYS_dup3, &[1, 7, cloexec])]);
        pair("FCHDIR", Act::Fchdir(dir), &[(libc::SYS_fchdir, &[dir as u64])]);
        pair("OPEN", Act::Open(null.clone()), &[(libc::SYS_openat, &[here, path(0), 0, 0])]);
        let resolved = Act::Open(null.resolve(libc::RESOLVE_NO_MAGICLINKS));
        pair("OPEN with resolve", resolved, &[(libc::SYS_openat2, &[here, path(0), word(10), 24])]);
        pair("CLOSE_RANGE", Act::CloseRange(50, 59, 0), &[(libc::SYS_close_range, &[50, 59, 0])]);
        let set = [libc::SIG_SETMASK as u64, word(0), 0, 8];
        pair("SIGMASK", Act::Sigmask(0), &[(libc::SYS_rt_sigprocmask, &set)]);
        pair("SIGDEFAULT", Act::Sigdefault(1), &[(libc::SYS_rt_sigaction, &[1, word(0), 0, 8])]);
        pair("SIGIGNORE", Act::Sigignore(1), &[(libc::SYS_rt_sigaction, &[1, word(4), 0, 8])]);
        pair("CHDIR", Act::chdir("/tmp"), &[(libc::SYS_chdir, &[path(1)])]);
        pair("SETSID", Act::Setsid, &[(libc::SYS_setsid, &[])]);
        pair("SETPGID", Act::Setpgid(0), &[(libc::SYS_setpgid, &[0, 0])]);
        pair("TCSETPGRP", Act::Tcsetpgrp(0), &[(libc::SYS_ioctl, &[0, libc::TIOCSPGRP, word(0)])]);
        pair("SETCTTY", Act::Setctty(0), &[(libc::SYS_ioctl, &[0, libc::TIOCSCTTY, 0])]);
        pair("UMASK", Act::Umask(0o27), &[(libc::SYS_umask, &[0o27])]);
        let core = libc::RLIMIT_CORE;
        pair("RLIMIT", Act::Rlimit(core, 4096, 8192), &[(libc::SYS_prlimit64, &[0, core.into(), word(8), 0])]);
        pair("SCHED", Act::Sched(sched), &[(libc::SYS_sched_setattr, &[0, word(13), 0])]);
        let ids = [keep, 0, keep];
        pair("RESETIDS", Act::Resetids, &[(libc::SYS_setresgid, &ids), (libc::SYS_setresuid, &ids)]);
        pair("SETUID", Act::Setuid(12), &[(libc::SYS_setuid, &[12])]);
        pair("SETGID", Act::Setgid(13), &[(libc::SYS_setgid, &[13])]);
        let list_of_groups = groups.as_ptr() as u64;
        pair("SETGROUPS", Act::Setgroups(vec![5, 6]), &[(libc::SYS_setgroups, &[2, list_of_groups])]);
        let option = libc::PR_SET_NO_NEW_PRIVS as u64;
        pair("NO_NEW_PRIVS", Act::NoNewPrivs, &[(libc::SYS_prctl, &[option, 1, 0, 0, 0])]);
        let option = libc::PR_SET_PDEATHSIG as u64;
        pair("PDEATHSIG", Act::Pdeathsig(15), &[(libc::SYS_prctl, &[option, 15])]);
        Ok(Pairs { list, _folder: folder, _strings: strings, _words: words, _groups: groups })
    }
}

/// Forks a child that runs `before`, then executes `nothing` as a spawn of it would, and returns its pid once it has
/// ended.
pub fn forked(before: impl FnOnce()) -> std::io::Result<i32> {
    let (path, argv) = (os::c_path(crate::template::child("nothing")), [c"child".to_owned()]);
    let (pointers, none) = (os::pointers(&argv), [0u64]);
    let child = os::fork()?;
    if child == 0 {
        before();
        // SAFETY: the path and both vectors are live.
        unsafe { libc::execve(path.as_ptr(), pointers.as_ptr().cast(), none.as_ptr().cast()) };
        os::exit_now(1);
    }
    os::waitpid(child, 0)?;
    Ok(child)
}
