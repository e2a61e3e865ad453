//! What the build tool exits with when a machine lacks what it needs.

use std::process::Command;

/// Runs xtask with an empty cache and without any program in reach.
fn bare(name: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let cache = std::env::temp_dir().join(format!("xtask-exit-status-{name}-{}", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["--no-install", "--cache-dir"])
        .arg(&cache)
        .args(arguments)
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    std::fs::remove_dir_all(&cache).unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_command_that_was_not_run_is_told_from_one_that_failed() {
    let (code, said) = bare("run", &["run", "--", "true"]);
    assert_eq!(code, Some(254), "{said}");
    assert!(said.contains("--no-install"), "{said}");
}

#[test]
fn elsewhere_a_failure_is_1() {
    let (code, said) = bare("image", &["image"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("missing:"), "{said}");
}
