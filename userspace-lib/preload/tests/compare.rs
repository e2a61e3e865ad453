//! The same program with and without the library, and what the library says about itself.
//!
//! With `SPAWN_TEMPLATE_REQUIRED=1`, set where there are spawn templates, they must have been used.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{compiler, folder, number, preloaded, required};

mod common;

/// The C program, compiled.
fn cases(folder: &Path) -> PathBuf {
    let program = folder.join("cases");
    let source = folder.join("cases.c");
    fs::write(&source, include_str!("cases.c")).expect("a file");
    let mut cc = Command::new(compiler().expect("a compiler"));
    cc.args(["-O1", "-Wall", "-Wextra", "-Werror", "-Wno-cast-function-type", "-pthread", "-o"]);
    let status = cc.arg(&program).arg(source).arg("-lutil").status().expect("the compiler runs");
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
    fs::write(base.join("Makefile"), "all:\n\ttrue\n").expect("a file");
    let (output, _) = preloaded(&base, OsStr::new("make"), &[]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("libspawn_template_preload.so: cannot write"), "{message}");
}
