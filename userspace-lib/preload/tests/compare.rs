//! The same program with and without the library, and what the library says about itself.
//!
//! With `SPAWN_TEMPLATE_REQUIRED=1`, set where there are spawn templates, they must have been used.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{folder, library, number, preloaded, required};

mod common;

/// The C program, compiled.
fn cases(folder: &Path) -> PathBuf {
    let program = folder.join("cases");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases.c");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-Wall", "-Wextra", "-Werror", "-Wno-cast-function-type", "-pthread", "-o"]);
    let status = cc.arg(&program).arg(source).arg("-lutil").status().expect("cc runs");
    assert!(status.success());
    program
}

#[test]
fn all_cases_are_the_same() {
    let base = folder("cases");
    let program = cases(&base);
    let (without, with) = (base.join("without"), base.join("with"));
    fs::create_dir(&without).expect("a folder");
    fs::create_dir(&with).expect("a folder");

    let expected = Command::new(&program).current_dir(&without).output().expect("the program starts");
    assert!(expected.status.success(), "{expected:?}");
    let (got, stats) = preloaded(&with, program.as_os_str(), &[]);
    assert!(got.status.success(), "{got:?}");

    let expected = String::from_utf8_lossy(&expected.stdout).into_owned();
    let got = String::from_utf8_lossy(&got.stdout).into_owned();
    for (line, (expected, got)) in expected.lines().zip(got.lines()).enumerate() {
        assert_eq!(got, expected, "line {} of:\n{got}", line + 1);
    }
    assert_eq!(got.lines().count(), expected.lines().count());
    // The program did get to the end, and its children did run.
    assert!(expected.contains("after main\n  exit 3\n"), "{expected}");
    assert!(expected.matches("  exit 7\n").count() > 100, "{expected}");

    // The forked processes leave with _exit(), which writes none.
    assert_eq!(stats.len(), 1, "{stats:?}");
    let (templates, missing) = (number(&stats[0], "templates"), number(&stats[0], "unsupported"));
    println!("{}", stats[0]);
    assert!(number(&stats[0], "foreign-record") >= 1, "{}", stats[0]);
    if required() {
        assert!(templates > 100 && missing == 0, "{}", stats[0]);
        for reason in ["too-many-actions", "relative-path", "not-elf", "not-found", "descriptors"] {
            assert!(number(&stats[0], reason) >= 1, "{reason}: {}", stats[0]);
        }
    } else {
        assert!(templates > 100 || missing > 100, "{}", stats[0]);
    }
}

#[test]
fn no_stats_without_spawns() {
    let base = folder("none");
    let (output, stats) = preloaded(&base, OsStr::new("true"), &[]);
    assert!(output.status.success());
    assert!(stats.is_empty(), "{stats:?}");
}

#[test]
fn stats_that_cannot_be_written_are_named() {
    let base = folder("unwritable");
    fs::create_dir(base.join("stats")).expect("a folder in the place of the file");
    let program = cases(&base);
    let (output, _) = preloaded(&base, program.as_os_str(), &[]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("libspawn_template_preload.so: cannot write"), "{message}");
}

/// The library has all functions of the family, so that none of the C library's ever gets one of its records.
#[test]
fn the_family_is_complete() {
    let symbols = Command::new("nm").args(["-D", "--defined-only"]).arg(library()).output().expect("nm runs");
    let ours = String::from_utf8_lossy(&symbols.stdout).into_owned();
    let libc = Command::new("cc").arg("-print-file-name=libc.so.6").output().expect("cc runs");
    let libc = String::from_utf8_lossy(&libc.stdout).trim().to_owned();
    let symbols = Command::new("nm").args(["-D", "--defined-only", &libc]).output().expect("nm runs");
    let theirs = String::from_utf8_lossy(&symbols.stdout).into_owned();

    let names = theirs.lines().filter_map(|line| line.split_whitespace().nth(2));
    let names: Vec<_> = names.filter_map(|name| name.split('@').next()).collect();
    let family = |name: &&str| name.starts_with("posix_spawn") || name.starts_with("pidfd_spawn");
    let family: Vec<_> = names.into_iter().filter(family).collect();
    assert!(family.len() >= 20, "{theirs}");
    for name in family {
        assert!(ours.lines().any(|line| line.split_whitespace().nth(2) == Some(name)), "{name} is missing");
    }
}
