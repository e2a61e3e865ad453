//! The fields of each action: every rule broken alone, and the errno and index that come of it.

use std::fs::{self, File};
use std::os::fd::AsRawFd;

use spawn_template::uapi;

use crate::failing::{Failing, Failure};
use crate::harness::{Checks, Outcome, refused};
use crate::os::{self, Pages, Status};
use crate::template::{Act, Folder, Open, RawAction, RawGroups, RawOpen, RawRlimit, RawSigset, Sched, Template, raw};
use crate::{ensure, same, tests};

tests!("fields":
    unused_fields [180], fields_of_close, fields_of_dup2, fields_of_fchdir, fields_of_open, fields_of_close_range,
    fields_of_sigmask, fields_of_sigdefault, fields_of_sigignore, fields_of_chdir, fields_of_setpgid,
    fields_of_tcsetpgrp, fields_of_setctty, fields_of_umask, fields_of_rlimit, fields_of_sched, size_of_sched,
    fields_of_setuid, fields_of_setgid, fields_of_setgroups, fields_of_pdeathsig, fields_of_cgroup,
    second_cgroup, unknown_types, size_of_payloads, bad_payload_pointers, open_how_rules, open_path_rules, checked_before_anything_happens,
    wrong_one_is_found_anywhere,
);

/// An action that is right, with the names of the fields it uses.
struct Rule {
    name: &'static str,
    good: RawAction,
    uses: &'static [&'static str],
    /// What it fails with in the child all the same, or 0.
    error: i32,
}

/// Memory that actions point to.
struct Payloads {
    open: RawOpen,
    set: u64,
    sigset: RawSigset,
    rlimit: RawRlimit,
    sched: [u64; 6],
    groups: RawGroups,
    folder: File,
    cgroup: File,
}

impl Payloads {
    /// In a box, because the structures point to each other.
    fn new() -> std::io::Result<Box<Payloads>> {
        let limit = os::rlimit(libc::RLIMIT_NOFILE)?;
        let mut payloads = Box::new(Payloads {
            open: open_null(),
            set: os::sigbit(libc::SIGUSR1),
            sigset: RawSigset { sigset: 0, sigsetsize: 8 },
            rlimit: RawRlimit { resource: libc::RLIMIT_NOFILE.into(), cur: limit.rlim_cur, max: limit.rlim_max },
            sched: Sched::default().words(48),
            groups: RawGroups::default(),
            folder: File::open("/")?,
            cgroup: File::open("/sys/fs/cgroup")?,
        });
        payloads.sigset.sigset = &raw const payloads.set as u64;
        Ok(payloads)
    }

    /// One rule for each action there is.
    fn rules(&self) -> Vec<Rule> {
        let rule = |name, uses, kind, fd, newfd, arg| Rule { name, good: raw(kind, 0, fd, newfd, arg), uses, error: 0 };
        let plain = |name, kind| rule(name, &[], kind, 0, 0, 0);
        let value = |name, kind, arg| rule(name, &["arg"], kind, 0, 0, arg);
        let sized = |name, kind, arg| rule(name, &["arg", "arg_size"], kind, 0, 0, arg);
        let fd = |name, kind, fd| rule(name, &["fd"], kind, fd, 0, 0);
        let sigset = &raw const self.sigset as u64;
        let open = &raw const self.open as u64;
        let mut rules = vec![
            fd("CLOSE", uapi::SPAWN_TEMPLATE_ACTION_CLOSE, 500),
            rule("DUP2", &["flags", "fd", "newfd"], uapi::SPAWN_TEMPLATE_ACTION_DUP2, 0, 5, 0),
            fd("FCHDIR", uapi::SPAWN_TEMPLATE_ACTION_FCHDIR, self.folder.as_raw_fd()),
            rule(
                "OPEN",
                &["fd", "newfd", "arg", "arg_size"],
                uapi::SPAWN_TEMPLATE_ACTION_OPEN,
                libc::AT_FDCWD,
                5,
                open,
            ),
            rule("CLOSE_RANGE", &["flags", "fd", "newfd"], uapi::SPAWN_TEMPLATE_ACTION_CLOSE_RANGE, 500, -1, 0),
            sized("SIGMASK", uapi::SPAWN_TEMPLATE_ACTION_SIGMASK, sigset),
            sized("SIGDEFAULT", uapi::SPAWN_TEMPLATE_ACTION_SIGDEFAULT, sigset),
            value("CHDIR", uapi::SPAWN_TEMPLATE_ACTION_CHDIR, c"/".as_ptr() as u64),
            plain("SETSID", uapi::SPAWN_TEMPLATE_ACTION_SETSID),
            value("SETPGID", uapi::SPAWN_TEMPLATE_ACTION_SETPGID, 0),
            fd("TCSETPGRP", uapi::SPAWN_TEMPLATE_ACTION_TCSETPGRP, 0),
            fd("SETCTTY", uapi::SPAWN_TEMPLATE_ACTION_SETCTTY, 0),
            value("UMASK", uapi::SPAWN_TEMPLATE_ACTION_UMASK, 0o777),
            sized("RLIMIT", uapi::SPAWN_TEMPLATE_ACTION_RLIMIT, &raw const self.rlimit as u64),
            value("SCHED", uapi::SPAWN_TEMPLATE_ACTION_SCHED, self.sched.as_ptr() as u64),
            plain("RESETIDS", uapi::SPAWN_TEMPLATE_ACTION_RESETIDS),
            value("SETUID", uapi::SPAWN_TEMPLATE_ACTION_SETUID, 0),
            value("SETGID", uapi::SPAWN_TEMPLATE_ACTION_SETGID, 0),
            sized("SETGROUPS", uapi::SPAWN_TEMPLATE_ACTION_SETGROUPS, &raw const self.groups as u64),
            plain("NO_NEW_PRIVS", uapi::SPAWN_TEMPLATE_ACTION_NO_NEW_PRIVS),
            value("PDEATHSIG", uapi::SPAWN_TEMPLATE_ACTION_PDEATHSIG, 64),
            sized("SIGIGNORE", uapi::SPAWN_TEMPLATE_ACTION_SIGIGNORE, sigset),
            fd("CGROUP", uapi::SPAWN_TEMPLATE_ACTION_CGROUP, self.cgroup.as_raw_fd()),
        ];
        for rule in &mut rules {
            // Standard input is no terminal here.
            if ["TCSETPGRP", "SETCTTY"].contains(&rule.name) {
                rule.error = libc::ENOTTY;
            }
        }
        rules
    }
}

/// The same action with this field changed.
fn changed(action: RawAction, field: &str, value: i64) -> RawAction {
    match field {
        "flags" => RawAction { flags: value as u32, ..action },
        "fd" => RawAction { fd: value as i32, ..action },
        "newfd" => RawAction { newfd: value as i32, ..action },
        "arg" => RawAction { arg: value as u64, ..action },
        _ => RawAction { arg_size: value as u64, ..action },
    }
}

/// Each action with each field that it does not use set, one at a time; and without any, which works.
fn unused_fields() -> Outcome {
    let payloads = Payloads::new()?;
    let rules = payloads.rules();
    for (kind, rule) in rules.iter().enumerate() {
        same!(rule.good.type_ as usize, kind + 1, "type of {}", rule.name);
        let used = |field: &str| rule.uses.contains(&field);
        let unused = ["flags", "fd", "newfd", "arg", "arg_size"].into_iter().filter(|field| !used(field));
        let mut cases = Vec::new();
        for field in unused {
            let values: &[i64] = match field {
                "flags" => &[1, libc::O_CLOEXEC as i64, 1 << 31, -1],
                "arg" => &[1, 1 << 32, i64::MIN, -1],
                "arg_size" => &[1, 8, 32, 4096, 1 << 32, -1],
                _ => &[1, 3, -1, libc::AT_FDCWD as i64, i32::MAX as i64],
            };
            cases.extend(values.iter().map(|&value| (field, value, changed(rule.good, field, value))));
        }
        let names: Vec<String> =
            cases.iter().map(|(field, value, _)| format!("{} with {field} {value}", rule.name)).collect();
        let cases: Vec<_> = names.iter().zip(&cases).map(|(name, case)| (name.as_str(), case.2)).collect();
        all_invalid(&cases)?;
    }
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    for rule in rules.iter().filter(|rule| rule.error != 0) {
        let spawn = template.spawn().act(Act::Raw(rule.good));
        failing.both(rule.name, &spawn, Failure::action(0, rule.error));
    }
    failing.finish()?;
    let good: Vec<_> = rules.iter().filter(|rule| rule.error == 0).map(|rule| (rule.name, rule.good)).collect();
    all_valid(&good)
}

/// Puts each action alone, and after good ones, and wants this error with its index.
fn all_refused(actions: &[(&str, RawAction, i32)]) -> Outcome {
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    for &(what, action, error) in actions {
        let spawn = template.spawn();
        failing.spawn(what, &spawn.clone().act(Act::Raw(action)), Failure::wrong(0, error));
        let spawn = spawn.inherit_fds().acts([Act::Close(500), Act::Close(501)]).act(Act::Raw(action));
        failing.spawn(format!("{what}, third"), &spawn, Failure::wrong(2, error));
    }
    failing.finish()
}

/// [`all_refused`] with EINVAL.
fn all_invalid(actions: &[(&str, RawAction)]) -> Outcome {
    let cases: Vec<_> = actions.iter().map(|&(what, action)| (what, action, libc::EINVAL)).collect();
    all_refused(&cases)
}

/// Puts each action alone and wants success.
fn all_valid(actions: &[(&str, RawAction)]) -> Outcome {
    let template = Template::child("nothing")?;
    let mut checks = Checks::default();
    for (what, action) in actions {
        checks.accepted(what, template.spawn().act(Act::Raw(*action)).status());
        checks.accepted(format!("{what}, inheriting"), template.spawn().inherit_fds().act(Act::Raw(*action)).status());
    }
    checks.finish()
}

fn fields_of_close() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_CLOSE;
    all_valid(&[
        ("CLOSE 0", raw(kind, 0, 0, 0, 0)),
        ("CLOSE of one not open", raw(kind, 0, 1000, 0, 0)),
        ("CLOSE beyond any table", raw(kind, 0, i32::MAX, 0, 0)),
    ])?;
    all_invalid(&[
        ("CLOSE -1", raw(kind, 0, -1, 0, 0)),
        ("CLOSE AT_FDCWD", raw(kind, 0, libc::AT_FDCWD, 0, 0)),
        ("CLOSE with newfd", raw(kind, 0, 0, 1, 0)),
        ("CLOSE with newfd -1", raw(kind, 0, 0, -1, 0)),
        ("CLOSE with flags", raw(kind, libc::O_CLOEXEC as u32, 0, 0, 0)),
        ("CLOSE with arg", raw(kind, 0, 0, 0, 1)),
    ])
}

fn fields_of_dup2() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_DUP2;
    let cloexec = libc::O_CLOEXEC as u32;
    all_valid(&[
        ("DUP2 0 5", raw(kind, 0, 0, 5, 0)),
        ("DUP2 0 5 O_CLOEXEC", raw(kind, cloexec, 0, 5, 0)),
        ("DUP2 0 0", raw(kind, 0, 0, 0, 0)),
    ])?;
    all_invalid(&[
        ("DUP2 -1 5", raw(kind, 0, -1, 5, 0)),
        ("DUP2 AT_FDCWD 5", raw(kind, 0, libc::AT_FDCWD, 5, 0)),
        ("DUP2 0 -1", raw(kind, 0, 0, -1, 0)),
        ("DUP2 0 AT_FDCWD", raw(kind, 0, 0, libc::AT_FDCWD, 0)),
        ("DUP2 with flag 1", raw(kind, 1, 0, 5, 0)),
        ("DUP2 with O_NONBLOCK", raw(kind, cloexec | libc::O_NONBLOCK as u32, 0, 5, 0)),
        ("DUP2 with all flags", raw(kind, u32::MAX, 0, 5, 0)),
        ("DUP2 0 0 O_CLOEXEC", raw(kind, cloexec, 0, 0, 0)),
        ("DUP2 with arg", raw(kind, 0, 0, 5, 1)),
    ])
}

fn fields_of_fchdir() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_FCHDIR;
    let root = File::open("/")?;
    let fd = root.as_raw_fd();
    all_valid(&[("FCHDIR", raw(kind, 0, fd, 0, 0))])?;
    all_invalid(&[
        ("FCHDIR -1", raw(kind, 0, -1, 0, 0)),
        ("FCHDIR AT_FDCWD", raw(kind, 0, libc::AT_FDCWD, 0, 0)),
        ("FCHDIR with newfd", raw(kind, 0, fd, 1, 0)),
        ("FCHDIR with flags", raw(kind, 1, fd, 0, 0)),
        ("FCHDIR with arg", raw(kind, 0, fd, 0, 1)),
    ])
}

/// An OPEN payload for reading `/dev/null`.
fn open_null() -> RawOpen {
    RawOpen { path: c"/dev/null".as_ptr() as u64, ..Default::default() }
}

fn fields_of_open() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_OPEN;
    let payload = open_null();
    let arg = &raw const payload as u64;
    let root = File::open("/")?;
    all_valid(&[
        ("OPEN as 5", raw(kind, 0, libc::AT_FDCWD, 5, arg)),
        ("OPEN as 0", raw(kind, 0, libc::AT_FDCWD, 0, arg)),
        ("OPEN at a folder", raw(kind, 0, root.as_raw_fd(), 5, arg)),
    ])?;
    all_invalid(&[
        ("OPEN at -1", raw(kind, 0, -1, 5, arg)),
        ("OPEN at -99", raw(kind, 0, -99, 5, arg)),
        ("OPEN at i32::MIN", raw(kind, 0, i32::MIN, 5, arg)),
        ("OPEN as -1", raw(kind, 0, libc::AT_FDCWD, -1, arg)),
        ("OPEN as AT_FDCWD", raw(kind, 0, libc::AT_FDCWD, libc::AT_FDCWD, arg)),
        ("OPEN with flags", raw(kind, libc::O_CLOEXEC as u32, libc::AT_FDCWD, 5, arg)),
        ("OPEN without arg", raw(kind, 0, libc::AT_FDCWD, 5, 0)),
    ])
}

fn fields_of_close_range() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_CLOSE_RANGE;
    let cloexec = libc::CLOSE_RANGE_CLOEXEC;
    all_valid(&[
        ("CLOSE_RANGE 3 -1", raw(kind, 0, 3, -1, 0)),
        ("CLOSE_RANGE 3 3", raw(kind, 0, 3, 3, 0)),
        ("CLOSE_RANGE 0 -1", raw(kind, 0, 0, -1, 0)),
        ("CLOSE_RANGE 5 i32::MAX", raw(kind, 0, 5, i32::MAX, 0)),
        ("CLOSE_RANGE i32::MAX -1", raw(kind, 0, i32::MAX, -1, 0)),
        ("CLOSE_RANGE CLOEXEC", raw(kind, cloexec, 3, -1, 0)),
    ])?;
    all_invalid(&[
        ("CLOSE_RANGE -1 -1", raw(kind, 0, -1, -1, 0)),
        ("CLOSE_RANGE -2 5", raw(kind, 0, -2, 5, 0)),
        ("CLOSE_RANGE 5 4", raw(kind, 0, 5, 4, 0)),
        ("CLOSE_RANGE 1 0", raw(kind, 0, 1, 0, 0)),
        ("CLOSE_RANGE 3 -2", raw(kind, 0, 3, -2, 0)),
        ("CLOSE_RANGE 3 i32::MIN", raw(kind, 0, 3, i32::MIN, 0)),
        ("CLOSE_RANGE with flag 1", raw(kind, 1, 3, -1, 0)),
        ("CLOSE_RANGE with flag 8", raw(kind, 8, 3, -1, 0)),
        ("CLOSE_RANGE with O_CLOEXEC", raw(kind, libc::O_CLOEXEC as u32, 3, -1, 0)),
        ("CLOSE_RANGE with arg", raw(kind, 0, 3, -1, 1)),
    ])
}

/// The same rules hold for all actions with a signal set.
fn fields_of_sigset(kind: u32) -> Outcome {
    let set = os::sigbit(libc::SIGUSR1);
    let sized = |sigsetsize| RawSigset { sigset: &raw const set as u64, sigsetsize };
    let good = sized(8);
    let arg = &raw const good as u64;
    all_valid(&[("set", raw(kind, 0, 0, 0, arg))])?;
    all_invalid(&[
        ("set with fd", raw(kind, 0, 1, 0, arg)),
        ("set with fd -1", raw(kind, 0, -1, 0, arg)),
        ("set with newfd", raw(kind, 0, 0, 1, arg)),
        ("set with newfd -1", raw(kind, 0, 0, -1, arg)),
        ("set with flags", raw(kind, 1, 0, 0, arg)),
        ("set without arg", raw(kind, 0, 0, 0, 0)),
    ])?;
    for size in [0, 1, 4, 7, 9, 16, 128, 1 << 32, (1 << 32) + 8, u64::MAX] {
        let payload = sized(size);
        all_invalid(&[(&format!("sigsetsize {size}"), raw(kind, 0, 0, 0, &raw const payload as u64))])?;
    }
    // All signals, the two that cannot be caught among them, are no error.
    for set in [u64::MAX, 0] {
        let good = RawSigset { sigset: &raw const set as u64, sigsetsize: 8 };
        all_valid(&[(&format!("set {set:#x}"), raw(kind, 0, 0, 0, &raw const good as u64))])?;
    }
    Ok(())
}

fn fields_of_sigmask() -> Outcome {
    fields_of_sigset(uapi::SPAWN_TEMPLATE_ACTION_SIGMASK)
}

fn fields_of_sigdefault() -> Outcome {
    fields_of_sigset(uapi::SPAWN_TEMPLATE_ACTION_SIGDEFAULT)
}

fn fields_of_sigignore() -> Outcome {
    fields_of_sigset(uapi::SPAWN_TEMPLATE_ACTION_SIGIGNORE)
}

/// Addresses that are good for nothing.
fn bad_addresses(pages: &Pages) -> [u64; 8] {
    [1, 4095, pages.hole(), pages.hole() - 1, 0x7fff_ffff_f000, 1 << 47, 1 << 63, u64::MAX]
}

/// Wants an error for each of these values of `arg`.
fn all_args_refused(name: &str, kind: u32, args: impl IntoIterator<Item = u64>, error: i32) -> Outcome {
    for arg in args {
        all_refused(&[(&format!("{name} {arg:#x}"), raw(kind, 0, 0, 0, arg), error)])?;
    }
    Ok(())
}

fn fields_of_chdir() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_CHDIR;
    let mut pages = Pages::new(1)?;
    let unterminated = pages.at_end(b"/dev");
    let addresses = bad_addresses(&pages).into_iter().chain([0, unterminated]);
    all_args_refused("CHDIR", kind, addresses, libc::EFAULT)?;
    let (empty, long) = (c"".to_owned(), os::c_path("/".repeat(4096)));
    all_refused(&[
        ("CHDIR to nothing", raw(kind, 0, 0, 0, empty.as_ptr() as u64), libc::ENOENT),
        ("CHDIR to 4096 bytes", raw(kind, 0, 0, 0, long.as_ptr() as u64), libc::ENAMETOOLONG),
    ])?;
    let longest = os::c_path("/".repeat(4095));
    all_valid(&[("CHDIR to 4095 bytes", raw(kind, 0, 0, 0, longest.as_ptr() as u64))])
}

fn fields_of_setpgid() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_SETPGID;
    all_args_refused("SETPGID", kind, [1 << 31, u32::MAX.into(), 1 << 32, 1 << 63, u64::MAX], libc::EINVAL)
}

/// The rules for the descriptor of a terminal.
fn fields_of_terminal(kind: u32) -> Outcome {
    all_invalid(&[
        ("fd -1", raw(kind, 0, -1, 0, 0)),
        ("fd AT_FDCWD", raw(kind, 0, libc::AT_FDCWD, 0, 0)),
        ("fd i32::MIN", raw(kind, 0, i32::MIN, 0, 0)),
    ])
}

fn fields_of_tcsetpgrp() -> Outcome {
    fields_of_terminal(uapi::SPAWN_TEMPLATE_ACTION_TCSETPGRP)
}

fn fields_of_setctty() -> Outcome {
    fields_of_terminal(uapi::SPAWN_TEMPLATE_ACTION_SETCTTY)
}

fn fields_of_umask() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_UMASK;
    all_args_refused("UMASK", kind, [0o1000, 0o7777, 1 << 31, 1 << 32, 1 << 63, u64::MAX], libc::EINVAL)?;
    all_valid(&[("UMASK 0", raw(kind, 0, 0, 0, 0)), ("UMASK 0777", raw(kind, 0, 0, 0, 0o777))])
}

fn fields_of_rlimit() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_RLIMIT;
    all_args_refused("RLIMIT", kind, [0], libc::EINVAL)?;
    let pages = Pages::new(1)?;
    all_args_refused("RLIMIT", kind, bad_addresses(&pages), libc::EFAULT)?;
    let invalid = |what: &str, resource, cur, max| {
        let payload = RawRlimit { resource, cur, max };
        all_invalid(&[(what, raw(kind, 0, 0, 0, &raw const payload as u64))])
    };
    let nofile = libc::RLIMIT_NOFILE.into();
    invalid("resource 16", 16, 0, 0)?;
    invalid("resource beyond 32 bits", 1 << 32 | nofile, 10, 10)?;
    invalid("highest resource", u64::MAX, 10, 10)?;
    invalid("soft above hard", nofile, 11, 10)?;
    invalid("soft infinity, hard not", nofile, u64::MAX, 1 << 40)?;
    invalid("soft 1, hard 0", nofile, 1, 0)
}

fn fields_of_sched() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_SCHED;
    all_args_refused("SCHED", kind, [0], libc::EINVAL)?;
    let pages = Pages::new(1)?;
    all_args_refused("SCHED", kind, bad_addresses(&pages), libc::EFAULT)
}

/// The rules of sched_setattr(2) for the structure's size: 0 is 48, and what the kernel does not know must be zero.
fn size_of_sched() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_SCHED;
    let mut pages = Pages::new(2)?;
    let mut attr = |size: u32, tail: Option<usize>| {
        let bytes = pages.bytes();
        bytes.fill(0);
        bytes[..4].copy_from_slice(&size.to_le_bytes());
        if let Some(offset) = tail {
            bytes[offset] = 1;
        }
        raw(kind, 0, 0, 0, pages.start())
    };
    for size in [1, 4, 8, 47, 4097, 8192, 1 << 31, u32::MAX] {
        let action = attr(size, None);
        all_refused(&[(&format!("size {size}"), action, libc::E2BIG)])?;
    }
    for (size, offset) in [(4096, 4095), (4096, 1000), (200, 199)] {
        let action = attr(size, Some(offset));
        all_refused(&[(&format!("byte {offset} of {size}"), action, libc::E2BIG)])?;
        let action = attr(size, None);
        all_valid(&[(&format!("{size} bytes"), action)])?;
    }
    for size in [0, 48, 56] {
        // What lies behind does not count.
        let action = attr(size, Some(size as usize + 100));
        all_valid(&[(&format!("{size} bytes"), action)])?;
    }
    // Right up to the hole.
    let words: Vec<u8> = Sched::default().words(48).iter().flat_map(|word| word.to_le_bytes()).collect();
    let address = pages.at_end(&words);
    all_valid(&[("48 bytes before the hole", raw(kind, 0, 0, 0, address))])?;
    let words: Vec<u8> = Sched::default().words(56).iter().flat_map(|word| word.to_le_bytes()).collect();
    let address = pages.at_end(&words);
    all_refused(&[("48 of 56 bytes before the hole", raw(kind, 0, 0, 0, address), libc::EFAULT)])
}

fn fields_of_setuid() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_SETUID;
    all_args_refused("SETUID", kind, [1 << 32, 1 << 63, u64::MAX], libc::EINVAL)
}

fn fields_of_setgid() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_SETGID;
    all_args_refused("SETGID", kind, [1 << 32, 1 << 63, u64::MAX], libc::EINVAL)
}

fn fields_of_setgroups() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_SETGROUPS;
    all_args_refused("SETGROUPS", kind, [0], libc::EINVAL)?;
    let mut pages = Pages::new(1)?;
    all_args_refused("SETGROUPS", kind, bad_addresses(&pages), libc::EFAULT)?;
    let refused = |what: &str, groups, count, error| {
        let payload = RawGroups { groups, count };
        all_refused(&[(what, raw(kind, 0, 0, 0, &raw const payload as u64), error)])
    };
    let ids = vec![7u32; 65_537];
    let address = ids.as_ptr() as u64;
    for count in [65_537, u32::MAX.into(), 1 << 32, (1 << 32) + 1, 1 << 62, 1 << 63, u64::MAX] {
        refused(&format!("{count} groups"), address, count, libc::EINVAL)?;
    }
    for bad in bad_addresses(&pages).into_iter().chain([0]) {
        refused(&format!("groups at {bad:#x}"), bad, 1, libc::EFAULT)?;
    }
    let two = pages.at_end(&[1, 0, 0, 0, 2, 0, 0, 0]);
    refused("three groups where two are readable", two, 3, libc::EFAULT)?;
    let payload = RawGroups { groups: two, count: 2 };
    let most = RawGroups { groups: address, count: 65_536 };
    all_valid(&[
        ("two groups before the hole", raw(kind, 0, 0, 0, &raw const payload as u64)),
        ("65536 groups", raw(kind, 0, 0, 0, &raw const most as u64)),
    ])
}

fn fields_of_pdeathsig() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_PDEATHSIG;
    all_args_refused("PDEATHSIG", kind, [65, 128, 1 << 32, (1 << 32) + 9, 1 << 63, u64::MAX], libc::EINVAL)?;
    all_valid(&[("PDEATHSIG 0", raw(kind, 0, 0, 0, 0)), ("PDEATHSIG 1", raw(kind, 0, 0, 0, 1))])
}

fn fields_of_cgroup() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_CGROUP;
    let (folder, file, proc) = (File::open("/tmp")?, File::open("/etc/passwd")?, File::open("/proc/self")?);
    let control = File::open("/sys/fs/cgroup/cgroup.procs")?;
    let sysfs = File::open("/sys/kernel")?;
    let (pipe, _writer) = os::pipe()?;
    let with = |fd: i32| raw(kind, 0, fd, 0, 0);
    all_refused(&[
        ("CGROUP -1", with(-1), libc::EINVAL),
        ("CGROUP AT_FDCWD", with(libc::AT_FDCWD), libc::EINVAL),
        ("CGROUP of one not open", with(900), libc::EBADF),
        ("CGROUP beyond any table", with(i32::MAX), libc::EBADF),
        ("CGROUP of a folder on tmpfs", with(folder.as_raw_fd()), libc::EBADF),
        ("CGROUP of a folder on proc", with(proc.as_raw_fd()), libc::EBADF),
        ("CGROUP of a folder on sysfs", with(sysfs.as_raw_fd()), libc::EBADF),
        ("CGROUP of a file", with(file.as_raw_fd()), libc::EBADF),
        ("CGROUP of a control file", with(control.as_raw_fd()), libc::EBADF),
        ("CGROUP of a pipe", with(pipe.as_raw_fd()), libc::EBADF),
    ])
}

/// At most one, even of the same cgroup.
fn second_cgroup() -> Outcome {
    let root = File::open("/sys/fs/cgroup")?;
    let template = Template::child("nothing")?;
    let cgroup = Act::Cgroup(root.as_raw_fd());
    let mut failing = Failing::new()?;
    let twice = template.spawn().acts([cgroup.clone(), cgroup.clone()]);
    failing.both("in a row", &twice, Failure::wrong(1, libc::EINVAL));
    let apart = template.spawn().acts([Act::Close(500), cgroup.clone(), Act::Close(501), cgroup, Act::Close(-1)]);
    failing.both("with others between", &apart, Failure::wrong(3, libc::EINVAL));
    failing.finish()
}

/// A structure may be longer than the kernel knows it, if the rest is zero, and not shorter than its first version.
fn size_of_payloads() -> Outcome {
    let payloads = Payloads::new()?;
    let mut pages = Pages::new(2)?;
    let rules = payloads.rules();
    let sized: Vec<_> = rules.iter().filter(|rule| rule.uses.contains(&"arg_size")).collect();
    same!(sized.len(), 6, "actions with a structure that has a size");
    for rule in sized {
        let known = match rule.name {
            "OPEN" => size_of::<RawOpen>(),
            "RLIMIT" => size_of::<RawRlimit>(),
            "SETGROUPS" => size_of::<RawGroups>(),
            _ => size_of::<RawSigset>(),
        };
        // SAFETY: the payload is that long, made of integers, and lives as long as `payloads`.
        let payload = unsafe { std::slice::from_raw_parts(rule.good.arg as *const u8, known) };
        let mut action = |size: usize, tail: Option<usize>| {
            let bytes = pages.bytes();
            bytes.fill(0);
            bytes[..known].copy_from_slice(payload);
            if let Some(offset) = tail {
                bytes[offset] = 1;
            }
            RawAction { arg: pages.start(), arg_size: size as u64, ..rule.good }
        };
        let name = rule.name;
        for size in [1, 8, known - 1] {
            all_refused(&[(&format!("{name} of {size}"), action(size, None), libc::EINVAL)])?;
        }
        for size in [4097, 8192, 1 << 32, (1 << 32) + known, usize::MAX] {
            all_refused(&[(&format!("{name} of {size}"), action(size, None), libc::E2BIG)])?;
        }
        for (size, offset) in [(known + 1, known), (known + 8, known + 7), (4096, 4095)] {
            let wrong = action(size, Some(offset));
            all_refused(&[(&format!("{name}, byte {offset} of {size}"), wrong, libc::E2BIG)])?;
            all_valid(&[(&format!("{name} of {size}"), action(size, None))])?;
        }
        // What lies behind does not count.
        for size in [0, known] {
            all_valid(&[(&format!("{name} of {size}"), action(size, Some(known)))])?;
        }
        let address = pages.at_end(payload);
        let at_end = |size: usize| RawAction { arg: address, arg_size: size as u64, ..rule.good };
        all_valid(&[(&format!("{name} before the hole"), at_end(known))])?;
        all_refused(&[(&format!("{name} into the hole"), at_end(known + 8), libc::EFAULT)])?;
    }
    Ok(())
}

fn unknown_types() -> Outcome {
    for kind in [0, 24, 25, 64, 255, 256, 1 << 16, 1 << 31, u32::MAX] {
        all_invalid(&[(&format!("type {kind}"), raw(kind, 0, 0, 0, 0))])?;
    }
    Ok(())
}

fn bad_payload_pointers() -> Outcome {
    let template = Template::child("nothing")?;
    let mut pages = Pages::new(1)?;
    let mut checks = Checks::default();
    let mut faults = |what: String, kind: u32, fd: i32, newfd: i32, arg: u64| {
        let result = template.spawn().act(Act::Raw(raw(kind, 0, fd, newfd, arg))).run();
        checks.refused(what, result, &[libc::EFAULT]);
    };
    let open = uapi::SPAWN_TEMPLATE_ACTION_OPEN;
    let sets = [
        uapi::SPAWN_TEMPLATE_ACTION_SIGMASK,
        uapi::SPAWN_TEMPLATE_ACTION_SIGDEFAULT,
        uapi::SPAWN_TEMPLATE_ACTION_SIGIGNORE,
    ];
    let addresses = [1, 4095, pages.hole(), pages.hole() - 8, 0x7fff_ffff_f000, 1 << 47, 1 << 63, u64::MAX];
    for address in addresses {
        faults(format!("OPEN arg {address:#x}"), open, libc::AT_FDCWD, 5, address);
        for kind in sets {
            faults(format!("set arg {address:#x}"), kind, 0, 0, address);
        }
    }
    // A payload that can be read, and what it points to cannot.
    let unterminated = pages.at_end(b"/dev/null");
    for address in [0, 1, 4095, pages.hole(), 1 << 47, 1 << 63, u64::MAX, unterminated] {
        let payload = RawOpen { path: address, ..open_null() };
        faults(format!("OPEN path {address:#x}"), open, libc::AT_FDCWD, 5, &raw const payload as u64);
    }
    for address in [0, 1, 4095, pages.hole(), pages.hole() - 4, 1 << 47, 1 << 63, u64::MAX] {
        let payload = RawSigset { sigset: address, sigsetsize: 8 };
        for kind in sets {
            faults(format!("sigset {address:#x}"), kind, 0, 0, &raw const payload as u64);
        }
    }
    ensure!(!os::has_children()?, "a refused spawn left a child");
    checks.finish()
}

/// What openat2() says about `how`, the action says.
fn open_how_rules() -> Outcome {
    let template = Template::child("nothing")?;
    let mut checks = Checks::default();
    let mut try_how = |what: &str, flags: u64, mode: u64, resolve: u64, error: i32| {
        let mut payload = open_null();
        (payload.how.flags, payload.how.mode, payload.how.resolve) = (flags, mode, resolve);
        let action = raw(uapi::SPAWN_TEMPLATE_ACTION_OPEN, 0, libc::AT_FDCWD, 5, &raw const payload as u64);
        checks.refused(what, template.spawn().act(Act::Raw(action)).run(), &[error]);
    };
    try_how("unknown flag", 1 << 40, 0, 0, libc::EINVAL);
    try_how("unknown low flag", 1 << 30, 0, 0, libc::EINVAL);
    try_how("highest flag", 1 << 63, 0, 0, libc::EINVAL);
    try_how("mode without O_CREAT", 0, 0o644, 0, libc::EINVAL);
    try_how("mode beyond 07777", libc::O_CREAT as u64, 0o10644, 0, libc::EINVAL);
    try_how("huge mode", libc::O_CREAT as u64, 1 << 32, 0, libc::EINVAL);
    try_how("unknown resolve flag", 0, 0, 1 << 6, libc::EINVAL);
    try_how("highest resolve flag", 0, 0, 1 << 63, libc::EINVAL);
    try_how("BENEATH and IN_ROOT", 0, 0, libc::RESOLVE_BENEATH | libc::RESOLVE_IN_ROOT, libc::EINVAL);
    try_how("O_PATH with O_RDWR and O_TRUNC", (libc::O_PATH | libc::O_TRUNC) as u64, 0, 0, libc::EINVAL);
    try_how("O_CREAT with O_DIRECTORY", (libc::O_CREAT | libc::O_DIRECTORY) as u64, 0o600, 0, libc::EINVAL);
    ensure!(!os::has_children()?, "a refused spawn left a child");
    checks.finish()
}

fn open_path_rules() -> Outcome {
    let template = Template::child("nothing")?;
    let open = |path: &str| template.spawn().open(Open::new(path, libc::O_RDONLY, 5)).run();
    let mut checks = Checks::default();
    checks.refused("empty path", open(""), &[libc::ENOENT]);
    checks.refused("path of 4096", open(&"/".repeat(4096)), &[libc::ENAMETOOLONG]);
    checks.refused("path of 1 MiB", open(&"/".repeat(1 << 20)), &[libc::ENAMETOOLONG]);
    checks.refused("component of 256", open(&"x".repeat(256)), &[libc::ENAMETOOLONG]);
    checks.accepted("path of 4095", template.spawn().open(Open::new("/".repeat(4095), libc::O_RDONLY, 5)).status());
    checks.finish()
}

/// A wrong last action keeps the first from creating a file.
fn checked_before_anything_happens() -> Outcome {
    let folder = Folder::tmp("checked-first")?;
    let path = folder.join("created");
    let template = Template::child("nothing")?;
    let create = Open::new(&path, libc::O_CREAT | libc::O_WRONLY, 5).mode(0o600);
    let spawn = template.spawn().open(create);
    let mut wrong = vec![
        Act::Raw(raw(99, 0, 0, 0, 0)),
        Act::Close(-1),
        Act::Dup2(0, -1),
        Act::CloseRange(5, 4, 0),
        Act::Raw(raw(uapi::SPAWN_TEMPLATE_ACTION_OPEN, 0, libc::AT_FDCWD, 6, 1)),
        Act::Raw(raw(uapi::SPAWN_TEMPLATE_ACTION_SIGMASK, 0, 0, 0, 1)),
    ];
    let mut how = open_null();
    how.how.resolve = 1 << 40;
    wrong.push(Act::Raw(raw(uapi::SPAWN_TEMPLATE_ACTION_OPEN, 0, libc::AT_FDCWD, 6, &raw const how as u64)));
    for act in wrong {
        let result = spawn.clone().act(act.clone()).run();
        ensure!(result.is_err(), "{act:?} was accepted");
        ensure!(!fs::exists(&path)?, "the actions before a wrong {act:?} were performed");
    }
    for change in ["argv", "envp"] {
        let result = spawn.run_changed(|args| if change == "argv" { args.argv = 1 } else { args.envp = 1 });
        refused(change, result, libc::EFAULT)?;
        ensure!(!fs::exists(&path)?, "actions were performed although {change} is bad");
    }
    same!(spawn.status()?, Status::Exited(0), "status of the good spawn");
    ensure!(fs::exists(&path)?, "OPEN did not create the file");
    Ok(())
}

fn wrong_one_is_found_anywhere() -> Outcome {
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    for position in [0, 1, 100, 170, 171, 254, 255] {
        let acts = (0..256).map(|i| if i == position { Act::Close(-1) } else { Act::Close(500) });
        let spawn = template.spawn().acts(acts);
        failing.both(format!("CLOSE -1 as action {position}"), &spawn, Failure::wrong(position, libc::EINVAL));
    }
    failing.finish()
}
