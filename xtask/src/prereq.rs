//! What must be installed, saying so, and installing it.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::cmd::{Cmd, which};
use crate::context::Context;
use crate::qemu::{self, emulator};
use crate::toolchain::{self, MIN_BINDGEN, MIN_LLVM, MIN_RUSTC};

/// The bindgen that is installed when there is none; any from [`MIN_BINDGEN`] on is used when there is one.
const BINDGEN_VERSION: &str = "0.72.1";

/// Something a run cannot do without.
struct Need {
    name: &'static str,
    why: &'static str,
    /// What is installed, or nothing.
    found: fn(&Context) -> Option<String>,
    /// What brings it.
    from: From,
}

enum From {
    /// Packages with the same name everywhere.
    Apt(&'static [&'static str]),
    /// Packages whose names depend on what the distribution offers.
    AptChoice(fn() -> Vec<String>),
    /// QEMU's package, or what is in it.
    Emulator,
    /// bindgen, with cargo.
    Bindgen,
}

const NEEDS: &[Need] = &[
    Need {
        name: "cc",
        why: "links user space and builds the kernel's own tools",
        found: |_| program("cc"),
        from: From::Apt(&["gcc"]),
    },
    Need {
        name: "c++",
        why: "shows that C++ can use the ABI header",
        found: |_| program("c++"),
        from: From::Apt(&["g++"]),
    },
    Need {
        name: "static glibc",
        why: "static programs for the guest",
        found: |_| file("/usr/lib/x86_64-linux-gnu/libc.a"),
        from: From::Apt(&["libc6-dev"]),
    },
    Need { name: "make", why: "builds the kernel", found: |_| program("make"), from: From::Apt(&["make"]) },
    Need { name: "flex", why: "the kernel's configuration", found: |_| program("flex"), from: From::Apt(&["flex"]) },
    Need { name: "bison", why: "the kernel's configuration", found: |_| program("bison"), from: From::Apt(&["bison"]) },
    Need { name: "bc", why: "the kernel's time constants", found: |_| program("bc"), from: From::Apt(&["bc"]) },
    Need { name: "perl", why: "checkpatch.pl", found: |_| program("perl"), from: From::Apt(&["perl"]) },
    Need { name: "mandoc", why: "checks the man pages", found: |_| program("mandoc"), from: From::Apt(&["mandoc"]) },
    Need {
        name: "libelf",
        why: "the kernel's objtool",
        found: |_| file("/usr/include/libelf.h"),
        from: From::Apt(&["libelf-dev"]),
    },
    Need {
        name: "git",
        why: "applies the patch series",
        found: |_| program("git"),
        from: From::Apt(&["git", "ca-certificates"]),
    },
    Need {
        name: "curl",
        why: "downloads the kernel source",
        found: |_| program("curl"),
        from: From::Apt(&["curl", "ca-certificates"]),
    },
    Need { name: "xz", why: "unpacks the kernel source", found: |_| program("xz"), from: From::Apt(&["xz-utils"]) },
    Need {
        name: "qemu",
        why: "runs the guest",
        found: |ctx| Some(emulator::find(ctx)?.display().to_string()),
        from: From::Emulator,
    },
    Need {
        name: "mke2fs",
        why: "makes the guest's disk",
        found: |_| program("mke2fs"),
        from: From::Apt(&["e2fsprogs"]),
    },
    Need {
        name: "mmdebstrap",
        why: "fills the guest's disk",
        found: |_| program("mmdebstrap"),
        from: From::Apt(&["mmdebstrap"]),
    },
    Need {
        name: "LLVM",
        why: "compiles the kernel; needs clang, lld, the utilities and libclang, 17 or newer",
        found: |_| {
            let llvm = toolchain::find_llvm()?;
            let libclang = llvm.libclang?;
            Some(format!("{}, LLVM={}, libclang in {}", llvm.version, llvm.make, libclang.display()))
        },
        from: From::AptChoice(llvm_packages),
    },
    Need {
        name: "rustc with rust-src",
        why: "compiles the kernel's Rust, 1.85 or newer; where rustup has it, `rustup component add rust-src` will do",
        found: |_| {
            let rust = toolchain::find_rust()?;
            Some(format!("{}, {}", rust.version, rust.rustc.display()))
        },
        from: From::AptChoice(rust_packages),
    },
    Need {
        name: "bindgen",
        why: "lets the kernel's Rust see its C, 0.71 or newer",
        found: |_| {
            let bindgen = toolchain::find_bindgen()?;
            Some(format!("{}, {}", bindgen.version, bindgen.path.display()))
        },
        from: From::Bindgen,
    },
];

/// What only `selftests` needs.
const SELFTEST_NEEDS: &[Need] = &[
    Need {
        name: "libcap",
        why: "the kernel's selftests of exec and clone3",
        found: |_| file("/usr/include/sys/capability.h"),
        from: From::Apt(&["libcap-dev"]),
    },
    Need {
        name: "rsync",
        why: "the kernel's selftests are installed with it",
        found: |_| program("rsync"),
        from: From::Apt(&["rsync"]),
    },
];

/// Nice to have: only `module --lint` uses them.
const LINTERS: [&str; 2] = ["rustfmt", "clippy-driver"];

fn program(name: &str) -> Option<String> {
    Some(which(name)?.display().to_string())
}

fn file(path: &str) -> Option<String> {
    Path::new(path).exists().then(|| path.to_owned())
}

fn missing(ctx: &Context, needs: &'static [Need]) -> Vec<&'static Need> {
    needs.iter().filter(|need| (need.found)(ctx).is_none()).collect()
}

/// Makes sure that everything a build and a guest need is there, installing what is not.
pub fn ensure(ctx: &Context) -> Result<()> {
    ensure_all(ctx, NEEDS)
}

/// The same for what only `selftests` needs.
pub fn ensure_for_selftests(ctx: &Context) -> Result<()> {
    ensure_all(ctx, SELFTEST_NEEDS)
}

fn ensure_all(ctx: &Context, needs: &'static [Need]) -> Result<()> {
    let absent = missing(ctx, needs);
    if absent.is_empty() {
        return Ok(());
    }
    // Two runs at once must not install the same things; the second finds them there.
    let _lock = ctx.cache.lock(&ctx.ui, "installation")?;
    let absent = missing(ctx, needs);
    if absent.is_empty() {
        return Ok(());
    }
    ctx.ui.note("missing:");
    for need in &absent {
        ctx.ui.note(format!("  {} ({})", need.name, need.why));
    }
    if ctx.no_install {
        bail!("--no-install was given. To install what is missing, run:\n{}", commands(&absent).join("\n"));
    }
    install(ctx, &absent)?;
    let still: Vec<_> = missing(ctx, needs).iter().map(|need| need.name).collect();
    if !still.is_empty() {
        bail!(
            "still missing after the installation: {}\n  next: install them by hand, then run `cargo xtask doctor`",
            still.join(", ")
        );
    }
    Ok(())
}

fn commands(absent: &[&Need]) -> Vec<String> {
    let sudo = if is_root() { "" } else { "sudo " };
    let packages = packages(absent);
    let mut commands = Vec::new();
    if !packages.is_empty() {
        commands.push(format!("  {sudo}apt-get update"));
        commands.push(format!("  {sudo}apt-get install --no-install-recommends {}", packages.join(" ")));
    }
    if absent.iter().any(|need| matches!(need.from, From::Bindgen)) {
        commands.push(format!("  cargo {}", bindgen_install().join(" ")));
    }
    commands
}

fn packages(absent: &[&Need]) -> Vec<String> {
    let mut packages = Vec::new();
    for need in absent {
        let names = match &need.from {
            From::Apt(names) => names.iter().map(|&name| name.to_owned()).collect(),
            From::AptChoice(choose) => choose(),
            From::Emulator => vec![emulator::PACKAGE.to_owned()],
            From::Bindgen => Vec::new(),
        };
        for name in names {
            if !packages.contains(&name) {
                packages.push(name);
            }
        }
    }
    packages
}

fn bindgen_install() -> [&'static str; 5] {
    ["install", "--locked", "bindgen-cli", "--version", BINDGEN_VERSION]
}

fn install(ctx: &Context, absent: &[&Need]) -> Result<()> {
    if absent.iter().any(|need| !matches!(need.from, From::Bindgen)) {
        if which("apt-get").is_none() {
            bail!("this machine has no apt-get; install what is missing by hand, then run `cargo xtask doctor`");
        }
        become_able_to_install(ctx)?;
        ctx.ui.note("will run: apt-get update");
        let updated = root_command(ctx, "apt-update", &["apt-get", "update"]);
        // Which packages there are is known only now.
        let mut packages = packages(absent);
        let conflicts = packages.iter().any(|package| package == emulator::PACKAGE) && !emulator::can_be_installed();
        if conflicts {
            packages.retain(|package| package != emulator::PACKAGE);
        }
        apt_install(ctx, updated.is_ok(), "install", &packages)?;
        if conflicts {
            ctx.ui.note(format!(
                "installing {} would remove packages of this machine; will unpack it into the cache instead",
                emulator::PACKAGE
            ));
            emulator::unpack(ctx, |needed| apt_install(ctx, true, "satisfy", &[needed.to_owned()]))?;
        }
    }
    if absent.iter().any(|need| matches!(need.from, From::Bindgen)) {
        let command = bindgen_install();
        ctx.ui.note(format!("will run: cargo {}", command.join(" ")));
        let step = ctx.ui.step("install bindgen");
        // The cargo that runs us knows where it is.
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Cmd::new(cargo)
            .args(command)
            .step("installing bindgen")
            .hint("check that cargo can reach its registry, then run the same command again")
            .run(ctx, "install-bindgen", |line| step.progress(line.trim()))?;
        step.done("");
    }
    Ok(())
}

/// Has apt install packages, or satisfy dependencies. Nothing that the machine has is removed.
fn apt_install(ctx: &Context, is_updated: bool, verb: &str, what: &[String]) -> Result<()> {
    if what.is_empty() {
        return Ok(());
    }
    let mut command = vec!["apt-get", verb, "--yes", "--no-remove", "--no-install-recommends"];
    command.extend(["-o", "DPkg::Lock::Timeout=600"]);
    command.extend(what.iter().map(String::as_str));
    ctx.ui.note(format!("will run: {}", command.join(" ")));
    if is_updated && root_command(ctx, "apt-install", &command).is_ok() {
        return Ok(());
    }
    // A mirror that was busy, or an installation that was once interrupted.
    ctx.ui.note("that failed; will run: dpkg --configure -a, apt-get update, and the installation once more");
    root_command(ctx, "dpkg-configure", &["dpkg", "--configure", "-a"])?;
    root_command(ctx, "apt-update", &["apt-get", "update"])?;
    root_command(ctx, "apt-install", &command)
}

fn is_root() -> bool {
    // SAFETY: geteuid(2) cannot fail and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

/// Lets sudo ask for its password while the terminal is ours to read.
fn become_able_to_install(ctx: &Context) -> Result<()> {
    if is_root() || Cmd::new("sudo").args(["-n", "true"]).succeeds() {
        return Ok(());
    }
    if which("sudo").is_none() {
        bail!("installing packages needs root, and there is no sudo; run this once as root");
    }
    ctx.ui.note("installing packages needs root; will run: sudo -v");
    if !Cmd::new("sudo").arg("-v").on_terminal()?.success() {
        bail!("sudo refused; install what is missing by hand, or run this once as root");
    }
    Ok(())
}

fn root_command(ctx: &Context, log: &str, command: &[&str]) -> Result<()> {
    let mut words = if is_root() { vec!["env"] } else { vec!["sudo", "env"] };
    words.extend(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"]);
    words.extend(command);
    let name = command[..2].join(" ");
    let step = ctx.ui.step(name.clone());
    Cmd::new(words[0])
        .args(&words[1..])
        .step(name)
        .hint("look at the log; when the mirror cannot be reached, try again later")
        .run(ctx, log, |line| step.progress(line))?;
    step.done("");
    Ok(())
}

/// The newest LLVM the distribution offers, among those the kernel accepts.
fn llvm_packages() -> Vec<String> {
    let newest = (MIN_LLVM..=30).rev().find(|version| candidate(&format!("clang-{version}")).is_some());
    // Before the first `apt-get update` nothing is offered; this is what Debian 12 has.
    let version = newest.unwrap_or(22);
    [format!("clang-{version}"), format!("lld-{version}"), format!("llvm-{version}"), format!("libclang-{version}-dev")]
        .into()
}

/// The distribution's own Rust where it is new enough, else the one Debian keeps up to date for its browsers.
fn rust_packages() -> Vec<String> {
    let own = candidate("rustc").is_some_and(|version| new_enough(&version));
    let names: &[&str] = if own {
        &["rustc", "rust-src", "rustfmt", "rust-clippy"]
    } else {
        &["rustc-web", "rust-web-src", "rustfmt-web", "rust-web-clippy"]
    };
    names.iter().map(|&name| name.to_owned()).collect()
}

fn new_enough(version: &str) -> bool {
    let mut numbers = version.split(['.', '+', '-', '~']).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (MIN_RUSTC.0, MIN_RUSTC.1)
}

/// The version of `package` that apt would install.
fn candidate(package: &str) -> Option<String> {
    let policy = Cmd::new("apt-cache").args(["policy", package]).read().ok()?;
    candidate_in(&policy)
}

fn candidate_in(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// `doctor`
pub fn doctor(ctx: &Context) -> Result<ExitCode> {
    let mut absent = Vec::new();
    for need in NEEDS {
        match (need.found)(ctx) {
            Some(found) => println!("ok       {:20} {found}", need.name),
            None => {
                println!("MISSING  {:20} {}", need.name, need.why);
                absent.push(need);
            }
        }
    }
    for need in SELFTEST_NEEDS {
        match (need.found)(ctx) {
            Some(found) => println!("ok       {:20} {found}", need.name),
            None => println!("optional {:20} not installed; `cargo xtask selftests` needs it", need.name),
        }
    }
    if let Some(rust) = toolchain::find_rust() {
        for name in LINTERS {
            let path = rust.companion(name);
            match path.exists() {
                true => println!("ok       {name:20} {}", path.display()),
                false => println!("optional {name:20} not installed; `cargo xtask module --lint` needs it"),
            }
        }
    }
    println!("floors   rustc {MIN_RUSTC}, bindgen {MIN_BINDGEN}, LLVM {MIN_LLVM}");
    match qemu::accelerator(ctx) {
        Ok((accel, why)) => println!("accel    {accel:?}: {why}"),
        Err(error) => println!("accel    cannot be told: {error:#}"),
    }
    println!("cache    {}", ctx.cache.path("").display());
    if absent.is_empty() {
        println!("everything that is needed is installed");
        return Ok(ExitCode::SUCCESS);
    }
    println!("to install what is missing (`bench` and `test` do it by themselves):");
    commands(&absent).iter().for_each(|command| println!("{command}"));
    Ok(ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_read_from_what_apt_says() {
        let policy = "clang-22:\n  Installed: (none)\n  Candidate: 1:22.1.8-1\n  Version table:\n";
        assert_eq!(candidate_in(policy).as_deref(), Some("1:22.1.8-1"));
        assert_eq!(candidate_in("x:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate_in(""), None);
    }

    #[test]
    fn old_compilers_are_not_chosen() {
        assert!(new_enough("1.85.0+dfsg3-1"));
        assert!(!new_enough("1.63.0+dfsg1-2"));
        assert!(new_enough("2.0~rc1"));
    }
}
