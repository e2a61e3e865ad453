//! Which compilers build the kernel and the module.
//!
//! User space is built by the cargo that runs us. The kernel needs more: a rustc whose sysroot has the library's source
//! (it compiles `core` itself), LLVM, and bindgen.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::cmd::{Cmd, which};

/// What the kernel asks for, at least (Documentation/process/changes.rst of 7.3).
pub const MIN_RUSTC: Version = Version(1, 85);
/// See [`MIN_RUSTC`].
pub const MIN_BINDGEN: Version = Version(0, 71);
/// See [`MIN_RUSTC`].
pub const MIN_LLVM: u32 = 17;

/// The versioned names that are looked for; those to come are harmless to try.
const LLVM_VERSIONS: std::ops::RangeInclusive<u32> = MIN_LLVM..=30;

/// A major and a minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A rustc that can build a kernel, and what came with it.
#[derive(Clone, Debug)]
pub struct Rust {
    /// The compiler itself, never a rustup proxy.
    pub rustc: PathBuf,
    /// Its version.
    pub version: Version,
    /// The folder of its companions: rustdoc, rustfmt, clippy-driver.
    bin: PathBuf,
}

/// clang, lld and the binary utilities.
#[derive(Clone, Debug)]
pub struct Llvm {
    /// What `make LLVM=` is given: a suffix such as `-22`, or `1` for names without one.
    pub make: String,
    /// The major version.
    pub version: u32,
    /// Where bindgen finds libclang, when that is not where it looks by itself.
    pub libclang: Option<PathBuf>,
}

/// bindgen.
#[derive(Clone, Debug)]
pub struct Bindgen {
    /// Where it is.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
}

/// The compilers and tools of a kernel build.
#[derive(Clone)]
pub struct Toolchain {
    /// The Rust side.
    pub rust: Rust,
    /// The C side.
    pub llvm: Llvm,
    /// The generator of Rust declarations from C ones.
    pub bindgen: Bindgen,
}

impl Toolchain {
    /// Finds what is installed.
    pub fn detect() -> Result<Self> {
        let (Some(rust), Some(llvm), Some(bindgen)) = (find_rust(), find_llvm(), find_bindgen()) else {
            bail!("the kernel's compilers are not all installed; `cargo xtask doctor` says which are missing");
        };
        Ok(Self { rust, llvm, bindgen })
    }

    /// What `make` is told.
    pub fn make_args(&self) -> Vec<String> {
        let tool = |name| self.rust.companion(name).display().to_string();
        let rustc = self.rust.rustc.display();
        let mut args = vec![
            format!("LLVM={}", self.llvm.make),
            format!("RUSTC={rustc}"),
            format!("HOSTRUSTC={rustc}"),
            format!("RUSTDOC={}", tool("rustdoc")),
            format!("BINDGEN={}", self.bindgen.path.display()),
        ];
        for (variable, name) in [("RUSTFMT", "rustfmt"), ("CLIPPY_DRIVER", "clippy-driver")] {
            if self.rust.companion(name).exists() {
                args.push(format!("{variable}={}", tool(name)));
            }
        }
        args
    }

    /// Names exactly these compilers, for the keys of what they built.
    pub fn id(&self) -> Result<String> {
        let clang = match self.llvm.make.as_str() {
            "1" => "clang".to_owned(),
            suffix => format!("clang{suffix}"),
        };
        let version = |program: &Path, flag: &str| Cmd::new(program).arg(flag).read();
        Ok([
            version(&self.rust.rustc, "-vV")?,
            version(Path::new(&clang), "--version")?,
            version(&self.bindgen.path, "--version")?,
        ]
        .join("\n"))
    }
}

impl Rust {
    /// The tool of this name that belongs to this rustc; it may not be installed.
    pub fn companion(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// The first rustc that is new enough and has the library's source: the one in PATH, then the distribution's.
pub fn find_rust() -> Option<Rust> {
    ["rustc", "/usr/bin/rustc"].iter().find_map(|name| rust_at(name))
}

fn rust_at(name: &str) -> Option<Rust> {
    which(name)?;
    let sysroot = PathBuf::from(Cmd::new(name).args(["--print", "sysroot"]).read().ok()?);
    if !sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists() {
        return None;
    }
    let bin = sysroot.join("bin");
    let rustc = bin.join("rustc");
    let version = version_in(&Cmd::new(&rustc).arg("--version").read().ok()?)?;
    (version >= MIN_RUSTC).then_some(Rust { rustc, version, bin })
}

/// The newest complete LLVM with a versioned name, else the one without.
pub fn find_llvm() -> Option<Llvm> {
    let complete = |suffix: &str| {
        ["clang", "ld.lld", "llvm-ar", "llvm-nm", "llvm-objcopy", "llvm-readelf", "llvm-strip"]
            .iter()
            .all(|tool| which(&format!("{tool}{suffix}")).is_some())
    };
    for version in LLVM_VERSIONS.rev() {
        let suffix = format!("-{version}");
        if complete(&suffix) {
            return Some(Llvm { make: suffix, version, libclang: libclang(version) });
        }
    }
    if !complete("") {
        return None;
    }
    let Version(version, _) = version_in(&Cmd::new("clang").arg("--version").read().ok()?)?;
    (version >= MIN_LLVM).then(|| Llvm { make: "1".into(), version, libclang: libclang(version) })
}

fn libclang(version: u32) -> Option<PathBuf> {
    let dir = PathBuf::from(format!("/usr/lib/llvm-{version}/lib"));
    let mut names = std::fs::read_dir(&dir).ok()?.flatten().map(|item| item.file_name());
    names.any(|name| name.to_string_lossy().starts_with("libclang.so")).then_some(dir)
}

/// bindgen in PATH, else where `cargo install` puts it.
pub fn find_bindgen() -> Option<Bindgen> {
    let installed = cargo_home().map(|home| home.join("bin/bindgen"));
    let candidates = which("bindgen").into_iter().chain(installed.filter(|path| path.exists()));
    candidates
        .filter_map(|path| {
            let version = version_in(&Cmd::new(&path).arg("--version").read().ok()?)?;
            Some(Bindgen { path, version })
        })
        .find(|bindgen| bindgen.version >= MIN_BINDGEN)
}

fn cargo_home() -> Option<PathBuf> {
    match std::env::var_os("CARGO_HOME") {
        Some(home) => Some(home.into()),
        None => std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")),
    }
}

/// The first version number in a text such as "rustc 1.96.0 (hash date)".
fn version_in(text: &str) -> Option<Version> {
    text.split_whitespace().find_map(|word| {
        let mut numbers = word.split(['.', '-', '+']).map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Some(Version(major, minor)),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_tools_say() {
        assert_eq!(version_in("rustc 1.96.0 (abc 2026-01-01) (built from a source tarball)"), Some(Version(1, 96)));
        assert_eq!(version_in("bindgen 0.72.1"), Some(Version(0, 72)));
        assert_eq!(version_in("Debian clang version 22.1.8 (1~deb12u1)\nTarget: x86_64"), Some(Version(22, 1)));
        assert_eq!(version_in("no number"), None);
        assert!(Version(1, 100) > MIN_RUSTC && Version(0, 71) >= MIN_BINDGEN);
    }
}
