//! Running the C compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

/// `uapi-headers` of this repository.
pub fn headers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../uapi-headers")
}

/// Compiles `source` with every warning an error and returns the program.
pub fn compile(compiler: &str, standard: &str, source: &Path, program: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(program);
    let output = Command::new(compiler)
        .args([&format!("-std={standard}"), "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
        .arg(headers())
        .arg("-o")
        .arg(&program)
        .arg(source)
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(output.status.success(), "{compiler} -std={standard}:\n{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// Writes a source file for [`compile`].
pub fn source(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}
