//! Address space randomization: each child of one template gets addresses of its own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;

use crate::attack::holdup::state;
use crate::attack::interface::mappings;
use crate::attack::program::{Program, Report};
use crate::attack::stops::eventually;
use crate::harness::{Checks, Outcome, failed};
use crate::os::{self, Status};
use crate::template::{Act, Folder, Open, Template, child, set_mode};
use crate::{ensure, same, tests};

tests!("aslr":
    dynamic_program, static_program, random_bytes, setuid_program_of_a_caller_without, setuid_program_is_not_placed_before_exec,
    setuid_program_has_room_of_random_size, strings_and_vectors_share_a_page,
    arguments_wherever_they_lie,
);

/// How many children are compared. The break has the least entropy, 18 bits: two agree by chance once in 17 000 runs.
const CHILDREN: usize = 6;

/// Where everything lies in a program that is position independent.
const DYNAMIC: [&str; 7] = [
    "own.address.stack",
    "own.address.execfn",
    "own.address.random",
    "own.address.exe",
    "own.address.interpreter",
    "own.address.vdso",
    "own.address.brk",
];

/// Starts `program` some times and wants all values of each of these keys to differ.
fn all_differ(program: &str, keys: &[&str]) -> Outcome {
    let template = Template::path(program)?;
    let mut shows = Vec::new();
    for _ in 0..CHILDREN {
        shows.push(template.spawn().show()?);
    }
    let mut checks = Checks::default();
    for key in keys {
        let values: BTreeSet<&str> = shows.iter().map(|show| show.get(key)).collect();
        if values.len() < CHILDREN || values.contains("") {
            checks.fail(format!("{program}: {key} of {CHILDREN} children: {values:?}"));
        }
    }
    checks.finish()
}

fn dynamic_program() -> Outcome {
    all_differ(&child("report"), &DYNAMIC)
}

/// An ET_EXEC lies where it was linked; its stack, break and vDSO do not.
fn static_program() -> Outcome {
    let keys = ["own.address.stack", "own.address.execfn", "own.address.vdso", "own.address.brk"];
    all_differ(&child("report-static"), &keys)?;
    let template = Template::child("report-static")?;
    let exe = || -> Outcome<String> { Ok(template.spawn().show()?.get("own.address.exe").to_owned()) };
    same!(exe()?, exe()?, "where an ET_EXEC lies");
    Ok(())
}

/// AT_RANDOM's bytes.
fn random_bytes() -> Outcome {
    all_differ(&child("report"), &["own.random"])
}

/// Who switches randomization off does so for his own programs, not for those that gain privileges.
fn setuid_program_of_a_caller_without() -> Outcome {
    let folder = Folder::new("/var/tmp", "aslr")?;
    set_mode(folder.path(), 0o755)?;
    let path = folder.copy("report")?;
    set_mode(&path, 0o4755)?;
    os::become_user(12345)?;
    // SAFETY: personality() takes a number.
    unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
    all_differ(&path, &DYNAMIC)
}

/// Where the stack of a program that gains privileges lies is known to nobody before it runs.
fn setuid_program_is_not_placed_before_exec() -> Outcome {
    let folder = Folder::new("/var/tmp", "aslr")?;
    set_mode(folder.path(), 0o755)?;
    let path = Program::SetUserId.make(&folder)?;
    let gate = folder.join("gate");
    os::mkfifo(&gate)?;
    set_mode(&gate, 0o666)?;
    os::become_user(12345)?;
    let template = Template::path(&path)?;
    for _ in 0..3 {
        let ((input, to), (from, output)) = (os::pipe()?, os::pipe()?);
        let spawn =
            template.spawn().nowait().act(Act::Dup2(input.as_raw_fd(), 0)).act(Act::Dup2(output.as_raw_fd(), 1));
        let child = spawn.open(Open::new(&gate, libc::O_RDONLY, 9)).run()?;
        ensure!(eventually(5000, || Ok(state(child.pid) == 'S'))?, "the child does not wait: {}", state(child.pid));
        let maps = fs::read_to_string(format!("/proc/{}/maps", child.pid)).unwrap_or_default();
        drop(os::open(&gate, libc::O_WRONLY)?);
        let mut line = [0; 200];
        let length = File::from(from).read(&mut line)?;
        let report = Report::parse(&String::from_utf8_lossy(&line[..length]));
        drop((input, to));
        child.wait()?;
        let stack = report.ok_or_else(|| failed("the program did not say where its stack is"))?.stack;
        let known = mappings(&maps).into_iter().find(|&(start, end)| start <= stack && stack < end);
        ensure!(known.is_none(), "before exec, maps showed where the stack is, which is at {stack:x}: {maps:?}");
    }
    Ok(())
}

/// Nor is what lies between its strings and what the kernel writes below them, although the caller writes the strings.
fn setuid_program_has_room_of_random_size() -> Outcome {
    const STARTS: usize = 12;
    let folder = Folder::new("/var/tmp", "aslr")?;
    set_mode(folder.path(), 0o755)?;
    let path = folder.copy("report-static")?;
    set_mode(&path, 0o4755)?;
    os::become_user(12345)?;
    let template = Template::path(&path)?;
    let mut distances = BTreeSet::new();
    for _ in 0..STARTS {
        let show = template.spawn().show()?;
        let place = |key| u64::from_str_radix(show.get(key).trim_start_matches("0x"), 16).unwrap_or_default();
        distances.insert(place("own.address.execfn").wrapping_sub(place("own.address.stack")));
    }
    // With execve the room is up to 8 KiB in steps of 16.
    ensure!(distances.len() > STARTS / 2, "distances in {STARTS} starts: {distances:?}");
    Ok(())
}

/// What execve leaves between the strings and what it writes below them lies above the strings. It leaves up to 8 KiB
/// there, so that one in four programs would have both in one page by chance.
fn strings_and_vectors_share_a_page() -> Outcome {
    let template = Template::child("report-static")?;
    let mut shared = 0;
    for _ in 0..24 {
        let show = template.spawn().show()?;
        let page = |key| u64::from_str_radix(show.get(key).trim_start_matches("0x"), 16).map(|address| address >> 12);
        let (strings, vectors) = (page("own.address.execfn"), page("own.address.random"));
        ensure!(strings.is_ok(), "AT_EXECFN is {:?}", show.get("own.address.execfn"));
        shared += u32::from(strings == vectors);
    }
    ensure!(shared >= 15, "only {shared} of 24 children have AT_EXECFN and AT_RANDOM in one page");
    Ok(())
}

/// The strings end at any distance from the end of the stack, in any of its first pages.
fn arguments_wherever_they_lie() -> Outcome {
    let template = Template::path("/bin/echo")?;
    for length in (0..13_000).step_by(331) {
        let argument = "x".repeat(length);
        let (status, output) = template.spawn().argv(["echo", "-n", argument.as_str()]).output()?;
        same!(status, Status::Exited(0), "status with {length} bytes of argument");
        ensure!(output == argument.as_bytes(), "echo saw another argument of {length} bytes: {} bytes", output.len());
    }
    Ok(())
}
