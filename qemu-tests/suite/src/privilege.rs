//! Programs that change who they run as, under every state that bears on it: each exactly as after fork and execve.

use std::io;
use std::os::unix::fs::chown;

use crate::harness::{Checks, Outcome, Stop, in_worker};
use crate::os;
use crate::template::{Act, Folder, child, set_mode};
use crate::twice::Twice;
use crate::{same, tests};

tests!("privilege":
    programs_of_a_user [180], programs_of_a_hardened_caller [180], programs_with_no_new_privs [180], programs_with_no_new_privs_action [180],
    programs_with_fewer_bounds [180], programs_of_root [180], root_without_root_powers [180], root_that_keeps_capabilities,
    root_with_ambient_capabilities, unreadable_program, effective_user_is_not_the_real_one [180], in_a_user_namespace [180],
    secure_mode_is_announced, no_new_privs_action_stays_in_the_child,
);

/// A program file that gives something to who runs it.
#[derive(Clone, Copy)]
struct Program {
    what: &'static str,
    owner: u32,
    group: u32,
    mode: u32,
    /// `security.capability`: whether effective, permitted and inheritable sets of the capabilities 0 to 31.
    capabilities: Option<(bool, u32, u32)>,
}

/// CAP_NET_RAW.
const NET_RAW: u32 = 1 << 13;
/// CAP_SYS_PTRACE, which a bounding set below lacks.
const SYS_PTRACE: u32 = 1 << 19;

const PLAIN: Program = Program { what: "plain", owner: 0, group: 0, mode: 0o755, capabilities: None };

const PROGRAMS: &[Program] = &[
    PLAIN,
    Program { what: "set-user-id root", mode: 0o4755, ..PLAIN },
    Program { what: "set-user-id 777", mode: 0o4755, owner: 777, ..PLAIN },
    Program { what: "set-user-id of the caller", mode: 0o4755, owner: 12345, ..PLAIN },
    Program { what: "set-group-id 888", mode: 0o2755, group: 888, ..PLAIN },
    Program { what: "set-group-id without group execution", mode: 0o2745, group: 888, ..PLAIN },
    Program { what: "set-user-id and set-group-id", mode: 0o6755, owner: 777, group: 888, ..PLAIN },
    Program { what: "effective capabilities", capabilities: Some((true, NET_RAW, 0)), ..PLAIN },
    Program { what: "permitted capabilities", capabilities: Some((false, NET_RAW, 0)), ..PLAIN },
    Program { what: "inheritable capabilities", capabilities: Some((true, 0, NET_RAW)), ..PLAIN },
    Program { what: "two capabilities", capabilities: Some((true, NET_RAW | SYS_PTRACE, 0)), ..PLAIN },
    Program {
        what: "set-user-id root with capabilities",
        mode: 0o4755,
        capabilities: Some((true, NET_RAW, 0)),
        ..PLAIN
    },
];

/// Writes a copy of `report-static` with these attributes.
fn make(folder: &Folder, program: &Program) -> io::Result<String> {
    let path = folder.copy("report-static")?;
    chown(&path, Some(program.owner), Some(program.group))?;
    set_mode(&path, program.mode)?;
    if let Some((effective, permitted, inheritable)) = program.capabilities {
        // VFS_CAP_REVISION_2, then permitted and inheritable, low and high.
        let words = [0x0200_0000 | u32::from(effective), permitted, inheritable, 0, 0];
        let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        os::setxattr(&path, c"security.capability", &value)?;
    }
    Ok(path)
}

/// A caller's state, and what a template's child gets as an action that an executed one does itself.
struct Caller {
    enter: fn() -> io::Result<()>,
    acts: fn() -> Vec<Act>,
    before_exec: fn() -> io::Result<()>,
}

/// Nothing besides the state.
fn caller(enter: fn() -> io::Result<()>) -> Caller {
    Caller { enter, acts: Vec::new, before_exec: || Ok(()) }
}

/// Runs one program both ways, from such a caller.
fn run(folder: &Folder, program: &Program, caller: &Caller) -> Outcome {
    let path = make(folder, program)?;
    let outcome = in_worker(|| {
        (caller.enter)()?;
        Twice::run_with(&path, |spawn| spawn.acts((caller.acts)()), caller.before_exec)?.compare()
    });
    std::fs::remove_file(&path)?;
    outcome
}

/// Runs every program both ways.
fn all(name: &str, caller: &Caller) -> Outcome {
    some(name, caller, PROGRAMS)
}

/// Runs these programs both ways.
fn some(name: &str, caller: &Caller, programs: &[Program]) -> Outcome {
    let folder = Folder::new("/var/tmp", name)?;
    set_mode(folder.path(), 0o755)?;
    let mut checks = Checks::default();
    for program in programs {
        match run(&folder, program, caller) {
            Err(Stop::Failed(message)) => checks.fail(format!("{}: {message}", program.what)),
            outcome => outcome?,
        }
    }
    checks.finish()
}

fn become_somebody() -> io::Result<()> {
    os::setgroups(&[])?;
    os::become_user(12345)
}

fn programs_of_a_user() -> Outcome {
    all("privilege-user", &caller(become_somebody))
}

/// What a caller has said of its address space for good counts for a program with other rights as well.
fn programs_of_a_hardened_caller() -> Outcome {
    /// Memory is never both writable and executable.
    const REFUSE_EXEC_GAIN: u64 = 1;
    /// The libc crate does not have it.
    const PR_SET_MEMORY_MERGE: i32 = 67;
    let enter = || {
        become_somebody()?;
        os::prctl(libc::PR_SET_THP_DISABLE, 1, 0)?;
        os::prctl(PR_SET_MEMORY_MERGE, 1, 0)?;
        os::prctl(libc::PR_SET_MDWE, REFUSE_EXEC_GAIN, 0)
    };
    all("privilege-hardened", &caller(enter))
}

fn programs_with_no_new_privs() -> Outcome {
    all(
        "privilege-nnp",
        &caller(|| {
            become_somebody()?;
            os::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
        }),
    )
}

/// NO_NEW_PRIVS, against prctl() in the child.
fn no_new_privs_action() -> Vec<Act> {
    vec![Act::NoNewPrivs]
}

fn programs_with_no_new_privs_action() -> Outcome {
    let before_exec = || os::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0);
    all("privilege-nnp-action", &Caller { enter: become_somebody, acts: no_new_privs_action, before_exec })
}

/// File capabilities beyond the bounding set: EPERM from exec if they are effective, less of them otherwise.
fn programs_with_fewer_bounds() -> Outcome {
    let enter = || {
        os::prctl(libc::PR_CAPBSET_DROP, 19, 0)?;
        become_somebody()
    };
    let folder = Folder::new("/var/tmp", "privilege-bounds")?;
    set_mode(folder.path(), 0o755)?;
    for program in PROGRAMS.iter().filter(|program| program.what != "two capabilities") {
        run(&folder, program, &caller(enter))?;
    }
    let path = make(&folder, &PROGRAMS[10])?;
    same!(PROGRAMS[10].what, "two capabilities", "the program that cannot be run");
    in_worker(|| {
        enter()?;
        let error = os::execve(&os::c_path(&path), &[c"child".to_owned()], &[]);
        let spawned = crate::template::Template::path(&path)?.status();
        same!(spawned.err().and_then(|e| e.raw_os_error()), error.raw_os_error(), "error of a spawn");
        same!(error.raw_os_error(), Some(libc::EPERM), "error of execve");
        Ok(())
    })
}

fn programs_of_root() -> Outcome {
    all("privilege-root", &caller(|| Ok(())))
}

/// SECBIT_NOROOT and SECBIT_NO_SETUID_FIXUP: user id 0 means nothing.
fn root_without_root_powers() -> Outcome {
    all("privilege-noroot", &caller(|| os::prctl(libc::PR_SET_SECUREBITS, 1 | 4, 0)))?;
    some("privilege-noroot-locked", &caller(|| os::prctl(libc::PR_SET_SECUREBITS, 0x2f, 0)), &PROGRAMS[..2])
}

/// SECBIT_KEEP_CAPS, which exec clears.
fn root_that_keeps_capabilities() -> Outcome {
    let enter = || os::prctl(libc::PR_SET_SECUREBITS, 1 << 4, 0);
    let folder = Folder::new("/var/tmp", "privilege-keep")?;
    run(&folder, &PLAIN, &caller(enter))?;
    let path = make(&folder, &PLAIN)?;
    in_worker(|| {
        enter()?;
        Twice::run(&path)?.saw("securebits", "0")
    })
}

fn root_with_ambient_capabilities() -> Outcome {
    let enter = || {
        os::prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
        become_somebody()?;
        os::set_capabilities(NET_RAW, NET_RAW, NET_RAW)?;
        os::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, 13)
    };
    all("privilege-ambient", &caller(enter))
}

/// Execution of a file that may not be read makes a process that may not be looked into.
fn unreadable_program() -> Outcome {
    let folder = Folder::new("/var/tmp", "privilege-unreadable")?;
    set_mode(folder.path(), 0o755)?;
    let path = make(&folder, &Program { mode: 0o711, ..PLAIN })?;
    in_worker(|| {
        become_somebody()?;
        let twice = Twice::run(&path)?;
        twice.compare()?;
        twice.saw("dumpable", "0")?;
        twice.saw("proc.owner", "0 0")
    })
}

/// As in a set-user-id program that starts another.
fn effective_user_is_not_the_real_one() -> Outcome {
    all("privilege-effective", &caller(|| os::setresuid(12345, 777, 888)))?;
    some("privilege-effective-root", &caller(|| os::setresuid(12345, 0, 0)), &PROGRAMS[..3])
}

/// Ids and capabilities of a file count in its file system's user namespace only.
fn in_a_user_namespace() -> Outcome {
    let enter = || {
        os::unshare(libc::CLONE_NEWUSER)?;
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", "0 0 1\n")?;
        std::fs::write("/proc/self/gid_map", "0 0 1\n")
    };
    all("privilege-namespace", &caller(enter))
}

/// Not only the same: right.
fn secure_mode_is_announced() -> Outcome {
    let folder = Folder::new("/var/tmp", "privilege-secure")?;
    set_mode(folder.path(), 0o755)?;
    for (program, secure, uid) in [(0, "0", "12345 12345 12345"), (1, "0x1", "12345 0 0"), (2, "0x1", "12345 777 777")]
    {
        let path = make(&folder, &PROGRAMS[program])?;
        in_worker(|| {
            become_somebody()?;
            let twice = Twice::run(&path)?;
            twice.saw("auxv.23", secure)?;
            twice.saw("uid", uid)?;
            twice.saw("dumpable", if secure == "0" { "1" } else { "0" })
        })?;
    }
    Ok(())
}

fn no_new_privs_action_stays_in_the_child() -> Outcome {
    let path = child("report-static");
    let twice = Twice::run_with(
        &path,
        |spawn| spawn.acts(no_new_privs_action()),
        || os::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0),
    )?;
    twice.compare()?;
    twice.saw("no_new_privs", "1")?;
    // SAFETY: prctl() takes numbers here.
    same!(unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) }, 0, "the caller's no_new_privs");
    Ok(())
}
