//! Address space randomization: each child of one template gets addresses of its own.

use std::collections::BTreeSet;

use crate::harness::{Checks, Outcome};
use crate::os::{self, Status};
use crate::template::{Folder, Template, child, set_mode};
use crate::{ensure, same, tests};

tests!("aslr":
    dynamic_program, static_program, random_bytes, setuid_program_of_a_caller_without, strings_and_vectors_share_a_page,
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
