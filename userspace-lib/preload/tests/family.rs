//! The library beside the C library. Needs the tools of a machine that programs are built on.

use std::process::Command;

/// The library has all functions of the family, so that none of the C library's ever gets one of its records.
#[test]
fn the_family_is_complete() {
    let this = std::env::current_exe().expect("the test has a path");
    let library = this.with_file_name("libspawn_template_preload.so");
    let symbols = Command::new("nm").args(["-D", "--defined-only"]).arg(library).output().expect("nm runs");
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
